"""The zoo: what it says without its packages, that it goes on where it was, and what it sees in a forward pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional as F

import normwise
from benchmarks.zoo import __main__ as zoo
from benchmarks.zoo import children, comparison, page, pairs, summary, trial
from benchmarks.zoo.architectures import Architecture, in_turn, missing, survey
from benchmarks.zoo.followed import followed
from benchmarks.zoo.operations import OPERATIONS
from benchmarks.zoo.reasons import grouped
from benchmarks.zoo.reference import settle


class Branches(nn.Module):
    """One batch norm before an activation, one before an addition and one, one used twice, one before nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.direct, self.added, self.twice, self.last = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x: Tensor) -> Any:
        y = F.silu(self.direct(x))
        z = self.added(y)
        z += x
        z = F.relu(z, inplace=True)
        z = self.twice(z)
        return self.last(F.relu(z) + z)


def test_what_follows_is_seen_in_a_forward_pass() -> None:
    found = followed(Branches().eval(), lambda model: model(torch.randn(2, 3, 4, 4)))
    assert found == {"direct": "silu", "added": "add, relu"}


def test_a_package_that_is_not_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    sentence = "timm is not installed, so its architectures are left out: pip install timm."
    assert missing(["timm"]) == [sentence]
    done = CliRunner().invoke(zoo.main, ["--source", "timm"])
    assert done.exit_code == 2
    assert sentence in done.output
    assert "no architecture has one of [] in its source/family/name" in done.output


def test_of_a_family_the_small_come_first() -> None:
    families = [Architecture("timm", "net", name) for name in ("large", "tiny", "huge", "none")]
    families.append(Architecture("timm", "other", "one"))
    surveyed: dict[str, dict[str, Any]] = {
        "timm/large": {"parameters": 3},
        "timm/tiny": {"parameters": 1},
        "timm/none": {"absent": "no norm"},
    }
    surveyed |= {"timm/huge": {"parameters": 9}, "timm/other": {"parameters": 5}}
    names = [[each.name for each in group] for group in in_turn(families, surveyed, family=True)]
    assert names == [["tiny", "large", "huge"], ["one"]]
    names = [[each.name for each in group] for group in in_turn(families, surveyed, family=False)]
    assert names == [["tiny"], ["one"], ["large"], ["huge"]]
    guessed = in_turn([Architecture("timm", "net", name) for name in ("net_large", "net_tiny")], {}, family=True)
    assert [each.name for each in guessed[0]] == ["net_tiny", "net_large"]


