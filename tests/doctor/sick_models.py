"""A real model for each check whose remedy is code: trained, and then made sick as users make theirs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from normwise.torch import paused_statistics
from tests.doctor.digits import LEARNED, Batches, accuracy, convolutional, dense, held_out, images, step, train, trained

Case = dict[str, Any]
LABELED = {"loss": cross_entropy, "metric": accuracy}


def case(model: Any, batches: Any = None, **given: Any) -> Case:
    """The objects that a user has at hand, and those of them that go into ``examine``."""
    batches = held_out() if batches is None else batches
    dataset = TensorDataset(*(torch.cat([batch[part] for batch in held_out()]) for part in (0, 1)))
    return {"model": model, "batches": batches, "dataset": dataset, "given": {**LABELED, **given}}


def norm(model: Any, name: str) -> Any:
    """One of its batch norms."""
    return model.get_submodule(name)


def stale_running_statistics() -> Case:
    model = trained()
    norm(model, "5").running_mean += 3 * norm(model, "5").running_var.sqrt()
    return case(model)


def never_updated_statistics() -> Case:
    model = trained()
    norm(model, "5").reset_running_stats()
    return case(model)


def non_finite_statistics() -> Case:
    model = trained()
    norm(model, "2").running_mean[3] = torch.nan
    return case(model)


def unfinished_warm_up() -> Case:
    model = trained()
    for name in ("2", "5", "9"):
        norm(model, name).reset_running_stats()
    with torch.no_grad():
        for x, _ in held_out()[:3]:
            model.train()(x)
    return case(model.eval())


def statistics_of_other_weights() -> Case:
    model, source = trained(), trained()
    train(model, epochs=1, rate=0.3)
    for name in ("2", "5", "9"):
        for part in ("running_mean", "running_var"):
            getattr(norm(model, name), part).copy_(getattr(norm(source, name), part))
    return case(model.eval(), source_model=source.eval())


def drifted_data() -> Case:
    model = trained().eval()
    return case(model, [(0.4 * x + 0.6, y) for x, y in held_out()], source_model=copy.deepcopy(model))


def dropout_before_normalization() -> Case:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.Dropout(0.6), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    return case(train(model).eval())


def inverted_momentum() -> Case:
    model = trained()
    for name in ("2", "5", "9"):
        norm(model, name).momentum = 0.99
    return case(train(model, epochs=1))


def zero_momentum() -> Case:
    torch.manual_seed(0)
    model = convolutional()
    for name in ("2", "5", "9"):
        norm(model, name).momentum = 0.0
    return case(train(model))


def low_precision_statistics() -> Case:
    return case(trained().bfloat16().train(), [(x.bfloat16(), y) for x, y in held_out()])


def half_frozen_layer() -> Case:
    model = trained().train()
    norm(model, "5").track_running_stats = False
    return case(model, train_step=step)


def moving_frozen_layer() -> Case:
    model = trained().train()
    for module in model[:6]:
        module.requires_grad_(False)
    return case(model, train_step=step)


def changed_eps() -> Case:
    model = trained().eval()
    norm(model, "9").running_var *= 1e-4
    model[8].weight.data *= 1e-2
    norm(model, "9").running_mean *= 1e-2
    source = copy.deepcopy(model)
    norm(source, "9").eps = 1e-3
    return case(model, source_model=source)


def differing_derived_model() -> Case:
    source = trained().eval()
    model = copy.deepcopy(source)
    model[1] = nn.utils.fuse_conv_bn_eval(model[1], norm(model, "2"))
    model[2] = nn.Identity()
    model[1].bias.data += 0.5  # a fold that counts the bias wrongly
    return case(model, source_model=source)


def batch_dependent_output() -> Case:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 32), nn.BatchNorm1d(32, track_running_stats=False), nn.ReLU(), nn.Linear(32, 10)
    )
    return case(train(model).eval())


def exploding_channels() -> Case:
    model = trained().eval()
    norm(model, "5").weight.data[0] = 1e4
    return case(model)


def cancelling_variance() -> Case:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 10))
    batches: list[Tensor] = [290 + 0.1 * torch.randn(64, 4) for _ in range(6)]
    for x in batches * 20:
        model(x)
    return {"model": model.eval(), "batches": batches, "given": {}}


def in_order(first: int, last: int) -> Batches:
    """Batches in the order of the labels."""
    x, y = (each[first:last] for each in images())
    return [(x[index], y[index]) for index in y.argsort(stable=True).split(32)]


def sorted_batches() -> Case:
    model = trained("dense").train()
    with torch.no_grad():
        for x, _ in in_order(0, LEARNED):
            model(x)
    return case(model.eval(), in_order(LEARNED, 1797))


def too_few_values() -> Case:
    return case(trained().train(), held_out(4, 200), train_step=step)


def decayed_scales() -> Case:
    torch.manual_seed(0)
    return case(train(dense(), epochs=10, decay=0.3))


def repeated_updates() -> Case:
    def loop(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        model(batch[0])
        step(model, batch)

    return case(trained().train(), train_step=loop)


def missing_updates() -> Case:
    def loop(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        with paused_statistics(model):
            step(model, batch)

    return case(trained().train(), train_step=loop)


def mixed_domains() -> Case:
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2))
    torch.manual_seed(0)
    batches = [torch.randn(64, 8) + 4 * (number % 2) for number in range(12)]
    for x in batches * 8:
        model(x)
    return {"model": model.eval(), "batches": batches, "given": {}}


CASES: dict[str, Callable[[], Case]] = {
    name: made
    for name, made in sorted(globals().items())
    if callable(made) and name not in ("case", "norm", "in_order") and getattr(made, "__module__", "") == __name__
}
