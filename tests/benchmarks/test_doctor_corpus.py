"""The corpus of the doctor: its arithmetic, that a fault changes what it says, and that twins are the same."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from click import ClickException
from click.testing import CliRunner
from torch import nn

from benchmarks.doctor import __main__ as program
from benchmarks.doctor import judged, page, training
from benchmarks.doctor.__main__ import command, frozen
from benchmarks.doctor.case import FAULTS, Fault, Patient, behind, does_harm, loss_harm
from benchmarks.doctor.digits import held_out, to_learn
from benchmarks.doctor.faults.derivation import folded
from benchmarks.doctor.judging import (
    CHECKS,
    DEVELOPMENT,
    JUDGING,
    LATE,
    Part,
    diagnose,
    examine_healthy,
    examine_sick,
    healthy,
    in_time,
    sick,
)
from benchmarks.doctor.limits import MEASURED, measured, table
from benchmarks.doctor.models import KINDS, build, in_front, norms
from benchmarks.doctor.scores import Examined, Share, score

IN_ONE_LAYER = ("statistics_moved_in_one_layer", "statistics_reset_in_one_layer", "one_scale_of_ten_thousand")


@pytest.fixture(autouse=True)
def kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that an earlier run kept are not taken."""
    monkeypatch.setattr(training, "folder", lambda: tmp_path)


def operator(name: str) -> Fault:
    return next(each for each in FAULTS if each.name == name)


def values(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def examined(name: str, check: str, said: tuple[str, ...], guilty: tuple[str, ...] = ()) -> Examined:
    return Examined(
        name, check, "dense", 2, tuple((each, ("bn2", "bn1"), "error") for each in said), guilty, seconds=0.5
    )


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(9, 10, 0.596, 0.982), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (50, 100, 0.404, 0.596), (0, 0, 0.0, 1.0)],
)
def test_wilsons_interval(hits: int, of: int, low: float, high: float) -> None:
    assert Share(hits, of).interval() == pytest.approx((low, high), abs=1e-3)


def test_a_score_counts_misses_false_alarms_and_wrong_layers() -> None:
    ill = [
        examined("one", "a", ("a",), ("bn2",)),
        examined("two", "a", ("a", "b"), ("bn1",)),
        examined("three", "a", ()),
    ]
    well = [examined("well", "", ("a",)), examined("well", "", ())]
    found = score("a", ill, well, 4)
    assert (found.cases, found.dropped) == (3, 4)
    assert found.recall == Share(2, 3)
    assert found.precision == Share(2, 3)
    assert found.layer == Share(1, 2)
    assert score("", ill, well, 4).precision == Share(2, 4)


@pytest.mark.parametrize("name", IN_ONE_LAYER)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fault_changes_the_guilty_layer_and_nothing_else(name: str, seed: int) -> None:
    patient = operator(name).build("dense", seed)
    before, after = values(patient.twin), values(patient.model)
    changed = {key.rpartition(".")[0] for key in before if before[key] != after[key]}
    assert changed == {*patient.guilty}
    assert len(changed) == 1
    assert patient.harm.done


def test_a_twin_is_the_same_to_the_last_bit_from_memory_from_disk_and_trained_once_more() -> None:
    first = values(training.trained("dense", 0))
    changed = training.trained("dense", 0)
    next(iter(norms(changed).values())).reset_running_stats()
    assert values(training.trained("dense", 0)) == first
    training._trained.cache_clear()
    assert values(training.trained("dense", 0)) == first
    assert values(training.train(build("dense", 0), 0)) == first


def test_a_fault_without_harm_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = Fault("none", "dead_channels", "nothing", ("dense",), _unharmed, frozenset())
    monkeypatch.setattr("benchmarks.doctor.judging.FAULTS", [harmless])
    assert examine_sick("digits", "none", "dense", 0) is None


