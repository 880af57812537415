"""A result survives the way through its file."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from normwise.lab.results import (
    Conclusion,
    Estimate,
    Figure,
    Panel,
    Result,
    Series,
    Statement,
    Table,
    Verdict,
    from_json,
    to_json,
)

RESULT = Result(
    experiment="does_it_end",
    question="Does it end?",
    claim="Yes.",
    refuted_by="No.",
    settings={"rates": [0.1], "word": "x"},
    seeds=(0, 1),
    conclusion=Conclusion(
        statements=(
            Statement("It ends.", Estimate(1.5, 1.0, 2.0, 2, "ratio"), "at least 1", Verdict.REPRODUCED),
            Statement(
                "It lasts.",
                Estimate(math.nan, -math.inf, 1.0, 2, "points"),
                "at most",
                Verdict.NOT_VISIBLE,
                "3",
                "B. Author",
            ),
        ),
        table=Table("Numbers", ("a", "b"), (("1", "2"), ("3", "4"))),
        figures=(
            Figure(
                name="ends",
                title="Ends",
                caption="None.",
                x_label="x",
                y_label="y",
                panels=(Panel("one", (Series("with", (1.0, 2.0), (0.5, None), (0.4, None)),), ((0.9, "line"),)),),
                x_scale="log",
            ),
        ),
        caveats=("Small.",),
    ),
    stamp={"seconds": 1.5},
    command="normwise lab run does_it_end",
    references=("A. Author, 2015.",),
    says="A. Author",
    topic="placement",
)


def test_numbers_that_are_not_finite_are_null_in_the_file() -> None:
    effect = json.loads(to_json(RESULT))["conclusion"]["statements"][1]["effect"]
    assert (effect["value"], effect["low"], effect["high"]) == (None, None, 1.0)


def test_numbers_of_numpy_are_numbers_in_the_file() -> None:
    numbers: dict[str, Any] = {"rate": np.float32(0.5), "nothing": np.float64("nan"), "steps": [np.int64(2)]}
    kept = json.loads(to_json(dataclasses.replace(RESULT, settings=numbers)))
    assert kept["settings"] == {"rate": 0.5, "nothing": None, "steps": [2]}


def test_a_result_comes_back_as_it_was() -> None:
    back = from_json(to_json(RESULT))
    assert to_json(back) == to_json(RESULT)
    assert math.isnan(back.conclusion.statements[1].effect.value)
    assert back.conclusion.statements[0] == RESULT.conclusion.statements[0]
    assert back.conclusion.statements[0].verdict is Verdict.REPRODUCED
    assert back.conclusion.figures == RESULT.conclusion.figures
    assert back.conclusion.table == RESULT.conclusion.table


@pytest.mark.parametrize("text", ["", "[1]", "{}", "3"])
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_json(text)
