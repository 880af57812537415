"""The Triton kernels against the float64 reference on ragged sizes, however these are cut."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch

from tests.cases import SHAPES, Problem, problem
from tests.kernels.test_agreement import assert_agrees, dtype_name
from tests.kernels.triton_gpu.cut import CUTS, cut
from tests.kernels.triton_gpu.on_device import TRITON

__all__ = ["cut"]


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


def assert_triton(p: Problem) -> None:
    """Hold the kernels to the reference."""
    assert assert_agrees(p, TRITON) == 1


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("how", ["two launches", "by the last one"])
def test_masks_and_residuals(
    how: str,
    layout: str,
    dtype: torch.dtype,
    mask: bool,
    residual: bool,
    training: bool,
    cut: Callable[[str], None],
) -> None:
    cut(how)
    assert_triton(
        problem(
            (3, 2, 5, 9),
            dtype,
            layout=layout,
            activation="relu",
            mask=mask,
            residual=residual,
            training=training,
        )
    )


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [((3, 2, 5, 9), "contiguous"), ((3, 2, 5, 9), "channels last"), ((5, 11), "strided"), ((1, 6, 4, 3), "contiguous")],
    ids=str,
)
@pytest.mark.parametrize("how", CUTS)
def test_a_mask_for_each_channel(
    how: str, shape: tuple[int, ...], layout: str, dtype: torch.dtype, training: bool, cut: Callable[[str], None]
) -> None:
    """Or for whole features; instance norm is batch norm of one sample with a mask for each channel."""
    cut(how)
    p = problem(shape, dtype, layout=layout, activation="relu", residual=True, training=training)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.6
    mask[0, 0] = True
    if len(shape) == 2:
        mask = mask[:1]  # whole features
        mask[:, 1] = False
    assert_triton(p._replace(mask=mask))


@pytest.mark.parametrize("activation", ["leaky_relu:0.2", "relu6", "gelu", None])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("how", ["three launches", "by the last one"])
def test_bits_and_kept_residuals(how: str, layout: str, activation: str | None, cut: Callable[[str], None]) -> None:
    cut(how)
    assert_triton(problem((3, 2, 5, 9), torch.float32, layout=layout, activation=activation, mask=True, residual=True))


@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("dtype", LOW, ids=dtype_name)
def test_parameters_in_the_low_precision_of_the_input(dtype: torch.dtype, mask: bool) -> None:
    assert_triton(problem(SHAPES["images"], dtype, parameters=dtype, mask=mask, residual=True))
