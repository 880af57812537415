"""The arrays of any dtype in `.npz` files, and what the command says that it did with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome

from normwise.cli import main

pytest.importorskip("torch", reason="the models here are PyTorch's")

import torch

SOURCE = """
import torch
from torch import nn

class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, pixels):
        return self.norm(pixels)

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(256, 3), nn.BatchNorm1d(3)

    def forward(self, tokens):
        return self.norm(self.table(tokens))

def double():
    return Norm().double()

def half():
    return Norm().bfloat16()

def items():
    return [{"image": torch.ones(4, 3), "label": torch.ones(4)}]

def pairs():
    return [(torch.ones(4, 2), torch.ones(4))]

def by_name(model, batch):
    return model(3 * batch["image"])
"""
IMAGES = "a dict ('image': a float32 tensor of shape (4, 3), 'label': a float32 tensor of shape (4,))"
PAIRS = "a tuple (a float32 tensor of shape (4, 2), a float32 tensor of shape (4,))"
ROWS = "a dict ('pixels': a float32 tensor of shape (4, 2))"
PIXELS = np.random.default_rng(0).integers(0, 256, (70, 3))
PIXELS[0], PIXELS[1] = 0, 255


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("data_nets.py").write_text(SOURCE, encoding="utf-8")
    yield
    import sys

    sys.modules.pop("data_nets", None)


def call(model: str, data: str, *more: str) -> Outcome:
    line = ["recalibrate", f"data_nets.py:{model}", "--data", data, "--out", "new.pt", *more]
    return CliRunner().invoke(main, line, prog_name="normwise")


def mean() -> torch.Tensor:
    found: torch.Tensor = torch.load("new.pt", weights_only=True)["norm.running_mean"]
    return found


UNSCALED = (
    ", and its values, from 0 to 255, are not scaled: give --scale 1/{} if the model was trained on values up to 1."
)


@pytest.mark.parametrize(
    ("dtype", "model", "words"),
    [
        ("float32", "Norm", ""),
        ("float64", "Norm", "cast from float64 to float32."),
        ("float16", "Norm", "cast from float16 to float32."),
        (">f4", "Norm", ""),
        ("float32", "double", "cast from float32 to float64."),
        ("float64", "half", "cast from float64 to float32."),
        ("uint8", "Norm", "cast from uint8 to float32" + UNSCALED.format(255)),
        ("uint8", "double", "cast from uint8 to float64" + UNSCALED.format(255)),
        ("uint16", "Norm", "cast from uint16 to float32" + UNSCALED.format(65535)),
        ("int16", "Norm", "cast from int16 to float32" + UNSCALED.format(32768)),
    ],
)
def test_values_are_cast_to_the_dtype_of_the_model(dtype: str, model: str, words: str) -> None:
    np.savez("rows.npz", pixels=PIXELS.astype(dtype))
    done = call(model, "rows.npz")
    said = f"normwise: the array 'pixels' of 'rows.npz' is {words}\n" if words else ""
    assert (done.exit_code, done.stderr) == (0, said)
    expected = torch.tensor(PIXELS.mean(0)).to(mean().dtype)
    torch.testing.assert_close(mean(), expected)


@pytest.mark.parametrize(("scale", "factor"), [("1/255", 1 / 255), ("0.5", 0.5), ("-2", -2)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_a_scale_multiplies_them(dtype: str, scale: str, factor: float) -> None:
    np.savez("rows.npz", pixels=PIXELS.astype(dtype))
    done = call("Norm", "rows.npz", "--scale", scale)
    assert done.exit_code == 0
    torch.testing.assert_close(mean(), torch.tensor(PIXELS.mean(0) * factor).float())
    least, most = sorted((0.0, 255 * factor))
    cast = "" if dtype == "float32" else f"cast from {dtype} to float32 and "
    assert done.stderr == (
        f"normwise: the array 'pixels' of 'rows.npz' is {cast}multiplied by {factor:g}: its values are from {least:g} "
        f"to {most:g}.\n"
    )


def test_pixels_up_to_1_need_no_scale() -> None:
    np.savez("rows.npz", pixels=(PIXELS > 100).astype(np.uint8))
    assert call("Norm", "rows.npz").stderr == (
        "normwise: the array 'pixels' of 'rows.npz' is cast from uint8 to float32.\n"
    )


def test_indices_stay_integers() -> None:
    np.savez("rows.npz", tokens=PIXELS[:, 0])
    done = call("Tokens", "rows.npz")
    assert (done.exit_code, done.stderr) == (0, "")
    done = call("Tokens", "rows.npz", "--scale", "1/255")
    assert (done.exit_code, done.stderr) == (
        3,
        "normwise: --scale is for floating-point numbers and for integers of 8 and 16 bits, and the array 'tokens' of "
        "'rows.npz' is int64: leave --scale out, or save the array as float32.\n",
    )


def test_the_first_array_is_taken_where_none_has_the_name_of_an_input() -> None:
    arrays: dict[str, Any] = {"x": PIXELS.astype("float32"), "y": np.zeros(70), "z": np.zeros(70)}
    np.savez("rows.npz", **arrays)
    done = call("Norm", "rows.npz")
    assert (done.exit_code, done.stderr) == (
        0,
        "normwise: the array 'x' of 'rows.npz' is taken because it is the first, and 'y', 'z' left out: to take "
        "another, give it the name of an input of the model ('pixels').\n",
    )


HINT = "let DATA give batches as the model takes them, or give --forward a function of the model and a batch.\n"


def test_batches_that_the_model_does_not_take_get_a_hint() -> None:
    done = call("Norm", "data_nets.py:items")
    assert done.exit_code == 3
    assert done.stderr.startswith("normwise: data_nets.py:Norm on data_nets.py:items failed: AttributeError in line ")
    assert done.stderr.endswith(f"; Norm was called with (dict), of a batch that is {IMAGES}: {HINT}")
    done = call("Norm", "data_nets.py:pairs")
    assert done.stderr.endswith(f"; Norm was called with (Tensor), of a batch that is {PAIRS}: {HINT}")
    np.savez("rows.npz", pixels=np.zeros((4, 2), "float32"))
    done = call("Norm", "rows.npz")
    assert done.stderr.endswith(f"; Norm was called with (pixels=Tensor), of a batch that is {ROWS}: {HINT}")


def test_a_function_of_the_users_brings_such_batches_into_the_model() -> None:
    done = call("Norm", "data_nets.py:items", "--forward", "data_nets.py:by_name")
    assert (done.exit_code, done.stderr) == (0, "")
    assert mean().tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("command", ["adapt", "swap --to layer", "doctor"])
def test_every_command_with_data_takes_such_a_function(command: str) -> None:
    """A model without it fails in its first batch."""
    line = [*command.split(), "data_nets.py:Norm", "--data", "data_nets.py:items"]
    line += [] if command == "doctor" else ["--out", "new.pt"]
    without = CliRunner().invoke(main, line, prog_name="normwise")
    assert without.stderr.endswith(" give --forward a function of the model and a batch.\n")
    done = CliRunner().invoke(main, [*line, "--forward", "data_nets.py:by_name"], prog_name="normwise")
    assert done.stderr == ""
    assert done.exit_code == (1 if command == "doctor" else 0), done.output  # statistics that were never updated


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("by_name", 2, "--forward is written FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, received 'by_name': write "),
        ("data_nets.py:by_nam", 3, "unknown name 'by_nam' in data_nets.py: did you mean 'by_name'?"),
        ("data_nets.py:nn", 3, "data_nets.py:nn must be a function, received a module: write the name of one."),
        ("other.py:by_name", 3, "there is no file 'other.py': "),
    ],
)
def test_a_wrong_function_for_forward(given: str, code: int, words: str) -> None:
    done = call("Norm", "data_nets.py:items", "--forward", given)
    assert done.exit_code == code
    assert done.stderr.startswith(f"normwise: {words}")
    assert not Path("new.pt").exists()


def test_the_weights_that_were_chosen_are_said_on_standard_error() -> None:
    state = torch.nn.BatchNorm1d(3).state_dict()
    inner = {f"module.norm.{name}": value for name, value in state.items()}
    torch.save({"model": inner, "model_ema": inner}, "old.pt")
    np.savez("rows.npz", pixels=PIXELS.astype("float32"))
    done = call("Norm", "rows.npz", "--weights", "old.pt:model_ema", "--json")
    assert (done.exit_code, done.stderr) == (
        0,
        "normwise: read from 'old.pt' the weights under 'model_ema', without the prefix 'module.' of their names.\n",
    )
    assert done.stdout.startswith("{")


@pytest.mark.parametrize("command", ["recalibrate", "adapt", "swap --to torch", "fold"])
def test_the_file_of_the_weights_is_not_replaced_by_the_result(command: str) -> None:
    """It can hold an optimizer, or a second set of weights, which the result lacks."""
    state = {f"norm.{name}": value for name, value in torch.nn.BatchNorm1d(3).state_dict().items()}
    torch.save({"model": state, "epoch": 7}, "last.pt")
    np.savez("rows.npz", pixels=PIXELS.astype("float32"))
    before = Path("last.pt").read_bytes()
    words = ["data_nets.py:Norm", "--weights", "last.pt:model", "--data", "rows.npz", "--out", "./last.pt"]
    done = CliRunner().invoke(main, [*command.split(), *words])
    assert done.exit_code == 2
    assert "--out 'last.pt' is the file that --weights reads, and what else it holds would be lost" in done.stderr
    assert Path("last.pt").read_bytes() == before
