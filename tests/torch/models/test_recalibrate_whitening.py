"""``recalibrate`` of layers that whiten: the covariance of all that comes to them, exactly, under every estimator."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from normwise import estimators
from normwise.errors import NormwiseError
from normwise.estimators import RunningStatistics, named
from normwise.moments import Moments
from normwise.torch.models.recalibration.site_statistics import OfPairs
from tests.cases import array

F64 = torch.float64
ESTIMATORS = {name: estimators.Window(start=1, stop=3) if name == "window" else name for name in estimators.names()}


def data(sizes: tuple[int, ...] = (16, 16, 2), channels: int = 4) -> list[Tensor]:
    """Batches whose means differ and whose channels have to do with each other."""
    draw = torch.Generator().manual_seed(1)
    mixing = torch.randn((channels, channels), generator=torch.Generator().manual_seed(9), dtype=F64)
    return [
        (torch.randn((size, channels), generator=draw, dtype=F64) + step) @ mixing for step, size in enumerate(sizes)
    ]


def layer_of(kind: Any = nt.DecorrelatedBatchNorm1d, **settings: Any) -> Any:
    return kind(4, **{"dtype": F64, "group_size": 2, **settings})


def blocks(matrix: Any, size: int = 2) -> Any:
    """The blocks on the diagonal."""
    return np.stack([matrix[i : i + size, i : i + size] for i in range(0, len(matrix), size)])


@pytest.mark.parametrize("kind", [nt.DecorrelatedBatchNorm1d, nt.IterativeNorm1d])
def test_it_is_the_mean_and_covariance_of_all_data(kind: Any) -> None:
    model: Any = nn.Sequential(layer_of(kind))
    report = normwise.recalibrate(model, data())
    together = torch.cat(data()).numpy()
    np.testing.assert_allclose(array(model[0].running_mean), together.mean(0), rtol=1e-12)
    np.testing.assert_allclose(array(model[0].running_covariance), blocks(np.cov(together.T)), rtol=1e-10)
    assert [*report.recalibrated] == ["0"]
    assert (report.skipped, report.not_reached, report.samples) == ({}, (), 34)
    assert int(model[0].num_batches_tracked) == 3


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_what_it_is_for_variances_in_any_direction(name: str) -> None:
    # By the formula of the estimator, on the values of each channel and of sums and differences of two.
    model: Any = nn.Sequential(layer_of(momentum=0.2))
    normwise.recalibrate(model, data(), estimator=ESTIMATORS[name])
    given = ESTIMATORS[name]
    law = named(given, weight_of_new=0.2) if isinstance(given, str) else given
    for direction in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]):
        expected = RunningStatistics.start(1)
        for batch in data():
            values = array(batch)[:, :2] @ np.array(direction)
            expected = law.update(
                expected, Moments(values.mean(0, keepdims=True), values.var(keepdims=True), len(batch))
            )
        mean = array(model[0].running_mean)[:2] @ direction
        var = np.array(direction) @ array(model[0].running_covariance)[0] @ np.array(direction)
        # Averages start from a variance of 1 in a channel, and so of the square of the length in a direction.
        rest = 0.8**3 * (np.dot(direction, direction) - 1) if name == "ema" else 0.0
        np.testing.assert_allclose(mean, expected.mean[0], rtol=1e-9)
        np.testing.assert_allclose(var, expected.var[0] + rest, rtol=1e-9)


class Network(nn.Module):
    """A whitening layer between others, of which one is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3), nt.IterativeNorm2d(4, group_size=2, steps=7)
        self.after, self.plain = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.last = nt.DecorrelatedBatchNorm2d(4, group_size=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        y: Tensor = self.last(self.plain(self.after(x))) + self.last(x)
        return y


def images() -> list[Tensor]:
    draw = torch.Generator().manual_seed(2)
    return [torch.randn((size, 2, 5, 5), generator=draw, dtype=F64) + step for step, size in enumerate((8, 8, 3))]


def inputs(model: Network, name: str) -> np.ndarray:
    """All that comes to a layer in inference, (values, channels)."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for x in images():
            model.eval()(x)
    handle.remove()
    return torch.cat([x.movedim(1, -1).flatten(0, -2) for x in seen]).numpy()


def test_every_layer_of_a_network_has_the_moments_of_what_it_meets_at_inference() -> None:
    torch.manual_seed(0)
    model = Network().to(F64)
    report = normwise.recalibrate(model, images())
    assert [*report.recalibrated] == ["norm", "plain", "last"]
    assert report.passes == 3
    for name, size in (("norm", 2), ("last", 4)):
        layer: Any = model.get_submodule(name)
        values = inputs(model, name)
        np.testing.assert_allclose(array(layer.running_mean), values.mean(0), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(array(layer.running_covariance), blocks(np.cov(values.T), size), rtol=1e-8)
    again = normwise.recalibrate(model, images())
    assert max(moved.largest for moved in again.recalibrated.values()) < 1e-8


def test_upstream_by_the_batch_is_what_training_passes_on() -> None:
    torch.manual_seed(0)
    model: Any = Network().to(F64)
    trained = copy.deepcopy(model)
    normwise.recalibrate(model, images(), upstream="batch")
    trained.train()
    for norm in (trained.norm, trained.plain, trained.last):
        norm.momentum, norm.estimator = None, "pooled"
    for each in (trained.norm, trained.last):
        each._settle(None, "pooled")
    for x in images():
        trained(x)
    for name in ("norm", "last"):
        mine, theirs = model.get_submodule(name), trained.get_submodule(name)
        torch.testing.assert_close(mine.running_mean, theirs.running_mean)
        torch.testing.assert_close(mine.running_covariance, theirs.running_covariance)


def test_the_state_goes_on_in_training() -> None:
    first, rest = data((16, 16)), data((5, 7))
    layer: Any = layer_of(estimator="pooled")
    normwise.recalibrate(layer, first)
    for batch in rest:
        layer.train()(batch)
    together = torch.cat([*first, *rest]).numpy()
    np.testing.assert_allclose(array(layer.running_covariance), blocks(np.cov(together.T)), rtol=1e-10)


def test_a_mask_counts_here_too() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = layer_of()

        def forward(self, x: Tensor, mask: Tensor) -> Any:
            return self.norm(x, mask=mask)

    model, x = Masked(), torch.cat(data()).view(2, 17, 4).movedim(-1, 1)
    mask = torch.arange(17) < torch.tensor([[17], [5]])
    normwise.recalibrate(model, [(x, mask)])
    inside = x.movedim(1, -1)[mask].numpy()
    np.testing.assert_allclose(array(model.norm.running_covariance), blocks(np.cov(inside.T)), rtol=1e-10)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="whitening needs a mask and weights that all channels of a position share"):
        normwise.recalibrate(model, [(x, mask.unsqueeze(1).expand(-1, 4, -1))])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_group_that_is_not_finite_in_some_channel_does_not_enter() -> None:
    layer, right = layer_of(), layer_of()
    batches, spoilt = data(), data((9,))[0].index_fill(1, torch.tensor([3]), float("nan"))
    normwise.recalibrate(right, batches)
    report = normwise.recalibrate(layer, [*batches, spoilt])
    assert report.recalibrated[""].not_finite == 1
    torch.testing.assert_close(layer.running_covariance[1], right.running_covariance[1])
    together = torch.cat([*batches, spoilt])[:, :2].numpy()
    np.testing.assert_allclose(array(layer.running_covariance)[0], np.cov(together.T), rtol=1e-10)


def test_it_stops_early_when_enough_is_known() -> None:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn((40_000, 4), generator=draw) @ torch.tensor(
        [[2.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 5], [0, 0, 0, 1]]
    )
    layer = nt.DecorrelatedBatchNorm1d(4, group_size=2)
    loader: Any = torch.utils.data.DataLoader(x, batch_size=100, shuffle=True, generator=draw)  # type: ignore[arg-type]  # a tensor serves
    report = normwise.recalibrate(layer, loader, tolerance=0.03)
    assert report.stopped_early
    assert report.samples < 10_000
    assert report.standard_error <= 0.03
    assert layer.running_covariance is not None
    whole = torch.tensor(blocks(np.cov(x.numpy().T)), dtype=torch.float32)
    assert float((layer.running_covariance / whole - 1).abs().max()) < 0.2


def test_how_far_it_moved_is_the_largest_over_all_directions() -> None:
    layer = layer_of(eps=1e-12)
    layer.running_covariance[0] = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    kept = OfPairs(layer)
    before = kept.read(torch.device("cpu"))
    layer.running_covariance[0] = torch.tensor([[1.0, -0.9], [-0.9, 1.0]])
    far = kept.moved(before, kept.read(torch.device("cpu")), layer.eps)
    # No variance has changed; in the directions (1, 1) and (1, -1) it has by a factor of 19.
    np.testing.assert_allclose(array(far), [np.log(19) / 2, np.log(19) / 2, 0, 0], atol=1e-9)
    layer.running_mean[1] = 1.0
    far = kept.moved(before, kept.read(torch.device("cpu")), layer.eps)
    weakest = np.sqrt(0.5) / np.sqrt(0.1)
    assert float(far.max()) == pytest.approx(max(weakest, np.log(19) / 2))


def test_statistics_that_do_not_fit_the_buffers_leave_the_model_as_it_was() -> None:
    model = nn.Sequential(layer_of(), nn.Identity())
    layer: Any = model[0]
    layer._buffers["running_covariance"] = layer.running_covariance.half()
    with pytest.raises(NormwiseError, match="do not fit its buffers of float16"):
        normwise.recalibrate(model, [1000 * batch for batch in data()])
    assert torch.equal(layer.running_mean, torch.zeros(4, dtype=F64))


def test_adapt_says_why_it_leaves_them() -> None:
    model = nn.Sequential(layer_of(dtype=None), nn.BatchNorm1d(4))
    report = normwise.adapt(model, [torch.randn(32, 4)])
    assert [*report.adapted] == ["1"]
    assert report.skipped == {"0": "it whitens, and keeps a covariance: normwise.recalibrate estimates that from data"}
