"""Runs are resumed, repeated and refused as they should be; whatever happens, the numbers are the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from normwise import lab
from normwise.errors import NormwiseError, UnknownName
from normwise.lab.results import Conclusion, Result, from_json
from normwise.lab.running.workers import Task, work

Make = Callable[..., Path]
NAME = "does_it_end"
IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from normwise import lab
if __name__ == "__main__":
    lab.run([], out=Path(sys.argv[1]), folder=Path(sys.argv[2]), workers=2)
"""


class Diary:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int, int]] = []
        self.seconds: list[float] = []
        self.trials: list[str] = []
        self.results: list[Result] = []

    def on_plan(self, trials: Mapping[str, tuple[int, int]], workers: int) -> None:
        assert workers > 0
        self.started += [(name, total, done) for name, (total, done) in trials.items()]

    def on_trial_done(self, experiment: str, trial: str, seconds: float) -> None:
        self.seconds.append(seconds)
        self.trials.append(f"{experiment}: {trial}")

    def on_result(self, result: Result) -> None:
        self.results.append(result)


@pytest.fixture
def diary() -> Diary:
    return Diary()


def measured(out: Path) -> dict[str, object]:
    """Outcome by trial, from the files of a run."""
    kept = [json.loads(path.read_text("utf-8")) for path in out.glob("trials/*/*.json")]
    return {json.dumps(each["trial"], sort_keys=True): each["outcome"] for each in kept}


def conclude(out: Path, folder: Path, *, workers: int = 2) -> Conclusion:
    (result,) = lab.run([NAME], out=out, folder=folder, workers=workers)
    return result.conclusion


def test_a_run_stores_trials_and_result_and_tells_the_progress(make: Make, tmp_path: Path, diary: Diary) -> None:
    (result,) = lab.run([NAME], seeds=3, out=tmp_path / "out", folder=make(), progress=diary)
    assert diary.started == [(NAME, 6, 0)]
    assert len(diary.trials) == 6
    assert f"{NAME}: rate=0.1, seed=2" in diary.trials
    assert diary.results == [result]
    assert len(measured(tmp_path / "out")) == 6
    assert from_json((tmp_path / "out" / "results" / f"{NAME}.json").read_text("utf-8")) == result
    assert result.seeds == (0, 1, 2)
    assert (result.says, result.topic) == ("Somebody 2015", "optimization")
    assert result.settings == {"rates": [0.1, 0.2], "seconds": 0.0}
    assert result.command == f"normwise lab run {NAME} --seeds 3"
    assert {
        "normwise",
        "torch",
        "numpy",
        "sklearn",
        "python",
        "device",
        "workers",
        "threads",
        "date",
        "seconds",
    } <= set(result.stamp)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", result.stamp["date"])


def test_what_is_finished_is_not_run_again(make: Make, tmp_path: Path, diary: Diary) -> None:
    folder, out = make(), tmp_path / "out"
    (first,) = lab.run([NAME], out=out, folder=folder)
    (second,) = lab.run([NAME], out=out, folder=folder, progress=diary)
    assert first == second  # the date of the stamp included
    assert diary.started == [(NAME, 10, 10)]
    assert diary.trials == []


def test_more_seeds_and_the_full_grid_run_only_what_is_missing(make: Make, tmp_path: Path, diary: Diary) -> None:
    folder, out = make(), tmp_path / "out"
    lab.run([NAME], seeds=2, out=out, folder=folder)
    lab.run([NAME], seeds=4, out=out, folder=folder, progress=diary)
    assert diary.started == [(NAME, 8, 4)]
    (result,) = lab.run([NAME], seeds=2, full=True, out=out, folder=folder, progress=diary)
    assert diary.started[1] == (NAME, 6, 0)  # other settings: nothing is taken over
    assert result.settings["rates"] == [0.1, 0.2, 0.4]
    assert result.command.endswith("--seeds 2 --full")


def test_a_quick_run_takes_three_seeds_and_the_quick_settings_where_there_are_some(make: Make, tmp_path: Path) -> None:
    (plain,) = lab.run([NAME], quick=True, out=tmp_path / "out", folder=make())
    assert (plain.seeds, plain.settings["rates"]) == ((0, 1, 2), [0.1, 0.2])
    folder = make(more="QUICK = Settings(rates=(0.1, 0.4))\n")
    (small,) = lab.run([NAME], quick=True, out=tmp_path / "out", folder=folder)
    assert (small.seeds, small.settings["rates"]) == ((0, 1, 2), [0.1, 0.4])
    assert small.command == f"normwise lab run {NAME} --seeds 3 --quick"


def test_quick_and_full_at_once_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(NormwiseError) as error:
        lab.run([NAME], quick=True, full=True, out=tmp_path / "out", folder=make())
    assert str(error.value) == "a run is either quick or full: got both; leave one of them out."


