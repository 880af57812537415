"""``recalibrate``: what the statistics are, against plain NumPy and against the definition, layer by layer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normwise.torch as nt
from normwise.estimators import Ema, RunningStatistics, Window, named
from normwise.kernels import reference
from normwise.torch.models.recalibration.recalibrate import recalibrate


class Network(nn.Module):
    """Convolutions, a branch, batch norms of both kinds, dropout, and one batch norm that is used twice."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3)
        self.norm1 = nn.BatchNorm2d(6)
        self.branch = nn.Conv2d(6, 6, 1)
        self.norm2 = nt.BatchNorm2d(6, activation="relu")
        self.norm3 = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 5)
        self.norm4 = nn.BatchNorm1d(5)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.first(x)))
        x = self.norm2(self.branch(x)) + self.norm3(x)
        y: Tensor = self.norm4(self.head(self.dropout(x.mean((2, 3)))))
        return y


def network(dtype: torch.dtype = torch.float64) -> Network:
    torch.manual_seed(0)
    model = Network(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
    return model


def data(sizes: tuple[int, ...] = (16, 16, 2), dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 2, 5, 5, generator=draw, dtype=dtype) * (1 + k), torch.zeros(n)) for k, n in enumerate(sizes)
    ]


def norms(model: nn.Module) -> dict[str, Any]:
    return {name: each for name, each in model.named_modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)}


def inputs_of(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, np.ndarray]:
    """The input of every batch norm at inference, all of it at once: (values, channels)."""
    caught: dict[str, list[Tensor]] = {name: [] for name in norms(model)}
    probe = copy.deepcopy(model).eval()
    for name, norm in norms(probe).items():
        norm.register_forward_pre_hook(
            lambda _, args, name=name: caught[name].append(args[0].movedim(1, -1).flatten(0, -2))
        )
    with torch.no_grad():
        for x, _ in batches:
            probe(x)
    return {name: torch.cat(parts).numpy() for name, parts in caught.items() if parts}