def test_a_fault_that_cannot_be_built_counts_as_not_found() -> None:
    found = examine_sick("digits", "dropout_right_in_front", "separable", 0)
    assert found is not None
    assert not found.found
    assert found.problem.startswith("not built: ValueError:")


def _unharmed(kind: str, seed: int) -> Patient:
    model = training.trained(kind, seed)
    return Patient(model, model, loss_harm(model, model))


def test_a_fault_is_examined_and_its_twin_is_healthy() -> None:
    found = examine_sick("digits", "loaded_without_buffers", "dense", 1)
    assert found is not None
    assert (found.found, found.right_layer, found.without_cause(), found.problem) == (True, True, [], "")
    twin, why = examine_healthy("digits", "as_trained", "dense", 1)
    assert (twin.said, why) == ((), "")


def test_a_training_that_leaves_its_statistics_behind_leaves_no_healthy_model() -> None:
    """PyTorch's own estimate of the statistics says so, and not the doctor."""
    model = training.trained("dense", 1)
    assert behind(model, held_out(), to_learn(1)) == ""
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm1d))
    assert norm.running_mean is not None
    norm.running_mean += 3
    before = values(model)
    why = behind(model, held_out(), to_learn(1))
    found = re.fullmatch(r"its loss is (.*) times the twin's loss; accuracy .* estimated once more", why)
    assert found is not None
    assert float(found[1]) > 2
    assert values(model) == before
    cases = [examined("as_trained", "", said) for said in (("stale_running_statistics",), ())]
    assert program._training_left_out(("digits", "dense", 2, why), cases) == (
        "The 2 states of dense on digits, seed 2, are left out, because their training left no healthy model: "
        f"{why}; the doctor said something of 1 of them."
    )


def test_an_examination_that_fails_counts_with_its_reason() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(f"no, not {x.shape}")

    assert "no, not torch.Size" in diagnose(nn.Sequential(nn.Linear(64, 2), Broken()), held_out())[2]


def test_the_operators_are_told_apart_and_say_what_they_do() -> None:
    assert len({each.name for each in FAULTS}) == len(FAULTS) >= 30
    assert all(each.says.endswith(".") and {*each.kinds} <= {*KINDS} for each in FAULTS)


def test_what_is_held_out_is_not_learned_and_layers_know_what_is_in_front() -> None:
    learned = {tuple(row.tolist()) for x, _ in to_learn(0) for row in x}
    shown = [tuple(row.tolist()) for x, _ in held_out() for row in x]
    assert len(shown) == 397
    assert sum(row in learned for row in shown) <= 2
    model = build("separable", 0)
    assert in_front(model, "first.each.1") is model.get_submodule("first.each.0")


def test_a_page_says_what_was_missed() -> None:
    about = {
        "command": "c", "commit": "abc", "date": "d", "seconds": 1.0, "processor": "p", "processors": 2, "load": 1.0,
        "torch": "t", "python": "3", "cases": 3, "begun": 3,
        "parts": [JUDGING[0]._asdict()], "development": [DEVELOPMENT[0]._asdict()],
    }  # fmt: skip
    ill = (examined("lost", "a", (), ("bn1",)), examined("found", "a", ("a",), ("bn2",)))
    corpus = page.Corpus(ill, (), (examined("well", "", ()),), (), ("No networks.",), about)
    text = page.markdown(corpus)
    assert "`lost`, dense, digits, seed 2: missed" in text
    assert "`found`, dense, digits" not in text
    assert "0.50 (0.09 to 0.91)" in text
    written = json.loads(page.to_json(corpus))
    assert written["about"]["commit"] == "abc"
    assert written["sick"][0] == {
        "name": "lost", "check": "a", "kind": "dense", "seed": 2, "said": [], "guilty": ["bn1"], "data": "digits",
        "seconds": 0.5,
    }  # fmt: skip
    assert page.to_json(corpus).count("\n") < 20


