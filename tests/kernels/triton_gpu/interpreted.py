"""Makes Triton's interpreter fast enough for hundreds of tests; what it computes stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import pytest
import triton.language as tl
from triton.runtime import interpreter

LANGUAGES = (tl, tl.core)


class Scope(NamedTuple):
    """The replacement in Triton's language, and the function to call when it is undone."""

    replaced: Any
    forget: Callable[[], None]

    def restore(self) -> None:
        """Put it back."""
        if self.replaced is not None:
            self.replaced.restore()
        self.forget()


@pytest.fixture(autouse=True, scope="session")
def interpreted_fast() -> Iterator[None]:
    """Spare the interpreter what it does for every function, every operation and every sum of integers."""
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", once_a_launch(interpreter._patch_lang))
        patch.setattr(interpreter, "_get_np_dtype", kept_by_dtype(interpreter._get_np_dtype))
        # The search for overflow, a quarter of the time: without ``debug`` nothing reads what it finds.
        patch.setattr(builder, "options", replace(builder.options, sanitize_overflow=False))
        yield


def once_a_launch(replace_language: Callable[[Any], Any]) -> Callable[[Any], Scope]:
    """Replace the language once a launch: for every function it takes more than half of the interpreter's time."""
    done: set[frozenset[int]] = set()
    seen: dict[int, frozenset[int]] = {}

    def once(function: Any) -> Scope:
        names = function.__globals__
        if id(names) not in seen:
            seen[id(names)] = frozenset(id(value) for value in names.values() if any(value is one for one in LANGUAGES))
        key = seen[id(names)]
        if key in done:
            return Scope(None, lambda: None)
        forget = (lambda: done.discard(key)) if done else done.clear
        done.add(key)
        return Scope(replace_language(function), forget)

    return once


def kept_by_dtype(look_up: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Keep NumPy's dtype for each of Triton's: the interpreter builds a table of all of them for every operation."""
    kept = cache(look_up)

    def once(given: Any) -> Any:
        of_one = given.element_ty if isinstance(given, tl.block_type) else given
        return kept(of_one) if type(of_one) is tl.dtype else look_up(of_one)

    return once
