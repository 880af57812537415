"""``recalibrate`` as a guest in a model: what it must not leave behind, and what it says when it cannot go on."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import normwise.torch as nt
from normwise import estimators
from normwise.errors import NormwiseError
from normwise.estimators import Ema
from normwise.torch.models.recalibration.recalibrate import recalibrate


def network() -> Any:
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nt.BatchNorm1d(8), nn.Linear(8, 2)
    )
    model(torch.randn(16, 3))
    model[3].eval()
    model[0].requires_grad_(False)
    return model


def everything(model: nn.Module) -> dict[str, Any]:
    numbers: Any = np.random.get_state()  # noqa: NPY002
    return {
        "bytes": {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())},
        "places": {name: (id(t), t.data_ptr()) for name, t in (*model.named_parameters(), *model.named_buffers())},
        "learns": {name: tensor.requires_grad for name, tensor in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: [*module._forward_pre_hooks, *module._forward_hooks] for name, module in model.named_modules()},
        "attributes": {name: {*vars(module)} for name, module in model.named_modules()},
        "classes": {name: type(module) for name, module in model.named_modules()},
        "random": hash((*torch.get_rng_state().tolist(), random.getstate(), *numbers[1].tolist())),
    }


def assert_same(now: dict[str, Any], before: dict[str, Any], changed: set[str]) -> None:
    for name, value in before["bytes"].items():
        assert torch.equal(now["bytes"][name], value) != (name in changed), name
    for what in before.keys() - {"bytes"}:
        assert now[what] == before[what], what


def noisy() -> Iterator[tuple[Tensor, int]]:
    """Batches that use every generator."""
    for _ in range(3):
        yield torch.randn(16, 3) + random.random() + np.random.rand(), 1  # noqa: NPY002


STATISTICS = {f"{k}.{name}" for k in (1, 5) for name in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("upstream", ["inference", "batch"])
def test_only_the_statistics_are_different_afterwards(upstream: Any) -> None:
    model: Any = network()
    handle = model[1].register_forward_hook(lambda *_: None)
    before = everything(model)
    recalibrate(model, noisy(), upstream=upstream)
    assert_same(everything(model), before, STATISTICS)
    handle.remove()
    assert not model[1]._forward_hooks


class Rude(nn.Module):
    """Does to its surroundings what a forward should not do, then fails."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails, self.inner = fails, nn.Linear(3, 3)
        self.calls: int = 0
        self.register_buffer("seen", torch.zeros(1))
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        self.extra = x
        self.inner.weight.data.mul_(2)
        self.inner.requires_grad_(False)
        self.inner.register_forward_hook(lambda *_: None)
        if self.fails and self.calls == 2:
            raise KeyboardInterrupt
        return x


@pytest.mark.parametrize("fails", [True, False])
def test_whatever_a_forward_does_the_model_is_as_before(fails: bool) -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(3), Rude(fails), nn.BatchNorm1d(3))
    before = everything(model)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            recalibrate(model, noisy())
    else:
        recalibrate(model, noisy())
    statistics = {f"{k}.{name}" for k in (0, 2) for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert_same(everything(model), before, set() if fails else statistics)
    assert model[1].calls == 0


def test_an_error_in_the_middle_leaves_every_byte() -> None:
    model: Any = network()
    batches = [(torch.randn(4, 3), 0), (torch.randn(4, 9), 0)]
    before = everything(model)
    with pytest.raises(RuntimeError) as failed:
        recalibrate(model, batches)
    assert_same(everything(model), before, set())
    assert failed.value.__notes__ == [
        "Sequential was called with (Tensor), of a batch that is a tuple (a float32 tensor of shape (4, 9), an int), "
        "and layer '0' (Linear) failed; what to do: pass forward_fn=lambda model, batch: ... if the model takes "
        "something else."
    ]


def test_arrays_of_numpy_are_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError) as failed:
        recalibrate(network(), [np.ones((4, 3), "float32")])
    assert failed.value.__notes__ == [
        "Sequential was called with (ndarray), of a batch that is a float32 array of shape (4, 3), and layer '0' "
        "(Linear) failed; what to do: give tensors, for example torch.from_numpy(array)."
    ]


