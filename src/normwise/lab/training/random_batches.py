"""The same images in many batches: how far what a network makes of them depends on the others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from normwise.lab.networks.dense import Dense


def in_random_batches(model: Dense, images: Tensor, size: int, times: int, seed: int) -> dict[str, Tensor]:
    """The outputs of a network for images that are put into random batches again and again.

    Args:
        model: in training mode or in inference mode; stays as it is.
        images: shape (n, pixels).
        size: of the batches, which are drawn with repetition, so that the rest of a batch is drawn independently.
        times: how often as many images are drawn as there are.
        seed: of the draws.

    Returns:
        ``layer``, the output of the first normalization, and ``logits``: shape (times, n, outputs), NaN where an image
        was not drawn.
    """
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    seen: list[Tensor] = []
    model.normalize[0].register_forward_hook(lambda *found: seen.append(found[-1]))
    found: dict[str, list[Tensor]] = {"layer": [], "logits": []}
    with torch.no_grad():
        for _ in range(times):
            rows = torch.randint(len(images), (len(images) // size, size), generator=generator)
            logits = torch.cat([model(images[each]) for each in rows])
            for name, values in (("layer", torch.cat(seen)), ("logits", logits)):
                placed = torch.full((len(images), values.shape[1]), torch.nan, dtype=values.dtype)
                placed[rows.flatten()] = values
                found[name].append(placed)
            seen.clear()
    return {name: torch.stack(values) for name, values in found.items()}


def spread(values: Tensor) -> float:
    """The spread of the outputs of the same image, over the spread of those of different images.

    The root mean square of the deviations from the mean of an image's outputs (n - 1), over that of the deviations of
    the images' means from the mean of them all.

    Args:
        values: shape (times, images, outputs), NaN where there is none.
    """
    middle = values.nanmean(dim=0)
    count = (~values.isnan()).sum(dim=0)
    kept = count[:, 0] > 1
    within = ((values - middle).square().nansum(dim=0) / (count - 1))[kept].mean()
    between = (middle[kept] - middle[kept].mean(dim=0)).square().mean()
    return float((within / between).sqrt())


def share_of(values: Tensor, true: Callable[[Tensor], Tensor]) -> float:
    """The share of images for which something is true of their answers in the batches that they were in.

    Args:
        values: logits, shape (times, images, classes), NaN where there are none.
        true: of the answers to one image, shape (batches,).
    """
    answers, known = values.argmax(dim=2), ~values[:, :, 0].isnan()
    each = [true(answers[known[:, i], i]).double() for i in range(values.shape[1]) if known[:, i].any()]
    return float(torch.stack(each).mean())
