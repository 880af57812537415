"""Faults in how a model was built or set while it was trained."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.doctor.case import Harm, Patient, fault, loss_harm
from benchmarks.doctor.digits import Batches, by_label, held_out, images, to_learn
from benchmarks.doctor.faults.state import one_of
from benchmarks.doctor.models import build, norms
from benchmarks.doctor.training import train, trained, with_adam


def differently(kind: str, seed: int, change: Callable[[nn.Module], object], *guilty: str) -> Patient:
    """A model that was changed before it was trained."""
    model = build(kind, seed)
    change(model)
    train(model, seed)
    twin = trained(kind, seed)
    return Patient(model, twin, loss_harm(model, twin), guilty or tuple(norms(model)))


def setting(**settings: object) -> Callable[[nn.Module], None]:
    """Sets something in every norm."""

    def change(model: nn.Module) -> None:
        for norm in norms(model).values():
            for name, value in settings.items():
                setattr(norm, name, value)

    return change


@fault("inverted_momentum")
def momentum_of_keras(kind: str, seed: int) -> Patient:
    """All layers were trained with a momentum of 0.99 or 0.9, by the seed, on batches of 8."""
    model, twin = build(kind, seed), build(kind, seed)
    setting(momentum=0.99 if seed % 2 else 0.9)(model)
    for each in (model, twin):
        train(each, seed, epoch=lambda number: to_learn(number, 8), epochs=2)
    return Patient(model, twin, loss_harm(model, twin), tuple(norms(model)))


@fault("zero_momentum")
def momentum_of_zero_in_one_layer(kind: str, seed: int) -> Patient:
    """One layer was trained with a momentum of 0."""
    name = one_of(build(kind, seed), seed)
    return differently(kind, seed, lambda model: setattr(norms(model)[name], "momentum", 0.0), name)


@fault("zero_momentum")
def momentum_of_zero_in_all(kind: str, seed: int) -> Patient:
    """All layers were trained with a momentum of 0."""
    return differently(kind, seed, setting(momentum=0.0))


@fault("unfinished_warm_up")
def momentum_of_one_hundredth(kind: str, seed: int) -> Patient:
    """All layers were trained for about 90 steps with a momentum of 0.01."""
    model, twin = build(kind, seed), build(kind, seed)
    setting(momentum=0.01)(model)
    train(model, seed, epochs=4)
    train(twin, seed, epochs=4)
    return Patient(model, twin, loss_harm(model, twin), tuple(norms(model)))


@fault("unfinished_warm_up")
def ten_steps(kind: str, seed: int) -> Patient:
    """Statistics that were reset in all layers and then saw ten batches."""
    model, twin = trained(kind, seed), trained(kind, seed)
    for norm in norms(model).values():
        norm.reset_running_stats()
    model.train()
    with torch.no_grad():
        for x, _ in to_learn(seed)[:10]:
            model(x)
    return Patient(model.eval(), twin, loss_harm(model, twin), tuple(norms(model)))


@fault("half_frozen_layer")
def statistics_that_are_not_tracked(kind: str, seed: int) -> Patient:
    """One layer has ``track_running_stats = False`` from the first epoch on and keeps its buffers."""
    name = one_of(build(kind, seed), seed)
    return differently(kind, seed, lambda model: setattr(norms(model)[name], "track_running_stats", False), name)


@fault("low_precision_statistics")
def statistics_in_bfloat16(kind: str, seed: int) -> Patient:
    """Statistics in bfloat16, with a momentum of 0.01 over 450 steps; the weights are rounded at the end, too."""

    def epoch(number: int) -> Batches:
        return to_learn(number, 16)

    model, twin = build(kind, seed), build(kind, seed)
    for norm in [*norms(model).values(), *norms(twin).values()]:
        norm.momentum = 0.01
    train(model, seed, epoch=epoch, after_step=_round)
    train(twin, seed, epoch=epoch)
    data = [(x.bfloat16(), y) for x, y in held_out()]
    return Patient(model.bfloat16(), twin, loss_harm(model, twin, data, held_out()), tuple(norms(model)), data)


def _round(model: nn.Module) -> None:
    """Round to bfloat16 after a step, as a buffer of that dtype does: PyTorch refuses these beside float32 on a CPU."""
    for norm in norms(model).values():
        for value in (norm.running_mean, norm.running_var):
            assert value is not None
            value.copy_(value.bfloat16())


@fault("too_few_values", "dense", "convolutional")
def batches_of_four(kind: str, seed: int) -> Patient:
    """Layers behind linear layers were trained on batches of 4, which their training goes on with."""
    model = build(kind, seed)

    def few(number: int) -> Batches:
        return to_learn(number, 4)

    train(model, seed, epoch=few, epochs=2, rate=1e-3 if with_adam(seed) else 0.01)
    twin = train(build(kind, seed), seed, epoch=lambda number: to_learn(number, 32), epochs=2)
    guilty = tuple(name for name, norm in norms(model).items() if isinstance(norm, nn.BatchNorm1d))
    data = held_out(4)
    return Patient(model, twin, loss_harm(model, twin, data), guilty, data)


@fault("dropout_before_normalization", "dense", "convolutional")
def dropout_right_in_front(kind: str, seed: int) -> Patient:
    """A dropout of 0.5 right in front of the last norm, in training."""
    model = _dropping(build(kind, seed), 0.5)
    guilty = list(norms(model))[-1]
    train(model, seed)
    return Patient(model, (twin := trained(kind, seed)), loss_harm(model, twin), (guilty,))


def _dropping(model: nn.Module, p: float) -> nn.Module:
    last = list(norms(model))[-1]
    parts = [module for name, module in model.named_children()]
    place = [name for name, _ in model.named_children()].index(last)
    return nn.Sequential(*parts[:place], nn.Dropout(p), *parts[place:])


class Places(nn.Module):
    """Rows of an image as places or as features, in front of a norm over axis 1."""

    def __init__(self, width: int, turn: bool) -> None:
        super().__init__()
        self.turn, self.into, self.norm = turn, nn.Linear(8, width), nn.BatchNorm1d(width if turn else 8)
        self.hidden, self.out = nn.Linear(width, 16), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x.reshape(-1, 8, 8))
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if self.turn else self.norm(x)
        found: Tensor = self.out(self.hidden(x.relu()).relu().flatten(1))
        return found


@fault("wrong_axis", "dense")
def places_as_features(kind: str, seed: int) -> Patient:
    """A model of the rows of an image whose norm takes the rows for the features; 8 or 16 of these, by the seed."""
    del kind
    models = []
    for turn in (False, True):
        torch.manual_seed(seed)
        models.append(train(Places(8 if seed % 2 else 16, turn), seed))
    model, twin = models
    return Patient(model, twin, _features_apart(model), ("norm",))


def _features_apart(model: nn.Module) -> Harm:
    """The ratio of the largest to the smallest size of a feature, behind the norm that ought to make them equal."""
    kept: list[Tensor] = []
    handle = norms(model)["norm"].register_forward_hook(lambda *call: kept.append(call[-1].detach()))
    with torch.no_grad():
        model(images()[0][:256])
    handle.remove()
    spread = kept[0].flatten(0, 1).std(0)
    ratio = float(spread.max() / spread.min())
    return Harm(ratio, "times between the widest and the narrowest feature behind the norm", ratio > 1.5)


@fault("sorted_batches")
def trained_in_the_order_of_the_labels(kind: str, seed: int) -> Patient:
    """Every epoch goes through the classes in order; harm is what statistics of shuffled batches would cure."""
    rate = 1e-3 if with_adam(seed) else 0.01  # with the usual ones nothing is learned at all
    return _in_order(train(build(kind, seed), seed, epoch=lambda _: by_label(learned=True), rate=rate), seed)


@fault("sorted_batches")
def last_epoch_in_the_order_of_the_labels(kind: str, seed: int) -> Patient:
    """A trained model learns on for an epoch at a small rate in the order of the labels; harm as before."""
    rate = 1e-4 if with_adam(seed) else 1e-3
    return _in_order(
        train(trained(kind, seed), seed, epoch=lambda _: by_label(learned=True), rate=rate, epochs=1), seed
    )


def _in_order(model: nn.Module, seed: int) -> Patient:
    """The model beside its weights with statistics of shuffled batches: what these do not cure has another cause."""
    twin = copy.deepcopy(model)
    torch.optim.swa_utils.update_bn(to_learn(seed), twin)
    data = by_label(learned=False)
    return Patient(model, twin.eval(), loss_harm(model, twin, data), (), data)
