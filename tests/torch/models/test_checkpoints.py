"""Weights from checkpoints as people have them: what is taken, what is said, and that every weight arrives."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from normwise.errors import NormwiseError
from normwise.torch import BatchNorm1d
from normwise.torch.models.checkpoints import load_weights

State = dict[str, torch.Tensor]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def filled(value: float) -> State:
    return {name: torch.full_like(each, int(value)) for name, each in network().state_dict().items()}


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def check_read(model: Any, place: Path, value: float) -> str:
    """Every weight is `value` afterwards; what was said."""
    said: list[str] = []
    load_weights(model, place, said.append)
    assert {float(each.min()) for each in model.state_dict().values()} == {value}
    assert {float(each.max()) for each in model.state_dict().values()} == {value}
    return " ".join(said).replace(str(place).partition(":")[0], "old.pt")


OPTIMIZER = torch.optim.Adam(network().parameters()).state_dict()
CHECKPOINTS: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda state: state, ""),
    "state_dict": (
        lambda state: {"state_dict": state, "optimizer": OPTIMIZER, "epoch": 3},
        "read from 'old.pt' the weights under 'state_dict'.",
    ),
    "model": (lambda state: {"model": state}, "read from 'old.pt' the weights under 'model'."),
    "model_state_dict": (
        lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": OPTIMIZER},
        "read from 'old.pt' the weights under 'model_state_dict'.",
    ),
    "ema": (lambda state: {"ema": state}, "read from 'old.pt' the weights under 'ema'."),
    "nested": (lambda state: {"ema": {"state_dict": state}}, "read from 'old.pt' the weights under 'ema.state_dict'."),
    "a key of its own": (lambda state: {"params_g": state}, "read from 'old.pt' the weights under 'params_g'."),
    "DataParallel": (
        lambda state: behind("module.", state),
        "read from 'old.pt' the weights, without the prefix 'module.' of their names.",
    ),
    "compiled in DataParallel": (
        lambda state: {"model": behind("_orig_mod.module.", state)},
        "read from 'old.pt' the weights under 'model', without the prefix '_orig_mod.module.' of their names.",
    ),
    "Lightning": (
        lambda state: {
            "state_dict": behind("net.", state) | {"loss.weight": torch.ones(2)},
            "hyper_parameters": {"rate": 0.1, "name": "net"},
        },
        "read from 'old.pt' the weights under 'state_dict', without the prefix 'net.' of their names and without 1 "
        "name that does not begin with it ('loss.weight').",
    ),
    "options and scores": (
        lambda state: {"model": state, "args": argparse.Namespace(rate=0.1), "best": np.float64(0.9)},
        "read from 'old.pt' the weights under 'model'.",
    ),
    "averaged weights too": (
        lambda state: {
            "model_ema": behind("module.", {name: 0 * each for name, each in state.items()}) | {"n": torch.tensor(3)},
            "model": state,
        },
        "read from 'old.pt' the weights under 'model'; 'model_ema.module' would fit as well: choose with --weights "
        "old.pt:model_ema.module.",
    ),
    "another network too": (
        lambda state: {"model": {"head.weight": torch.ones(2, 2)}, "backbone": state},
        "read from 'old.pt' the weights under 'backbone'.",
    ),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".pth.tar"])
def test_weights_of_a_checkpoint(kind: str, suffix: str, tmp_path: Path) -> None:
    make, sentence = CHECKPOINTS[kind]
    place = tmp_path / f"old{suffix}"
    torch.save(make(filled(2)), place)
    assert check_read(network(), place, 2) == sentence


@pytest.mark.parametrize(
    ("prefix", "words"),
    [("", ""), ("module.", ", without the prefix 'module.'"), ("_orig_mod.", ", without the prefix '_orig_mod.'")],
)
def test_weights_of_safetensors(prefix: str, words: str, tmp_path: Path) -> None:
    place = tmp_path / "old.safetensors"
    save_file(behind(prefix, filled(2)), place)
    said = check_read(network(), place, 2)
    assert said == (f"read from 'old.pt' the weights{words} of their names." if prefix else "")


SEVERAL = {
    "model": behind("module.", filled(1)),
    "model_ema": behind("module.", filled(2)),
    "ema": {"state_dict": filled(3), "decay": 0.99},
    "state_dict": behind("student.", filled(4)) | behind("teacher.", filled(5)),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", 1),
        ("model_ema", 2),
        ("model_ema.module", 2),
        ("ema", 3),
        ("ema.state_dict", 3),
        ("teacher", 5),
        ("state_dict.student", 4),
    ],
)
def test_a_key_chooses_one_of_several(key: str, value: float, tmp_path: Path) -> None:
    torch.save(SEVERAL, tmp_path / "old.pt")
    assert check_read(network(), tmp_path / f"old.pt:{key}", value).startswith("read from 'old.pt' the weights")


def test_the_usual_key_is_taken_first_and_the_others_are_named(tmp_path: Path) -> None:
    torch.save(SEVERAL, tmp_path / "old.pt")
    assert check_read(network(), tmp_path / "old.pt", 1) == (
        "read from 'old.pt' the weights under 'model', without the prefix 'module.' of their names; "
        "'state_dict.student', 'state_dict.teacher', 'ema.state_dict' and 1 more would fit as well: choose with "
        "--weights old.pt:state_dict.student."
    )


def test_a_file_whose_name_looks_like_a_key_is_that_file(tmp_path: Path) -> None:
    torch.save(filled(2), tmp_path / "old.pt:ema.pt")
    load_weights(network(), tmp_path / "old.pt:ema.pt", pytest.fail)
    with pytest.raises(NormwiseError, match=r"^there is no file '.*old\.pt': give the path of the weights\.$"):
        load_weights(network(), tmp_path / "old.pt:ema", pytest.fail)


def test_averaged_weights_of_pytorch(tmp_path: Path) -> None:
    averaged = AveragedModel(network(), use_buffers=True)
    averaged.load_state_dict({**behind("module.", filled(2)), "n_averaged": torch.tensor(7)})
    torch.save(averaged.state_dict(), tmp_path / "old.pt")
    assert check_read(network(), tmp_path / "old.pt", 2) == (
        "read from 'old.pt' the weights, without the prefix 'module.' of their names and without 1 name that does not "
        "begin with it ('n_averaged')."
    )
    again = AveragedModel(network(), use_buffers=True)
    load_weights(again, tmp_path / "old.pt", pytest.fail)
    assert int(again.n_averaged) == 7


def test_a_compiled_model_takes_the_weights_of_one_that_is_not(tmp_path: Path) -> None:
    torch.save(filled(2), tmp_path / "old.pt")
    assert check_read(torch.compile(network(), backend="aot_eager"), tmp_path / "old.pt", 2) == ""
    torch.save(behind("_orig_mod.", filled(3)), tmp_path / "old.pt")
    assert check_read(torch.compile(network(), backend="aot_eager"), tmp_path / "old.pt", 3) == ""


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 3), nn.Linear(3, 3)
        self.out.weight = self.into.weight


def test_weights_that_layers_share_stand_in_safetensors_once(tmp_path: Path) -> None:
    model = Tied()
    save_model(model, str(tmp_path / "old.safetensors"))
    again = Tied()
    load_weights(again, tmp_path / "old.safetensors", pytest.fail)
    assert torch.equal(again.out.weight, model.into.weight)
    assert torch.equal(again.out.bias, model.out.bias)


def test_files_without_counters_of_batches(tmp_path: Path) -> None:
    """PyTorch before 0.4.1, and PyTorch's layers for ours."""
    state = {name: each for name, each in filled(2).items() if "num_batches" not in name}
    torch.save(behind("module.", state), tmp_path / "old.pt")
    norm = BatchNorm1d(4)
    load_weights(nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2)), tmp_path / "old.pt", lambda _: None)
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [2] * 4


def test_a_lazy_model_gets_its_shapes_from_the_file(tmp_path: Path) -> None:
    torch.save(behind("module.", filled(2)), tmp_path / "old.pt")
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(2))
    load_weights(model, tmp_path / "old.pt", lambda _: None)
    assert model[0].weight.shape == (4, 3)


def test_a_path_in_a_checkpoint_is_refused_with_its_class(tmp_path: Path) -> None:
    torch.save({"model": filled(2), "folder": pathlib.PurePosixPath("runs")}, tmp_path / "old.pt")
    with pytest.raises(NormwiseError, match=r"pickled objects \(pathlib\.\S*PurePosixPath\) that can run code when"):
        load_weights(network(), tmp_path / "old.pt", pytest.fail)


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    """PyTorch can be told to write none, which saves time."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": filled(2), "nothing": torch.zeros(0)}, tmp_path / "old.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert check_read(network(), tmp_path / "old.pt", 2) == "read from 'old.pt' the weights under 'model'."
