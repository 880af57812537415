"""Batches of few classes, and whether the answer for an image depends on the others in its batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from normwise.lab.data.splits import CLASSES, Split
from normwise.lab.networks.dense import Dense
from normwise.lab.networks.stack import Stack
from normwise.lab.training.stacks import correct


def of_classes(data: Split, classes: int, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, each of images of so many classes, which are drawn every time."""
    generator = torch.Generator().manual_seed(seed)
    members = [torch.nonzero(data.labels == label)[:, 0] for label in range(CLASSES)]
    while True:
        chosen = torch.randperm(CLASSES, generator=generator)[:classes].tolist()
        pool = torch.cat([members[label] for label in chosen])
        rows = pool[torch.randperm(len(pool), generator=generator)[:size]]
        yield data.images[rows], data.labels[rows]


def by_own_statistics(stack: Stack, source: Iterator[tuple[Tensor, Tensor]], count: int = 30) -> list[float]:
    """Each member's accuracy in some batches, each by its own statistics; the running ones stay as they are."""
    before = [buffer.clone() for buffer in stack.buffers()]
    stack.train()
    with torch.no_grad():
        found = [correct(stack(images), labels) for images, labels in islice(source, count)]
        for buffer, value in zip(stack.buffers(), before, strict=True):
            buffer.copy_(value)
    return np.mean(found, axis=0).tolist()  # type: ignore[no-any-return]  # NumPy does not say how deep the list is


def dependence_on_the_batch(model: Dense, images: Tensor) -> dict[str, float]:
    """The change of an image's logits with the other images of its batch.

    Args:
        model: with batch normalization, in double precision.
        images: 60 of them, in double precision.

    Returns:
        ``inference``, the largest difference between alone and together; ``training``, that of the first image in two
        batches, in standard deviations; ``one``, what a batch of one is away from the shift.
    """
    with torch.no_grad():
        model.eval()
        alone = torch.cat([model(image[None]) for image in images])
        together = model(images)
        model.train()
        first, second = model(images[:30]), model(torch.cat((images[:1], images[31:])))
        one = images[:1, :, None]  # one value a channel, which torch.nn's layers refuse
        shift = torch.linspace(-1, 1, one.shape[1], dtype=torch.float64)
        values = torch.batch_norm(one, shift + 2, shift, None, None, True, 0.1, 1e-5, False)
    return {
        "inference": float((alone - together).abs().max()),
        "training": float((first[0] - second[0]).abs().max() / together.std()),
        "one": float((values[0, :, 0] - shift).abs().max()),
    }
