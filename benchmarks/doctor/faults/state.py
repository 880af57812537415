"""Faults in what a trained model holds: running statistics, scales, weights of single layers."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import normwise
from benchmarks.doctor.case import Harm, Patient, fault, loss_harm
from benchmarks.doctor.digits import Batches, by_label, held_out, to_learn
from benchmarks.doctor.models import build, in_front, norms, statistics
from benchmarks.doctor.training import EPOCHS, train, trained


def one_of(model: nn.Module, seed: int) -> str:
    """Another layer for another seed."""
    names = list(norms(model))
    return names[seed % len(names)]


def sick(model: nn.Module, kind: str, seed: int, *guilty: str, **given: object) -> Patient:
    """The patient beside the model as it was."""
    twin = trained(kind, seed)
    return Patient(model.eval(), twin, loss_harm(model, twin), guilty, given=given)


@fault("stale_running_statistics")
def statistics_moved_in_one_layer(kind: str, seed: int) -> Patient:
    """The mean of one layer is moved by one standard deviation up or down, and its variance is doubled."""
    model = trained(kind, seed)
    name = one_of(model, seed)
    norm = norms(model)[name]
    mean, var = statistics(norm)
    torch.manual_seed(seed)
    mean += torch.randn_like(mean).sign() * (var + norm.eps).sqrt()
    var *= 2
    return sick(model, kind, seed, name)


@fault("stale_running_statistics")
def statistics_of_the_first_epoch(kind: str, seed: int) -> Patient:
    """All layers keep the statistics that they had after the first epoch of the training."""
    kept: list[dict[str, torch.Tensor]] = []

    def keep(model: nn.Module) -> None:
        if not kept:
            kept.append({key: value.clone() for key, value in model.named_buffers()})

    model = train(build(kind, seed), seed, after=keep)
    for key, value in model.named_buffers():
        value.copy_(kept[0][key])
    return sick(model, kind, seed)


@fault("stale_running_statistics")
def learned_on_without_statistics(kind: str, seed: int) -> Patient:
    """The model learns on with all statistics paused, on images of another brightness as well as on the usual ones."""

    def epoch(number: int) -> Batches:
        return [(x if n % 2 else 0.5 * x + 0.2, y) for n, (x, y) in enumerate(to_learn(number))]

    model, twin = trained(kind, seed), train(trained(kind, seed), seed, epoch=epoch, epochs=3)
    with normwise.paused_statistics(model):
        train(model, seed, epoch=epoch, epochs=3)
    return Patient(model, twin, loss_harm(model, twin))


@fault("never_updated_statistics")
def statistics_reset_in_one_layer(kind: str, seed: int) -> Patient:
    """One layer has the statistics of the start."""
    model = trained(kind, seed)
    name = one_of(model, seed)
    norms(model)[name].reset_running_stats()
    return sick(model, kind, seed, name)


@fault("never_updated_statistics")
def loaded_without_buffers(kind: str, seed: int) -> Patient:
    """A checkpoint is loaded that has the parameters only: every layer has the statistics of the start."""
    model = build(kind, seed)
    model.load_state_dict(dict(trained(kind, seed).named_parameters()), strict=False)
    return sick(model, kind, seed, *norms(model))


@fault("non_finite_statistics")
def a_batch_that_overflowed(kind: str, seed: int) -> Patient:
    """One batch of training with a value of 1e30 in one sample went through all layers."""
    model = trained(kind, seed).train()
    x = to_learn(seed)[0][0].clone()
    x[0] = 1e30
    model(x)
    model.eval()
    bad = [
        name for name, norm in norms(model).items()
        if not torch.isfinite(torch.cat(statistics(norm))).all()
    ]  # fmt: skip
    return sick(model, kind, seed, *bad)


@fault("non_finite_statistics")
def one_channel_not_finite(kind: str, seed: int) -> Patient:
    """One channel of one layer has a mean of NaN, or an infinite or negative variance, by the seed."""
    model = trained(kind, seed)
    name = one_of(model, seed)
    norm = norms(model)[name]
    buffer = norm.running_mean if seed % 3 == 0 else norm.running_var
    assert buffer is not None
    buffer[seed % len(buffer)] = (float("nan"), float("inf"), -1.0)[seed % 3]
    return sick(model, kind, seed, name)


@fault("dead_channels")
def half_of_the_inputs_dead(kind: str, seed: int) -> Patient:
    """The weights in front of a layer are 0 for half of its channels, and its statistics are estimated so."""
    model = trained(kind, seed)
    name = one_of(model, seed)
    front, norm = in_front(model, name), norms(model)[name]
    half = norm.num_features // 2
    with torch.no_grad():
        front.weight[:half] = 0
    norm.running_mean[:half], norm.running_var[:half] = 0, 0  # type: ignore[index]  # as above

    normwise.recalibrate(model, to_learn(seed))
    return sick(model, kind, seed, name)


@fault("dead_channels")
def scales_next_to_zero(kind: str, seed: int) -> Patient:
    """A fifth of the channels of one layer has a scale of 1e-5 of the others', and the rest is recalibrated."""

    model = trained(kind, seed)
    name = one_of(model, seed)
    norm = norms(model)[name]
    with torch.no_grad():
        norm.weight[: -(-norm.num_features // 5)] *= 1e-5
    normwise.recalibrate(model, to_learn(seed))
    return sick(model, kind, seed, name)


@fault("exploding_channels")
def one_scale_of_ten_thousand(kind: str, seed: int) -> Patient:
    """One channel of one layer has a scale of 1e4."""
    model = trained(kind, seed)
    name = one_of(model, seed)
    with torch.no_grad():
        norms(model)[name].weight[seed % 8] = 1e4
    return sick(model, kind, seed, name)


@fault("exploding_channels")
def stored_variance_collapsed(kind: str, seed: int) -> Patient:
    """An eps of 1e-12, and in a few channels of one layer a stored variance that has collapsed to 1e-9."""
    model = trained(kind, seed)
    name = one_of(model, seed)
    norm = norms(model)[name]
    norm.eps = 1e-12
    norm.running_var[:2] = 1e-9  # type: ignore[index]  # a layer that tracks
    return sick(model, kind, seed, name)


@fault("batch_dependent_output")
def batch_statistics_at_inference(kind: str, seed: int) -> Patient:
    """One layer has no running statistics and was trained so."""
    model = build(kind, seed)
    name = one_of(model, seed)
    norm = norms(model)[name]
    norm.register_buffer("running_mean", None)
    norm.register_buffer("running_var", None)
    norm.track_running_stats = False
    return Patient(train(model, seed), trained(kind, seed), _answers_by_company(model), (name,))


class ByBatch(nn.Module):
    """Centres its input by the batch, always."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


@fault("batch_dependent_output")
def input_centred_by_the_batch(kind: str, seed: int) -> Patient:
    """A step of the preparation in front of the model subtracts the mean of the batch, in training and after."""
    model = nn.Sequential()
    model.add_module("centre", ByBatch())
    model.add_module("model", build(kind, seed))
    train(model, seed)
    return Patient(model, trained(kind, seed), _answers_by_company(model), ("centre",))


def _answers_by_company(model: nn.Module) -> Harm:

    model.eval()
    x, y = (torch.cat(part) for part in zip(*by_label(learned=False), strict=True))
    with torch.no_grad():
        together = model(x)
        apart = torch.cat([model(part) for part in x.split(8)])
    loss = float(cross_entropy(apart, y) / cross_entropy(together, y))
    far = float((together - apart).norm() / (together - together.mean(0)).norm())
    return Harm(far, f"of the output's spread between batches of 8 and of all; loss ratio {loss:.2f}", far > 0.05)


@fault("decayed_scales")
def heavy_decay_of_all(kind: str, seed: int) -> Patient:
    """A weight decay acts on the scales as well, and strongly: 2 % in each step."""

    def decay(model: nn.Module) -> None:
        with torch.no_grad():
            for norm in norms(model).values():
                norm.weight.mul_(0.98)

    model = train(build(kind, seed), seed, after_step=decay, epochs=2 * EPOCHS)
    twin = train(build(kind, seed), seed, epochs=2 * EPOCHS)
    return Patient(model, twin, loss_harm(model, twin), tuple(norms(model)))


@fault("changed_eps", also=("differing_derived_model",))
def eps_of_the_other_framework(kind: str, seed: int) -> Patient:
    """A model with an eps of 1e-3, on faint images, is converted, and its layers get 1e-5."""

    def faint(batches: Batches) -> Batches:
        return [(x / 20, y) for x, y in batches]

    twin = build(kind, seed)
    for norm in norms(twin).values():
        norm.eps = 1e-3
    train(twin, seed, epoch=lambda number: faint(to_learn(number)))
    model = copy.deepcopy(twin)
    for norm in norms(model).values():
        norm.eps = 1e-5
    data = faint(held_out())
    first = next(iter(norms(model)))
    return Patient(model, twin, loss_harm(model, twin, data, data), (first,), data, {"source_model": twin})