@pytest.mark.parametrize(("memory", "passes"), [(None, 1), (0, 4)])
def test_every_layer_has_the_moments_of_what_it_meets_at_inference(memory: Any, passes: int) -> None:
    model: Any = network()
    batches = data()
    report = recalibrate(model, batches, memory=memory)
    assert (report.batches, report.samples, report.passes) == (3, 34, passes)
    assert {*report.recalibrated} == {*norms(model)}
    for name, values in inputs_of(model, batches).items():
        norm = norms(model)[name]
        np.testing.assert_allclose(norm.running_mean.numpy(), values.mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(norm.running_var.numpy(), values.var(0, ddof=1), rtol=1e-9)
        assert int(norm.num_batches_tracked) == 3


def test_it_depends_neither_on_the_batches_nor_on_the_old_statistics() -> None:
    one, other = network(), network()
    (x, _), *rest = data()
    recalibrate(one, [(x, None), *rest])
    for norm in norms(other).values():
        norm.running_mean.fill_(50.0)
        norm.running_var.fill_(1e-3)
    everything = torch.cat([x, *(each for each, _ in rest)])
    recalibrate(other, [(part, None) for part in everything.flip(0).split(5)])
    for name, norm in norms(one).items():
        torch.testing.assert_close(norm.running_mean, norms(other)[name].running_mean, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(norm.running_var, norms(other)[name].running_var, rtol=1e-9, atol=0)


def test_a_second_call_changes_nothing() -> None:
    model: Any = network()
    batches = data()
    recalibrate(model, batches)
    state = copy.deepcopy(model.state_dict())
    again = recalibrate(model, batches)
    torch.testing.assert_close(model.state_dict(), state, rtol=1e-12, atol=1e-12)
    assert max(moved.largest for moved in again.recalibrated.values()) < 1e-9


def test_upstream_by_the_batch_is_what_training_passes_on() -> None:
    """With one batch, and momentum 1: PyTorch's own training forward leaves exactly these statistics."""
    model: Any = network()
    batches = data((16,))
    theirs: Any = copy.deepcopy(model).train()
    theirs.dropout.eval()
    for norm in norms(theirs).values():
        norm.momentum = 1.0
    theirs(batches[0][0])
    report = recalibrate(model, batches, upstream="batch")
    assert report.passes == 1
    for name, norm in norms(model).items():
        torch.testing.assert_close(norm.running_mean, norms(theirs)[name].running_mean, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(norm.running_var, norms(theirs)[name].running_var, rtol=1e-9, atol=0)


@pytest.mark.parametrize("estimator", ["cumulative", "ema", "debiased_ema", Ema(0.3), Window(start=1, stop=3)])
def test_any_estimator_is_its_own_formula_on_the_stream_of_batches(estimator: Any) -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(3, momentum=0.2).double(), nn.Linear(3, 2).double())
    batches = []
    for step, size in enumerate((8, 8, 3)):
        batches.append(torch.randn(size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step)) + step)
    law = (
        estimator
        if not isinstance(estimator, str)
        else named(estimator, weight_of_new=None if estimator == "cumulative" else 0.2)
    )
    expected = RunningStatistics.start(3)
    for x in batches:
        expected = law.update(expected, reference.moments(x.numpy()))
    recalibrate(model, batches, estimator=estimator)
    norm: Any = model[0]
    np.testing.assert_allclose(norm.running_mean.numpy(), expected.mean, rtol=1e-9)
    np.testing.assert_allclose(norm.running_var.numpy(), expected.var, rtol=1e-9)
    assert int(norm.num_batches_tracked) == 3


def test_algorithm_2_of_the_paper_is_the_mean_of_the_batches() -> None:
    """E[x] = E_B[mean], Var[x] = m / (m - 1) E_B[var]."""
    model: Any = nn.Sequential(nn.BatchNorm1d(1))
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [10.0]])]
    recalibrate(model, batches, estimator="cumulative")
    assert model[0].running_mean.item() == pytest.approx((1 + 7) / 2)
    assert model[0].running_var.item() == pytest.approx(2 / 1 * (1 + 9) / 2)


def test_a_layer_that_is_called_twice_gathers_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.after = nn.BatchNorm1d(2).double(), nn.BatchNorm1d(2).double()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            y: Tensor = self.after(self.norm(a) + self.norm(b))
            return y

    model: Any = Twice()
    batches = [(torch.randn(n, 2).double(), torch.randn(n, 2).double() + 5, "label") for n in (6, 3)]
    recalibrate(model, batches)
    values = torch.cat([torch.cat((a, b)) for a, b, _ in batches])
    torch.testing.assert_close(model.norm.running_mean, values.mean(0))
    torch.testing.assert_close(model.norm.running_var, values.var(0))
    after = torch.cat([model.eval().norm(a) + model.norm(b) for a, b, _ in batches])
    torch.testing.assert_close(model.after.running_mean, after.mean(0))
    torch.testing.assert_close(model.after.running_var, after.var(0))