def test_a_statistic_that_does_not_fit_is_refused_before_anything_is_written() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1)).half()
    before = everything(model)
    with pytest.raises(NormwiseError) as failed:
        recalibrate(model, [torch.tensor([[-6e4], [6e4]]).half()])
    assert str(failed.value) == (
        "the statistics of batch norm '0', up to 7.2e+09, do not fit its buffers of float16: the model is as it was; "
        "keep these in float32."
    )
    assert_same(everything(model), before, set())


def test_a_loader_that_shuffles_gives_every_layer_the_same_batches() -> None:
    x = torch.randn(64, 3)
    loader = DataLoader(TensorDataset(x, torch.zeros(64)), batch_size=8, shuffle=True)
    model: Any = network()
    torch.manual_seed(5)
    recalibrate(model, loader, at_most=3, tolerance=0)
    torch.manual_seed(5)
    rows = torch.cat([images for images, _ in list(loader)[:3]])
    with torch.no_grad():
        met = model.eval()[:5](rows)
    torch.testing.assert_close(model[5].running_mean, met.mean(0))
    torch.testing.assert_close(model[5].running_var, met.var(0))


def test_it_stops_when_the_standard_error_is_small_enough_and_says_so() -> None:
    drawn = torch.randn(40_000, 2) * torch.tensor([1.0, 5.0]) + 3
    model: Any = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    loader = DataLoader(TensorDataset(drawn), batch_size=100, shuffle=True)
    torch.manual_seed(0)
    report = recalibrate(model, loader, tolerance=0.03)
    # one value per sample: 1 / sqrt(n) = 0.03 at 1111 samples, of which the estimate of it is a few dozen batches
    assert 500 <= report.samples <= 2500
    assert (report.stopped_early, report.batches % 8) == (True, 0)
    assert 0.01 < report.standard_error <= 0.03
    assert f"stopped early at a standard error of {report.standard_error:.2g} standard deviations" in str(report)
    error = (model[0].running_mean - drawn.mean(0)).abs() / drawn.std(0)
    assert float(error.max()) < 4 * 0.03
    whole = recalibrate(model, loader, tolerance=0)
    assert (whole.samples, whole.stopped_early) == (40_000, False)


def test_by_itself_it_stops_early_only_where_the_loader_shuffles() -> None:
    data = TensorDataset(torch.randn(30_000, 1))
    model: Any = nn.Sequential(nn.BatchNorm1d(1))
    shuffled = recalibrate(model, DataLoader(data, batch_size=100, shuffle=True))
    assert shuffled.stopped_early
    assert 5_000 < shuffled.samples < 20_000
    in_order = recalibrate(model, DataLoader(data, batch_size=100))
    assert (in_order.samples, in_order.stopped_early) == (30_000, False)


def test_data_that_end_when_enough_is_known_did_not_stop_early() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(1))
    assert not recalibrate(model, torch.randn(800, 1).split(100), tolerance=1.0).stopped_early
    assert recalibrate(model, torch.randn(801, 1).split(100), tolerance=1.0).stopped_early


def test_a_compiled_model_is_recalibrated() -> None:
    model: Any = network()
    plain = copy.deepcopy(model)
    compiled: Any = torch.compile(model, backend="eager")
    report = recalibrate(compiled, [torch.randn(16, 3, generator=torch.Generator().manual_seed(1))])
    recalibrate(plain, [torch.randn(16, 3, generator=torch.Generator().manual_seed(1))])
    assert [*report.recalibrated] == ["_orig_mod.1", "_orig_mod.5"]
    torch.testing.assert_close(model.state_dict(), plain.state_dict())


