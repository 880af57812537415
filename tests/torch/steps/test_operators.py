"""The compiled operators by PyTorch's own rules for operators: schema, shapes for tracing, autograd, mapping."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import normwise.torch  # noqa: F401  # registers what is checked here
from normwise.kernels import cpu
from normwise.kernels.choose import built

pytestmark = [
    pytest.mark.skipif(not built(), reason="the compiled kernels are not built with this installation"),
    # What opcheck itself does in PyTorch 2.14.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

# (N, C), channels first with ragged runs, channels last
INPUTS = {
    "features": lambda: torch.randn(9, 5),
    "ragged": lambda: torch.randn(3, 4, 5, 7),
    "last": lambda: torch.randn(3, 20, 4, 4).contiguous(memory_format=torch.channels_last),
}


def arguments(x: Tensor, activation: str | None, added: bool, fixed: bool) -> tuple[object, ...]:
    channels = x.shape[1]
    x = x.requires_grad_()
    residual = torch.randn_like(x).requires_grad_() if added else None
    statistics = (torch.randn(channels), torch.rand(channels) + 0.5) if fixed else (None, None)
    scale, shift = torch.randn(channels).requires_grad_(), torch.randn(channels).requires_grad_()
    mask = torch.rand(x.shape[0], 1, *x.shape[2:]) > 0.3 if fixed else None
    keep = added and activation in cpu.ONE_BIT
    return x, residual, mask, scale, shift, *statistics, 1e-5, cpu.ACTIVATIONS[activation], keep, 0


@pytest.mark.parametrize("layout", INPUTS)
@pytest.mark.parametrize(
    ("activation", "added", "fixed"),
    [*itertools.product([None, "relu", "silu"], [False, True], [False, True])],
)
def test_torchs_own_check_of_an_operator(layout: str, activation: str | None, added: bool, fixed: bool) -> None:
    operator = torch.ops.normwise.batch_norm_forward.default
    # How long the bits are depends on the processor, which tracing cannot know.
    known = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if not (added and activation in cpu.ONE_BIT):
        known.append("test_aot_dispatch_dynamic")
    found = torch.library.opcheck(operator, arguments(INPUTS[layout](), activation, added, fixed), test_utils=known)
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_torchs_own_check_of_an_operator_with_groups(groups: int) -> None:
    operator = torch.ops.normwise.batch_norm_forward.default
    given = arguments(INPUTS["ragged"](), "relu", False, False)[:-1]
    found = torch.library.opcheck(operator, (*given, groups))
    assert set(found.values()) == {"SUCCESS"}


def test_mapping_over_a_batch() -> None:
    x = torch.randn(3, 4, 5, 2)
    one = lambda part: torch.ops.normwise.batch_norm_forward(part, *[None] * 6, 1e-5, 0, False, 0)[0]  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(one)(x), torch.stack([one(part) for part in x]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"x": torch.randn(8)}, r"a tensor \(N, C, \.\.\.\) on the CPU is wanted"),
        ({"x": torch.ones(4, 3, dtype=torch.int64)}, "float16, bfloat16, float32 or float64 is wanted"),
        ({"x": torch.randn(8, 6)[:, ::2]}, "a dense tensor is wanted, channels first or last"),
        ({"residual": torch.randn(4, 2)}, "residual must have the shape of the input"),
        ({"mask": torch.ones(4, 3, dtype=torch.bool)}, "the mask does not fit the input"),
        ({"mask": torch.ones(4, 1)}, "a boolean mask is wanted"),
        ({"scale": torch.randn(2)}, "weight must have one value per channel"),
        ({"shift": torch.randn(3, 1)}, "bias must have one value per channel"),
        ({"groups": 2}, "groups of the channels of a contiguous tensor are wanted"),
        ({"groups": 3, "mask": torch.ones(4, 1, dtype=torch.bool)}, "groups have no mask and no statistics given"),
    ],
)
def test_called_by_hand_with_what_it_cannot_take(wrong: dict[str, Tensor], words: str) -> None:
    given: dict[str, Tensor | int | None] = {
        "x": torch.randn(4, 3),
        "residual": None,
        "mask": None,
        "scale": None,
        "shift": None,
        "groups": 0,
        **wrong,
    }
    groups = given.pop("groups")
    with pytest.raises(RuntimeError, match=words):
        torch.ops.normwise.batch_norm_forward(*given.values(), None, None, 1e-5, 0, False, groups)
