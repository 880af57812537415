"""The running mean and covariance of the whitening layers, under every estimator, and what must not enter them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise import estimators
from normwise.kernels.inverse_root import inverse_root
from normwise.torch.models.paused import paused_statistics
from tests.cases import array

F64 = torch.float64
ESTIMATORS = {name: estimators.Window(start=1, stop=3) if name == "window" else name for name in estimators.names()}


def layer_of(channels: int = 4, **settings: Any) -> nt.DecorrelatedBatchNorm1d:
    return nt.DecorrelatedBatchNorm1d(channels, **{"dtype": F64, "group_size": 2, **settings})


def mixed(values: int, seed: int, channels: int = 4) -> Tensor:
    """Batches whose means differ."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn((channels, channels), generator=torch.Generator().manual_seed(9), dtype=F64)
    return (torch.randn((values, channels), generator=draw, dtype=F64) + seed) @ mixing


def statistics(layer: nn.Module) -> tuple[Tensor, Tensor]:
    mean, covariance = layer.running_mean, layer.running_covariance
    assert isinstance(mean, Tensor)
    assert isinstance(covariance, Tensor)
    return mean, covariance


def blocks(matrix: Any, size: int = 2) -> Any:
    """The blocks on the diagonal."""
    return np.stack([matrix[i : i + size, i : i + size] for i in range(0, len(matrix), size)])


def test_one_batch_moves_mean_and_unbiased_covariance_by_momentum() -> None:
    layer, x = layer_of(momentum=0.3), mixed(9, 1)
    layer(x)
    mean, covariance = statistics(layer)
    np.testing.assert_allclose(array(mean), 0.3 * array(x).mean(0))
    right = 0.7 * np.eye(2) + 0.3 * blocks(np.cov(array(x).T))
    np.testing.assert_allclose(array(covariance), right)
    assert int(layer.state_dict()["num_batches_tracked"]) == 1


def test_pooled_is_the_covariance_of_all_the_data_between_batches_too() -> None:
    layer = layer_of(estimator="pooled")
    batches = [mixed(values, seed) for seed, values in enumerate((5, 9, 2, 17))]
    for batch in batches:
        layer(batch)
    together = torch.cat(batches).numpy()
    mean, covariance = statistics(layer)
    np.testing.assert_allclose(array(mean), together.mean(0))
    np.testing.assert_allclose(array(covariance), blocks(np.cov(together.T)), rtol=1e-10)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_does_to_the_diagonal_what_it_does_to_a_variance(name: str) -> None:
    layer = layer_of(estimator=ESTIMATORS[name])
    right = nt.BatchNorm1d(4, dtype=F64, estimator=ESTIMATORS[name])
    for seed, values in enumerate((5, 9, 2, 17)):
        for other in (layer, right):
            other(mixed(values, seed))
    mean, covariance = statistics(layer)
    assert right.running_mean is not None
    assert right.running_var is not None
    torch.testing.assert_close(mean, right.running_mean)
    torch.testing.assert_close(covariance.diagonal(dim1=1, dim2=2).flatten(), right.running_var)
    assert bool((torch.linalg.eigvalsh(covariance) > 0).all())
    torch.testing.assert_close(covariance, covariance.transpose(1, 2))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_does_the_same_to_turned_channels(name: str) -> None:
    # The covariance of A x is A S A^T, whatever is averaged how; only pairs that fit together give that.
    turn = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=F64)
    layer, turned = layer_of(2, estimator=ESTIMATORS[name]), layer_of(2, estimator=ESTIMATORS[name])
    with torch.no_grad():
        statistics(turned)[1].copy_((turn @ turn.T).unsqueeze(0))
    for seed, values in enumerate((5, 9, 2, 17)):
        x = mixed(values, seed, 2)
        layer(x)
        turned(x @ turn.T)
    torch.testing.assert_close(statistics(turned)[1], turn @ statistics(layer)[1] @ turn.T)


def test_an_average_of_matrices_is_biased_and_one_of_covariances_is_not() -> None:
    # Twelve values for each of four channels, of the identity's population.
    layer = nt.DecorrelatedBatchNorm1d(4, dtype=F64, estimator="cumulative", eps=1e-9)
    draw = torch.Generator().manual_seed(0)
    matrices = []
    for _ in range(2000):
        x = torch.randn((12, 4), generator=draw, dtype=F64)
        layer(x)
        matrices.append(inverse_root(torch.cov(x.T), 0.0))
    of_papers = float(torch.stack(matrices).mean(0).diagonal().mean())
    ours = float(inverse_root(statistics(layer)[1], 0.0).diagonal(dim1=1, dim2=2).mean())
    assert of_papers > 1.15
    assert ours == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("steps", [3, 5])
def test_iterative_inference_takes_as_many_steps_from_the_running_covariance(steps: int) -> None:
    layer = nt.IterativeNorm1d(4, dtype=F64, momentum=1.0, steps=steps)
    x = mixed(2000, 1)
    trained = layer(x)
    torch.testing.assert_close(layer.eval()(x), trained, rtol=0, atol=2e-3)  # n / (n - 1) apart


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_what_is_not_finite_leaves_its_group_and_no_other_as_it_was(bad: float) -> None:
    layer, right = layer_of(), layer_of()
    x = mixed(9, 1)
    spoilt = x.clone()
    spoilt[3, 0] = bad
    y = layer(spoilt)
    right(x)
    for mine, theirs, fresh in zip(statistics(layer), statistics(right), statistics(layer_of()), strict=True):
        half = len(mine) // 2
        torch.testing.assert_close(mine[half:], theirs[half:])
        torch.testing.assert_close(mine[:half], fresh[:half], rtol=0, atol=0)
    assert bool(y[:, 2:].isfinite().all())
    assert int(dict(layer.named_buffers())["num_batches_skipped"]) == 1
    assert int(layer.state_dict()["num_batches_tracked"]) == 1


