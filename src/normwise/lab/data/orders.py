"""Orders in which images come in batches."""

from __future__ import annotations

import torch


def rows_of_batches(order: str, labels: torch.Tensor, size: int, steps: int, seed: int) -> list[torch.Tensor]:
    """The rows of the images in the batch of each step.

    Args:
        order: "shuffled", other batches in every pass; "fixed", always the same ones; or "sorted", few classes in each.
        labels: of all images.
        size: of a batch.
        steps: how many.
        seed: of everything that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(labels) // size
    drawn = torch.randperm(len(labels), generator=generator)
    if order == "sorted":
        drawn = drawn[labels[drawn].argsort(stable=True)]
    found: list[torch.Tensor] = []
    while len(found) < steps:
        if order == "shuffled":
            drawn = torch.randperm(len(labels), generator=generator)
        fixed = drawn[: count * size].split(size)
        found += [fixed[i] for i in torch.randperm(count, generator=generator).tolist()]
    return found[:steps]
