"""Pieces of work side by side: one at a time, in the order that is asked for, and all of them end."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from normwise.side_by_side import NAME, Abandoned, Overdue, SideBySide

WORD = contextvars.ContextVar("WORD", default="nothing")


def left() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def through(together: SideBySide, end: type[BaseException] | None = None, patience: float | None = None) -> None:
    """All of them once, then an error of the block's own."""
    with together:
        for work in together.works:
            together.resume(work, patience)
        if end is not None:
            raise end


def test_each_runs_when_it_is_asked_to_and_until_it_waits() -> None:
    said: list[str] = []

    def work(name: str) -> str:
        for step in range(2):
            said.append(f"{name}{step}")
            together.wait(name, step)
        return name

    together = SideBySide([lambda: work("a"), lambda: work("b")])
    with together:
        a, b = together.works
        for each in (b, a, a, b, a):
            together.resume(each)
        assert said == ["b0", "a0", "a1", "b1"]
        assert (a.done, a.result, a.at) == (True, "a", None)
        assert (b.done, b.result, b.at, b.brought) == (False, None, "b", 1)
    assert not left()


def test_it_works_in_the_state_of_whoever_made_it() -> None:
    entered: list[str] = []

    def enter(stack: ExitStack) -> None:
        entered.append("in")
        stack.callback(entered.append, "out")

    WORD.set("something")
    together = SideBySide([WORD.get], enter)
    with together:
        together.resume(together.works[0])
    assert (together.works[0].result, entered, together.current()) == ("something", ["in", "out"], None)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_of_one_is_raised_where_it_was_resumed_and_ends_all(kind: type[BaseException]) -> None:
    ended: list[str] = []

    def waits() -> None:
        try:
            together.wait("here")
        finally:
            ended.append("waits")
            together.wait("on the way out")  # ends too

    def fails() -> None:
        raise kind("no more")

    together = SideBySide([waits, fails, waits])
    with pytest.raises(kind, match="no more"):
        through(together)
    assert ended == ["waits"]  # the third never began
    assert isinstance(together.works[0].error, Abandoned)
    assert not left()


def test_an_error_of_whoever_resumes_ends_all() -> None:
    together = SideBySide([lambda: together.wait("here")] * 3)
    with pytest.raises(KeyboardInterrupt):
        through(together, KeyboardInterrupt)
    assert not left()


def test_what_waits_for_a_lock_that_another_one_holds_is_overdue_and_both_end() -> None:
    lock = threading.Lock()

    def work() -> None:
        with lock:
            together.wait("inside")

    together = SideBySide([work, work])
    began = time.monotonic()
    with pytest.raises(Overdue):
        through(together, patience=0.2)
    assert time.monotonic() - began < 10
    assert not left()
    assert not lock.locked()


def test_no_more_threads_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start: Callable[[Any], None] = threading.Thread.start

    def one_only(self: threading.Thread) -> None:
        if left():
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", one_only)
    with pytest.raises(RuntimeError, match="can't start new thread"), SideBySide([int, int]):
        pass
    assert not left()