@pytest.mark.parametrize(("old", "new"), [("pass", "assert trial"), ("mean(numbers[1]", "mean(numbers[-1]")])
def test_other_code_of_the_experiment_runs_everything_again(
    make: Make, tmp_path: Path, diary: Diary, old: str, new: str
) -> None:
    folder, out = make(), tmp_path / "out"
    lab.run([NAME], out=out, folder=folder)
    edit(folder / f"{NAME}.py", old, new)
    lab.run([NAME], out=out, folder=folder, progress=diary)
    assert diary.started == [(NAME, 10, 0)]


@pytest.mark.parametrize(("old", "new"), [("pass", "pass  # a comment"), ("\ndef run", "\n\n\ndef run")])
def test_a_comment_or_another_layout_runs_nothing_again(
    make: Make, tmp_path: Path, diary: Diary, old: str, new: str
) -> None:
    folder, out = make(), tmp_path / "out"
    (first,) = lab.run([NAME], out=out, folder=folder)
    edit(folder / f"{NAME}.py", old, new)
    (second,) = lab.run([NAME], out=out, folder=folder, progress=diary)
    assert first == second
    assert diary.started == [(NAME, 10, 10)]


def test_other_words_of_the_docstring_come_into_the_result_and_run_nothing_again(
    make: Make, tmp_path: Path, diary: Diary
) -> None:
    folder, out = make(), tmp_path / "out"
    (first,) = lab.run([NAME], out=out, folder=folder)
    edit(folder / f"{NAME}.py", "Somebody says so.", "Somebody else says so.")
    (second,) = lab.run([NAME], out=out, folder=folder, progress=diary)
    assert diary.trials == []
    assert (first.claim, second.claim) == ("Somebody says so.", "Somebody else says so.")
    assert first.conclusion == second.conclusion


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


@pytest.mark.parametrize("damage", ["", '{"trial', '{"trial": {}}', "[]"])
def test_a_damaged_trial_is_run_again(make: Make, tmp_path: Path, diary: Diary, damage: str) -> None:
    folder, out = make(), tmp_path / "out"
    before = conclude(out, folder)
    (out / "results" / f"{NAME}.json").unlink()
    sorted(out.glob("trials/*/*.json"))[3].write_text(damage, "utf-8")
    (result,) = lab.run([NAME], out=out, folder=folder, progress=diary)
    assert diary.started == [(NAME, 10, 9)]
    assert result.conclusion == before


def test_a_trial_whose_numbers_were_changed_is_run_again(make: Make, tmp_path: Path, diary: Diary) -> None:
    folder, out = make(), tmp_path / "out"
    before = conclude(out, folder)
    (out / "results" / f"{NAME}.json").write_text("{}", "utf-8")
    path = next(iter(out.glob("trials/*/*.json")))
    path.write_text(path.read_text("utf-8").replace('"number": 0.', '"number": 1.'), "utf-8")
    (result,) = lab.run([NAME], out=out, folder=folder, progress=diary)
    assert diary.started == [(NAME, 10, 9)]
    assert result.conclusion == before


def started(tmp_path: Path, folder: Path, *, after: int) -> tuple[subprocess.Popen[str], Path]:
    """A run in a process group of its own, that has stored some trials."""
    out = tmp_path / "interrupted"
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(out), str(folder)]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        text=True,
        stderr=subprocess.PIPE,
    )
    give_up = time.monotonic() + 120
    while len(list(out.glob("trials/*/*.json"))) < after:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return process, out


def group_is_gone(group: int) -> bool:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_run_continues_and_gives_the_numbers_of_an_uninterrupted_one(
    make: Make, tmp_path: Path, diary: Diary, after: int
) -> None:
    folder = make(seconds=0.15)
    process, out = started(tmp_path, folder, after=after)
    time.sleep(0.1 * (os.getpid() % 10) / 10)  # somewhere inside a trial
    process.kill()  # the parent alone: nobody is left to tell the workers
    process.communicate()
    assert group_is_gone(process.pid), "workers outlive their parent"
    kept = len(measured(out))
    assert after <= kept < 10
    (result,) = lab.run([NAME], out=out, folder=folder, workers=2, progress=diary)
    assert diary.started == [(NAME, 10, kept)]
    assert result.conclusion == conclude(tmp_path / "uninterrupted", folder, workers=1)
    assert measured(out) == measured(tmp_path / "uninterrupted")


