"""One game between a generator and a discriminator, and what is measured of it on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from normwise.lab.data.splits import Digits
from normwise.lab.training.adversarial import Discriminator, Generator, of_discriminator, play, shuffled
from normwise.lab.training.frechet import Examiner, distance


def measured(
    generator: Generator,
    discriminator: Discriminator,
    data: Digits,
    examiner: Examiner,
    *,
    adam: tuple[float, float],
    looks: Sequence[int],
    more: Sequence[int] = (),
    batch: int,
    mixed: bool,
    seed: int,
) -> dict[str, Any]:
    """Play, and measure the made images and the discriminator.

    Args:
        generator: is changed in place.
        discriminator: is changed in place.
        data: the real images; distances are to those of the validation and the test part.
        examiner: knows what the images are like.
        adam: rate and momentum.
        looks: after which steps; the discriminator is measured at the last.
        more: further looks, for a game that goes on.
        batch: real images in a step, and as many made ones.
        mixed: real and made images go through the discriminator as one batch.
        seed: of the noise and of the order of the images.

    Returns:
        ``test`` and ``longer``, distances at the looks; ``validation`` and ``classes`` at the last of ``looks``, and
        what ``of_discriminator`` finds there.
    """
    noise = torch.randn(len(data.train.labels), generator.noise, generator=torch.Generator().manual_seed(seed))
    validation, test = (examiner.seen(part.images) for part in (data.validation, data.test))
    found: dict[str, Any] = {"test": [], "longer": []}

    def look(step: int) -> None:
        with torch.no_grad():
            made = generator(noise)
        found["test" if step <= looks[-1] else "longer"].append(distance(examiner.seen(made), test))
        if step == looks[-1]:
            found["validation"] = distance(examiner.seen(made), validation)
            found["classes"] = examiner.classes(made)
            found.update(of_discriminator(discriminator, torch.cat((data.test.images, made))))

    play(
        generator,
        discriminator,
        data.train,
        rate=adam[0],
        momentum=adam[1],
        steps=(*looks, *more)[-1],
        batch=batch,
        mixed=mixed,
        seed=seed,
        look=look,
        look_at=frozenset((*looks, *more)),
    )
    return found


def bounds(data: Digits, examiner: Examiner, seed: int) -> dict[str, Any]:
    """The same distances and classes of images that are real, and of ones that are nothing."""
    found: dict[str, Any] = {}
    test = examiner.seen(data.test.images)
    for name, images in (("real", data.train.images), ("shuffled", shuffled(data.train.images, seed))):
        found[name] = distance(examiner.seen(images), test)
        found[f"{name}_classes"] = examiner.classes(images)
    return found
