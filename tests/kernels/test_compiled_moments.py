"""The compiled kernels where only the moments are wanted: those of a whole forward bit for bit, and no output."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from normwise.kernels.choose import built
from normwise.kernels.kernel import Call
from normwise.torch.steps.operators import Cpu

pytestmark = pytest.mark.skipif(not built(), reason="the compiled kernels are not built with this installation")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LAST = torch.channels_last


def gathered(x: Tensor, mask: Tensor | None, eps: float) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = torch.ops.normwise.batch_norm_forward(
        x, None, mask, None, None, None, None, eps, 0, False, 0
    )
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize(
    ("shape", "last"),
    [((3, 5, 7, 7), False), ((3, 5, 7, 7), True), ((6, 4), False), ((2, 1, 90, 90), False), ((40, 2, 70, 70), True)],
)
def test_the_moments_are_those_of_a_forward_and_there_is_no_output(
    shape: tuple[int, ...], last: bool, masked: bool, dtype: torch.dtype
) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3).to(dtype)
    if last:
        x = x.contiguous(memory_format=LAST)
    mask = torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) > 0 if masked else None
    whole, alone = gathered(x, mask, 1.0), gathered(x, mask, math.inf)
    assert whole[0].shape == x.shape
    assert alone[0].numel() == 0
    assert torch.equal(whole[1], alone[1])
    assert torch.equal(whole[2], alone[2])
    moments = Cpu().moments(Call(x, mask))
    assert torch.equal(moments.mean, alone[1])
    assert torch.equal(moments.var, alone[2])


def test_with_statistics_that_are_given_there_is_an_output() -> None:
    x, ones = torch.randn(2, 3, 4), torch.ones(3)
    y = torch.ops.normwise.batch_norm_forward(x, None, None, None, None, ones, ones, math.inf, 0, False, 0)[0]
    assert torch.equal(y, torch.zeros_like(x))
