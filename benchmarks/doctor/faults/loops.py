"""Faults of the loop that trains: the doctor gets one step of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import normwise
from benchmarks.doctor.case import Harm, Patient, fault, loss_harm
from benchmarks.doctor.digits import Batch, Batches, held_out, to_learn
from benchmarks.doctor.models import norms
from benchmarks.doctor.training import step, trained, training_step

Step = Callable[[nn.Module, Batch], None]


def negative(batches: Batches) -> Batches:
    """Images of another kind: white on grey."""
    return [(0.7 - 0.5 * x, y) for x, y in batches]


def gone_on(model: nn.Module, how: Step, batches: Batches) -> nn.Module:
    """The model after an epoch with such steps."""
    for batch in batches:
        how(model, batch)
    return model.eval()


def first_half(model: nn.Module) -> tuple[str, ...]:
    """The norms of the first half."""
    names = list(norms(model))
    return tuple(names[: max(1, len(names) // 2)])


def without_gradient(model: nn.Module) -> nn.Module:
    """The first half of the norms, and all weights in front of them, do not learn."""
    last = first_half(model)[-1]
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        if path == last:
            return model
    raise LookupError(last)


def right_step(model: nn.Module, batch: Batch) -> None:
    """A step of fine-tuning with the frozen norms in inference mode."""
    model.train()
    for name in first_half(model):
        norms(model)[name].eval()
    step(model, batch)


@fault("moving_frozen_layer")
def frozen_by_gradient_only(kind: str, seed: int) -> Patient:
    """Fine-tuning on other images with ``requires_grad = False`` in the first half, and a step that calls train()."""
    model, twin = (without_gradient(trained(kind, seed)) for _ in range(2))
    harm = _forgotten(kind, seed, training_step)
    return Patient(model.train(), twin, harm, first_half(model), negative(held_out()), {"train_step": training_step})


@fault("moving_frozen_layer")
def frozen_by_gradient_without_a_step(kind: str, seed: int) -> Patient:
    """The same on the usual images in a model in training mode, and the doctor gets no step."""
    model, twin = (without_gradient(trained(kind, seed)) for _ in range(2))
    return Patient(model.train(), twin, _forgotten(kind, seed, training_step), first_half(model))


def _forgotten(kind: str, seed: int, how: Step) -> Harm:
    """The harm of moving frozen layers in fine-tuning: the loss on the old images with the old layers behind."""
    old, new = trained(kind, seed), without_gradient(trained(kind, seed))
    gone_on(new, how, negative(to_learn(seed)))
    moved = trained(kind, seed)
    for name in first_half(moved):
        norms(moved)[name].load_state_dict(norms(new)[name].state_dict())
    return loss_harm(moved, old)


@fault("missing_updates")
def steps_inside_of_a_pause(kind: str, seed: int) -> Patient:
    """Every step of training on other images runs inside of ``paused_statistics``."""

    def how(model: nn.Module, batch: Batch) -> None:
        model.train()
        with normwise.paused_statistics(model):
            step(model, batch)

    model, twin = trained(kind, seed), trained(kind, seed)
    data = negative(held_out())
    after = gone_on(trained(kind, seed), how, negative(to_learn(seed)))
    right = gone_on(trained(kind, seed), training_step, negative(to_learn(seed)))
    return Patient(model.train(), twin, loss_harm(after, right, data), tuple(norms(model)), given={"train_step": how})


@fault("repeated_updates")
def a_second_forward_of_noise(kind: str, seed: int) -> Patient:
    """A second forward, of noise, in every step, for a loss of its own."""

    def how(model: nn.Module, batch: Batch) -> None:
        model.train()
        model(torch.randn(len(batch[0]), 64))
        step(model, batch)
        model(torch.randn(len(batch[0]), 64))

    return _looped(kind, seed, how)


@fault("repeated_updates")
def a_second_forward_in_one_layer(kind: str, seed: int) -> Patient:
    """One layer is called once more in every step with a dummy input of zeros, to see a shape."""
    names = list(norms(trained(kind, seed)))
    name = names[seed % len(names)]

    def how(model: nn.Module, batch: Batch) -> None:
        model.train()
        step(model, batch)
        norm = norms(model)[name]
        norm(torch.zeros(16, norm.num_features, *[2] * _axes(norm)))

    return _looped(kind, seed, how, name)


@fault("repeated_updates")
def accumulated_over_parts(kind: str, seed: int) -> Patient:
    """The gradients of a step are accumulated over four parts of a batch that is sorted by its labels."""

    def how(model: nn.Module, batch: Batch) -> None:
        model.train()
        x, y = batch
        optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.02)
        for index in torch.argsort(y, stable=True).tensor_split(4):
            (cross_entropy(model(x[index]), y[index]) / 4).backward()
        optimizer.step()

    return _looped(kind, seed, how)


def _axes(norm: nn.Module) -> int:
    return 2 if isinstance(norm, nn.BatchNorm2d) else 0


def _looped(kind: str, seed: int, how: Step, *guilty: str) -> Patient:
    model, twin = trained(kind, seed).train(), trained(kind, seed)
    torch.manual_seed(seed)
    after, right = (gone_on(trained(kind, seed), each, to_learn(seed)) for each in (how, training_step))
    return Patient(model, twin, loss_harm(after, right), guilty or tuple(norms(model)), given={"train_step": how})
