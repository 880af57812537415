"""Whitening by running statistics: a matrix that is kept as long as it is right, and no longer."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

import normwise.torch as nt
from normwise.kernels import reference_whitening
from normwise.kernels.reference_whitening import Function, newton, zca
from tests.cases import LAYOUTS, array

F64 = torch.float64
KINDS: dict[str, Function] = {"DecorrelatedBatchNorm": zca, "IterativeNorm": newton(5)}

# torch's forward mode compiles its own formulas by a means that torch itself has deprecated
deprecated_inside = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def values(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Channels that have to do with each other."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draw, dtype=F64)
    return (x + 0.5 * x.roll(1, 1) + 1).to(dtype)


def made(kind: str = "DecorrelatedBatchNorm", axes: str = "1d", dtype: torch.dtype = F64, **settings: Any) -> Any:
    """A layer that has seen two batches, in inference."""
    layer = getattr(nt, f"{kind}{axes}")(6, dtype=dtype, **{"group_size": 3, "momentum": 0.5, "eps": 1e-3, **settings})
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=draw))
    more = {"1d": (), "2d": (2, 2), "3d": (2, 2, 2)}[axes]
    for seed in (2, 3):
        layer(values((20, 6, *more), seed, dtype))
    return layer.eval()


def law(layer: Any, x: Tensor) -> Any:
    """The output that the layer must have with what it holds now."""
    function = KINDS[type(layer).__name__[:-2]]
    weight, bias = (np.asarray(array(part)) for part in (layer.weight, layer.bias))
    held = array(layer.running_mean), array(layer.running_covariance)
    return reference_whitening.forward_fixed(array(x), *held, weight, bias, 3, layer.eps, function)


class Roots:
    """A count of the matrices that were made."""

    def __init__(self, layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, before = 0, layer._root

        def count(covariance: Tensor) -> Tensor:
            self.made += 1
            found: Tensor = before(covariance)
            return found

        monkeypatch.setattr(layer, "_root", count)


def trained_once(layer: Any) -> None:
    layer.train()(values((20, 6), 8))
    layer.eval()


def loaded(layer: Any) -> None:
    layer.load_state_dict({**made().state_dict(), "running_covariance": torch.eye(3, dtype=F64).repeat(2, 1, 1)})


def assigned(layer: Any) -> None:
    layer.load_state_dict({**layer.state_dict(), "running_mean": torch.full((6,), 3.0, dtype=F64)}, assign=True)


def by_numpy(layer: Any) -> None:
    layer.running_covariance.numpy()[:] *= 2  # PyTorch does not notice it


def with_another_eps(layer: Any) -> None:
    layer.eps = 0.5


CHANGES: dict[str, Callable[[Any], object]] = {
    "in place": lambda layer: layer.running_covariance.mul_(2),
    "one value": lambda layer: layer.running_covariance[1, 2, 2].add_(1),
    "data": lambda layer: layer.running_covariance.data.mul_(2),
    "the mean": lambda layer: layer.running_mean.data.add_(1),
    "numpy": by_numpy,
    "the weight": lambda layer: layer.weight.data.mul_(2),
    "the bias": lambda layer: layer.bias.data.add_(2),
    "another buffer": lambda layer: layer._buffers.update(running_covariance=3 * layer.running_covariance),
    "a training step": trained_once,
    "load_state_dict": loaded,
    "load_state_dict, assign": assigned,
    "reset": lambda layer: layer.reset_running_stats(),
    "eps": with_another_eps,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_whatever_changes_the_layer_changes_the_output(kind: str, change: str) -> None:
    layer, x = made(kind), values((7, 6))
    before = layer(x)
    np.testing.assert_allclose(array(before), law(layer, x), rtol=1e-9, atol=1e-10)
    CHANGES[change](layer)
    after = layer(x)
    np.testing.assert_allclose(array(after), law(layer, x), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(after, before, rtol=1e-3)


def test_one_more_step_of_the_iteration_is_seen() -> None:
    layer, x = made("IterativeNorm", steps=2), values((7, 6))
    layer(x)
    layer.steps = 5
    np.testing.assert_allclose(array(layer(x)), law(layer, x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("learns", [False, True])
def test_the_matrix_is_made_once(learns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(), values((7, 6))
    roots = Roots(layer, monkeypatch)
    with torch.set_grad_enabled(learns):
        for _ in range(3):
            np.testing.assert_allclose(array(layer(x)), law(layer, x), rtol=1e-9, atol=1e-10)
    assert roots.made == 1
    layer.running_mean.add_(1)  # the matrix does not depend on it
    layer(x)
    assert roots.made == 1
    layer.running_covariance.mul_(2)
    layer(x)
    assert roots.made == 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axes", ["1d", "2d", "3d"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_layout_in_single_precision(kind: str, axes: str, layout: str) -> None:
    shapes = {"1d": (5, 6, 4), "2d": (3, 6, 4, 5), "3d": (2, 6, 3, 2, 4)}
    layer, x = made(kind, axes, torch.float32), LAYOUTS[layout](values(shapes[axes], 4, torch.float32))
    y = layer(x)
    right = law(layer, x)
    np.testing.assert_allclose(array(y), right, rtol=0, atol=1e-5)
    assert (
        y.stride()
        == torch.batch_norm(x, None, None, layer.running_mean, torch.ones(6), False, 0.0, 0.0, False).stride()
    )
    half = layer(x.bfloat16())
    assert half.dtype is torch.bfloat16
    np.testing.assert_allclose(array(half), law(layer, x.bfloat16()), rtol=0.01, atol=0.01)


@torch.no_grad()
def test_a_mean_far_from_zero_costs_no_digits() -> None:
    layer = made(dtype=torch.float32)
    layer.running_mean.add_(1e5)
    x = values((50, 6), 5, torch.float32) + 1e5
    np.testing.assert_allclose(array(layer(x)), law(layer, x), atol=1e-4)


def test_gradients_of_input_weight_and_bias() -> None:
    layer, x = made(), values((5, 6)).requires_grad_()
    layer(x.detach())  # a matrix is kept

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, [x, layer.weight, layer.bias])
    layer.requires_grad_(False)
    assert torch.autograd.gradcheck(layer, [x])


@pytest.mark.parametrize("learns", [False, True])
def test_a_nan_in_the_padding_is_in_no_gradient(learns: bool) -> None:
    layer, mask = made().requires_grad_(learns), torch.arange(5) < 4
    x = values((5, 6)).masked_fill(~mask.unsqueeze(1), float("nan")).requires_grad_()
    y = layer(x, mask=mask)
    y.square().sum().backward()
    np.testing.assert_allclose(array(y[:4]), law(layer, x[:4]), rtol=1e-9, atol=1e-10)
    for gradient in (x.grad, layer.weight.grad, layer.bias.grad) if learns else (x.grad,):
        assert gradient is not None
        assert bool(gradient.isfinite().all())
    assert x.grad is not None
    assert bool((x.grad[4] == 0).all())


@deprecated_inside
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_statistics_are_not_kept_from_anyone(kind: str) -> None:
    layer, x = made(kind), values((5, 6))
    layer(x)

    def call(mean: Tensor, covariance: Tensor) -> Any:
        symmetric = (covariance + covariance.transpose(1, 2)) / 2
        return functional_call(layer, {"running_mean": mean, "running_covariance": symmetric}, (x,))

    statistics = [layer.running_mean.clone().requires_grad_(), layer.running_covariance.clone().requires_grad_()]
    assert torch.autograd.gradcheck(call, statistics, check_forward_ad=True)


@deprecated_inside
def test_forward_mode_sees_parameters_behind_a_kept_matrix() -> None:
    layer, x, tangent = made(), values((5, 6)), values((1, 6), 3)[0]
    with torch.no_grad():
        plain = layer(x)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(layer.bias.detach(), tangent)
            y = forward_ad.unpack_dual(functional_call(layer, {"bias": dual}, (x,)))
            assert y.tangent is not None
            torch.testing.assert_close(y.tangent, tangent.expand(5, 6))
    torch.testing.assert_close(y.primal, plain)


def test_what_was_made_in_inference_mode_may_learn_later() -> None:
    layer, x = made(), values((5, 6))
    with torch.inference_mode():
        layer(x)
    layer(x).square().sum().backward()
    assert bool((layer.weight.grad != 0).all())


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
@torch.no_grad()
def test_copies_have_the_values_and_not_the_matrix(how: Callable[[nn.Module], Any]) -> None:
    layer, x = made(), values((7, 6))
    size = len(pickle.dumps(layer))
    expected = layer(x)
    assert len(pickle.dumps(layer)) == size
    twin = how(layer)
    twin.running_covariance.mul_(2)
    assert torch.equal(layer(x), expected)
    np.testing.assert_allclose(array(twin(x)), law(twin, x), rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_other_dtypes_of_layer_and_input() -> None:
    layer, x = made(dtype=torch.float32), values((7, 6))
    single = layer(x.float())
    layer.double()
    np.testing.assert_allclose(array(layer(x)), law(layer, x), rtol=1e-9, atol=1e-10)
    assert single.dtype is torch.float32
    layer.bfloat16()
    assert layer(x.bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_shapes_are_inferred_without_values(kind: str) -> None:
    layer, x = made(kind, "2d"), values((5, 6, 2, 3))
    layer(x)
    layer.to("meta")
    for training in (False, True):
        y = layer.train(training)(x.to("meta"))
        assert (y.shape, y.device.type) == (x.shape, "meta")


def test_threads_that_infer_at_once_after_a_change_have_the_right_matrix() -> None:
    layer, x = made(), values((7, 6))
    states = [layer.running_covariance.clone() * factor for factor in (1, 2)]
    right = []
    found: list[Tensor] = []
    with torch.no_grad():
        for state in states:
            layer.running_covariance.copy_(state)
            right.append(layer(x))

    def infer() -> None:
        with torch.no_grad():
            found.extend(layer(x) for _ in range(30))

    threads = [threading.Thread(target=infer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 90
    assert all(torch.equal(y, right[1]) for y in found)


def test_exported_and_compiled_graphs_read_the_statistics_and_keep_nothing() -> None:
    layer, x = made(dtype=torch.float32), values((7, 6), dtype=torch.float32)
    with torch.no_grad():
        expected = layer(x)
        exported = torch.export.export(layer, (x,))
        torch.testing.assert_close(exported.module()(x), expected)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)
        saved = io.BytesIO()
        torch.export.save(exported, saved)
        saved.seek(0)
        torch.testing.assert_close(torch.export.load(saved).module()(x), expected)
        layer.running_covariance.data.mul_(2)
        for graph in (compiled, exported.module()):
            torch.testing.assert_close(graph(x), layer(x))
    torch._dynamo.reset()
