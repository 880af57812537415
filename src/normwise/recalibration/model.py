"""What a framework says about a model, so that batches can be taken through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from normwise.recalibration.one_pass import Pass
from normwise.recalibration.site import Site


class Model(Protocol):
    """A model whose layers gather, in any framework.

    Attributes:
        loader: what of this framework can be gone through more than once, for an error.
        to_the_end: whether a forward must not end before its end.
        rank: which of the processes that work together this one is.
    """

    loader: str
    to_the_end: bool
    rank: int

    def unchanged(self) -> AbstractContextManager[Callable[[], None]]:
        """Inside, the model runs in inference mode; afterwards it is as before, and so is the random state.

        Returns:
            a context manager, which gives what sets the random state back to that of the beginning.
        """

    def forward(self, batch: Any) -> object:
        """One batch through the model, without gradients."""

    def samples_in(self, batch: Any) -> int:
        """How many samples a batch has."""

    def together(self, work: Callable[[], Pass], gathering: Sequence[Site]) -> list[Pass]:
        """Do the work, and let each site know what all processes gathered in it.

        Returns:
            the pass of every process; of one alone, its own.
        """