def test_a_survey_builds_nothing_but_names(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []

    def build(architecture: Architecture) -> nn.Module:
        made = nn.Linear(2000, 1000) if architecture.name == "large" else nn.Linear(2, 2)
        devices.append(made.weight.device.type)
        return nn.Sequential(made, *[nn.BatchNorm1d(2)] * (architecture.name != "bare"))

    monkeypatch.setattr("benchmarks.zoo.architectures.build", build)
    found = survey({"source": "timm", "family": "", "names": ["net", "bare", "large"], "parameters": 1})
    assert found["net"] == {"norms": 1, "parameters": 10}
    assert found["bare"]["absent"] == "it has no batch norm"
    assert found["large"]["absent"] == "it has more than 1 million parameters"
    assert devices == ["meta"] * 3


def _row(**changes: Any) -> dict[str, Any]:
    time = {"ratio": 0.8, "low": 0.75, "high": 0.9, "pairs": 9, "before_ms": 2.0, "after_ms": 1.6, "noisy": False}
    fuse = {
        "done": 2, "of": 4, "reasons": {"its output is returned": 2}, "swapped": 2, "left": 0,
        "missed": 1, "missed_by_addition": 0, "why_missed": {}, "wrong": [],
        "compared": {"inference": 0.0, "training": 3e-14}, "times": {"inference": time},
    }  # fmt: skip
    noisy = {"done": 3, "of": 4, "reasons": {"its output is returned": 1}, "wrong": [], "compared": {}}
    noisy |= {"times": {"inference": {**time, "noisy": True}}, "output_error": 2e-6}
    operations = {"fuse": {**fuse, **changes}, "fold": noisy}
    return {"size": 64, "dtype": "float64", "norms": 4, "parameters": 10, "followed": 2, "followed_by_addition": 1,
            "operations": operations}  # fmt: skip


def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> tuple[list[str], list[str]]:
    asked: list[str] = []

    def apart(work: Any, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        if work is survey:
            return {name: {"norms": 4, "parameters": 10} for name in task["names"]}
        asked.append(task["name"])
        assert (task["sizes"], seconds) == ([32], 180)
        found: dict[str, Any] = answers[task["name"]]
        return found

    families = [Architecture("timm", *pair) for pair in (("a", "vit"), ("a", "net"), ("b", "bad"))]
    monkeypatch.setattr(zoo, "listed", lambda *_: families)
    monkeypatch.setattr(children, "apart", apart)
    monkeypatch.setattr(zoo, "missing", lambda _: [])
    options = ["--family", "--sizes", "32", "--out", str(tmp_path / "zoo.json"), "--page", str(tmp_path / "zoo.md")]
    return options, asked


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"vit": {"absent": "it has no batch norm"}, "net": _row(), "bad": {"error": "Killed"}}
    options, asked = _run(tmp_path, monkeypatch, answers)
    for _ in range(2):
        done = CliRunner().invoke(zoo.main, options)
        assert done.exit_code == 1
        assert "timm/bad: Killed" in done.output
        assert asked == ["net", "bad"] or asked == ["vit", "net", "bad"]
    answers["bad"] = _row()
    assert CliRunner().invoke(zoo.main, [*options, "--again", "--only", "/bad"]).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zoo.json", "zoo.md"]
    kept = json.loads((tmp_path / "zoo.json").read_text())
    assert (kept["format"], {"timm/net", "timm/bad"} <= {*kept["results"]}) == (page.FORMAT, True)
    answers["bad"] = _row(done=1, times={})
    del answers["bad"]["operations"]["fold"]
    assert CliRunner().invoke(zoo.main, [*options, "--again", "--only", "/bad", "--pairs", "0"]).exit_code == 0
    kept = json.loads((tmp_path / "zoo.json").read_text())["results"]["timm/bad"]["operations"]
    left = kept["fuse"]["done"], [*kept["fuse"]["times"]], kept["fold"]["done"]
    assert left == (1, ["inference"], 3)  # what was not asked for again is kept
    wrong = CliRunner().invoke(zoo.main, ["--sizes", "big"])
    assert "--sizes takes whole numbers with commas between, received 'big'." in wrong.output


def test_what_differs_is_a_row_and_ends_the_command_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"vit": _row(), "net": _row(), "bad": _row(wrong=["training differ by 1e-02"])}
    options, _ = _run(tmp_path, monkeypatch, answers)
    done = CliRunner().invoke(zoo.main, options)
    assert done.exit_code == 1
    assert "`timm/bad`, fuse: training differ by 1e-02" in done.output
    text = (tmp_path / "zoo.md").read_text()
    assert "| fuse | 2 | 1 | 0 | 1 | 0 | 4 of 8 (50.0 %) |" in text
    assert "* `timm/bad`, fuse: training differ by 1e-02" in text
    assert "| 4 | 2 | its output is returned |" in text
    assert "it fused 2 of the 4 whose output goes into an activation and nowhere else (50.0 %)" in text
    assert "| 64 | 4 | 2/4; 0.80 (0.75–0.90) | 3/4; too noisy |" in text
    assert "| `timm/bad` | 64 | 4 | **2/4, differs**; 0.80 (0.75–0.90) | 3/4; too noisy |" in text


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({"done": 2, "of": 3, "wrong": []}, "same"),
        ({"done": 0, "of": 0, "wrong": []}, "same"),
        ({"done": 0, "of": 3, "wrong": []}, "refused"),
        ({"refused": "a sentence."}, "refused"),
        ({"done": 3, "of": 3, "wrong": ["state: other keys: x"]}, "differs"),
        ({"error": "KeyError: x"}, "crashed"),
    ],
)
def test_what_came_of_an_operation(found: dict[str, Any], status: str) -> None:
    assert summary.status(found) == status


def test_reasons_are_counted_without_the_names_in_them() -> None:
    reasons = ["its output is that of a.conv1, of class Net", "its output is that of a.conv2, of class Net", "other"]
    found = grouped(reasons, ["a", "a.conv1", "a.conv2", "output"], ["Net"])
    assert found == {"its output is that of [layer], of class [class]": 2, "other": 1}


