"""The way of one call: through few functions in few files, and its kernel is chosen once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import normwise
import normwise.torch as nt
from normwise.kernels.choose import built, choose
from normwise.torch.steps.normalize_small import normalize_small

ROOT = Path(normwise.__file__).parent
FUNCTIONS, FILES = 15, 6
SMALL, LARGE = (8, 8, 4, 4), (8, 64, 28, 28)


def walked(call: Callable[[], Any]) -> list[tuple[str, str]]:
    """File and name of every function of normwise's that a call enters, in order, each time."""
    frames: list[tuple[str, str]] = []

    def look(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and Path(code.co_filename).is_relative_to(ROOT):
            frames.append((code.co_filename, code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(before)
    return frames


@pytest.mark.skipif(not built(), reason="the compiled kernels are not built")
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(("shape", "activation"), [(SMALL, None), (LARGE, None), (LARGE, "relu")])
def test_a_call_passes_few_functions_in_few_files(
    shape: tuple[int, ...], activation: str | None, training: bool
) -> None:
    layer = nt.BatchNorm2d(shape[1], activation=activation).train(training)
    x = torch.randn(shape, requires_grad=True)
    layer(x)  # what is imported or remembered in a first call
    frames = walked(lambda: layer(x))
    assert len({*frames}) <= FUNCTIONS, frames
    assert len({file for file, _ in frames}) <= FILES, frames


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", ["BatchNorm2d", "BatchRenorm2d", "InstanceNorm2d"])
def test_the_kernel_is_chosen_once(name: str, training: bool) -> None:
    layer = getattr(nt, name)(8).train(training)
    x = torch.randn(SMALL)
    layer(x)
    with torch.enable_grad() if training else torch.no_grad():
        walk = walked(lambda: layer(x))
    chosen = [name for _, name in walk if name == choose.__qualname__]
    at_once = [name for _, name in walk if name == normalize_small.__qualname__]
    assert len(chosen) == 1 or len(chosen) < len(at_once) == 1, walk
