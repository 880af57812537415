"""The facts about a batch norm's input that its moments do not tell, from a tensor."""

from __future__ import annotations

from torch import Tensor

from normwise import observed_input
from normwise.facts import Input


def input_of(x: Tensor) -> Input:
    """The description of an input.

    Args:
        x: shape (N, C, ...), not empty.
    """
    some = x[: observed_input.LOOKED_AT].detach().double().cpu().numpy()
    dtype = str(x.dtype).removeprefix("torch.")
    return observed_input.input_of(some, tuple(x.shape), 1, float(x.abs().max()), dtype)
