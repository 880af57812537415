"""Words that many checks need."""

from __future__ import annotations

from collections.abc import Sequence

KERAS_ROWS = (
    "if not hasattr(batches, 'shape') and not isinstance(batches, tuple):  # batches, and not arrays of all rows\n"
    "    batches = [tuple(batch) if isinstance(batch, list) else batch for batch in batches]\n"
    "    batches = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)\n"
)
"""The first lines of remedies that make other batches of a Keras user's."""


def these(names: Sequence[str], of: str = "layer") -> str:
    """Layers as a message calls them.

    Example:
        >>> these(["bn1"]), these(["bn1", "bn2"])
        ("layer 'bn1'", '2 layers')
    """
    return f"{len(names)} {of}s" if len(names) > 1 else f"{of} {names[0]!r}"


def has(names: Sequence[str], one: str = "has", several: str = "have") -> str:
    """The verb that goes with ``these``.

    Example:
        >>> has(["bn1"]), has(["bn1", "bn2"], "is", "are")
        ('has', 'are')
    """
    return several if len(names) > 1 else one
