"""The comparison on made-up trainers, whose truth is known and whose time is counted, not waited for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normwise.errors import NormwiseError, UnknownName
from normwise.lab.comparison import Comparison, comparing
from normwise.lab.comparison.arms import Arm, Trial, arms, groups
from normwise.lab.comparison.found import NothingTrained
from normwise.lab.comparison.rows import Rows
from normwise.lab.comparison.trainer import WARM_UP, Outcome, ways

ROWS = Rows(np.zeros((500, 2), np.float32), np.arange(500) % 2)
SECONDS_PER_STEP = 0.01
Truth = Callable[[Trial, str], float]


class MadeUp:
    """A trainer whose scores follow from a formula, with noise that belongs to the seed.

    Args:
        truth: the score of a trial with some inference statistics, between 0 and 100.
        broken: normalizers that raise.
        killed_after: so many trials somebody presses Ctrl-C.
    """

    framework = "made up 1.0"
    remarks = ("Something is not compared.",)

    def __init__(self, truth: Truth, broken: Sequence[str] = (), killed_after: int = 10**9) -> None:
        self.where: tuple[str, ...] = ("as built", "after")
        self.fingerprint: list[Any] = ["made up"]
        self.trials: list[Trial] = []
        self.now = 0.0
        self._truth, self._broken, self._left = truth, broken, killed_after

    def train(self, trial: Trial) -> Outcome:
        """Count the time, and answer by the formula."""
        if trial == WARM_UP:
            return Outcome()
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        self.trials.append(trial)
        self.now += 0.05 + trial.steps * SECONDS_PER_STEP
        if trial.arm.normalizer in self._broken:
            raise NormwiseError(f"MODEL cannot be trained with {trial.arm.words()}: ValueError: no.")
        generator = np.random.default_rng([trial.seed, trial.steps])
        noise = generator.normal()
        outcome = Outcome(per_step=SECONDS_PER_STEP)
        test = len(ROWS.split(0)[2])
        for way in ways(trial.arm, final=trial.final):
            score = self._truth(trial, way)
            outcome.validation[way] = None if math.isnan(score) else score + noise
            if trial.final:
                draws = np.random.default_rng([trial.seed, 7]).random(test) * 100
                outcome.test[way] = None if math.isnan(score) else (100.0 * (draws < score)).tolist()
        return outcome


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Comparison]:
    """Compare with a made-up trainer."""

    def compare(trainer: MadeUp, budget: float = 60.0, out: Path | None = None, **how: Any) -> Comparison:
        monkeypatch.setattr(comparing, "trainer_for", lambda *_: trainer)
        how = {"normalizers": ["none", "batch", "group"], "rates": [0.01, 0.1], **how}
        return comparing.compare(lambda: None, ROWS, budget=budget, out=out, clock=lambda: trainer.now, **how)

    return compare


def rising(better: str = "", by: float = 0.0) -> Truth:
    """Scores that rise with the steps, at one rate more than at the other."""

    def truth(trial: Trial, _way: str) -> float:
        score = 90 - 400 / trial.steps - 5 * (trial.arm.rate < 0.1) - 10 * (trial.arm.where == "after")
        return score + by * (trial.arm.normalizer == better)

    return truth


def test_what_is_better_is_found_with_its_evidence(run: Callable[..., Comparison]) -> None:
    found = run(MadeUp(rising("group", 8.0)))
    assert found.visible
    assert found.best.arm == Arm("group", "as built", 0.1, 32)
    assert found.own.arm == Arm("batch", "as built", 0.1, 32)
    assert found.effect.low > 0
    assert found.effect.unit == "points"
    assert re.fullmatch(
        r"Take group at rate 0\.1, batches of 32: it is better, \+\S+ points \[\+\S+, \+\S+\] against batch at rate "
        r"0\.1, batches of 32\.",
        found.recommendation,
    )
    assert found.evidence[0].startswith(f"{found.seeds} paired seeds of {found.steps} steps on 100 test rows")
    assert (
        found.evidence[1]
        == "The two were chosen from 10 settings on validation rows; the test rows had no part in that."
    )
    assert found.remarks[0] == "Something is not compared."


def test_what_is_worse_is_left_alone(run: Callable[..., Comparison]) -> None:
    found = run(MadeUp(rising("batch", 8.0)), where=False)
    assert found.effect.high < 0
    assert found.recommendation.startswith("Keep batch at rate 0.1, batches of 32: ")


def test_what_is_the_same_is_said_to_be_the_same(run: Callable[..., Comparison]) -> None:
    found = run(MadeUp(rising()))
    assert not found.visible
    assert found.effect.value == 0
    assert found.recommendation.startswith(
        "Equivalent within 1 point: none at rate 0.1, batches of 32 against batch at "
    )
    assert found.recommendation.endswith("; keep the model's batch norm as it is.")


def test_the_other_side_of_the_activation_can_win(run: Callable[..., Comparison]) -> None:
    def truth(trial: Trial, _way: str) -> float:
        return 90 - 400 / trial.steps + 8 * (trial.arm.where == "after")

    found = run(MadeUp(truth), normalizers=["batch"])
    assert found.recommendation.startswith("Take batch after the activation at rate ")


def test_inference_statistics_are_recommended_where_they_are_visibly_better(run: Callable[..., Comparison]) -> None:
    def truth(trial: Trial, way: str) -> float:
        return 80 - 400 / trial.steps + (10 if way in ("recalibrated", "batch") else 0)

    found = run(MadeUp(truth), where=False)
    assert found.own.statistics == "recalibrated"
    change = found.own.against_running["recalibrated"]
    assert change is not None
    assert change.low > 0
    assert ", and recalibrate its statistics after training" in found.recommendation
    assert any("statistics of the test batch: not usable for single samples" in line for line in found.evidence)
    assert run(MadeUp(rising()), where=False).own.statistics == "running"


def test_the_budget_is_kept_and_a_larger_one_trains_longer(run: Callable[..., Comparison]) -> None:
    small, large = MadeUp(rising("group", 8.0)), MadeUp(rising("group", 8.0))
    first, second = run(small, budget=30.0), run(large, budget=300.0)
    assert small.now <= 30.0 * 1.1
    assert large.now <= 300.0 * 1.1
    assert second.steps > first.steps
    assert min(first.seeds, second.seeds) >= 5


def test_an_arm_is_trained_once_for_every_number_of_steps(run: Callable[..., Comparison]) -> None:
    trainer = MadeUp(rising("group", 8.0))
    run(trainer, budget=300.0)
    assert len(trainer.trials) == len(set(trainer.trials))


def test_the_rest_of_the_budget_is_not_used_where_steps_no_longer_help(run: Callable[..., Comparison]) -> None:
    trainer = MadeUp(lambda trial, _: 90 - trial.steps / 100)
    found = run(trainer, budget=3000.0)
    assert trainer.now < 600
    assert re.fullmatch(
        r"The best validation scores are no higher with \d+ steps than with \d+: the rest of the budget was not used\.",
        found.remarks[-1],
    )


def test_a_killed_run_goes_on_and_a_larger_budget_begins_where_the_smaller_ended(
    run: Callable[..., Comparison], tmp_path: Path
) -> None:
    whole = run(MadeUp(rising("group", 8.0)), budget=100.0)
    killed = MadeUp(rising("group", 8.0), killed_after=15)
    with pytest.raises(KeyboardInterrupt):
        run(killed, budget=100.0, out=tmp_path)
    assert len([*tmp_path.glob("trials/comparison/*.json")]) == 15
    after = MadeUp(rising("group", 8.0))
    found = run(after, budget=100.0, out=tmp_path)
    assert found.kept == 15
    assert not {*killed.trials} & {*after.trials}
    assert (found.recommendation, found.evidence) == (whole.recommendation, whole.evidence)
    assert found.seconds == pytest.approx(whole.seconds, abs=0.2)
    again = MadeUp(rising("group", 8.0))
    assert run(again, budget=100.0, out=tmp_path).effect == found.effect
    assert again.trials == []
    larger = run(again, budget=500.0, out=tmp_path)
    assert larger.steps > found.steps
    assert not {*again.trials} & {*killed.trials, *after.trials}


def test_trials_of_another_model_or_of_other_rows_are_not_taken(run: Callable[..., Comparison], tmp_path: Path) -> None:
    run(MadeUp(rising()), out=tmp_path)
    other = MadeUp(rising())
    other.fingerprint = ["another"]
    assert run(other, out=tmp_path).kept == 0


def test_a_budget_that_is_too_small_says_what_is_needed_and_what_was_finished_stays(
    run: Callable[..., Comparison], tmp_path: Path
) -> None:
    with pytest.raises(NormwiseError) as caught:
        run(MadeUp(rising()), budget=2.0, out=tmp_path)
    said = re.fullmatch(
        r"a budget of 2 s is too small for 10 settings, which need about (\d+) s: give a larger budget, or fewer "
        r"normalizers, rates"
        r", batch sizes or seeds\.",
        str(caught.value),
    )
    assert said
    assert [*tmp_path.glob("trials/comparison/*.json")]
    assert run(MadeUp(rising()), budget=float(said[1]), out=tmp_path).kept == 5


def test_a_model_that_does_not_train_is_one_sentence_and_what_was_finished_stays(
    run: Callable[..., Comparison], tmp_path: Path
) -> None:
    sentence = (
        "no arm of {} trained: the loss became infinite or NaN at every rate from 0.01 to 0.1: try smaller rates, and "
        "look at the data for values that are too large."
    )
    for who, trains in (("the model as it was built", "group"), ("the others", "batch")):

        def truth(trial: Trial, _way: str, trains: str = trains) -> float:
            return 50 if trial.arm.normalizer == trains else math.nan

        trainer = MadeUp(truth)
        with pytest.raises(NothingTrained, match=f"^{re.escape(sentence.format(who))}$"):
            run(trainer, where=False, out=tmp_path / trains)
        assert len([*(tmp_path / trains).glob("trials/comparison/*.json")]) == len(trainer.trials) > 0
        assert not any(trial.final for trial in trainer.trials)


def test_seeds_that_fail_in_the_end_are_said(run: Callable[..., Comparison]) -> None:
    def truth(trial: Trial, _way: str) -> float:
        return math.nan if trial.final and trial.arm.normalizer != "batch" else 80

    found = run(MadeUp(truth), where=False)
    assert not found.visible
    assert re.fullmatch(
        r"Keep batch at rate \S+, batches of 32: \w+ at rate \S+, batches of 32 has seeds whose loss became infinite "
        r"or NaN\.",
        found.recommendation,
    )


def test_a_normalizer_that_cannot_take_the_place_is_left_out(run: Callable[..., Comparison]) -> None:
    trainer = MadeUp(rising(), broken=["group"])
    found = run(trainer, where=False)
    assert found.arms == 4
    assert "Left out: MODEL cannot be trained with group at rate 0.01, batches of 32: ValueError: no." in found.remarks
    with pytest.raises(NormwiseError, match=r"^MODEL cannot be trained with batch at rate 0\.01, batches of 32: Val"):
        run(MadeUp(rising(), broken=["batch"]), where=False)
    with pytest.raises(NormwiseError, match=r"^nothing is left to compare batch norm with: MODEL cannot be trained "):
        run(MadeUp(rising(), broken=["none", "group"]), where=False)


SIZES = "a batch must have 2 rows or more, received 1: pass for example 32."
RATE = "a learning rate must be above 0 and finite, received 0: pass for example 0.1."


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (
            {"normalizers": ["group"]},
            "the normalizers must be 'batch' and at least one other to compare it with, received group: name for "
            "example batch,group.",
        ),
        (
            {"normalizers": ["batch"], "where": False},
            "the normalizers must be 'batch' and at least one other to compare it with, received batch: name ",
        ),
        ({"batches": [1]}, SIZES),
        ({"rates": [0.0]}, RATE),
        (
            {"batches": [301]},
            "a batch of 301 rows is larger than the 300 rows for training: give a smaller batch size.",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    how: dict[str, Any], sentence: str, run: Callable[..., Comparison]
) -> None:
    trainer = MadeUp(rising())
    with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}"):
        run(trainer, **how)
    assert trainer.trials == []


def test_an_unknown_normalizer_is_told_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'batch'"):
        arms(["batsh"], ["as built"], [0.1], [32])


def test_without_a_normalization_there_is_nothing_to_move() -> None:
    found = arms(["none", "batch"], ["as built", "after"], [0.1], [32])
    assert [(arm.normalizer, arm.where) for arm in found] == [
        ("none", "as built"),
        ("batch", "as built"),
        ("batch", "after"),
    ]


def test_groups_divide_the_channels_and_have_eight_of_them() -> None:
    assert [groups(n) for n in (8, 64, 512, 20, 7)] == [1, 8, 32, 2, 1]


def test_something_else_than_a_model_is_refused() -> None:
    sentence = "MODEL must build a torch.nn.Module or a Keras model, received int: return the model."
    with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
        comparing.compare(lambda: 3, ROWS, budget=1.0)
