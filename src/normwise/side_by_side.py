"""Pieces of work side by side, each with a thread of its own, of which only one runs at a time.

Whoever made them says which one runs next; it does until it waits or ends. So the order of everything is fixed, and a
piece of work may be any Python, which needs to know nothing about it but where it waits.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import Any, Self

NAME = "normwise, side by side"
"""The name of the threads."""
EnterState = Callable[[ExitStack], None]
"""A function that puts a new thread into some state, by what it enters into the stack."""


class Abandoned(BaseException):
    """The others are not gone on with; no ``except Exception`` on its way out of a piece of work is meant."""


class Overdue(Exception):
    """A piece of work neither waited nor ended in time; perhaps it wants a lock that one of the others holds."""


class Work:
    """One of them: how far it is, and what it brought there.

    Args:
        call: what it does.

    Attributes:
        at: where it waits; None before that, and when it has ended.
        brought: what it said when it began to wait.
        done: whether it has ended.
        result: what ``call`` returned.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call: Callable[[], Any] | None = call
        self.at: Any = None
        self.brought: Any = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.may_run = _signal()


class SideBySide:
    """A block with pieces of work, all of which have ended behind it, whatever happened inside.

    Args:
        calls: what each of them does.
        enter_state: puts each thread into the state that it is to work in; context variables are the caller's anyway.

    Attributes:
        works: one for each call.

    Example:
        >>> together = SideBySide([lambda: together.wait("half-way", 1), lambda: 2])
        >>> with together:
        ...     for work in together.works:
        ...         together.resume(work)
        ...     [(work.at, work.brought, work.result) for work in together.works]
        [('half-way', 1, None), (None, None, 2)]
    """

    def __init__(self, calls: Sequence[Callable[[], Any]], enter_state: EnterState = lambda _: None) -> None:
        self.works = [Work(call) for call in calls]
        self._enter_state = enter_state
        self._stopped = _signal()
        self._next: deque[Work] = deque()
        self._abandoned = False
        self._own = threading.local()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        try:
            for work in self.works:
                context = contextvars.copy_context()
                thread = threading.Thread(target=context.run, args=(self._run, work), name=NAME, daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:  # the system has no more threads
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._abandoned = True
        for work in self.works:
            work.may_run.put(None)
        for thread in self._threads:
            thread.join()

    def current(self) -> Work | None:
        """The piece of work that this thread is doing, if it is one of these."""
        found: Work | None = getattr(self._own, "work", None)
        return found

    def wait(self, at: Any, brought: Any = None) -> None:
        """Wait, from within a piece of work, until it is its turn again.

        Args:
            at: where it is.
            brought: what whoever decides is to know.

        Raises:
            Abandoned: the block has ended.
        """
        work = self.current()
        assert work is not None  # who calls this asked for ``current`` before
        if self._abandoned:  # once more, from what is done on the way out
            raise Abandoned
        work.at, work.brought = at, brought
        self._hand_over()
        work.may_run.get()
        if self._abandoned:
            raise Abandoned

    def resume(self, work: Work, patience: float | None = None) -> None:
        """Let one run until it waits or ends; an error that it ends with is raised here.

        Args:
            work: one that has not ended.
            patience: how many seconds it may take; None for any.

        Raises:
            Overdue: it took longer. All of them have to be given up then, by an end of the block.
        """
        self.resume_all([work], patience)

    def resume_all(self, works: Sequence[Work], patience: float | None = None) -> None:
        """Let several run, each when the one before it waits or has ended; the first error ends this and is raised.

        They hand over to each other, which takes half the time that ``resume`` takes for each.

        Args:
            works: those that have not ended, in their order.
            patience: how many seconds each may take; None for any.

        Raises:
            Overdue: as ``resume`` does.
        """
        self._next.extend(works)
        try:
            self._hand_over()
            while True:
                left = len(self._next)
                try:
                    self._stopped.get(timeout=patience)
                    break
                except Empty:
                    if len(self._next) == left:
                        raise Overdue from None
        finally:
            self._next.clear()
        for work in works:
            if work.error is not None:
                raise work.error

    def _run(self, work: Work) -> None:
        self._own.work = work
        work.may_run.get()
        try:
            if not self._abandoned and work.call is not None:
                with ExitStack() as state:
                    self._enter_state(state)
                    work.result = work.call()
        except BaseException as error:  # ``resume`` raises it again, on the thread of whoever asked for it
            work.error = error
        finally:
            work.done, work.at, work.brought, work.call = True, None, None, None
            if work.error is not None:
                self._next.clear()
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the turn to the next piece of work, or to whoever waits for all of them."""
        try:
            work = self._next.popleft()
        except IndexError:
            self._stopped.put(None)
        else:
            work.at = work.brought = None
            work.may_run.put(None)


def _signal() -> SimpleQueue[None]:
    """A semaphore at 0 that is compiled code; ``threading.Semaphore`` is Python and takes twice the time."""
    return SimpleQueue()
