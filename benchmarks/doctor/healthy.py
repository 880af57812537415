"""Healthy models in all that ordinary work does with them: the doctor may raise no error and no warning on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import normwise
from benchmarks.doctor.digits import LEARNED, Batch, Batches, by_label, cut, held_out, images, to_learn
from benchmarks.doctor.faults.derivation import folded
from benchmarks.doctor.faults.loops import right_step, without_gradient
from benchmarks.doctor.models import build
from benchmarks.doctor.training import train, trained, training_step, with_adam


@dataclass(frozen=True)
class Healthy:
    """A healthy model to be examined.

    Args:
        model: as it comes.
        batches: what the doctor gets.
        given: what else it gets.
    """

    model: nn.Module
    batches: Batches = field(default_factory=held_out)
    given: Mapping[str, Any] = field(default_factory=dict)


Build = Callable[[str, int], Healthy]


def as_trained(kind: str, seed: int) -> Healthy:
    """The model as it was trained."""
    return Healthy(trained(kind, seed))


def without_loss(kind: str, seed: int) -> Healthy:
    """An examination without a loss and a metric."""
    return Healthy(trained(kind, seed), given={"loss": None, "metric": None})


def in_training_mode(kind: str, seed: int) -> Healthy:
    """The model in training mode, as it comes out of a loop."""
    return Healthy(trained(kind, seed).train())


def on_what_it_learned(kind: str, seed: int) -> Healthy:
    """An examination on the images that the model learned from."""
    return Healthy(trained(kind, seed), to_learn(seed))


def ragged(kind: str, seed: int) -> Healthy:
    """An examination on batches of 66, with a last one of a single sample."""
    x, y = images()
    batches = cut(x, y, torch.arange(LEARNED, len(x)), 66)
    return Healthy(trained(kind, seed), [*batches, (x[-1:], y[-1:])])


def few_batches(kind: str, seed: int) -> Healthy:
    """An examination on two batches of 150."""
    return Healthy(trained(kind, seed), held_out(150)[:2])


def sorted_evaluation(kind: str, seed: int) -> Healthy:
    """Evaluated in the order of the labels."""
    return Healthy(trained(kind, seed), by_label(learned=False))


def ordinary_steps(kind: str, seed: int) -> Healthy:
    """An examination with an ordinary step of training."""
    return Healthy(trained(kind, seed).train(), given={"train_step": training_step})


def rightly_frozen(kind: str, seed: int) -> Healthy:
    """The model with its first half frozen, parameters and statistics."""
    return Healthy(without_gradient(trained(kind, seed)).train(), given={"train_step": right_step})


def paused_second_forward(kind: str, seed: int) -> Healthy:
    """An examination with a step that runs a second forward inside of a pause."""

    def how(model: nn.Module, batch: Batch) -> None:
        training_step(model, batch)
        with normwise.paused_statistics(model):
            model(batch[0] + 0.1 * torch.randn_like(batch[0]))

    return Healthy(trained(kind, seed).train(), given={"train_step": how})


def accumulated_rightly(kind: str, seed: int) -> Healthy:
    """An examination with a step that accumulates over two parts, of which the first alone moves the statistics."""

    def how(model: nn.Module, batch: Batch) -> None:
        model.train()
        x, y = batch
        half = len(x) // 2
        optimizer = torch.optim.SGD(model.parameters(), 0.02)
        cross_entropy(model(x[:half]), y[:half]).backward()
        with normwise.paused_statistics(model):
            cross_entropy(model(x[half:]), y[half:]).backward()
        optimizer.step()

    return Healthy(trained(kind, seed).train(), given={"train_step": how})


def right_fold(kind: str, seed: int) -> Healthy:
    """The model with all norms folded, beside its source."""
    source = trained(kind, seed)
    return Healthy(folded(source), given={"source_model": source})


def fused(kind: str, seed: int) -> Healthy:
    """The model after ``normwise.fuse``, beside its source."""
    model = trained(kind, seed)
    normwise.fuse(model)
    return Healthy(model, given={"source_model": trained(kind, seed)})


def recalibrated(kind: str, seed: int) -> Healthy:
    """The model after ``normwise.recalibrate`` on what it learned."""
    model = trained(kind, seed)
    normwise.recalibrate(model, to_learn(seed))
    return Healthy(model)


def averaged_with_update(kind: str, seed: int) -> Healthy:
    """An average of weights whose statistics were estimated once more."""
    averages: list[AveragedModel] = []

    def add(now: nn.Module) -> None:
        if not averages:
            averages.append(AveragedModel(now))
        averages[0].update_parameters(now)

    train(build(kind, seed), seed, after=add, epochs=6)
    torch.optim.swa_utils.update_bn(to_learn(seed), averages[0])
    return Healthy(averages[0].eval())


def decayed_ordinarily(kind: str, seed: int) -> Healthy:
    """Trained with a weight decay of 5e-4 on all weights (0.05 with AdamW), in batches of 32."""
    decay = 0.05 if with_adam(seed) else 5e-4
    return Healthy(train(build(kind, seed), seed, decay=decay, epoch=lambda number: to_learn(number, 32)))


def augmented(kind: str, seed: int) -> Healthy:
    """Trained on images with noise, evaluated on clean ones."""

    def noisy(number: int) -> Batches:
        return [(x + 0.1 * torch.randn_like(x), y) for x, y in to_learn(number)]

    return Healthy(train(build(kind, seed), seed, epoch=noisy))


def fine_tuned(kind: str, seed: int) -> Healthy:
    """Fine-tuned on darker images, and examined on those, beside the model that it came from."""

    def darker(batches: Batches) -> Batches:
        return [(0.7 * x, y) for x, y in batches]

    model = train(trained(kind, seed), seed, epoch=lambda number: darker(to_learn(number)), epochs=3)
    return Healthy(model, darker(held_out()), {"source_model": trained(kind, seed)})


STATES: tuple[Build, ...] = (
    as_trained, without_loss, in_training_mode, on_what_it_learned, ragged, few_batches, sorted_evaluation,
    ordinary_steps, rightly_frozen, paused_second_forward, accumulated_rightly, right_fold, fused, recalibrated,
    averaged_with_update, decayed_ordinarily, augmented, fine_tuned,
)  # fmt: skip


def states(*, quick: bool) -> Iterator[Build]:
    """All of them; in a quick run those that train nothing."""
    return (each for each in STATES if not quick or each not in {averaged_with_update, decayed_ordinarily, augmented})
