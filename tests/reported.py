"""The way that tests run the scripts in examples/cases/, and the results that the scripts must give."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples/cases"
NUMBER = re.compile(r"(?<![\w'])\d+(?:\.\d+)?(?:e[+-]?\d+)?")
LAYERS = re.compile(r"^( +(?:error|warning|note) +\w+) in .*$", re.MULTILINE)
EVERY = {"2", "5", "9", "digits/low", "digits/middle", "digits/high"}
EVERY |= {"8", *(f"{block}.inner.{place}" for block in range(2, 8) for place in (0, 3))}  # of the residual network


class Case(NamedTuple):
    """The fault that has to be found first.

    Attributes:
        check: its name.
        layer: the guilty one, or None where all are guilty and chance says which of them is named first.
        steady: whether all processors give about the same numbers, and name as many layers.
    """

    check: str
    layer: str | None
    steady: bool = True


def check(
    name: str,
    case: Case,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    same_numbers: bool = True,
) -> tuple[float, float]:
    """Run a script, hold it to its case and to the text kept beside it, and give its number before and after."""
    monkeypatch.syspath_prepend(FOLDER)
    try:
        ended = runpy.run_path(str(FOLDER / f"{name}.py"))
    finally:
        for module in ("digits", "keras_digits"):
            sys.modules.pop(module, None)
    printed = capsys.readouterr().out
    first, *others = ended["diagnosis"].findings
    assert first.check == case.check
    assert first.layers[0] == case.layer if case.layer else {*first.layers} <= EVERY
    assert [each.check for each in others if each.severity != "note"] == []
    harm = ended["reference"] - ended["before"]
    assert harm > 0.02
    assert ended["after"] > ended["reference"] - min(0.03, harm / 4)
    kept = (FOLDER / f"{name}.txt").read_text("utf-8")
    if not case.steady:
        printed, kept, same_numbers = LAYERS.sub(r"\1", printed), LAYERS.sub(r"\1", kept), False
    assert _words(printed) == _words(kept)
    if same_numbers:
        pairs = zip(NUMBER.findall(printed), NUMBER.findall(kept), strict=True)
        assert [(now, then) for now, then in pairs if not _near(float(now), float(then))] == []
    return ended["before"], ended["after"]


def _words(text: str) -> list[str]:
    """Line by line, without numbers and without the order of layers."""
    lines = [re.sub(r"\d[\d.e+%-]*", "#", line) for line in text.splitlines()]
    return [" ".join(sorted(re.split(r"[ ,\[\]]+", line))) for line in lines]


def _near(now: float, then: float) -> bool:
    return abs(now - then) <= max(0.1, 0.3 * max(abs(now), abs(then)))
