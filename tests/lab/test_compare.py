"""The comparison on small problems whose answer is known, and one sentence for everything that can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from normwise.cli import main
from normwise.errors import NormwiseError
from normwise.lab import compare_data
from normwise.lab.compare import Comparison, NothingTrained, compare
from normwise.lab.compare_layers import NORMALIZERS, replace
from normwise.lab.compare_training import Arm, Data, score
from normwise.lab.data import digits


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def images() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)
    )


@pytest.fixture(scope="module")
def data() -> Data:
    part = digits(0).train
    return Data(part.images, part.labels)


def found(
    data: Data, normalizers: Sequence[str], rates: Sequence[float], budget: float = 3.0, lines: list[str] | None = None
) -> Comparison:
    tell = [] if lines is None else lines
    return compare(net, data, normalizers=normalizers, rates=rates, batches=[32], budget=budget, tell=tell.append)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normalizer_takes_the_place_and_the_rest_begins_alike(name: str) -> None:
    torch.manual_seed(0)
    plain = images()
    torch.manual_seed(0)
    other = replace(images(), name, 8)
    assert isinstance(plain[1], nn.Conv2d)  # type: ignore[index]  # a Sequential
    assert torch.equal(plain[1].weight, other[1].weight)  # type: ignore[index]  # a Sequential
    layer = other[2]  # type: ignore[index]  # a Sequential
    assert type(layer) is not nn.BatchNorm2d
    assert other(torch.rand(8, 64)).shape == (8, 10)
    x = torch.randn(8, 16, 6, 6) + 3
    over = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}.get(name)
    if over:
        assert float(layer(x).mean(dim=over).abs().max().detach()) < 1e-4
    if name == "none":
        assert torch.equal(layer(x), x)


def test_an_arm_depends_on_its_seed_alone(data: Data) -> None:
    arm = Arm("batch", 0.1, 32)
    first = score(net, data, arm, 30, seed=3)
    torch.manual_seed(99)
    assert score(net, data, arm, 30, seed=3) == first
    assert score(net, data, arm, 30, seed=4) != first


def test_no_test_row_is_used_for_a_choice(data: Data) -> None:
    tests = [set(data.split(seed)[2].tolist()) for seed in (0, 5, 100)]
    assert tests[0] == tests[1] == tests[2]
    for seed in (0, 5, 100):
        train, validation, test = (set(rows.tolist()) for rows in data.split(seed))
        assert len(train) + len(validation) + len(test) == len(train | validation | test) == len(data.targets)


def test_a_normalizer_that_helps_is_found_with_its_evidence(data: Data) -> None:
    shifted = Data(100 + 50 * data.inputs, data.targets)  # nothing but a normalized layer learns from this
    lines: list[str] = []
    answer = found(shifted, ["batch", "none"], [0.1, 0.5], lines=lines)
    assert answer.visible
    assert answer.effect.high < -20
    assert answer.recommendation.startswith("Take batch at rate ")
    assert len(answer.final[1]) == len(answer.final[2]) == answer.effect.n == 5
    assert len(lines) == len(answer.rounds)
    assert len(answer.rounds[0][1]) == 4


def test_what_is_the_same_is_said_to_be_the_same(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMALIZERS, "group", NORMALIZERS["batch"])
    answer = found(data, ["batch", "group"], [0.1])
    assert not answer.visible
    assert answer.effect.value == 0
    assert answer.recommendation.startswith("No difference is visible: group at rate 0.1, batches of 32 against batch")
    assert answer.recommendation.endswith("keep batch norm.")


def test_a_model_that_does_not_train_is_one_sentence(data: Data) -> None:
    huge = Data(data.inputs * 1e30, data.targets)
    sentence = (
        "no arm of the other normalizers trained: the loss became infinite or NaN at every rate from 1e+10 to 1e+10: "
        "try smaller rates, and look at the data for values that are not finite."
    )
    with pytest.raises(NothingTrained, match=f"^{re.escape(sentence)}$"):
        found(huge, ["batch", "none"], [1e10])


def test_a_budget_that_is_too_small_says_what_is_needed(data: Data) -> None:
    with pytest.raises(
        NormwiseError, match=r"^the budget of 0 s is too small for 2 arms, which need about \d+ s: give"
    ):
        found(data, ["batch", "none"], [0.1], budget=0.0)


def test_there_must_be_something_to_compare(data: Data) -> None:
    with pytest.raises(NormwiseError, match=r"^a comparison is of 'batch' with others: got group; name both\.$"):
        found(data, ["group"], [0.1])


def test_a_model_without_batch_norm_and_one_that_does_not_fit_are_named(data: Data) -> None:
    with pytest.raises(NormwiseError, match=r"^MODEL has no batch norm whose place another normalization could take: "):
        replace(nn.Linear(2, 2), "group", 8)
    with pytest.raises(NormwiseError, match=r"^MODEL cannot be trained with batch at rate 0\.1, batches of 8: Runtime"):
        score(lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), data, Arm("batch", 0.1, 8), 1, seed=0)


DATA_MISTAKES = [
    ({"x": np.ones((5, 2))}, r"must hold the arrays x and y: it holds x\.$"),
    ({"x": np.ones((30, 2)), "y": np.ones(29)}, r"must give a target for every row: got 30 rows, 29 targets\.$"),
    ({"x": np.ones((5, 2)), "y": np.ones(5)}, r"gives 5 rows, too few to split: give at least 20\.$"),
    (
        {"x": np.where(np.arange(60).reshape(30, 2) == 9, np.nan, 1.0), "y": np.ones(30)},
        r"gives values that are not finite, first in row 4: clean the data\.$",
    ),
]


@pytest.mark.parametrize(("arrays", "sentence"), DATA_MISTAKES)
def test_damaged_data_are_named(arrays: dict[str, np.ndarray], sentence: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]  # its stubs take the arrays for a switch
    with pytest.raises(NormwiseError, match=sentence):
        compare_data.load(str(tmp_path / "data.npz"))


def test_the_command_prints_one_recommendation_and_writes_the_evidence(tmp_path: Path, data: Data) -> None:
    np.savez(tmp_path / "data.npz", x=data.inputs.numpy(), y=data.targets.numpy())
    (tmp_path / "nets_to_compare.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))\n",
        encoding="utf-8",
    )
    words = ["lab", "compare", f"{tmp_path}/nets_to_compare.py:net", "--data", str(tmp_path / "data.npz")]
    words += ["--normalizers", "none,batch", "--rates", "0.1", "--budget", "3s", "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(main, words, prog_name="normwise")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    kept = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert kept["recommendation"] == done.stdout.strip()
    assert {arm["normalizer"] for arm, _ in kept["rounds"][0][1]} == {"none", "batch"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--budget", "soon"), "invalid value for '--budget': 'soon' is no time: write it as 90s, 30m or 2h"),
        (("--rates", "a,b"), "invalid value for '--rates': 'a,b' is no list of numbers with commas between them"),
        (("--normalizers", "batsh"), "unknown normalizer 'batsh': did you mean 'batch'?"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    done = CliRunner().invoke(main, ["lab", "compare", "torch.nn:Identity", "--data", "a.npz", *words])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"normwise: {sentence}")
