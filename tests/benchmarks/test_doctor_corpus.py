"""The corpus of the doctor: its arithmetic, that a fault changes what it says, and that twins are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from benchmarks.doctor import page, training
from benchmarks.doctor.__main__ import command
from benchmarks.doctor.case import FAULTS, Fault, Patient, loss_harm
from benchmarks.doctor.digits import held_out, to_learn
from benchmarks.doctor.healthy import as_trained
from benchmarks.doctor.judging import diagnose, examine_healthy, examine_sick
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
    return Examined(name, check, "dense", 2, tuple((each, ("bn2", "bn1"), "error") for each in said), guilty)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(9, 10, 0.596, 0.982), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (50, 100, 0.404, 0.596), (0, 0, 0.0, 1.0)],
)
def test_wilsons_interval(hits: int, of: int, low: float, high: float) -> None:
    assert Share(hits, of).interval() == pytest.approx((low, high), abs=1e-3)


def test_a_score_counts_misses_false_alarms_and_wrong_layers() -> None:
    sick = [
        examined("one", "a", ("a",), ("bn2",)),
        examined("two", "a", ("a", "b"), ("bn1",)),
        examined("three", "a", ()),
    ]
    healthy = [examined("well", "", ("a",)), examined("well", "", ())]
    found = score("a", sick, healthy, 4)
    assert (found.cases, found.dropped) == (3, 4)
    assert found.recall == Share(2, 3)
    assert found.precision == Share(2, 3)
    assert found.layer == Share(1, 2)
    assert score("", sick, healthy, 4).precision == Share(2, 4)


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


def test_a_fault_without_harm_is_dropped() -> None:
    harmless = Fault("none", "dead_channels", "nothing", ("dense",), _unharmed, frozenset())
    assert examine_sick(harmless, "dense", 0) is None


def _unharmed(kind: str, seed: int) -> Patient:
    model = training.trained(kind, seed)
    return Patient(model, model, loss_harm(model, model))


def test_a_fault_is_examined_and_its_twin_is_healthy() -> None:
    sick = examine_sick(operator("loaded_without_buffers"), "dense", 1)
    assert sick is not None
    assert (sick.found, sick.right_layer, sick.without_cause()) == (True, True, [])
    assert examine_healthy(as_trained, "dense", 1).said == ()


def test_an_examination_that_fails_counts_with_its_reason() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(f"no, not {x.shape}")

    assert diagnose(nn.Sequential(nn.Linear(64, 2), Broken()), held_out(), {})[2] != ""


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


def test_a_page_says_what_was_missed(tmp_path: Path) -> None:
    about = {
        "command": "c", "date": "d", "seconds": 1.0, "processor": "p", "processors": 2, "load": 1.0, "torch": "t",
        "python": "3", "normwise": "0", "seeds": (2,), "calibration seeds": (0, 1),
    }  # fmt: skip
    sick = (examined("lost", "a", (), ("bn1",)), examined("found", "a", ("a",), ("bn2",)))
    corpus = page.Corpus(sick, (), (examined("well", "", ()),), (), ("No networks.",), about)
    text = page.markdown(corpus)
    assert "`lost`, dense, seed 2: missed" in text
    assert "`found`, dense" not in text
    assert "0.50 (0.09 to 0.91)" in text
    page.write(tmp_path / "page.md", text)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".pt"] == ["page.md"]
    assert '"left_out": [' in page.to_json(corpus)


def test_the_command_names_the_checks_that_it_knows() -> None:
    result = CliRunner().invoke(command, ["--only", "nothing"])
    assert result.exit_code == 2
    assert (
        "no fault of the corpus is one for the check 'nothing': choose one of batch_dependent_output" in result.output
    )
