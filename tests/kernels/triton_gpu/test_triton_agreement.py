"""The Triton kernels against the float64 reference: output, moments and every gradient, however a tensor is cut."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch

from normwise.kernels.kernel import Call
from normwise.moments import Moments
from normwise.torch.steps.triton_operators import TritonGpu
from tests.cases import LAYOUTS, SHAPES, VALUES, Problem, problem
from tests.kernels.test_agreement import ACTIVATIONS, WITH_SETTINGS, Inputs, Outcome, assert_agrees, dtype_name
from tests.kernels.triton_gpu.cut import CUTS, cut
from tests.kernels.triton_gpu.device import DEVICE

__all__ = ["cut"]


def _on_device(p: Problem, i: Inputs) -> Outcome:
    x, scale, shift = (tensor.to(DEVICE) for tensor in (i.x, i.scale, i.shift))
    residual, mask = (None if tensor is None else tensor.to(DEVICE) for tensor in (i.residual, p.mask))
    call = Call(x, mask, p.mean.to(DEVICE), p.var.to(DEVICE), scale, shift, p.eps, p.activation, residual)
    if not p.training:
        return Outcome(TritonGpu().forward_running(call).cpu())
    y, batch = TritonGpu().forward_batch(call)
    return Outcome(y.cpu(), Moments(batch.mean.cpu(), batch.var.cpu(), float(batch.count)))


TRITON: dict[str, Callable[[Problem, Inputs], Outcome]] = {"triton": _on_device}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LOW = [torch.bfloat16, torch.float16]
SWEPT = [name for name in CUTS if name != "one launch"]
# What an odd tile leaves over: of rows, of columns, of both.
RAGGED = {
    "rows": (9, 2, 8),
    "columns": (4, 2, 3, 7),
    "both": (5, 3, 11),
    "more columns than a tile has": (2, 1, 67, 31),
    "one channel": (5, 1, 3, 3),
    "one value": (1, 3, 1),
    "wide features": (6, 37),
}
BY_SHAPE = [
    *product(SHAPES, ("plain", "large mean"), [torch.float32], (True,)),
    *product(("images", "features"), ("constant channel", "variance far below eps", "wide"), [torch.float32], (True,)),
    *product(("images", "features"), VALUES, [torch.float32], (False,)),
    *product(("images", "features", "sequences"), ("large mean",), LOW, (True, False)),
]
# One value in training has a policy of its own, and no kernel sees it; of the wide one, the interpreter takes half a
# minute where the channels come last.
BY_CUT = [
    (shape, how, layout, training)
    for shape, how, layout, training in (
        *product(RAGGED, SWEPT, ("contiguous", "channels last"), (True,)),
        *product(RAGGED, ("two launches",), ("contiguous", "channels last"), (False,)),
    )
    if not (shape == "one value" and training)
    and not (shape == "more columns than a tile has" and layout == "channels last")
]
BY_LAYOUT = [
    *product(("sequences", "images", "volumes"), LAYOUTS, (True,)),
    *product(("images",), LAYOUTS, (False,)),
]


def assert_triton(p: Problem) -> None:
    """Hold the kernels to the reference."""
    assert assert_agrees(p, TRITON) == 1


@pytest.mark.parametrize(("shape", "values", "dtype", "training"), BY_SHAPE, ids=str)
def test_every_shape_and_kind_of_values(shape: str, values: str, dtype: torch.dtype, training: bool) -> None:
    assert_triton(problem(SHAPES[shape], dtype, values=values, training=training, activation="relu"))


@pytest.mark.parametrize(("shape", "how", "layout", "training"), BY_CUT, ids=str)
def test_every_cut(shape: str, how: str, layout: str, training: bool, cut: Callable[[str], None]) -> None:
    cut(how)
    assert_triton(
        problem(RAGGED[shape], torch.float32, values="large mean", layout=layout, activation="silu", training=training)
    )


@pytest.mark.parametrize("dtype", LOW, ids=dtype_name)
@pytest.mark.parametrize("how", ["two launches", "three launches", "by the last one"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_every_cut_in_low_precision(layout: str, how: str, dtype: torch.dtype, cut: Callable[[str], None]) -> None:
    cut(how)
    assert_triton(problem((3, 2, 5, 9), dtype, layout=layout, activation="relu", residual=True))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("how", ["two launches", "by the last one"])
def test_masks_and_residuals(
    how: str, layout: str, mask: bool, residual: bool, training: bool, cut: Callable[[str], None]
) -> None:
    cut(how)
    assert_triton(
        problem(
            (3, 2, 5, 9),
            torch.float32,
            layout=layout,
            activation="relu",
            mask=mask,
            residual=residual,
            training=training,
        )
    )


@pytest.mark.parametrize("activation", ["leaky_relu:0.2", "relu6", "gelu", None])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("how", ["three launches", "by the last one"])
def test_bits_and_kept_residuals(how: str, layout: str, activation: str | None, cut: Callable[[str], None]) -> None:
    cut(how)
    assert_triton(problem((3, 2, 5, 9), torch.float32, layout=layout, activation=activation, mask=True, residual=True))


@pytest.mark.parametrize(("shape", "layout", "training"), BY_LAYOUT, ids=str)
def test_every_layout_with_mask_and_residual(shape: str, layout: str, training: bool) -> None:
    assert_triton(
        problem(
            SHAPES[shape],
            torch.float32,
            layout=layout,
            activation="silu",
            residual=True,
            mask=True,
            training=training,
        )
    )


@pytest.mark.parametrize("activation", [*ACTIVATIONS, *WITH_SETTINGS])
def test_every_activation(activation: str) -> None:
    assert_triton(problem((3, 2, 2, 7), torch.float32, activation=activation))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("activation", ["leaky_relu:0.2", "relu6", "gelu", "mish", "hardswish"])
def test_activations_behind_a_residual(activation: str, dtype: torch.dtype) -> None:
    assert_triton(problem((3, 2, 2, 7), dtype, activation=activation, residual=True, training=False))


@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("dtype", LOW, ids=dtype_name)
def test_parameters_in_the_low_precision_of_the_input(dtype: torch.dtype, mask: bool) -> None:
    assert_triton(problem(SHAPES["images"], dtype, parameters=dtype, mask=mask, residual=True))
