"""Real images of digits, in batches: those to learn from, and those that are held out for the examinations."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

Batch = tuple[Tensor, Tensor]
Batches = list[Batch]

LEARNED = 1400


@cache
def images() -> Batch:
    """Images of shape (1797, 64) between 0 and 1, and their labels, in one random order."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))
    return torch.tensor(x, dtype=torch.float32)[order] / 16, torch.tensor(y)[order]


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
