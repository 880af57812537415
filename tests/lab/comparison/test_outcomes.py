"""Every outcome of the comparison, on made-up trainers whose truth is known: what is decided and what is said."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normwise.errors import NormwiseError
from normwise.lab.comparison import Comparison, comparing
from normwise.lab.comparison.arms import Trial
from normwise.lab.comparison.found import Decision, Needed
from normwise.lab.comparison.rows import Rows
from normwise.lab.comparison.trainer import WARM_UP, Outcome, ways
from tests.lab.comparison.test_comparing import ROWS, SECONDS_PER_STEP, MadeUp, Truth

VALUES = Rows(np.zeros((500, 2), np.float32), np.random.default_rng(0).normal(5, 2, 500).astype(np.float32))
Row = Callable[[Trial, np.random.Generator], np.ndarray]


class ByRow(MadeUp):
    """A trainer whose every test row is drawn by a function; what belongs to the seed is the generator's.

    Args:
        rows: the test scores of a trial, from a generator of its arm and seed.
        breaks: whether a trial raises.
        peak: steps from which on more of them do not help.
    """

    def __init__(self, rows: Row, breaks: Callable[[Trial], bool] = lambda _: False, peak: float = math.inf) -> None:
        super().__init__(lambda *_: 50.0)
        self.where = ("as built",)
        self._row, self._breaks, self._peak = rows, breaks, peak

    def train(self, trial: Trial) -> Outcome:
        """Draw the rows."""
        if trial == WARM_UP:
            return Outcome()
        self.trials.append(trial)
        self.now += 0.05 + trial.steps * SECONDS_PER_STEP
        if self._breaks(trial):
            raise NormwiseError("MODEL cannot be trained with it: RuntimeError: out of memory.")
        outcome = Outcome(per_step=SECONDS_PER_STEP)
        for way in ways(trial.arm, final=trial.final):
            outcome.validation[way] = 50 + min(trial.steps, self._peak) / 1000
            if trial.final:
                scores = self._row(trial, np.random.default_rng([trial.seed, *trial.arm.normalizer.encode()]))
                outcome.test[way] = scores.tolist() if np.isfinite(scores).all() else None
        return outcome


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Comparison]:
    """Compare batch norm with group norm at one rate, by a made-up trainer."""

    def compare(trainer: MadeUp, rows: Rows = ROWS, budget: float = 8.0, **how: Any) -> Comparison:
        monkeypatch.setattr(comparing, "trainer_for", lambda *_: trainer)
        how = {"normalizers": ["batch", "group"], "rates": [0.1], "where": False, **how}
        return comparing.compare(lambda: None, rows, budget=budget, clock=lambda: trainer.now, **how)

    return compare


ARMS = r"group at rate 0\.1, batches of 32 against batch at rate 0\.1, batches of 32"
NUMBER = r"[+-]\d[\d.e+-]*"
POINTS = rf"{NUMBER} points \[{NUMBER}, {NUMBER}\]"


def right(share: float, better: float = 0.0) -> Row:
    """A row of which a share is right, each row by chance alone; of group norm more."""

    def rows(trial: Trial, generator: np.random.Generator) -> np.ndarray:
        return 100.0 * (generator.random(100) < share + better * (trial.arm.normalizer == "group"))

    return rows


def test_a_clear_difference_says_which_is_better_or_worse_and_by_how_much(run: Callable[..., Comparison]) -> None:
    better, worse = run(ByRow(right(0.6, 0.35))), run(ByRow(right(0.95, -0.35)))
    assert (better.decision, worse.decision) == (Decision.DIFFERENT, Decision.DIFFERENT)
    assert re.fullmatch(
        rf"Take group at rate 0\.1, batches of 32: it is better, {POINTS} against batch at rate 0\.1, batches of 32\.",
        better.recommendation,
    )
    assert re.fullmatch(
        rf"Keep batch at rate 0\.1, batches of 32: group at rate 0\.1, batches of 32 is worse, {POINTS} against it\.",
        worse.recommendation,
    )
    assert better.needed is None


def alike(trial: Trial, _: np.random.Generator) -> np.ndarray:
    """The same rows are right whatever the arm, three in four."""
    return 100.0 * (np.random.default_rng([trial.seed]).random(100) < 0.75)


def test_an_interval_within_the_margin_is_equivalent_and_the_margin_is_said(run: Callable[..., Comparison]) -> None:
    found = run(ByRow(alike))
    assert (found.decision, found.margin, found.effect.value) == (Decision.EQUIVALENT, 1.0, 0.0)
    assert re.fullmatch(
        rf"Equivalent within 1 point: {ARMS}: {POINTS}; keep the model's batch norm as it is\.", found.recommendation
    )
    assert "Differences within 1 point count as none (--margin)." in found.evidence


def test_a_difference_that_is_visible_but_within_the_margin_is_said_to_be_both(run: Callable[..., Comparison]) -> None:
    found = run(ByRow(right(0.6, 0.3)), margin=60)
    assert found.visible
    assert found.decision is Decision.EQUIVALENT
    assert re.fullmatch(
        rf"Equivalent within 60 points: {ARMS}: {POINTS}, a difference that is visible but too small to matter; "
        r"keep the model's batch norm as it is\.",
        found.recommendation,
    )


def test_a_wide_interval_is_undecided_and_the_seeds_that_it_asks_for_decide(
    run: Callable[..., Comparison], tmp_path: Path
) -> None:
    trainer = ByRow(right(0.7, 0.06))
    found = run(trainer, out=tmp_path)
    assert found.decision is Decision.UNDECIDED
    assert not found.visible
    assert re.fullmatch(
        rf"Undecided: {ARMS}: {POINTS}, an interval that contains 0 and is not within 1 point; "
        r"to decide it needs about [\d.]+ times the budget: --budget \d+s --seeds \d+\.",
        found.recommendation,
    )
    asked = re.search(r"--budget (\d+)s --seeds (\d+)", found.recommendation)
    assert asked
    assert found.needed is not None
    assert found.needed.seeds == int(asked[2]) > found.seeds
    again = run(trainer, out=tmp_path, budget=float(asked[1]), seeds=int(asked[2]))
    assert (again.steps, again.seeds) == (found.steps, found.needed.seeds)
    assert again.kept == len(trainer.trials) - 2 * (again.seeds - found.seeds)  # what is there is not trained again
    assert trainer.now <= 1.1 * float(asked[1])
    width, before = again.effect.high - again.effect.low, found.effect.high - found.effect.low
    wanted = max(abs(found.effect.value), 1 - abs(found.effect.value))
    assert width < 0.8 * before
    assert width / 2 == pytest.approx(wanted, rel=0.3)


def test_the_same_budget_can_be_enough(run: Callable[..., Comparison]) -> None:
    trainer = ByRow(right(0.7, 0.06), peak=80)
    found = run(trainer, budget=1000.0)
    assert found.decision is Decision.UNDECIDED
    assert found.remarks[-1].endswith(": the rest of the budget was not used.")
    assert re.search(
        r"; the same budget is enough to decide with more paired seeds: --seeds \d+\.$", found.recommendation
    )
    assert found.needed is not None
    assert found.needed.times == 1.0
    assert trainer.now < 1000


def test_where_only_more_rows_can_decide_it_says_so(run: Callable[..., Comparison]) -> None:
    hard = np.random.default_rng(3).random(100)

    def rows(trial: Trial, _: np.random.Generator) -> np.ndarray:
        group = trial.arm.normalizer == "group"
        return 100.0 * ((hard < 0.8) & (hard > 0.1) if group else hard < 0.7)  # the same for every seed

    found = run(ByRow(rows))
    assert found.decision is Decision.UNDECIDED
    assert re.search(
        r"; more seeds cannot decide it, as the test rows are too few: it would take about [\d.]+ times as many rows "
        r"of data\.$",
        found.recommendation,
    )


def test_what_is_out_of_reach_gets_no_number(run: Callable[..., Comparison]) -> None:
    def rows(_: Trial, generator: np.random.Generator) -> np.ndarray:
        return 100.0 * (generator.permutation(100) < 70)  # as many are right in every trial, but never the same

    found = run(ByRow(rows), margin=0.01)
    assert found.decision is Decision.UNDECIDED
    assert found.needed == Needed()
    assert found.recommendation.endswith("; to decide it would take more than 100 times the budget or the rows.")


def test_models_at_chance_are_named_and_nothing_is_recommended(run: Callable[..., Comparison]) -> None:
    found = run(ByRow(right(0.5)))
    assert found.decision is Decision.AT_CHANCE
    assert re.fullmatch(
        r"No recommendation, as both models are at chance: group at rate 0\.1, batches of 32 has \S+ % \[\S+, \S+\], "
        r"batch at rate 0\.1, batches of 32 has \S+ % \[\S+, \S+\], and neither is visibly better than always "
        r"answering the most common class, which is right for \S+ % of the test rows; give a larger --budget or other "
        r"--rates, or look at the data\.",
        found.recommendation,
    )
    assert found.constant == pytest.approx(50, abs=10)


def test_nine_in_ten_is_chance_where_nine_in_ten_are_of_one_class(run: Callable[..., Comparison]) -> None:
    uneven = Rows(ROWS.inputs, (np.arange(500) % 10 == 0).astype(np.int64))
    found = run(ByRow(right(0.9)), uneven)
    assert found.decision is Decision.AT_CHANCE
    assert run(ByRow(right(0.9)), ROWS).decision is not Decision.AT_CHANCE
    assert found.constant == pytest.approx(90, abs=6)


def test_one_that_learned_and_one_at_chance_are_different(run: Callable[..., Comparison]) -> None:
    found = run(ByRow(right(0.5, 0.4)))
    assert found.recommendation.startswith("Take group")
    (line,) = [line for line in found.evidence if line.endswith(", not visibly better than chance")]
    assert line.startswith("* batch at rate 0.1, batches of 32, running averages of training: ")


def nan_where(*failing: str, share: float = 0.9) -> Row:
    """Group norm and batch norm fail on their first seed if they are named, else so many rows are right."""

    def rows(trial: Trial, generator: np.random.Generator) -> np.ndarray:
        if trial.seed == 100 and trial.arm.normalizer in failing:
            return np.full(100, np.nan)
        return 100.0 * (generator.random(100) < share)

    return rows


NAN = "has seeds whose loss became infinite or NaN"


@pytest.mark.parametrize(
    ("failing", "share", "sentence"),
    [
        (("group",), 0.9, f"Keep batch at rate 0.1, batches of 32: group at rate 0.1, batches of 32 {NAN}."),
        (("batch",), 0.9, f"Take group at rate 0.1, batches of 32: batch at rate 0.1, batches of 32 {NAN}."),
        (
            ("batch", "group"),
            0.9,
            f"No recommendation, as both models failed: group at rate 0.1, batches of 32 {NAN} and "
            f"batch at rate 0.1, batches of 32 {NAN}; try smaller --rates.",
        ),
        (
            ("group",),
            0.5,
            f"No recommendation: group at rate 0.1, batches of 32 {NAN}, and batch at rate 0.1, batches of 32 is not "
            "visibly better than always answering the most common class, which is right for CHANCE % of the test "
            "rows; try smaller --rates or a larger --budget.",
        ),
    ],
)
def test_an_arm_that_fails_is_not_recommended(
    failing: tuple[str, ...], share: float, sentence: str, run: Callable[..., Comparison]
) -> None:
    found = run(ByRow(nan_where(*failing, share=share)))
    assert found.decision is Decision.FAILED
    assert found.recommendation == sentence.replace("CHANCE", f"{found.constant:.4g}")
    assert found.needed is None
    plain = json.loads(found.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert plain["effect"]["value"] is None
    assert plain["decision"] == "failed"


def test_an_arm_that_raises_in_the_last_comparison_only_is_said_with_its_error(run: Callable[..., Comparison]) -> None:
    found = run(ByRow(right(0.9), breaks=lambda trial: trial.final and trial.arm.normalizer == "group"))
    assert found.decision is Decision.FAILED
    assert found.recommendation == (
        "Keep batch at rate 0.1, batches of 32: group at rate 0.1, batches of 32 has seeds that could not be trained "
        "(MODEL cannot be trained with it: RuntimeError: out of memory)."
    )


def squares(error: float, better: float = 0.0) -> Row:
    """Squared errors with that mean; those of group norm are smaller."""

    def rows(trial: Trial, generator: np.random.Generator) -> np.ndarray:
        scale = error - better * (trial.arm.normalizer == "group")
        return -scale * generator.chisquare(20, 100) / 20

    return rows


ERROR = rf"{NUMBER} of mean square error \[{NUMBER}, {NUMBER}\]"


def test_errors_of_values_are_shown_as_errors_and_chance_is_the_mean(run: Callable[..., Comparison]) -> None:
    test = VALUES.split(0)[2]
    rest = np.setdiff1d(np.arange(500), test)
    mean = VALUES.targets[rest].astype(np.float64).mean()
    variance = float(np.square(VALUES.targets[test] - mean).mean())
    better = run(ByRow(squares(2.0, 1.0)), VALUES)
    assert better.constant == pytest.approx(-variance)
    assert better.margin == pytest.approx(variance / 100)
    assert better.effect.low > 0
    assert re.fullmatch(
        rf"Take group at rate 0\.1, batches of 32: it is better, {ERROR} against batch at rate 0\.1, batches of 32\.",
        better.recommendation,
    )
    assert " is better, -" in better.recommendation  # a smaller error
    assert f"Chance level: always answering the mean of the targets, whose mean square error is {variance:.4g}." in (
        better.evidence
    )
    chance = run(ByRow(squares(variance)), VALUES)
    assert chance.decision is Decision.AT_CHANCE
    assert "neither is visibly better than always answering the mean of the targets" in chance.recommendation
    same = run(ByRow(lambda *_: np.full(100, -1.0)), VALUES)
    assert same.decision is Decision.EQUIVALENT
    assert same.recommendation.startswith(f"Equivalent within {variance / 100:.3g} of mean square error: group at ")
    assert run(ByRow(squares(2.0)), VALUES).decision is Decision.UNDECIDED


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"margin": 0.0}, "the margin must be above 0 and finite, received 0: pass for example 1."),
        ({"margin": math.inf}, "the margin must be above 0 and finite, received inf: pass for example 1."),
        ({"margin": math.nan}, "the margin must be above 0 and finite, received nan: pass for example 1."),
        ({"seeds": 4}, "an interval of 95 % needs 5 paired seeds or more, received 4: pass for example 10."),
        ({"seeds": 1}, "an interval of 95 % needs 5 paired seeds or more, received 1: pass for example 10."),
        ({"seeds": -3}, "an interval of 95 % needs 5 paired seeds or more, received -3: pass for example 10."),
    ],
)
def test_a_margin_or_seeds_that_cannot_be_are_one_sentence(
    how: dict[str, Any], sentence: str, run: Callable[..., Comparison]
) -> None:
    with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
        run(ByRow(alike), **how)


def test_what_inference_statistics_change_has_a_word_that_fits_its_interval(run: Callable[..., Comparison]) -> None:
    def truth(recalibrated: float) -> Truth:
        return lambda _trial, way: 60 + recalibrated * (way == "recalibrated") + 30 * (way == "batch")

    def words(trainer: MadeUp, **how: Any) -> list[str]:
        found = run(trainer, **how).evidence
        return re.findall(r"recalibrated: \S+ % \[\S+, \S+\] \((\w+), ", "\n".join(found))[-1:]

    assert words(MadeUp(truth(30))) == ["better"]
    assert words(MadeUp(truth(-30))) == ["worse"]
    assert words(MadeUp(truth(0))) == ["equivalent"]
    assert words(MadeUp(truth(0.5))) == ["undecided"]
