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
def the_language_is_replaced_once_for_a_launch() -> Iterator[None]:
    """Replace the language once a launch: for every function it takes more than half of the interpreter's time."""
    patch, done = interpreter._patch_lang, set[frozenset[int]]()
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
        return Scope(patch(function), forget)

    interpreter._patch_lang = once
    yield
    interpreter._patch_lang = patch


@pytest.fixture(autouse=True, scope="session")
def a_dtype_is_looked_up_once() -> Iterator[None]:
    """Keep NumPy's dtype for each of Triton's: the interpreter builds a table of all of them for every operation."""
    look_up = interpreter._get_np_dtype
    kept = cache(look_up)

    def once(given: Any) -> Any:
        of_one = given.element_ty if isinstance(given, tl.block_type) else given
        return kept(of_one) if type(of_one) is tl.dtype else look_up(of_one)

    interpreter._get_np_dtype = once
    yield
    interpreter._get_np_dtype = look_up


@pytest.fixture(autouse=True, scope="session")
def sums_of_integers_are_not_made_twice() -> Iterator[None]:
    """Leave out the search for overflow, a quarter of the time: without ``debug`` nothing reads what it finds."""
    builder = interpreter.interpreter_builder
    options = builder.options
    assert not options.debug
    builder.options = replace(options, sanitize_overflow=False)
    yield
    builder.options = options