def test_a_mask_counts_here_too() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nt.BatchNorm1d(2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            y: Tensor = self.norm(x, mask=mask)
            return y

    model: Any = Masked()
    x = torch.randn(4, 2, 6)
    mask = torch.arange(6) < torch.tensor([[6], [2], [3], [1]])
    recalibrate(model, [(x, mask)])
    inside = x.movedim(1, -1)[mask]
    torch.testing.assert_close(model.norm.running_mean, inside.mean(0))
    torch.testing.assert_close(model.norm.running_var, inside.var(0))


def test_the_state_goes_on_in_training() -> None:
    """A pooled layer counts on from the values that stand behind its statistics."""
    layer: Any = nt.BatchNorm1d(2, estimator="pooled", dtype=torch.float64)
    first, second = torch.randn(8, 2).double() + 3, torch.randn(5, 2).double()
    recalibrate(nn.Sequential(layer), [first[:5], first[5:]])
    layer.train()(second)
    values = torch.cat((first, second))
    torch.testing.assert_close(layer.running_mean, values.mean(0))
    torch.testing.assert_close(layer.running_var, values.var(0))
    assert int(layer.state_dict()["running_count"]) == 13


def test_values_that_are_not_finite_do_not_enter() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    clean, spoilt = torch.randn(8, 2), torch.randn(8, 2)
    spoilt[3, 1] = float("inf")
    report = recalibrate(model, [clean, spoilt])
    torch.testing.assert_close(model[0].running_mean[0], torch.cat((clean, spoilt))[:, 0].mean())
    torch.testing.assert_close(model[0].running_mean[1], clean[:, 1].mean())
    assert all(bool(buffer.isfinite().all()) for buffer in model.buffers())
    assert [moved.not_finite for moved in report.recalibrated.values()] == [1, 1]
    assert "; 1 of its calls held NaN or infinity, and such channels were left out" in str(report)
    nothing = recalibrate(nn.Sequential(nn.BatchNorm1d(2)), [torch.full((4, 2), float("nan"))])
    assert nothing.skipped == {"0": "all its inputs were NaN or inf"}


def test_a_batch_of_one_counts_where_pytorchs_own_training_forward_refuses_it() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    x = torch.randn(9, 2)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        torch.optim.swa_utils.update_bn(x.split(4), copy.deepcopy(model))
    ways: tuple[Any, ...] = ("inference", "batch")
    for upstream in ways:
        recalibrate(model, x.split(4), upstream=upstream)
        torch.testing.assert_close(model[0].running_mean, x.mean(0))
        torch.testing.assert_close(model[0].running_var, x.var(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_buffers_get_the_nearest_number(dtype: torch.dtype) -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(3)).to(dtype)
    x = (torch.randn(64, 3) * 3 + 2).to(dtype)
    recalibrate(model, x.split(16))
    assert torch.equal(model[0].running_mean, x.double().mean(0).to(dtype))
    assert torch.equal(model[0].running_var, x.double().var(0).to(dtype))


def test_a_mean_that_is_large_costs_no_digits() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(1))
    x = torch.randn(4000, 1) + 1e4
    recalibrate(model, x.split(40))
    assert model[0].running_var.item() == pytest.approx(x.double().var().item(), rel=1e-6)


def test_layers_that_no_batch_reaches_keep_what_they_have() -> None:
    model: Any = network()
    model.unused = nn.BatchNorm1d(4)
    model.unused.running_mean.fill_(7.0)
    report = recalibrate(model, data())
    assert report.not_reached == ("unused",)
    assert model.unused.running_mean.tolist() == [7.0] * 4
    assert "not reached   unused: its statistics are as they were" in str(report)


def test_layers_without_running_statistics_are_skipped_and_work_on() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    report = recalibrate(model, [torch.randn(6, 2) + 9])
    assert report.skipped == {"0": "it keeps no running statistics and uses batch statistics in eval mode too"}
    assert model[1].running_mean.abs().max() < 1e-5


def test_named_layers_are_the_only_ones() -> None:
    model: Any = network()
    before = copy.deepcopy(model.state_dict())
    report = recalibrate(model, data(), layers=["norm3"])
    assert [*report.recalibrated] == ["norm3"]
    assert report.skipped["norm1"] == "it was not asked for"
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["norm3.running_mean", "norm3.running_var", "norm3.num_batches_tracked"]
    with pytest.raises(ValueError, match=r"^unknown batch norm 'norm33': did you mean 'norm3'\? Known: "):
        recalibrate(model, data(), layers=["norm33"])


def test_momentum_none_is_the_plain_average_by_name() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(1, momentum=None))
    recalibrate(model, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [10.0]])], estimator="ema")
    assert model[0].running_mean.item() == 4.0
