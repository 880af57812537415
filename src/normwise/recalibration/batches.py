"""Batches that an operation on a whole model goes through, in any framework."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from operator import length_hint
from typing import Any

from tqdm import tqdm

from normwise.errors import NormwiseError


class Batches:
    """Batches that can be gone through more than once, with a progress bar on a terminal when it takes long.

    What can be iterated again is. A generator cannot: what it gave is kept in memory for the next time.

    Args:
        batches: any iterable of batches.
        at_most: go through so many; None for all. May be changed between two passes, to 0 too.
        called: the operation, for the progress bar and the errors.

    Attributes:
        passes: how often they will be gone through, all of which one bar shows.

    Raises:
        TypeError: not an iterable, or a single tensor, array or mapping, whose items are no batches.

    Example:
        >>> pairs = Batches((number for number in (1, 2, 3)), at_most=2, called="recalibrate")
        >>> list(pairs), list(pairs)
        ([1, 2], [1, 2])
    """

    def __init__(self, batches: Iterable[Any], *, at_most: int | None = None, called: str) -> None:
        iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
        if not iterable or hasattr(batches, "shape") or isinstance(batches, Mapping | str | bytes):
            raise TypeError(
                f"{called} needs an iterable of batches, received {type(batches).__name__}: "
                "pass a data loader, or a list with one batch in it."
            )
        if at_most is not None and (not hasattr(at_most, "__index__") or at_most < 1):
            raise NormwiseError(f"{called} needs at least one batch, received {at_most!r}: state how many, or None.")
        self._source, self._once = batches, hasattr(batches, "__next__")
        self._kept: list[Any] = []
        self._bar: Any = None
        self._passed, self.passes = 0, 1
        self.at_most, self.called = at_most, called

    def __iter__(self) -> Generator[Any]:
        if self.at_most == 0:
            return
        source = self._again() if self._once else iter(self._source)
        bar = self._bar_for_this_pass()
        try:
            for number, batch in enumerate(source, start=1):
                yield batch
                bar.update()
                if number == self.at_most:
                    return
        finally:
            self._passed += 1
            if self._passed >= self.passes:
                self.close()

    @property
    def number(self) -> int | None:
        """The number of batches in a pass; None where it is not known."""
        length = length_hint(self._source, -1)  # which a source that does not know it may refuse to say
        return self.at_most if length < 0 else min(length, length if self.at_most is None else self.at_most)

    def close(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._passed = None, 0

    def _bar_for_this_pass(self) -> Any:
        if self._bar is None:
            self._bar = tqdm(desc=self.called, unit="batch", delay=2, leave=False, disable=None)
        in_a_pass = self.number
        self._bar.total = None if in_a_pass is None else in_a_pass * self.passes
        return self._bar

    def _again(self) -> Iterator[Any]:
        """The batches that were kept, then those that the source still has."""
        yield from list(self._kept)
        for batch in self._source:
            self._kept.append(batch)
            yield batch