def test_the_command_names_the_checks_that_it_knows() -> None:
    result = CliRunner().invoke(command, ["develop", "--only", "nothing"])
    assert result.exit_code == 2
    assert (
        "no fault of the corpus is one for the check 'nothing': choose one of batch_dependent_output" in result.output
    )


def test_judging_is_refused_in_part_and_with_rules_that_are_not_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(command, ["judge", "--quick"])
    assert result.output.endswith("Error: judge runs once and whole: --quick and --only are for develop.\n")
    monkeypatch.setattr(program, "_git", lambda *words: " M src/normwise/facts.py" if words[0] == "status" else "abc")
    with pytest.raises(
        ClickException, match=r"^the rules are not frozen: commit .*; changed:  M src/normwise/facts\.py$"
    ):
        frozen()


def test_development_and_judging_share_no_model_and_no_seed() -> None:
    first, then = ({*_alone(parts)} for parts in (DEVELOPMENT, JUDGING))
    assert first.isdisjoint(then)
    assert {seed for part in DEVELOPMENT for seed in part.seeds}.isdisjoint(s for part in JUDGING for s in part.seeds)
    assert {part.data for part in JUDGING} == {"digits", "mnist"}
    assert {check for _, name, _, _ in sick(JUDGING, None) for check in [CHECKS[name]]} == {*CHECKS.values()}
    assert {kind for _, _, kind, _ in healthy(JUDGING)} == then


def test_the_judging_crosses_data_optimizers_and_variants_and_each_kind_sees_both_of_the_first_two() -> None:
    cells = [(part.data, kind, seed) for part in JUDGING for kind in part.kinds for seed in part.seeds]
    assert {(data, training.with_adam(seed), seed % 2) for data, _, seed in cells} == {
        (data, adam, odd) for data in ("digits", "mnist") for adam in (False, True) for odd in (0, 1)
    }
    for kind in {kind for _, kind, _ in cells}:
        mine = [(data, training.with_adam(seed)) for data, each, seed in cells if each == kind]
        assert {data for data, _ in mine} == {"digits", "mnist"}
        assert {adam for _, adam in mine} == {False, True}
    alone = [name for _, name, kind, _ in sick(JUDGING, None) if name == "deep_without_norms" and kind == "dense"]
    assert len(alone) == 2


@pytest.mark.parametrize(
    ("loss", "lost", "harm"),
    [(1.21, 0.0, True), (1.1, 0.02, True), (1.002, 0.025, False), (1.1, 0.01, False), (float("nan"), 0.0, True)],
)
def test_harm_is_what_the_loss_says_too(loss: float, lost: float, harm: bool) -> None:
    assert does_harm(loss, 1.0, lost) is harm


def test_a_case_that_would_begin_too_late_is_not_examined() -> None:
    assert in_time(time.time() - 1, examine_healthy, ("digits", "no such", "dense", 0)) == LATE
    assert in_time(None, sum, ([1, 2],)) == in_time(time.time() + 60, sum, ([1, 2],)) == 3


def _alone(parts: tuple[Part, ...]) -> list[str]:
    return [kind for part in parts for kind in part.kinds]


@pytest.mark.parametrize("kind", judged.KINDS)
def test_the_models_of_the_judging_fold(kind: str) -> None:
    torch.manual_seed(0)
    model, x = build(kind, 0).eval(), torch.rand(4, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(model)(x), model(x))


def test_limits_stand_beside_the_furthest_healthy_model() -> None:
    name, numbers = measured("digits", "as_trained", "dense", 0)
    assert {*numbers} == {*MEASURED}
    assert all(numbers[label] < each.limit for label, each in MEASURED.items() if each.beyond and label in numbers)
    text = table([(name, numbers), ("other", dict.fromkeys(MEASURED, -1.0))])
    assert "| too_few_values: values | 8 | -1 |" in text
    assert "| stale_running_statistics: outdone | 1.15 | 1 |" in text
