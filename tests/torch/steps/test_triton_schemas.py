"""The operators in Triton take and give what the compiled ones do, of which the schema stands in C++ and in Python."""

from __future__ import annotations

import pytest
import torch

from normwise.kernels.choose import built
from normwise.torch.steps import call, triton_operators

PAIRS = {
    "batch_norm_moments": triton_operators.MOMENTS,
    "batch_norm_forward": triton_operators.FORWARD,
    "batch_norm_backward": triton_operators.BACKWARD,
}


def arguments(name: str) -> str:
    schema = getattr(torch.ops.normwise, name).default._schema
    return str(schema).partition("(")[2]


@pytest.mark.skipif(not built(), reason="the compiled kernels are not built")
@pytest.mark.parametrize("compiled", PAIRS)
def test_the_schemas_are_equal(compiled: str) -> None:
    """Names, types and order of all arguments, and what is returned: gradients and shapes are shared by position."""
    assert call.checked is not None  # with which the operators are registered
    assert arguments(compiled) == arguments(PAIRS[compiled])


def test_what_is_registered_is_what_is_written_down() -> None:
    for name, schema in triton_operators.SCHEMAS.items():
        registered = getattr(torch.ops.normwise, name).default._schema
        assert str(registered) == str(torch._C.parse_schema(f"normwise::{name}{schema}"))
