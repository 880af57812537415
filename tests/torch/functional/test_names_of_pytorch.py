"""Whoever looks for a PyTorch function that normalizes finds it, with PyTorch's arguments first."""

from __future__ import annotations

import inspect

import pytest
import torch.nn.functional as F

import normwise.torch
from normwise.torch import functional

# Those that PyTorch has and normwise leaves to it: nothing in them is to be mended.
LEFT = {"local_response_norm", "rms_norm"}


def test_every_function_that_normalizes_by_moments_is_there() -> None:
    theirs = {name for name in dir(F) if name.endswith("_norm") and not name.startswith("_")}
    assert {*functional.__all__} == theirs - LEFT
    assert normwise.torch.functional is functional


@pytest.mark.parametrize("name", functional.__all__)
def test_the_arguments_of_pytorch_come_first_with_its_defaults(name: str) -> None:
    theirs = [(each.name, each.default) for each in inspect.signature(getattr(F, name)).parameters.values()]
    ours = inspect.signature(getattr(functional, name)).parameters.values()
    assert [(each.name, each.default) for each in ours][: len(theirs)] == theirs
    assert all(each.kind is each.KEYWORD_ONLY for each in [*ours][len(theirs) :])
