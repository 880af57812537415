"""The whole grid of ``tests/kernels/test_agreement.py`` in the dtypes of a GPU, each problem cut in one of the ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple
from zlib import crc32

import pytest
import torch

from tests.cases import LAYOUTS, SHAPES, VALUES, problem
from tests.kernels.test_agreement import ACTIVATIONS, WITH_SETTINGS, assert_agrees, dtype_name
from tests.kernels.triton_gpu.cut import CUTS, cut
from tests.kernels.triton_gpu.device import DEVICE
from tests.kernels.triton_gpu.on_device import DTYPES, TRITON

__all__ = ["cut"]

EITHER = (False, True)


class Asked(NamedTuple):
    """The description of a problem."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: str
    layout: str
    activation: str | None
    residual: bool
    mask: bool
    training: bool

    @property
    def name(self) -> str:
        """The name of its test."""
        size = "x".join(map(str, self.shape))
        more = [name for name in ("residual", "mask", "training") if getattr(self, name)]
        return ", ".join([size, dtype_name(self.dtype), self.values, self.layout, str(self.activation), *more])

    @property
    def how(self) -> str:
        """The way in which it is cut: it looks drawn, and is the same in every run."""
        return [*CUTS][crc32(self.name.encode()) % len(CUTS)]


GRID = [
    *(
        Asked(SHAPES[shape], dtype, values, "contiguous", None, False, False, training)
        for shape, values, dtype, training in product(SHAPES, VALUES, DTYPES, EITHER)
    ),
    *(
        Asked(SHAPES[shape], dtype, "plain", layout, "silu", *flags)
        for shape, layout, dtype, *flags in product(
            ("sequences", "images", "volumes"), LAYOUTS, DTYPES, EITHER, EITHER, EITHER
        )
    ),
    *(
        Asked((3, 4, 2, 7), dtype, "plain", "contiguous", activation, *flags)
        for activation, dtype, *flags in product([*ACTIVATIONS, *WITH_SETTINGS], DTYPES, EITHER, EITHER, EITHER)
    ),
]
# A GPU's compiler takes about a second for each kernel of each of them.
TRIED = GRID if DEVICE == "cpu" else GRID[::5]


def test_the_grid_is_the_one_of_the_other_implementations_without_float64() -> None:
    from tests.kernels import test_agreement

    every = len(test_agreement.BY_SHAPE) + len(test_agreement.BY_LAYOUT)
    every += len([*ACTIVATIONS, *WITH_SETTINGS]) * 4 * 2 * 2 * 2
    assert len(set(GRID)) == len(GRID) == every * 3 // 4


@pytest.mark.parametrize("what", ["dtype", "layout", "residual", "mask", "training"])
def test_every_way_of_cutting_meets_every(what: str) -> None:
    met: Counter[Any] = Counter((asked.how, getattr(asked, what)) for asked in GRID)
    assert met.keys() == {*product(CUTS, {getattr(asked, what) for asked in GRID})}


@pytest.mark.parametrize("asked", TRIED, ids=lambda asked: asked.name)
def test_it_agrees_with_the_reference(asked: Asked, cut: Callable[[str], None]) -> None:
    cut(asked.how)
    shape, dtype, values, layout, activation, residual, mask, training = asked
    p = problem(
        shape,
        dtype,
        values=values,
        layout=layout,
        activation=activation,
        residual=residual,
        mask=mask,
        training=training,
    )
    assert assert_agrees(p, TRITON) == 1
