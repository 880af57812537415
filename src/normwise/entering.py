"""The note on an error of the user's model, by which batch and rule it was called, and descriptions of such things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from normwise.frameworks import with_article

SHOWN = 4
"""Items of a batch that are described, at most."""

_OF = ", of a batch that is "
_AND = ", and "
_THEN = "; what to do: "
_OTHERWISE = "pass forward_fn=lambda model, batch: ... if the model takes something else"


def described(thing: Any, depth: int = 2) -> str:
    """The description of a thing, with shape and dtype where it has them.

    Args:
        thing: a batch, or what a function returned.
        depth: how many tuples or dicts deep.

    Example:
        >>> import numpy as np
        >>> described((np.zeros((4, 2)), np.zeros(4, dtype="int64"), {"id": "a"}))
        "a tuple (a float64 array of shape (4, 2), an int64 array of shape (4,), a dict ('id': a str))"
    """
    kind = type(thing)
    if is_array(thing):
        dtype = getattr(thing.dtype, "name", str(thing.dtype).removeprefix("torch."))
        noun = "array" if kind.__module__.partition(".")[0] in ("numpy", "jax", "jaxlib") else "tensor"
        article = "a" if dtype.startswith("u") else with_article(dtype).partition(" ")[0]
        return f"{article} {dtype} {noun} of shape {tuple(thing.shape)}"
    if depth and thing and isinstance(thing, tuple | list):
        inside = [described(item, depth - 1) for item in thing[:SHOWN]]
    elif depth and thing and isinstance(thing, Mapping):
        inside = [f"{key!r}: {described(item, depth - 1)}" for key, item in [*thing.items()][:SHOWN]]
    else:
        return "None" if thing is None else with_article(kind.__name__)
    more = ", ..." if len(thing) > SHOWN else ""
    return f"{with_article(kind.__name__)} ({', '.join(inside)}{more})"


def is_array(thing: Any) -> bool:
    """True if a thing has a dtype and a shape, as arrays and tensors of every framework do."""
    return hasattr(thing, "dtype") and hasattr(thing, "shape") and not callable(thing.shape)


def add_note(error: BaseException, called: str, batch: Any, layer: str, remedy: str = "") -> None:
    """Say, beside the model's own error, what it was called with, where it failed, and what the caller can do.

    Args:
        error: raised by the model.
        called: what was called with what, for example ``"Sequential was called with (Tensor)"``.
        batch: the caller's.
        layer: the layer that failed, in words; empty where that is not known.
        remedy: what to do; empty for a ``forward_fn``.

    Example:
        >>> add_note(error := ValueError("no"), "Net was called with (str)", ("a", 1), "layer 'bn'")
        >>> error.__notes__[0].partition("; what")[0]
        "Net was called with (str), of a batch that is a tuple (a str, an int), and layer 'bn' failed"
    """
    failed = f"{_AND}{layer} failed" if layer else ""
    error.add_note(f"{called}{_OF}{described(batch)}{failed}{_THEN}{remedy or _OTHERWISE}.")


class Noted(NamedTuple):
    """A note, taken apart; empty texts where there is none.

    Attributes:
        called: what was called with what.
        batch: the description of the caller's batch.
        remedy: what to do, where that is something special.
    """

    called: str = ""
    batch: str = ""
    remedy: str = ""


def noted(error: BaseException) -> Noted:
    """The note that ``add_note`` left.

    Example:
        >>> add_note(error := ValueError("no"), "Net was called with (str)", "a", "layer 'bn'", "give numbers")
        >>> noted(error)
        Noted(called='Net was called with (str)', batch='a str', remedy='give numbers')
    """
    for note in getattr(error, "__notes__", ()):
        called, of, rest = note.partition(_OF)
        if of:
            about, _, remedy = rest.removesuffix(".").partition(_THEN)
            return Noted(called, about.partition(_AND)[0], "" if remedy == _OTHERWISE else remedy)
    return Noted()