def test_pairs_are_medians_with_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 2.0] * 2 + [2.0, 1.0, 1.0, 2.0] * 20)  # in turn: before, after; after, before
    monkeypatch.setattr(pairs, "_seconds", lambda call: call() or next(times))
    found = pairs.paired(lambda: None, lambda: None, seconds=0.0)
    assert found["pairs"] == pairs.FEWEST
    assert found["low"] <= found["ratio"] <= found["high"]


def test_pairs_that_are_far_apart_are_measured_again_and_called_noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(*_: Any) -> dict[str, float]:
        measured.append(1)
        return {"ratio": 1.0, "low": 0.8, "high": 1.2}

    monkeypatch.setattr(pairs, "_measure", measure)
    assert pairs.paired(lambda: None, lambda: None)["noisy"]
    assert len(measured) == 2


def never_done(task: dict[str, Any]) -> dict[str, Any]:
    while True:
        task.clear()


def test_a_process_of_its_own_answers_or_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_PRELOADED", [])
    assert children.apart(itemgetter("found"), {"found": {"norms": 3}}, 60) == {"norms": 3}
    assert children.apart(itemgetter("found"), {}, 60) == {"error": "KeyError: 'found'"}
    wall = "it took more than 0 seconds on the wall clock"
    assert children.apart(itemgetter("found"), {}, 0) == {"error": wall}
    processor = "it took more than 1 seconds of the processor, or more memory than there is"
    assert children.apart(never_done, {}, 1) == {"error": processor}


def _small(_: Architecture) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Branches())


TASK = {"source": "timm", "family": "", "name": "x", "sizes": [8], "seed": 0, "batch": 4, "memory": 0,
        "parameters": 30, "pairs": 1e-9}  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """The zoo's trial of a small network."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(pairs, "FEWEST", 3)
    monkeypatch.setattr("benchmarks.zoo.trial.build", _small)
    monkeypatch.setattr("benchmarks.zoo.architectures.build", _small)
    yield lambda *operations: trial.main({**TASK, "operations": operations, "pairs": 1e-9 * (len(operations) > 2)})
    torch.set_num_threads(threads)


def test_every_operation_on_a_small_network(small: Callable[..., dict[str, Any]]) -> None:
    found = small(*OPERATIONS)
    assert (found["norms"], found["followed"], found["followed_by_addition"]) == (5, 1, 1)
    rows = found["operations"]
    assert {name: (row["done"], row["of"], row["wrong"]) for name, row in rows.items()} == {
        "fuse": (2, 5, []),
        "swap there and back": (4, 4, []),
        "swap to normwise": (5, 5, []),
        "freeze": (5, 5, []),
        "fold": (1, 5, []),
        "fuse and fold": (1, 5, []),
        "recalibrate": (5, 5, []),
    }
    assert rows["fuse"]["missed"] == rows["fuse"]["missed_by_addition"] == 0
    assert rows["swap there and back"]["alone"]
    compared = {f"{name}: {what}": value for name, row in rows.items() for what, value in row["compared"].items()}
    assert max(compared.values()) < 1e-10, compared
    assert len(compared) == 4 + 8 + 4 + 8 + 1 + 1 + 2
    assert rows["recalibrate"]["times"]["update_bn"]["pairs"] == pairs.FEWEST


@pytest.mark.parametrize("operation", ["fuse", "swap there and back", "swap to normwise", "freeze", "fold"])
def test_a_silent_change_is_seen(
    operation: str, small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operation that also moves a number of the model."""
    name = operation.partition(" ")[0]
    right = getattr(normwise, name)

    def wrong(model: nn.Module, *args: Any, **settings: Any) -> Any:
        done = right(model, *args, **settings)
        with torch.no_grad():
            model[0].weight.mul_(1.001)  # type: ignore[index]  # a sequence with a convolution
        return done

    monkeypatch.setattr(normwise, name, wrong)
    row = small(operation)["operations"][operation]
    assert summary.status(row) == "differs"
    assert any("inference" in words or "state" in words for words in row["wrong"])