def test_an_interrupt_ends_at_once_and_keeps_what_is_finished(make: Make, tmp_path: Path) -> None:
    folder = make(deed="time.sleep(0 if trial.seed == 0 else 60)")
    process, out = started(tmp_path, folder, after=1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
    began = time.monotonic()
    _, error = process.communicate(timeout=120)
    assert time.monotonic() - began < 40  # and not the minute of a trial
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert error.count("Traceback") == 1  # the workers are silent
    assert group_is_gone(process.pid)
    assert measured(out)
    assert not list(out.glob("**/.unfinished-*"))


def test_a_trial_that_raises_is_named_and_the_others_are_kept(make: Make, tmp_path: Path) -> None:
    folder = make(deed="assert (trial.rate, trial.seed) != (0.2, 1), 'too\\n steep'")
    with pytest.raises(lab.TrialFailed) as error:
        lab.run([NAME], seeds=2, out=tmp_path / "out", folder=folder, workers=1)
    assert str(error.value) == (
        "experiment 'does_it_end' failed in trial rate=0.2, seed=1 with AssertionError: too steep; "
        "finished trials are kept."
    )
    assert len(measured(tmp_path / "out")) == 3


@pytest.mark.parametrize("times", [True, False])
def test_trials_that_measure_times_run_alone(make: Make, tmp_path: Path, times: bool) -> None:
    diary = tmp_path / "diary"
    diary.mkdir()
    write = f"open({str(diary)!r} + f'/{{trial}}', 'w').write(f'{{began}} {{time.time()}}')"
    deed = f"began = time.time(); time.sleep(0.2); {write}"
    folder = make(deed=deed, more=f"TIMES = {times}\n")
    make("is_it_so", deed=deed.replace("{trial}", "other {trial}"))
    lab.run([], seeds=2, out=tmp_path / "out", folder=folder, workers=2)
    spans = {path.name: tuple(map(float, path.read_text("utf-8").split())) for path in diary.iterdir()}
    assert len(spans) == 8
    beside = {
        one
        for one, (begin, end) in spans.items()
        for other, (start, stop) in spans.items()
        if one != other and begin < stop and start < end
    }
    timed = {name for name in spans if not name.startswith("other")}
    assert bool(beside & timed) is not times
    assert beside - timed  # two workers do work side by side


def test_a_worker_that_dies_is_reported(make: Make, tmp_path: Path) -> None:
    folder = make(deed="import os; os._exit(9)")
    with pytest.raises(lab.TrialFailed, match=r"^a process that worked on experiment 'does_it_end' died: "):
        lab.run([NAME], seeds=2, out=tmp_path / "out", folder=folder, workers=1)


def test_an_outcome_that_json_cannot_hold_is_refused(make: Make) -> None:
    folder = make(deed="return {'number': trial}")
    done = work(Task(NAME, folder, {}, {"rate": 0.1, "seed": 0}))
    assert done.error == "TypeError: an outcome holds numbers, words and lists of them: got Trial"


def test_numbers_that_are_not_finite_become_none(make: Make) -> None:
    done = work(Task(NAME, make(), {}, {"rate": 0.1, "seed": 0}))
    assert done.error == ""
    assert done.outcome["none"] is None


@pytest.mark.parametrize("seeds", [1, 0, -3])
def test_fewer_than_two_seeds_are_refused(make: Make, tmp_path: Path, seeds: int) -> None:
    with pytest.raises(NormwiseError) as error:
        lab.run([NAME], seeds=seeds, out=tmp_path / "out", folder=make())
    assert str(error.value) == f"an experiment needs at least 2 seeds to have a spread: got {seeds}."
    assert not (tmp_path / "out").exists()


def test_other_seeds_are_other_trials_and_the_command_says_so(make: Make, tmp_path: Path) -> None:
    folder, out = make(), tmp_path / "out"
    (usual,) = lab.run([NAME], seeds=3, out=out, folder=folder)
    (others,) = lab.run([NAME], seeds=3, first_seed=3, out=out, folder=folder)
    assert (usual.seeds, others.seeds) == ((0, 1, 2), (3, 4, 5))
    assert others.command == f"normwise lab run {NAME} --seeds 3 --first-seed 3"
    assert usual.conclusion.statements[0].effect != others.conclusion.statements[0].effect
    (again,) = lab.run([NAME], seeds=3, out=out, folder=folder)
    assert again.conclusion == usual.conclusion


def test_a_negative_seed_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(NormwiseError) as error:
        lab.run([NAME], first_seed=-1, out=tmp_path / "out", folder=make())
    assert str(error.value) == "seeds are counted from 0: got -1 for the first one."


def test_an_unknown_name_is_refused_before_anything_is_run(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        lab.run([NAME, "does_it_ends"], out=tmp_path / "out", folder=make())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(NormwiseError, match=r"^cannot write to the folder '.*': .*\.$"):
        lab.run([NAME], out=tmp_path / "out", folder=make())


LEARNING = """
    from normwise.lab.data.splits import digits
    from normwise.lab.networks.dense import Dense, he
    from normwise.lab.training.descent import accuracy, train
    model = Dense(depth=2, width=16, activation="relu", batch_norm=True, std=he, seed=trial.seed)
    data = digits(trial.seed)
    train(model, data.train, rate=trial.rate, steps=20, batch=60, seed=trial.seed)
    return {"number": accuracy(model, data.test), "weights": [each.detach() for each in model.parameters()]}
"""


def test_training_gives_the_same_numbers_whatever_the_number_of_workers(make: Make, tmp_path: Path) -> None:
    folder = make(deed=LEARNING.strip())
    one, two = tmp_path / "one", tmp_path / "two"
    for out, workers in ((one, 1), (two, 2)):
        lab.run([NAME], seeds=2, out=out, folder=folder, workers=workers)
    assert measured(one) == measured(two)
    weights = [json.dumps(outcome) for outcome in measured(one).values()]
    assert len(set(weights)) == 4  # and different ones for every trial
