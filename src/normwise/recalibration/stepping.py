"""A model through which several batches can go in step, as its framework describes it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from normwise.side_by_side import EnterState


class Place(NamedTuple):
    """The address of an array in memory, in any unit, and its number of bytes."""

    address: Hashable
    bytes: int


class Parking(Protocol):
    """Other memory than the device's, for what batches hold that wait.

    Attributes:
        bound: how many bytes may lie there at a time.
    """

    bound: float

    def around(self, batch: Any) -> AbstractContextManager[Callable[[Iterable[Any]], AbstractContextManager[None]]]:
        """The context that has to be around the forward of a batch, in its thread.

        Returns:
            a context manager, which gives a function: of the arrays that others need during a wait, it makes the
            context manager that has to be around the wait.
        """


class Stepping(Protocol):
    """The facts about a model, beside those of ``Model``, that several batches need to go through it in step.

    Attributes:
        at_most: so many batches at a time.
    """

    at_most: int

    def why_not(self) -> str:
        """A clause that says why batches cannot; an empty string where they can."""

    def enter_state(self) -> EnterState:
        """A function that puts another thread into the state of this one."""

    def bound(self) -> float:
        """The number of bytes that may be held at a time."""

    def parking(self) -> Parking | None:
        """The memory besides the model's device for batches that wait; None where there is no such memory."""

    def held(self, batch: Any) -> AbstractContextManager[Callable[[], int]]:
        """Give the block a function that counts the live bytes of what this thread made, those of a batch left out."""

    def places(self, batch: Any) -> Iterator[Place]:
        """Those of all arrays in a batch."""

    def random_state(self) -> Hashable:
        """The state of all generators that running a model may move; equal to another if none moved in between."""

    def restore(self) -> None:
        """Make the model what it was at the beginning, in inference mode, and the random state too."""
