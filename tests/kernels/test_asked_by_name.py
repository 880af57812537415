"""The kernel that ``NORMWISE_KERNEL`` asks for serves every call of every layer and function, or the call is refused.

Which one served is read from the operators that the call made. ``tests/test_asked.py`` starts a process for each name.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import normwise.torch as nt
from normwise.errors import KernelUnavailable
from normwise.kernels import choose
from normwise.torch import functional
from normwise.torch.layers.tracked import TrackedBatchNorm
from tests.torch.every_layer import CASES, C

ASKED = os.environ["NORMWISE_KERNEL"]
# How the names of a kernel's operators begin; plain operations have none.
OPERATORS = {
    "cpu": ("normwise::batch_norm_", "normwise::forward_in_graph"),
    "aten": ("aten::native_batch_norm", "aten::native_group_norm", "aten::native_layer_norm", "aten::cudnn_batch_norm"),
    "triton": ("normwise::triton_",),
}
# What no kernel here is for: one implementation serves, whatever is asked for.
WHITENING = ("IterativeNorm", "DecorrelatedBatchNorm", "PerDomain of IterativeNorm")
# Where ``triton`` changes nothing.
BY_SAMPLE = ("GroupNorm", "LayerNorm", "group_norm", "layer_norm")
SHAPE = (8, C, 3, 5)


class Made(NamedTuple):
    """A call: ``run`` takes the input alone."""

    name: str
    run: Callable[[Tensor], Any]
    x: Tensor


def drawn(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 3


def beside(x: Tensor) -> dict[str, dict[str, Tensor]]:
    """The arguments beside x, by what they are."""
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[:, :, 0], mask[:, :, -1] = True, True
    weights = torch.rand(len(x), generator=torch.Generator().manual_seed(2))
    return {
        "plain": {},
        "residual": {"residual": x / 2},
        "mask": {"mask": mask[:, :1]},
        "mask for each channel": {"mask": mask},
        "weights": {"sample_weight": weights},
    }


def layers() -> Iterator[Made]:
    """Every layer, with all that it takes, in training and in inference; those for images with each policy too.

    Layers for other axes and lazy ones share their code with those for images: of these, few calls.
    """
    for name, case in CASES.items():
        few = any(part in name for part in ("1d", "3d", "Lazy"))
        x = case.input()
        takes = inspect.signature(case.make().forward).parameters
        for what, given in beside(x).items():
            shared = what != "mask for each channel" or not name.startswith(WHITENING)  # which refuses it
            asked_for = what in ("plain", "mask") or not few
            if shared and asked_for and all(argument in takes or "kwargs" in takes for argument in given):
                for mode in ("training",) if few else ("training", "inference"):
                    layer = case.make().train(mode == "training")
                    yield Made(f"{name}, {what}, {mode}", partial(called, layer, given), x)
        for policy in () if few or "pooled" in name else ("running", "renorm"):
            layer = case.make()
            if isinstance(layer, TrackedBatchNorm) and not name.startswith(WHITENING):
                layer._settle(None, None, policy)
                for width in (3, 1):
                    small = x[:1, :, :1, :width]
                    yield Made(f"{name}, {width} values, on_tiny_batch={policy}", partial(called, layer, {}), small)


def called(layer: nn.Module, given: dict[str, Tensor], x: Tensor) -> Any:
    return layer(x, **given)


def functions() -> Iterator[Made]:
    """Every function, with all that it takes."""
    x, mean, var = drawn(SHAPE), torch.zeros(C), torch.ones(C)
    first: dict[str, tuple[Any, ...]] = {
        "batch_norm": (mean, var, None, None, True),
        "group_norm": (2,),
        "instance_norm": (mean, var),
        "layer_norm": (SHAPE[1:],),
    }
    assert {*first} == {*functional.__all__}
    for name, others in first.items():
        function = getattr(functional, name)
        for what, given in beside(x).items():
            if all(argument in inspect.signature(function).parameters for argument in given):
                yield Made(f"{name}, {what}", partial(of_copies, function, others, given), x)
    state = nt.BatchNormState.start(C)
    for what, given in beside(x).items():
        yield Made(f"batch_norm_with_state, {what}", partial(of_copies, nt.batch_norm_with_state, (state,), given), x)


def of_copies(function: Callable[..., Any], others: tuple[Any, ...], given: dict[str, Any], x: Tensor) -> Any:
    return function(x, *(each.clone() if isinstance(each, Tensor) else each for each in others), **given)


MADE = {made.name: made for made in (*layers(), *functions())}
# Not those in training with statistics that they would change, which torch.func refuses for itself.
TRANSFORMED = [name for name in MADE if "inference" in name or name.startswith((*BY_SAMPLE, "batch_norm_with"))]


def served(run: Callable[[], object]) -> set[str] | None:
    """The kernels of which the call made operators; None where it was refused, in one sentence."""
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run()
    except KernelUnavailable as error:
        said = str(error)
        assert said.startswith(f"NORMWISE_KERNEL={ASKED} ")
        assert ": unset NORMWISE_KERNEL" in said
        assert said.endswith((".", " two_pass."))
        return None
    names = {event.key for event in profile.key_averages()}
    return {kernel for kernel, starts in OPERATORS.items() if any(name.startswith(starts) for name in names)}


def assert_obeyed(name: str, found: set[str] | None) -> None:
    """Hold that the kernel that was asked for served, and no other; or that the call was refused."""
    assert choose._ASKED == ASKED
    if found is None:
        assert ASKED != "two_pass"  # which serves everything
    elif name.startswith(WHITENING):
        assert found == set()
    elif ASKED == "triton" and name.startswith(BY_SAMPLE):
        assert "triton" not in found
    else:
        assert found == ({ASKED} & {*OPERATORS})


@pytest.mark.parametrize("name", MADE)
def test_a_call(name: str) -> None:
    made = MADE[name]
    assert_obeyed(name, served(lambda: made.run(made.x)))


@pytest.mark.parametrize("name", MADE)
def test_a_call_with_a_gradient(name: str) -> None:
    made = MADE[name]
    x = made.x.clone().requires_grad_()

    def run() -> None:
        y = made.run(x)
        (y[0] if isinstance(y, tuple) else y).sum().backward()

    assert_obeyed(name, served(run))


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_call_under_a_transform(name: str) -> None:
    """Of ``torch.func``, which compiled code is nothing for."""
    made = MADE[name]

    def total(x: Tensor) -> Tensor:
        y = made.run(x)
        found: Tensor = (y[0] if isinstance(y, tuple) else y).sum()
        return found

    assert_obeyed(name, served(lambda: torch.func.grad(total)(made.x)))


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_call_that_is_recorded(name: str) -> None:
    """A recording holds what is asked for, or there is none."""
    made = MADE[name]
    assert_obeyed(name, served(lambda: make_fx(made.run)(made.x)))


def test_nothing_is_left_to_another_by_chance() -> None:
    """Plain batches are served, whatever is asked for."""
    for name in ("BatchNorm2d, plain, training", "InstanceNorm2d, plain, inference", "batch_norm, plain"):
        assert served(partial(MADE[name].run, MADE[name].x)) == ({ASKED} & {*OPERATORS})