def test_fewer_values_than_channels_are_whitened_as_far_as_they_go() -> None:
    layer = nt.DecorrelatedBatchNorm1d(8, dtype=F64, eps=1e-4)
    x = mixed(4, 1, 8).requires_grad_()
    y = layer(x)
    values = torch.linalg.eigvalsh(torch.cov(y.detach().T, correction=0))
    torch.testing.assert_close(values[-3:], torch.ones(3, dtype=F64), rtol=0, atol=0.01)
    torch.testing.assert_close(values[:5], torch.zeros(5, dtype=F64), rtol=0, atol=1e-9)
    y.pow(3).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_paused_empty_and_fully_masked_batches_change_nothing() -> None:
    layer, x = layer_of(estimator="pooled"), mixed(9, 1)
    layer(x)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with paused_statistics(layer):
        layer(x + 5)
    assert layer(x[:0], x[:0]).shape == (0, 4)
    assert float(layer(x, mask=torch.zeros(9, dtype=torch.bool)).detach().abs().sum()) == 0
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_half_precision_keeps_the_statistics_in_float32() -> None:
    layer = nt.IterativeNorm2d(4, group_size=2)
    x = mixed(18, 1).float().view(2, 3, 3, 4).permute(0, 3, 1, 2)
    layer(x)
    before = [value.clone() for value in statistics(layer)]
    layer.half()
    assert layer.weight.dtype is torch.float16
    for value, kept in zip(statistics(layer), before, strict=True):
        assert value.dtype is torch.float32
        assert torch.equal(value, kept)
    assert layer(x.half()).dtype is torch.float16
    assert layer.eval()(x.half()).dtype is torch.float16
    assert statistics(nt.IterativeNorm2d(4, dtype=torch.bfloat16))[1].dtype is torch.float32


def test_resetting_forgets_everything_seen_and_update_bn_works() -> None:
    layer = layer_of(estimator="pooled")
    layer(mixed(9, 1))
    layer.reset_running_stats()
    torch.testing.assert_close(layer.state_dict(), layer_of(estimator="pooled").state_dict())
    plain = layer_of()
    plain(mixed(9, 5))
    batches = [mixed(9, seed) for seed in range(3)]
    torch.optim.swa_utils.update_bn(batches, plain)
    right = np.mean([blocks(np.cov(array(batch).T)) for batch in batches], 0)
    np.testing.assert_allclose(array(statistics(plain)[1]), right)
    assert plain.momentum == 0.1


def test_a_layer_without_statistics_whitens_every_batch_by_itself() -> None:
    layer = layer_of(track_running_stats=False)
    assert "running_covariance" not in layer.state_dict()
    x = mixed(9, 1)
    torch.testing.assert_close(layer.eval()(x), layer.train()(x))


def refused(call: Any) -> str:
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    return str(error.value)


def test_wrong_arguments_are_refused_in_a_sentence() -> None:
    assert refused(lambda: nt.DecorrelatedBatchNorm1d(100)) == (
        "group_size must divide the number of channels, 100, received 64: pass for example 50, the largest below it "
        "that does."
    )
    assert refused(lambda: layer_of(group_size=0)) == "group_size must be 1 or more, received 0: pass for example 64."
    assert refused(lambda: layer_of(group_size=2.0)) == (
        "group_size must be a whole number, received float: pass for example 64."
    )
    assert refused(lambda: nt.IterativeNorm1d(4, steps=0)) == (
        "steps must be 1 or more, received 0: pass for example 5, the paper's."
    )
    assert refused(lambda: nt.IterativeNorm1d(4, steps=True)) == (
        "steps must be a whole number, received bool: pass for example 5."
    )
    assert refused(lambda: layer_of()(mixed(9, 1), mask=torch.ones(9, 4, dtype=torch.bool))) == (
        "whitening needs a mask and weights that all channels of a position share, received (9, 4): "
        "take for example mask.all(1, keepdim=True)."
    )


def test_torchs_words_for_what_torch_refuses() -> None:
    for shape in ((4,), (4, 3), (1, 4), (2, 3, 4, 5)):
        messages = []
        for layer in (layer_of(), nn.BatchNorm1d(4, dtype=F64)):
            with pytest.raises((ValueError, RuntimeError)) as error:
                layer(torch.ones(shape, dtype=F64))
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_it_says_what_it_is_and_has_groups_of_its_own_size_at_most() -> None:
    torchs = repr(nn.BatchNorm2d(128))[len("BatchNorm2d(") : -1]
    layer = nt.IterativeNorm2d(128, activation="relu", steps=7)
    assert repr(layer) == f"IterativeNorm2d({torchs}, activation=relu, group_size=64, steps=7)"
    assert nt.DecorrelatedBatchNorm1d(48).group_size == 48
