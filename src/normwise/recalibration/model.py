"""A model of any framework, as its framework describes it to ``recalibrate`` and ``adapt``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from normwise.recalibration.one_pass import Pass
from normwise.recalibration.site import Site


class Model(Protocol):
    """A model whose layers gather, in any framework.

    Attributes:
        loader: the framework's word for data that can be gone through more than once, for an error.
        to_the_end: whether a forward must not end before its end.
        rank: which of the processes that work together this one is.
    """

    loader: str
    to_the_end: bool
    rank: int

    def unchanged(self) -> AbstractContextManager[Callable[[], None]]:
        """Put the model into inference mode for a block; afterwards it is as before, and so is the random state.

        Returns:
            a context manager, which gives a function that sets the random state to that of the beginning.
        """

    def forward(self, batch: Any) -> object:
        """One batch through the model, without gradients."""

    def samples_in(self, batch: Any) -> int:
        """The number of samples in a batch."""

    def together(self, work: Callable[[], Pass], gathering: Sequence[Site]) -> list[Pass]:
        """Do the work, and give each site what all processes gathered in it.

        Returns:
            the pass of every process; of one alone, its own.
        """
