"""Tables and figures of arms, with the captions that say what their numbers are."""

from __future__ import annotations

from types import SimpleNamespace as Trial

import numpy as np
import pytest

from normwise.lab.design import (
    SPREAD,
    WITH_AND_WITHOUT,
    Arms,
    Grid,
    across,
    average,
    by_measure,
    by_rate,
    by_step,
    figure,
    geometric,
    line,
    panel,
    table,
)
from normwise.lab.outcomes import Outcomes

SETTINGS = Trial(depths=(3, 5), rates=(0.1, 0.5))
GRID = Grid(Trial, depth="depths", batch_norm=WITH_AND_WITHOUT)


@pytest.fixture
def arms() -> Arms:
    trials = GRID.trials(SETTINGS, (0, 1))
    measured = [
        {"validation": [0.1, 0.9], "test": [0.2, 0.1 * trial.depth + 0.2 * trial.seed], "curve": [[0, 0], [1, 2]]}
        for trial in trials
    ]
    return GRID.arms(SETTINGS, Outcomes(trials, measured))


def test_a_table_has_a_row_for_each_arm_and_says_what_the_intervals_are(arms: Arms) -> None:
    found = table(
        "Accuracy in %",
        arms,
        ("layers", lambda arm: arm["depth"]),
        ("rate", lambda arm: arm.rate),
        ("rate", lambda arm: arm["batch_norm"]),  # a head may stand twice
        more=", of steps the geometric one",
    )
    assert (
        found.caption
        == "Accuracy in %. Mean [95 % interval] over 2 seeds, of steps the geometric one; the best of 2 rates for each"
    )
    assert found.columns == ("layers", "rate", "rate")
    assert found.rows[:2] == (("3", "0.5, edge", "with batch norm"), ("3", "0.5, edge", "without"))
    assert len(found.rows) == 4


def test_rows_may_be_groups_of_arms_or_anything_with_a_number_of_seeds(arms: Arms) -> None:
    groups = table("A", arms.by("depth"), ("gain", lambda row: average(row[True].points() - row[False].points(), 1)))
    assert groups.caption == "A. Mean [95 % interval] over 2 seeds; the best of 2 rates for each"
    assert groups.rows == (("0.0 [0.0, 0.0]",),) * 2
    anything = table("A", [1, 2], ("number", str), seeds=7)
    assert anything.caption.endswith("over 7 seeds")
    assert anything.rows == (("1",), ("2",))


def test_cells_are_means_with_their_intervals() -> None:
    assert average(np.array([1.0, 1.0]), 2) == "1.00 [1.00, 1.00]"
    assert geometric(np.array([10.0, 1000.0]), 0).startswith("100 [")


def test_a_line_is_the_mean_between_smallest_and_largest() -> None:
    found = line("one", (1, 2), np.array([[1.0, 4.0], [3.0, 4.0]]))
    assert (found.label, found.x, found.y, found.low, found.high) == (
        "one",
        (1.0, 2.0),
        (2.0, 4.0),
        (1.0, 4.0),
        (3.0, 4.0),
    )
    logs = line("one", (1,), np.log([[1.0], [100.0]]), back=np.exp)
    assert logs.y == pytest.approx((10.0,))


def test_by_rate_has_a_panel_for_each_group_and_a_line_for_each_arm(arms: Arms) -> None:
    found = by_rate("Title", arms.by("depth"), "{depth} layers", caption="Look here.", marks=((0.5, "half"),))
    assert [each.title for each in found.panels] == ["3 layers", "5 layers"]
    assert [series.label for series in found.panels[0].series] == ["with batch norm", "without"]
    assert found.panels[0].series[0].x == (0.1, 0.5)
    assert found.panels[1].series[0].y == pytest.approx((0.2, 0.6))
    assert found.caption == f"Look here. {SPREAD}"
    assert (found.name, found.x_scale, found.panels[1].marks) == ("accuracy_by_rate", "log", ((0.5, "half"),))


def test_by_step_shows_the_rate_that_is_picked(arms: Arms) -> None:
    found = by_step("Title", [arms], lambda group: f"{len(group)} arms", (10, 20), what="curve", y_label="loss")
    assert found.panels[0].title == "4 arms"
    assert found.panels[0].series[0].label == "3, with batch norm"
    assert found.panels[0].series[0].x == (10.0, 20.0)
    assert found.panels[0].series[0].y == (1.0, 2.0)
    assert found.caption == SPREAD


def test_across_an_axis_each_arm_has_a_point(arms: Arms) -> None:
    with_it = arms.where(batch_norm=True)
    found = across("with", with_it, "depth")
    assert found.x == (3.0, 5.0)
    assert found.y == pytest.approx((0.4, 0.6))
    assert across("with", with_it, "depth", lambda arm: arm.points()).y == pytest.approx((40.0, 60.0))


@pytest.mark.parametrize("caption", ["Line: geometric mean over seeds.", f"Before. {SPREAD} Behind."])
def test_a_caption_that_says_what_a_line_is_stays_as_it_is(caption: str) -> None:
    found = figure("name", "title", [panel("", [line("one", (1,), np.ones((2, 1)))])], x_label="x", caption=caption)
    assert found.caption == caption


def test_intervals_may_be_over_something_else_than_seeds() -> None:
    assert table("A", [1], ("number", str), seeds=7, of="starts").caption == "A. Mean [95 % interval] over 7 starts"


def test_a_panel_for_each_measure_has_a_line_for_each_arm(arms: Arms) -> None:
    found = by_measure("n", "T", arms, SETTINGS.rates, {"test": "images", "validation": "others"}, x_label="rate")
    assert (found.name, found.title, found.x_label, found.caption) == ("n", "T", "rate", SPREAD)
    assert [each.title for each in found.panels] == ["images", "others"]
    for each in found.panels:
        assert [one.label for one in each.series] == [
            "3, with batch norm",
            "3, without",
            "5, with batch norm",
            "5, without",
        ]
    assert found.panels[0].series[0].y == pytest.approx((0.2, 0.4))
    assert found.panels[1].series[0].y == pytest.approx((0.1, 0.9))
