"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a line for each row.

    >>> print(table(["layer", "JAX"], [["32x64", "1.34"]]))
    | layer | JAX |
    | --- | --- |
    | 32x64 | 1.34 |
    """
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
