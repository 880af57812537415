"""Faults in what is made of a trained model: averages, merges, wrong folds; and depth without norms."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import AveragedModel

from benchmarks.doctor.case import Harm, Patient, fault, loss_harm
from benchmarks.doctor.digits import held_out, images, to_learn
from benchmarks.doctor.models import build, in_front, norms
from benchmarks.doctor.training import train, trained


@fault("statistics_of_other_weights")
def averaged_without_update(kind: str, seed: int) -> Patient:
    """An average of the weights after each epoch; its buffers are those of the first of them."""
    model = build(kind, seed)
    averages: list[AveragedModel] = []

    def add(now: nn.Module) -> None:
        if not averages:
            averages.append(AveragedModel(now))
        averages[0].update_parameters(now)

    train(model, seed, after=add, epochs=6)
    averaged, twin = averages[0].eval(), copy.deepcopy(averages[0])
    torch.optim.swa_utils.update_bn(to_learn(seed), twin)
    return Patient(averaged, twin.eval(), loss_harm(averaged, twin))


@fault("statistics_of_other_weights")
def buffers_of_the_source(kind: str, seed: int) -> Patient:
    """The weights were trained on and merged, and the buffers are those of the source model, which is given."""
    source = trained(kind, seed)
    bright = [(0.6 * x + 0.3, y) for x, y in to_learn(seed)]
    twin = train(trained(kind, seed), seed, epoch=lambda _: bright, epochs=3)
    data = [(0.6 * x + 0.3, y) for x, y in held_out()]
    model = copy.deepcopy(twin)
    for name, value in model.named_buffers():
        value.copy_(dict(source.named_buffers())[name])
    return Patient(model, twin, loss_harm(model, twin, data), (), data, {"source_model": source})


@fault("statistics_of_other_weights")
def buffers_of_another_seed(kind: str, seed: int) -> Patient:
    """The weights are those of the source model, which is given, and the buffers those of a model of another seed."""
    model, source, other = trained(kind, seed), trained(kind, seed), trained(kind, seed + 100)
    for name, value in model.named_buffers():
        value.copy_(dict(other.named_buffers())[name])
    return Patient(model, source, loss_harm(model, source), (), given={"source_model": source})


def folded(model: nn.Module, *, forget: str = "") -> nn.Module:
    """A copy without norms, each folded into the layer in front; ``forget`` leaves something out."""
    model = copy.deepcopy(model).eval()
    for name, norm in list(norms(model).items()):
        front = in_front(model, name)
        now: nn.Linear | nn.Conv1d | nn.Conv2d = (
            fuse_linear_bn_eval(front, norm) if isinstance(front, nn.Linear) else fuse_conv_bn_eval(front, norm)
        )
        assert now.bias is not None  # folding makes one
        if forget == "bias":
            now.bias.data = norm.bias.data.clone()
        if forget == "eps":
            assert norm.running_var is not None  # a norm that tracks
            ratio = ((norm.running_var + norm.eps) / (norm.running_var + 0.01)).sqrt()
            now.weight.data *= ratio.reshape(-1, *[1] * (now.weight.dim() - 1))
        paths = {id(module): path for path, module in model.named_modules()}
        _put(model, paths[id(front)], now)
        _put(model, name, nn.Identity())
    return model


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, last = path.rpartition(".")
    setattr(model.get_submodule(owner), last, module)


@fault("differing_derived_model")
def folded_without_the_mean(kind: str, seed: int) -> Patient:
    """Every norm is folded, and the shift forgets the mean; the source is given."""
    source = trained(kind, seed)
    model = folded(source, forget="bias")
    return Patient(model, source, loss_harm(model, source), (), given={"source_model": source})


@fault("differing_derived_model")
def folded_with_another_eps(kind: str, seed: int) -> Patient:
    """Every norm is folded with an eps of 0.01; the source is given."""
    source = trained(kind, seed)
    model = folded(source, forget="eps")
    x = images()[0][1400:]
    with torch.no_grad():
        far = float((model(x) - source(x)).norm() / (source(x) - source(x).mean(0)).norm())
    harm = Harm(far, "of the output's spread", far > 0.01)
    return Patient(model, source, harm, (), given={"source_model": source})


@fault("gradients_lost_in_depth", "dense")
def deep_without_norms(kind: str, seed: int) -> Patient:
    """Sixteen layers with sigmoids and no norm; the twin has norms."""
    del kind
    models = []
    for norm in (nn.Identity, nn.BatchNorm1d):
        torch.manual_seed(seed)
        layers = [nn.Sequential(nn.Linear(32, 32), norm(32), nn.Sigmoid()) for _ in range(16)]
        models.append(train(nn.Sequential(nn.Linear(64, 32), *layers, nn.Linear(32, 10)), seed, epochs=3))
    model, twin = models
    return Patient(model, twin, loss_harm(model, twin), ("0",))
