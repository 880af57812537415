"""Patches of the two photographs that scikit-learn ships, to lay images on."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_sample_images

Pictures = npt.NDArray[np.float64]


def patches(rows: Iterable[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Each image's patch of a photograph: it belongs to the image, whatever the split.

    Args:
        rows: which images of the whole set they are.
        shape: channels, one for grey, height and width of the images.

    Returns:
        Shape (n, pixels), float32, between 0 and 1.
    """
    channels, height, width = shape
    photos, found = _photos(channels == 1), []
    for row in rows:
        generator = np.random.default_rng(row)
        photo = photos[generator.integers(len(photos))]
        top = generator.integers(0, photo.shape[1] - height + 1)
        left = generator.integers(0, photo.shape[2] - width + 1)
        found.append(photo[:, top : top + height, left : left + width].reshape(-1))
    return torch.from_numpy(np.stack(found)).to(torch.float32)


@cache
def _photos(grey: bool) -> list[Pictures]:
    """The photographs, a quarter of their height and width: shape (channels, height, width), between 0 and 1."""
    found = []
    for photo in load_sample_images().images:
        height, width = photo.shape[0] // 4, photo.shape[1] // 4
        small = photo[: 4 * height, : 4 * width].reshape(height, 4, width, 4, 3).mean(axis=(1, 3)) / 255
        found.append(small.mean(axis=2)[None] if grey else small.transpose(2, 0, 1))
    return found


def crops(count: int, size: int, seed: int) -> torch.Tensor:
    """Parts of the photographs in colour, drawn at random.

    Args:
        count: how many.
        size: height and width, at most 427.
        seed: of the places.

    Returns:
        Shape (count, 3, size, size), float32, between -1 and 1.
    """
    random, found = np.random.default_rng(seed), []
    for i in range(count):
        photo = load_sample_images().images[i % 2]
        top, left = (random.integers(0, side - size + 1) for side in photo.shape[:2])
        found.append(photo[top : top + size, left : left + size].transpose(2, 0, 1) / 127.5 - 1)
    return torch.from_numpy(np.stack(found)).to(torch.float32)
