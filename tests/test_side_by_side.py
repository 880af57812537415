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


def test_several_hand_over_to_each_other_in_their_order() -> None:
    said: list[str] = []

    def work(name: str) -> None:
        for step in range(3):
            said.append(f"{name}{step}")
            together.wait(name, step)

    together = SideBySide([lambda: work("a"), lambda: work("b"), lambda: work("c")])
    with together:
        a, b, c = together.works
        together.resume_all([c, a, b])
        assert said == ["c0", "a0", "b0"]
        assert [(each.at, each.brought) for each in (a, b, c)] == [("a", 0), ("b", 0), ("c", 0)]
        together.resume_all([b, c])
        together.resume(b)
        assert said[3:] == ["b1", "c1", "b2"]
        assert (a.brought, c.brought) == (0, 1)
        together.resume_all([])
        together.resume_all([b, a])
        assert (b.done, a.done, a.brought) == (True, False, 1)
    assert not left()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_of_one_of_several_keeps_those_behind_it_from_running(kind: type[BaseException]) -> None:
    said: list[str] = []

    def waits(name: str) -> None:
        together.wait(name)
        said.append(name)
        if name == "b":
            raise kind("no more")

    together = SideBySide([lambda: waits("a"), lambda: waits("b"), lambda: waits("c")])

    def twice() -> None:
        with together:
            together.resume_all(together.works)
            together.resume_all(together.works)

    with pytest.raises(kind, match="no more"):
        twice()
    assert said == ["a", "b"]
    assert not left()


def test_patience_is_with_each_of_several_and_not_with_all_of_them() -> None:
    together = SideBySide([lambda: time.sleep(0.2)] * 4)
    with together:
        together.resume_all(together.works, 0.4)
        assert all(work.done for work in together.works)
    together = SideBySide([int, lambda: time.sleep(1.0), int])
    with pytest.raises(Overdue), together:
        together.resume_all(together.works, 0.2)
    assert together.works[2].result is None  # it never ran
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
