"""The progress that a run shows while it goes on: lines for a log, a live picture for a terminal."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from normwise.lab.results import Result
from normwise.report.progress import Bars
from normwise.report.time_left import TimeLeft, words


def told(bars: Bars, results: list[Result]) -> None:
    """A run of two experiments, the second of which was finished before."""
    first, second = results
    bars.on_plan({first.experiment: (4, 1), second.experiment: (6, 6)}, 2)
    bars.on_result(second)
    for seed in (1, 2, 3):
        bars.on_trial_done(first.experiment, f"batch_norm=True, seed={seed}", 60.0)
    bars.on_result(first)


def test_a_log_gets_a_line_per_experiment_with_its_verdicts(results: list[Result]) -> None:
    out = io.StringIO()
    with Bars(Console(file=out, width=200)) as bars:
        told(bars, results)
    assert out.getvalue().splitlines() == [
        "2 experiments, 10 trials, 7 of them kept from an earlier run",
        "do_gradients_survive_depth: 1 ✓ reproduced, 1 ✗ contradicted; 1 of 2 experiments",
        "does_it_train_in_fewer_steps: 1 ✓ reproduced, 1 ? not visible at this scale; 2 of 2 experiments",
    ]


def test_a_terminal_sees_experiment_arm_seed_time_and_verdicts(results: list[Result]) -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True)
    with Bars(console) as bars:
        first, second = results
        bars.on_plan({first.experiment: (4, 1), second.experiment: (6, 6)}, 2)
        bars.on_result(second)
        bars.on_trial_done(first.experiment, "batch_norm=True, seed=1", 300.0)
    shown = out.getvalue()
    for part in (
        first.experiment,
        "batch_norm=True, seed=1",
        "about 5 min left",  # two trials of 300 seconds, two at a time
        "1 ✓ reproduced, 1 ✗ contradicted",
        "80%",  # 8 of 10 trials
    ):
        assert part in shown


def test_experiments_of_different_length_are_not_lumped_together() -> None:
    clock = TimeLeft({"short": 10, "long": 10, "unknown": 1}, workers=1)
    assert math.isnan(clock.seconds())
    clock.on_trial_done("short", 1.0)
    clock.on_trial_done("long", 99.0)
    assert clock.seconds() == pytest.approx(9 * 1 + 9 * 99 + 50)


def test_nothing_left_takes_no_time() -> None:
    assert TimeLeft({"a": 0}, workers=2).seconds() == 0.0


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 0 min"), (7260, "2 h 1 min")]
)
def test_a_time_is_said_as_one_would(seconds: float, said: str) -> None:
    assert words(seconds) == said
