"""torch.func over the whitening layers: right, or refused; forward mode too."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

import normwise.torch as nt
from normwise.errors import NormwiseError, StatisticsCaptured
from normwise.kernels.inverse_root import inverse_root

KINDS = [nt.DecorrelatedBatchNorm1d, nt.IterativeNorm1d]
F64 = torch.float64
# torch's forward mode compiles its own formulas by a means that torch itself has deprecated
deprecated_inside = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def layer_of(kind: Any, training: bool, **settings: Any) -> Any:
    """Untracked in training; in inference by the statistics of a batch."""
    layer = kind(4, dtype=F64, group_size=2, eps=0.1, track_running_stats=not training, **settings)
    layer(values(20, 4, seed=5) @ values(4, 4, seed=6))
    return layer.train(training)


@deprecated_inside
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_is_backward_mode(kind: Any, training: bool) -> None:
    layer, x, along = layer_of(kind, training), values(6, 4), values(6, 4, seed=1)
    backwards = torch.autograd.functional.jacobian(layer, x)
    assert isinstance(backwards, Tensor)
    torch.testing.assert_close(jvp(layer, (x,), (along,))[1], torch.tensordot(backwards, along, dims=2))
    torch.testing.assert_close(jacfwd(layer)(x), backwards)
    torch.testing.assert_close(jacrev(layer)(x), backwards)


@deprecated_inside
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_hessians(kind: Any, training: bool) -> None:
    layer, x = layer_of(kind, training), values(5, 4)

    def loss(x: Tensor) -> Tensor:
        y: Tensor = layer(x).pow(3).sum()
        return y

    right = torch.autograd.functional.hessian(loss, x)
    assert isinstance(right, Tensor)
    for found in (hessian(loss)(x), jacrev(jacrev(loss))(x), jacrev(jacfwd(loss))(x)):
        torch.testing.assert_close(found, right)


@deprecated_inside
def test_pytorch_loses_a_jvp_within_a_jvp_of_functions_with_formulas() -> None:
    # When this fails, PyTorch has mended it, and the refusal in ``inverse_root`` may go.
    class Exponential(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.exp()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004  # torch's form
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, *given: Tensor) -> Any:
            return given[0] * Exponential.apply(*ctx.saved_tensors)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor) -> Any:
            return tangents[0] * Exponential.apply(*ctx.saved_tensors)

    third = jacfwd(jacfwd(jacfwd(Exponential.apply)))(torch.tensor(1.0))
    assert float(third) == 0


TWICE_FORWARD = [modes for modes in itertools.product((jacfwd, jacrev), repeat=3) if modes.count(jacfwd) > 1]
ONCE_FORWARD = [modes for modes in itertools.product((jacfwd, jacrev), repeat=3) if modes.count(jacfwd) < 2]
Modes = tuple[Callable[..., Callable[..., Any]], ...]


def third(modes: Modes, of: Callable[[Tensor], Tensor]) -> float:
    outer, middle, inner = modes
    return float(outer(middle(inner(of)))(torch.tensor(0.1, dtype=F64)))


AT, BY = (each @ each.T for each in (values(3, 3, seed=3), values(3, 3, seed=4)))


def along_a_line(t: Tensor) -> Tensor:
    found: Tensor = inverse_root(AT + t * BY, 2.0).pow(2).sum()
    return found


@deprecated_inside
@pytest.mark.parametrize("modes", ONCE_FORWARD, ids=lambda modes: " of ".join(mode.__name__ for mode in modes))
def test_third_derivatives_are_right(modes: Modes) -> None:
    def by_inverse(t: Tensor) -> Tensor:  # the same number
        found: Tensor = torch.linalg.inv(AT + t * BY + 2 * torch.eye(3, dtype=F64)).trace()
        return found

    right = third((jacrev, jacrev, jacrev), by_inverse)
    assert abs(right) > 1e-3
    assert third(modes, along_a_line) == pytest.approx(right, rel=1e-8)


@deprecated_inside
@pytest.mark.parametrize("modes", TWICE_FORWARD, ids=lambda modes: " of ".join(mode.__name__ for mode in modes))
def test_third_derivatives_that_pytorch_would_lose_are_refused(modes: Modes) -> None:
    with pytest.raises(NormwiseError) as error:
        third(modes, along_a_line)
    assert str(error.value) == (
        "decorrelated batch norm has no forward-mode derivative of a forward-mode derivative, and a jvp within a jvp "
        "was received: take one of the two backwards, as torch.func.hessian does, or use IterativeNorm."
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_of_layers_that_train(kind: Any) -> None:
    layers: list[nn.Module] = [kind(4, dtype=F64, group_size=2, activation="relu") for _ in range(2)]
    parameters, buffers = stack_module_state(layers)
    x = values(2, 9, 4)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
        return functional_call(layers[0], (parameters, buffers), (x,))

    found = vmap(call)(parameters, buffers, x)
    for number, layer in enumerate(layers):
        torch.testing.assert_close(found[number], layer(x[number]))
        for key, value in layer.named_buffers():
            torch.testing.assert_close(buffers[key][number], value)


@pytest.mark.parametrize("kind", KINDS)
def test_per_sample_gradients_with_frozen_statistics(kind: Any) -> None:
    layer, x = layer_of(kind, False, activation="silu"), values(5, 4)
    layer(x)  # a matrix is kept

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Any:
        return functional_call(layer, parameters, (x[None],)).pow(2).sum()

    parameters: dict[str, Tensor] = dict(layer.named_parameters())
    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    total = grad(lambda p: functional_call(layer, p, (x,)).pow(2).sum())(parameters)
    for key, value in total.items():
        torch.testing.assert_close(found[key].sum(0), value)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_that_a_transform_may_not_change_are_refused_and_stay(kind: Any) -> None:
    layer, x = kind(4, dtype=F64, group_size=2), values(2, 9, 4)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    for call in (vmap(layer), lambda x: jacrev(layer)(x[0]), lambda x: jacfwd(layer)(x[0])):
        with pytest.raises(
            StatisticsCaptured, match=r"^running statistics cannot change in place inside of torch.func"
        ):
            call(x)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
