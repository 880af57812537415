"""The zoo: what it says without its packages, that it goes on where it was, and what it sees in a forward pass."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoo import __main__ as zoo
from benchmarks.zoo import page, trial
from benchmarks.zoo.architectures import Architecture, imported_timm, missing, one_per_family
from benchmarks.zoo.followed import followed
from benchmarks.zoo.operations import OPERATIONS
from normwise.torch.models.fusion.fuse import fuse


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
    names = ["net_large", "net_tiny", "net_huge"]
    (members,) = one_per_family(Architecture("timm", "net", name) for name in names).values()
    assert [each.name for each in members] == ["net_tiny", "net_huge", "net_large"]


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {
        "size": 64, "dtype": "float64", "norms": 4, "parameters": 10, "followed": 2, "followed_by_addition": 1,
        "operations": {
            "fuse": {
                "fused": 2, "swapped": 2, "left": 0, "reached": 2,
                "missed": {"bn": "add, relu: its output is returned"},
                "seconds": 0.1, "before_ms": 3.0, "after_ms": 2.0, "inference": 0.0, "training": 3e-14,
            },
            "recalibrate": {"said": "4 of 4", "seconds": 0.1, "before_ms": 3.0, "after_ms": 3.0, "finite": True},
        },
    }  # fmt: skip
    asked: list[str] = []

    def apart(architecture: Architecture, task: dict[str, Any], seconds: int) -> dict[str, Any]:
        asked.append(architecture.name)
        assert (task["sizes"], seconds) == ([32], 300)
        return {"vit": {"absent": "it has no batch norm"}, "bad": {"error": "Killed"}}.get(architecture.name, result)

    families = [Architecture("timm", *pair) for pair in (("a", "vit"), ("a", "net"), ("b", "bad"))]
    monkeypatch.setattr(zoo, "listed", lambda _: families)
    monkeypatch.setattr(zoo, "_apart", apart)
    monkeypatch.setattr(zoo, "missing", lambda _: [])
    options = ["--family", "--sizes", "32", "--out", str(tmp_path / "zoo.json"), "--page", str(tmp_path / "zoo.md")]
    assert CliRunner().invoke(zoo.main, options).exit_code == 0
    assert asked == ["vit", "net", "bad"]
    assert CliRunner().invoke(zoo.main, options).exit_code == 0
    assert asked == ["vit", "net", "bad"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zoo.json", "zoo.md"]
    assert {*json.loads((tmp_path / "zoo.json").read_text())["results"]} == {"timm/vit", "timm/net", "timm/bad"}
    text = (tmp_path / "zoo.md").read_text()
    assert "it fused 2 of the 2 whose output goes into an activation and nowhere else (100.0 %), and 0 of the 1" in text
    assert "| `timm/net` | 64 | 4 | 2 of 2 | 0 of 1 | 2 | 0 | same: 3e-14 | 0.10 | 3.0 | 2.0 |" in text
    assert "* 1 of `timm/net`: add, relu: its output is returned" in text
    assert "* `timm/bad`: Killed" in text
    assert "* `timm/vit`: it has no batch norm" in text
    assert CliRunner().invoke(zoo.main, [*options, "--again", "--only", "/bad", "--only", "/b/"]).exit_code == 0
    assert asked == ["vit", "net", "bad", "bad"]
    wrong = CliRunner().invoke(zoo.main, ["--sizes", "big"])
    assert "--sizes takes whole numbers with commas between, received 'big'." in wrong.output


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"inference": 0.0, "gradients": 0.5}, "**gradients differ: 5e-01**"),
        ({"inference": "not the same tensors: y"}, "**inference: not the same tensors: y**"),
        ({"finite": False}, "**not finite**"),
    ],
)
def test_what_is_wrong_shows(found: dict[str, Any], words: str) -> None:
    assert page.outputs(found, "float64") == words


def test_every_operation_on_a_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "build", lambda _: nn.Sequential(nn.Conv2d(3, 3, 1), Branches()))
    task = {"source": "timm", "family": "", "name": "x", "sizes": [8], "seed": 0, "batch": 4, "memory": 0}
    threads = torch.get_num_threads()
    found = trial.main({**task, "operations": [*OPERATIONS]})
    torch.set_num_threads(threads)
    assert (found["norms"], found["followed"], found["followed_by_addition"]) == (4, 1, 1)
    fused, recalibrated = found["operations"]["fuse"], found["operations"]["recalibrate"]
    assert (fused["fused"], fused["reached"], fused["missed"]) == (2, 2, {})
    assert max(fused[what] for what in ("inference", "training", "gradients", "statistics")) < 1e-10
    assert recalibrated["said"] == "4 of 4 batch norms recalibrated with 8 samples in 2 batches"
    assert recalibrated["finite"]


def test_timms_own_batch_norm_with_an_activation() -> None:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    norm_act = imported_timm().layers.norm_act
    theirs = nn.Sequential(nn.Conv2d(3, 3, 1), norm_act.BatchNormAct2d(3, act_layer=nn.SiLU))
    ours = copy.deepcopy(theirs)
    assert fuse(ours).fused == {"1": "silu"}
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    converted = norm_act.convert_sync_batchnorm(ours)  # it takes .act and .drop
    assert isinstance(converted[1].act, nn.SiLU)