def test_statistics_that_are_not_the_datas_are_seen(
    small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = normwise.recalibrate

    def wrong(model: nn.Module, batches: Any, **settings: Any) -> Any:
        return right(model, batches[:1], **settings)

    monkeypatch.setattr(normwise, "recalibrate", wrong)
    row = small("recalibrate")["operations"]["recalibrate"]
    assert any(words.startswith("statistics differ by") for words in row["wrong"])


def test_a_norm_with_one_value_per_sample_is_timed_too(
    small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's update_bn refuses batches that give a channel one value."""

    def pooled(_: Architecture) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))

    monkeypatch.setattr("benchmarks.zoo.trial.build", pooled)
    monkeypatch.setitem(TASK, "batch", 2)
    row = small("recalibrate", "freeze", "fuse")["operations"]["recalibrate"]
    assert (summary.status(row), row["times"]["update_bn"]["pairs"]) == ("same", pairs.FEWEST)


def test_the_error_of_folding_is_not_that_of_fusing(
    small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = normwise.fuse

    def coarse(model: nn.Module) -> Any:
        done = right(model)
        with torch.no_grad():
            model[0].weight.mul_(1.001)  # type: ignore[index]  # a sequence with a convolution
        return done

    monkeypatch.setattr(normwise, "fuse", coarse)
    wrong = small("fuse and fold")["operations"]["fuse and fold"]["wrong"]
    assert [words.partition(" differ")[0] for words in wrong] == ["inference"]


def test_a_crash_is_a_row(small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(model: nn.Module) -> None:
        raise KeyError(type(model).__name__)

    monkeypatch.setattr(normwise, "fuse", crash)
    found = small("fuse", "freeze")["operations"]
    assert found["fuse"] == {"error": "KeyError: 'Sequential' (crash)"}
    assert found["freeze"]["wrong"] == []


def test_the_reference_has_the_statistics_of_all_data() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    batches = [torch.randn(2, 3, 4, 4), torch.randn(3, 3, 4, 4)]
    assert settle(model, batches) == {"1": 1, "4": 1}
    x = model[0](torch.cat(batches))
    torch.testing.assert_close(model[1].running_var, x.var((0, 2, 3), correction=1))
    x = model[3](torch.relu(model[1](x)))
    torch.testing.assert_close(model[4].running_mean, x.mean((0, 2, 3)))


def test_differences_are_relative_to_the_tensor() -> None:
    one = {"y": torch.tensor([10.0, 1.0]), "z": torch.tensor([1.0])}
    assert comparison.difference(one, {**one, "y": torch.tensor([10.1, 1.0])}) == pytest.approx(0.01, rel=1e-4)
    assert comparison.difference(one, {"y": one["y"]}) == "not the same tensors: z"
    assert comparison.difference(one, {**one, "z": torch.tensor([float("nan")])}) == "z is not finite"
    assert comparison.changed_state(one, {"z": one["z"], "y": one["y"]}) == "the keys are in another order"
    assert comparison.changed_state(one, {**one, "z": one["z"] + 1}) == "other values in z and 0 more"


def test_rounding_that_a_model_multiplies_is_no_fault() -> None:
    wrong, rounding = trial.judged({"gradients": 5e-8, "training": 5e-8}, "float64", lambda: {"gradients": 1e-9})
    assert wrong == ["training differ by 5e-08"]
    assert rounding == "gradients by 5e-08, and by 1e-09 where the input is rounded otherwise"


def test_an_error_of_folding_stands_beside_that_of_float32_itself() -> None:
    row, other = _row(), _row()
    row["operations"]["fold"] |= {"output_error": 0.5, "float32_error_unfolded": 0.4}
    other["operations"]["fold"] |= {"output_error": 5e-6, "float32_error_unfolded": 1e-7}
    text = page.page({"listed": 2}, {}, {"timm/a": row, "timm/b": other}, {"PyTorch": ["fuse", "fold"]})
    assert "* `timm/a`, fold: outputs in float32 by 5e-01, and by 4e-01 between float32 and float64 without it" in text
    assert "`timm/b`, fold: outputs" not in text
    assert (
        "is 2e-01 off itself in float64 in the median, 4e-01 at most; the error of folding is more than 10 times"
        in text
    )
    assert "that in 1." in text
