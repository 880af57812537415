"""torch.func over the function and the layers: vmap, grad, jvp, jacobians; as with torch.nn's."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

import normwise.torch as nt
from normwise.kernels import choose
from normwise.torch.functional import batch_norm

# (N, C): few values; many of them, whose channels are the last axis in memory; many, far from zero
INPUTS: dict[str, Callable[[], Tensor]] = {
    "few": lambda: torch.randn(6, 3, dtype=torch.float64),
    "many": lambda: torch.randn(1100, 3, dtype=torch.float64),
    "many and far": lambda: torch.randn(1100, 3, dtype=torch.float64) + 1e5,
}

# torch's forward mode compiles its own formulas by a means that torch itself has deprecated
deprecated_inside = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def ours(x: Tensor) -> Tensor:
    return batch_norm(x, None, None, training=True)


def plain(x: Tensor) -> Tensor:
    return nn.functional.batch_norm(x, None, None, training=True)


def assert_near(found: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("values", INPUTS)
def test_vmap(values: str) -> None:
    x = torch.stack([INPUTS[values]() for _ in range(3)])
    assert_near(vmap(ours)(x), torch.stack([plain(part) for part in x]))


@pytest.mark.parametrize("values", INPUTS)
def test_vmap_over_the_parameters_of_an_ensemble(values: str) -> None:
    x, weights = INPUTS[values](), torch.randn(4, 3, dtype=torch.float64)
    found = vmap(lambda weight: batch_norm(x, None, None, weight, None, True))(weights)
    assert_near(found, torch.stack([nn.functional.batch_norm(x, None, None, weight, None, True) for weight in weights]))


@pytest.mark.parametrize("values", INPUTS)
def test_grad(values: str) -> None:
    x = INPUTS[values]()
    assert_near(grad(lambda x: ours(x).pow(3).sum())(x), grad(lambda x: plain(x).pow(3).sum())(x))


@pytest.mark.parametrize("values", INPUTS)
def test_gradients_per_sample_of_an_ensemble(values: str) -> None:
    x = torch.stack([INPUTS[values]() for _ in range(2)])
    found = vmap(grad(lambda x: ours(x).pow(3).sum()))(x)
    assert_near(found, torch.stack([grad(lambda x: plain(x).pow(3).sum())(part) for part in x]))


@deprecated_inside
@pytest.mark.parametrize("values", INPUTS)
def test_forward_mode(values: str) -> None:
    x, tangent = INPUTS[values](), torch.randn_like(INPUTS[values]())
    for found, right in zip(jvp(ours, (x,), (tangent,)), jvp(plain, (x,), (tangent,)), strict=True):
        assert_near(found, right)


@deprecated_inside
@pytest.mark.parametrize("values", INPUTS)
@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobians(transform: Callable[..., Callable[[Tensor], Tensor]], values: str) -> None:
    x = INPUTS[values]()
    found, right = (transform(lambda x, f=f: f(x)[:2].pow(2).sum(1))(x) for f in (ours, plain))
    assert_near(found, right)


@deprecated_inside
@pytest.mark.parametrize("kernel", ["", "two_pass"])
def test_hessians(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", kernel)
    x = INPUTS["few"]()
    assert_near(hessian(lambda x: ours(x).pow(3).sum())(x), hessian(lambda x: plain(x).pow(3).sum())(x))


def test_vmap_over_residuals() -> None:
    x, residuals = INPUTS["few"](), torch.randn(4, 6, 3, dtype=torch.float64)
    found = vmap(lambda r: batch_norm(x, None, None, training=True, residual=r, activation="relu"))(residuals)
    assert_near(found, (plain(x) + residuals).relu())


def test_vmap_over_masks() -> None:
    x = torch.stack([INPUTS["few"]() for _ in range(3)])
    masks = torch.arange(6) < torch.tensor([[6], [4], [2]])
    found = vmap(lambda x, mask: batch_norm(x, None, None, training=True, mask=mask))(x, masks)
    for result, part, mask in zip(found, x, masks, strict=True):
        assert_near(result[mask], plain(part[mask]))
        assert result[~mask].abs().sum() == 0


@pytest.mark.parametrize("size", [6, 1100])
def test_an_ensemble_of_layers_that_train(size: int) -> None:
    layers: list[nn.Module] = [nt.BatchNorm1d(3, activation="relu") for _ in range(2)]
    parameters, buffers = stack_module_state(layers)
    base = layers[0]
    x = torch.randn(2, size, 3)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = functional_call(base, (parameters, buffers), (x,))
        return y

    found = vmap(call)(parameters, buffers, x)
    for number, layer in enumerate(layers):
        torch.testing.assert_close(found[number], layer(x[number]))
        for key, value in layer.named_buffers():
            torch.testing.assert_close(buffers[key][number], value)


def test_per_sample_gradients_with_frozen_statistics() -> None:
    layer = nt.BatchNorm1d(3, activation="silu").eval()
    x = torch.randn(5, 3)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, parameters, (x[None],))
        return y.pow(2).sum()

    parameters: dict[str, Tensor] = dict(layer.named_parameters())
    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    total = grad(lambda p: functional_call(layer, p, (x,)).pow(2).sum())(parameters)
    for key, value in total.items():
        torch.testing.assert_close(found[key].sum(0), value)


UNTRACKED: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nt.BatchNorm1d(2, dtype=torch.float64, activation="tanh", track_running_stats=False),
    "virtual batches": lambda: nt.GhostBatchNorm1d(2, dtype=torch.float64, num_splits=2, track_running_stats=False),
    "group norm": lambda: nt.GroupNorm(1, 2, dtype=torch.float64),
    "layer norm": lambda: nt.LayerNorm(2, dtype=torch.float64),
    "iterative norm": lambda: nt.IterativeNorm1d(2, dtype=torch.float64, track_running_stats=False),
    "inference": lambda: nt.BatchRenorm1d(2, dtype=torch.float64).eval(),
}
Mode = Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]


@deprecated_inside
@pytest.mark.parametrize("name", UNTRACKED)
def test_derivatives_in_every_order_of_modes(name: str) -> None:
    layer, draw = UNTRACKED[name](), torch.Generator().manual_seed(0)
    at, along, weights = (torch.randn(6, 2, generator=draw, dtype=torch.float64) for _ in range(3))

    def loss(t: Tensor) -> Tensor:
        y: Tensor = layer(at + t * along).pow(3).mul(weights).sum()
        return y

    modes: tuple[Mode, Mode] = (jacrev, jacfwd)
    for times in (2, 3):
        found = {}
        for order in itertools.product(modes, repeat=times):
            function: Callable[[Tensor], Tensor] = loss
            for mode in order:
                function = mode(function)
            found[order] = function(torch.tensor(0.1, dtype=torch.float64)).item()
        right = found[(jacrev,) * times]
        assert abs(right) > 1e-3
        assert [*found.values()] == pytest.approx([right] * len(found), rel=1e-8)


@deprecated_inside
def test_forward_mode_without_torch_func() -> None:
    layer, x, along = UNTRACKED["virtual batches"](), torch.randn(6, 2).double(), torch.randn(6, 2).double()
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, along))).tangent
    torch.testing.assert_close(tangent, jvp(layer, (x,), (along,))[1])
