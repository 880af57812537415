"""The data of the experiments: scikit-learn's handwritten digits, embedded in that package, so nothing is downloaded.

1797 images of 8 x 8 pixels with 17 levels of grey, in 10 classes of about 180 (UCI, Alpaydin & Kaynak 1998). A second
domain is the same digits blended with patches of the two photographs that scikit-learn ships, as MNIST-M is made from
MNIST (Ganin et al. 2016).

Another data set takes the digits' place after ``use``, in the experiments that take one: 5000 images of MNIST, or the
user's own files. All functions here then give its images, in its size and colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from normwise.lab.data.images import CLASSES, Source, read
from normwise.lab.data.photographs import patches

Labels = npt.NDArray[np.int64]

__all__ = ["CLASSES", "PIXELS", "Digits", "Split", "batches", "digits", "digits_on_photos", "first", "pixels", "shape"]
__all__ += ["in_float64", "in_pixels", "one_image", "sizes", "some_wrong", "use"]

PIXELS = 64
"""The pixels of a digit; those of the user's images are ``pixels()``."""
IMAGES = 1797
TEST = 450
VALIDATION = 270
"""The validation images of the digits, which nobody split; of another such data set, as large a share."""
LARGE = {"train": 20_000, "validation": 2_000, "test": 5_000}
"""The most images of a user's data set that are taken: what an hour on two cores is enough for."""

_chosen: Source | None = None


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Args:
        images: shape (n, pixels), float32, between 0 and 1; 64 pixels for the digits.
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


def use(source: Source | None) -> None:
    """Take the images of a user's data set from now on in this process; None: the digits again."""
    global _chosen  # noqa: PLW0603 - every function of this file answers for the data that the process works on
    _chosen = source


def shape() -> tuple[int, int, int]:
    """Channels, height and width of the images that ``digits`` gives."""
    if _chosen is None:
        return (1, 8, 8)
    channels, height, width = read(_chosen.name, _chosen.folder).train.images.shape[1:]
    return channels, height, width


def in_pixels() -> str:
    """Height and width of the images, as a caveat says them.

    Example:
        >>> in_pixels()
        '8 x 8'
    """
    _, height, width = shape()
    return f"{height} x {width}"


def pixels() -> int:
    """Numbers per image."""
    channels, height, width = shape()
    return channels * height * width


def sizes() -> tuple[int, int, int]:
    """The numbers of images for training, for validation and for the test."""
    train, validation, test = map(len, _rows(_whole()[1].numpy(), 0))
    return train, validation, test


def one_image() -> str:
    """The share of one test image in an accuracy, as the beginning of a caveat.

    Example:
        >>> one_image()
        'One of 450 test images is 0.22 points'
    """
    *_, test = sizes()
    return f"One of {test} test images is {100 / test:.2g} points"


def digits(seed: int, *, binary: bool = False) -> Digits:
    """The digits, split at random with the same share of every class in each part: 1077, 270 and 450 images.

    Args:
        seed: of the split; each seed of an experiment has its own, so that the spread over seeds contains the chance of
            the split. Arms that are compared have the same one.
        binary: black and white: a pixel is 1 from half the largest value on, else 0.

    Another data set that nobody split is split in the same way. Of one with a test part, test images are drawn from
    there and all others from its training part, not more than ``LARGE`` of each.
    """
    images, labels = _whole()
    parts = []
    for rows in _rows(labels.numpy(), seed):
        chosen = images[rows].to(torch.float32)
        chosen = chosen / 255 if images.dtype == torch.uint8 else chosen
        chosen = (chosen >= 0.5).to(torch.float32) if binary else chosen
        parts.append(Split(chosen, labels[rows], torch.from_numpy(rows)))
    return Digits(*parts)


def _rows(labels: Labels, seed: int) -> Sequence[Labels]:
    """The rows of the images for training, for validation and for the test."""
    everything = np.arange(len(labels))
    whole = None if _chosen is None else read(_chosen.name, _chosen.folder)
    if whole is None or whole.test is None:
        test_size, validation_size = (round(each * len(labels) / IMAGES) for each in (TEST, VALIDATION))
        rest, test = train_test_split(everything, test_size=test_size, stratify=labels, random_state=seed)
        return (*train_test_split(rest, test_size=validation_size, stratify=labels[rest], random_state=seed), test)
    first = len(whole.train.labels)
    rest = _drawn(everything[:first], labels, LARGE["train"] + LARGE["validation"], seed)
    share = LARGE["validation"] / (LARGE["train"] + LARGE["validation"])
    train, validation = train_test_split(rest, test_size=share, stratify=labels[rest], random_state=seed)
    return train, validation, _drawn(everything[first:], labels, LARGE["test"], seed)


def _drawn(rows: Labels, labels: Labels, most: int, seed: int) -> Labels:
    """A draw of at most so many of the rows, with the same share of every class."""
    if len(rows) <= most:
        return rows
    return np.asarray(train_test_split(rows, train_size=most, stratify=labels[rows], random_state=seed)[0])


def first(split: Split, images: int) -> Split:
    """The first images of a part."""
    return Split(split.images[:images], split.labels[:images], split.rows[:images])


def in_float64(data: Digits) -> Digits:
    """The same images in double precision."""
    parts = (data.train, data.validation, data.test)
    return Digits(*(Split(part.images.double(), part.labels, part.rows) for part in parts))


def some_wrong(split: Split, share: float, seed: int) -> Split:
    """The same images, a share of whose labels is drawn again from all classes."""
    random = np.random.default_rng(seed)
    changed = split.labels.numpy().copy()
    rows = random.permutation(len(changed))[: round(share * len(changed))]
    changed[rows] = random.integers(0, CLASSES, size=len(rows))
    return Split(split.images, torch.from_numpy(changed), split.rows)


def digits_on_photos(seed: int) -> Digits:
    """The same digits in a second domain: each on a patch of a photograph, inverted where that is bright.

    A pixel is |patch - digit|, as in MNIST-M; which patch belongs to which digit is always the same.

    Args:
        seed: of the split, which is that of ``digits(seed)``.
    """
    plain = digits(seed)
    parts = (plain.train, plain.validation, plain.test)
    return Digits(
        *(Split((patches(part.rows.tolist(), shape()) - part.images).abs(), part.labels, part.rows) for part in parts)
    )


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


def _whole() -> tuple[torch.Tensor, torch.Tensor]:
    """All images, of a user's data set as bytes and the training part first, and their labels."""
    return _digits() if _chosen is None else _bytes(_chosen)


@cache
def _bytes(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    found = read(source.name, source.folder)
    images = np.concatenate([part.images for part in found.parts])
    labels = np.concatenate([part.labels for part in found.parts]).astype(np.int64)
    return torch.from_numpy(images.reshape(len(images), -1)), torch.from_numpy(labels)


@cache
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    loaded: Any = load_digits()
    images = torch.from_numpy(loaded.data / 16).to(torch.float32)
    return images, torch.from_numpy(loaded.target).to(torch.int64)
