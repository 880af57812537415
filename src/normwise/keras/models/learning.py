"""Let the same variables learn in a layer that stands in the place of another one, in a model built again."""

from __future__ import annotations

from typing import Any

import keras

from normwise.reports.freeze_report import STATISTICS

BEFORE = "_before_freeze"
"""The attribute in which a layer keeps what was before it was frozen, of its statistics and affine parameters."""


def carry_learning(old: Any, new: Any) -> None:
    """Let those variables of a layer learn that learned in the layer before; ``unfreeze`` finds what it needs.

    A config says whether a layer is trainable, and not which of its variables learn.

    Args:
        old: built.
        new: built; of the same class with the same layers inside, or another one in its place.

    Example:
        >>> old, new = (keras.layers.Dense(2) for _ in range(2))
        >>> old.build((None, 3)), new.build((None, 3))
        (None, None)
        >>> old.bias.trainable = False
        >>> carry_learning(old, new)
        >>> [each.name for each in new.trainable_variables]
        ['kernel']
    """
    olds, news = old._flatten_layers(), new._flatten_layers()
    if [type(each) for each in olds] != [type(each) for each in news]:
        olds, news = [old], [new]
    for one, other in zip(olds, news, strict=True):
        _carry(one, other)


def _carry(old: Any, new: Any) -> None:
    new._trainable = old.trainable  # the setter would change the variables too
    sources = old._trainable_variables
    if type(old) is type(new) and len(sources) == len(new._trainable_variables):
        for source, target in zip(sources, new._trainable_variables, strict=True):
            target.trainable = source.trainable
    else:
        for target in new._trainable_variables:
            same = getattr(old, target.name, None)
            # One that the layer did not have, for example the bias that folding made, learns where another one does.
            before = [same] if isinstance(same, keras.Variable) else sources
            target.trainable = any(each.trainable for each in before)
    frozen = vars(old).get(BEFORE)
    if frozen is None:
        return
    frozen = dict(frozen)
    if STATISTICS in frozen and not isinstance(new, keras.layers.BatchNormalization):
        del frozen[STATISTICS]
        new._trainable = any(each.trainable for each in new._trainable_variables)
    if frozen:
        vars(new)[BEFORE] = frozen
