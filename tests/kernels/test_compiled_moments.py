"""The compiled kernels where only the moments are wanted: those of a whole forward bit for bit, without an output."""

from __future__ import annotations

import pytest
import torch

from normwise.kernels.choose import built
from normwise.kernels.kernel import Call
from normwise.torch.steps.operators import Cpu

pytestmark = pytest.mark.skipif(not built(), reason="the compiled kernels are not built with this installation")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LAST = torch.channels_last


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize(
    ("shape", "last"),
    [((3, 5, 7, 7), False), ((3, 5, 7, 7), True), ((6, 4), False), ((2, 1, 90, 90), False), ((40, 2, 70, 70), True)],
)
def test_the_moments_are_those_of_a_forward(
    shape: tuple[int, ...], last: bool, masked: bool, dtype: torch.dtype
) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3).to(dtype)
    if last:
        x = x.contiguous(memory_format=LAST)
    mask = torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) > 0 if masked else None
    arguments = (None, None, None, None, 1.0, 0, False, 0)
    _, mean, var, _ = torch.ops.normwise.batch_norm_forward(x, None, mask, *arguments)
    moments = Cpu().moments(Call(x, mask))
    assert torch.equal(moments.mean, mean)
    assert torch.equal(moments.var, var)
    assert moments.count == x.numel() // shape[1] * (shape[0] - masked) // shape[0]


@pytest.mark.parametrize("turned", [False, True], ids=["gaps", "turned"])
def test_a_tensor_that_does_not_lie_as_the_kernels_have_it_is_gathered_too(turned: bool) -> None:
    x = torch.randn(5, 4, 6).movedim(1, 2) if turned else torch.randn(3, 4, 10)[..., ::2]
    moments = Cpu().moments(Call(x))
    torch.testing.assert_close(moments.mean, x.double().transpose(0, 1).flatten(1).mean(1))
    torch.testing.assert_close(moments.var, x.double().transpose(0, 1).flatten(1).var(1, correction=0))


def test_batches_side_by_side_have_their_own_moments() -> None:
    x = torch.randn(2, 3, 4, 5)
    mean, _ = torch.vmap(lambda each: torch.ops.normwise.batch_norm_moments(each, None))(x)
    torch.testing.assert_close(mean, x.double().mean((1, 3)))


def test_the_operator_is_what_it_says_to_those_who_only_ask_for_shapes() -> None:
    x, mask = torch.randn(3, 4, 5), torch.arange(3).reshape(3, 1, 1) > 0
    for arguments in ((x, None), (x, mask)):
        found = torch.library.opcheck(torch.ops.normwise.batch_norm_moments.default, arguments)
        assert set(found.values()) == {"SUCCESS"}