def test_a_compiled_part_of_a_model_is_recalibrated() -> None:
    x = torch.randn(16, 3) + 2
    inner: Any = nn.Sequential(nn.BatchNorm1d(3))
    inner.compile(backend="eager")
    model: Any = nn.Sequential(inner, nn.Linear(3, 3))
    model(x)
    recalibrate(model, [x])
    torch.testing.assert_close(inner[0].running_mean, x.mean(0))


def test_sync_batch_norm_needs_no_other_processes() -> None:
    model: Any = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(3)))
    x = torch.randn(16, 3) + 2
    recalibrate(model, x.split(6))
    torch.testing.assert_close(model[0].running_mean, x.mean(0))


LINEAR: Any = nn.Sequential(nn.BatchNorm1d(1))
WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"model": "resnet"},
        "recalibrate needs a torch.nn.Module, received the string 'resnet': "
        "build the model, load its weights, and pass it.",
    ),
    (
        {"batches": torch.zeros(2, 1)},
        "recalibrate needs an iterable of batches, received Tensor: pass a data loader, or a list with one batch in "
        "it.",
    ),
    (
        {"batches": 3},
        "recalibrate needs an iterable of batches, received int: pass a data loader, or a list with one batch in it.",
    ),
    (
        {"batches": []},
        "recalibrate received no batches, so there is nothing to estimate from: pass data; an iterator that was gone "
        "through before is empty, its DataLoader is not.",
    ),
    ({"at_most": 0}, "recalibrate needs at least one batch, received 0: state how many, or None."),
    ({"upstream": "bach"}, "unknown upstream 'bach': did you mean 'batch'? Known: batch, inference."),
    (
        {"estimator": "poled"},
        f"unknown estimator 'poled': did you mean 'pooled'? Known: {', '.join(estimators.names())}.",
    ),
    (
        {"tolerance": -1.0},
        "tolerance must be a standard error in standard deviations, received -1.0: pass for example 0.01, or 0 to use "
        "all data.",
    ),
    (
        {"tolerance": 0.1, "estimator": Ema(0.1)},
        "tolerance needs an estimator that knows more with every batch, received Ema(weight_of_new=0.1): use 'pooled' "
        "or 'cumulative', or leave it out.",
    ),
    (
        {"model": nn.Sequential(nn.LazyBatchNorm1d())},
        "recalibrate needs a model whose lazy layers have seen an input, and '0.weight' has no shape yet: run one "
        "batch through the model first.",
    ),
    (
        {"model": nn.Sequential(nn.BatchNorm1d(1, device="meta"))},
        "recalibrate needs a model with values, and '0.weight' is on the meta device: load its weights first.",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_what_cannot_be_done_is_refused_in_one_sentence(case: int) -> None:
    wrong, sentence = WRONG[case]
    arguments: dict[str, Any] = {"model": LINEAR, "batches": [torch.zeros(4, 1)], **wrong}
    with pytest.raises((TypeError, NormwiseError)) as refused:
        recalibrate(arguments.pop("model"), arguments.pop("batches"), **arguments)
    assert str(refused.value) == sentence
    assert int(LINEAR[0].num_batches_tracked) == 0


def test_a_model_without_batch_norm_says_so() -> None:
    assert str(recalibrate(nn.Linear(1, 1), [torch.zeros(2, 1)])) == "nothing recalibrated: the model has no batch norm"


def test_the_report_prints_the_layers_that_moved_furthest_first() -> None:
    model: Any = nn.Sequential(*(nn.BatchNorm1d(1) for _ in range(15)))
    report = recalibrate(model, [torch.randn(50, 1) + 100])
    lines = str(report).splitlines()
    assert lines[0] == "15 of 15 batch norms recalibrated with 50 samples in 1 batch"
    assert lines[1].startswith("  recalibrated  0: moved by ")
    assert lines[-1] == "  recalibrated  3 more, which moved less"
