"""Makes Triton's interpreter fast enough for hundreds of tests; what it computes stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
def _language_is_replaced_once_for_a_launch() -> Iterator[None]:
    """Replace the language once a launch: for every function it takes more than half of the interpreter's time."""
    replace, done = interpreter._patch_lang, set[frozenset[int]]()

    def once(function: Any) -> Scope:
        key = frozenset(id(value) for value in function.__globals__.values() if any(value is one for one in LANGUAGES))
        if key in done:
            return Scope(None, lambda: None)
        forget = (lambda: done.discard(key)) if done else done.clear
        done.add(key)
        return Scope(replace(function), forget)

    interpreter._patch_lang = once
    yield
    interpreter._patch_lang = replace
