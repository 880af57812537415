"""The data of the experiments: scikit-learn's handwritten digits, embedded in that package, so nothing is downloaded.

1797 images of 8 x 8 pixels with 17 levels of grey, in 10 classes of about 180 (UCI, Alpaydin & Kaynak 1998).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CLASSES = 10
PIXELS = 64
TEST = 450
VALIDATION = 270


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Args:
        images: shape (n, 64), float32, between 0 and 1.
        labels: shape (n,), int64, 0 to 9.
        rows: shape (n,), int64, which images of the whole set they are.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor


@dataclass(frozen=True)
class Digits:
    """Three disjoint parts: train on the first, choose rates and steps on the second, report the third."""

    train: Split
    validation: Split
    test: Split


def digits(seed: int, *, binary: bool = False) -> Digits:
    """The digits, split at random with the same share of every class in each part: 1077, 270 and 450 images.

    Args:
        seed: of the split; each seed of an experiment has its own, so that the spread over seeds contains the chance of
            the split. Arms that are compared have the same one.
        binary: black and white: a pixel is 1 from half the largest value on, else 0.
    """
    images, labels = _whole()
    if binary:
        images = (images >= 0.5).to(images.dtype)
    rest, test = train_test_split(np.arange(len(labels)), test_size=TEST, stratify=labels, random_state=seed)
    train, validation = train_test_split(rest, test_size=VALIDATION, stratify=labels[rest], random_state=seed)
    parts = (torch.from_numpy(rows) for rows in (train, validation, test))
    return Digits(*(Split(images[rows], labels[rows], rows) for rows in parts))


def batches(split: Split, size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end: passes over the data, each in a new order, without the ragged rest of a pass.

    Args:
        split: what to draw from.
        size: images per batch.
        seed: of the orders, which depend on nothing else.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(split.labels), generator=generator)
        for rows in order.split(size):
            if len(rows) == size:
                yield split.images[rows], split.labels[rows]


@cache
def _whole() -> tuple[torch.Tensor, torch.Tensor]:
    loaded: Any = load_digits()
    images = torch.from_numpy(loaded.data / 16).to(torch.float32)
    return images, torch.from_numpy(loaded.target).to(torch.int64)
