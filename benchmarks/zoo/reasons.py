"""Reasons in groups: what is said of many layers of many models is one line with a number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

LAYER, CLASS = "[layer]", "[class]"
# Names of modules that are words of the sentences as well.
WORDS = {
    "a",
    "activation",
    "add",
    "model",
    "forward",
    "it",
    "its",
    "layer",
    "layers",
    "norm",
    "not",
    "of",
    "output",
    "the",
}
_NAME = re.compile(r"[A-Za-z_0-9]+(?:\.[A-Za-z_0-9]+)*")


def grouped(reasons: Iterable[str], names: Iterable[str] = (), classes: Iterable[str] = ()) -> dict[str, int]:
    """The number of layers that each reason holds for, the most frequent first.

    Args:
        reasons: one for each layer.
        names: of the model's modules, in the place of which stands one word.
        classes: of the model's modules, likewise; PyTorch's own stay.

    Example:
        >>> grouped(["a.conv in front cannot take it", "b.conv in front cannot take it"], ["a.conv", "b.conv"])
        {'[layer] in front cannot take it': 2}
    """
    known = {name for name in names if not name.isdigit()} - WORDS
    kinds = {*classes}

    def plain(found: re.Match[str]) -> str:
        text = found[0]
        return LAYER if text in known else CLASS if text in kinds else text

    counted = Counter(re.sub(r"\d+ channels", "other channels", _NAME.sub(plain, reason)) for reason in reasons)
    return dict(counted.most_common())
