"""The data of the experiments: scikit-learn's handwritten digits, embedded in that package, so nothing is downloaded.

1797 images of 8 x 8 pixels with 17 levels of grey, in 10 classes of about 180 (UCI, Alpaydin & Kaynak 1998). A second
domain is the same digits blended with patches of the two photographs that scikit-learn ships, as MNIST-M is made from
MNIST (Ganin et al. 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

CLASSES = 10
"""Of every data set here."""
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


def shape() -> tuple[int, int, int]:
    """Channels, height and width of the images that ``digits`` gives."""
    return (1, 8, 8)


def pixels() -> int:
    """Numbers per image."""
    channels, height, width = shape()
    return channels * height * width


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


def digits_on_photos(seed: int) -> Digits:
    """The same digits in a second domain: each on a patch of a photograph, inverted where that is bright.

    A pixel is |patch - digit|, as in MNIST-M; which patch belongs to which digit is always the same.

    Args:
        seed: of the split, which is that of ``digits(seed)``.
    """
    blended = (_patches() - _whole()[0]).abs()
    plain = digits(seed)
    parts = (plain.train, plain.validation, plain.test)
    return Digits(*(Split(blended[part.rows], part.labels, part.rows) for part in parts))


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


@cache
def _patches() -> torch.Tensor:
    """A patch of 8 x 8 for every digit, from the photographs in grey and a quarter of their height and width."""
    generator = np.random.default_rng(0)
    photos = [photo[: len(photo) // 4 * 4].mean(axis=2) / 255 for photo in load_sample_images().images]
    small = [photo.reshape(len(photo) // 4, 4, -1, 4).mean(axis=(1, 3)) for photo in photos]
    found = []
    for _ in range(len(_whole()[1])):
        photo = small[generator.integers(len(small))]
        top, left = (generator.integers(0, size - 8 + 1) for size in photo.shape)
        found.append(photo[top : top + 8, left : left + 8].reshape(PIXELS))
    return torch.from_numpy(np.stack(found)).to(torch.float32)
