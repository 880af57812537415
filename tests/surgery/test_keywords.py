"""Keywords of the doors: misspelt ones, those of the other framework, and what a type checker says of them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normwise
from normwise.errors import NothingChanged
from normwise.surgery.door import door, lazy_import_module

ROOT = Path(__file__).resolve().parents[2]
DATA = [torch.tensor([[1.0], [3.0]])]


def network() -> Any:
    return nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))


MISSPELT: list[tuple[str, dict[str, Any], str]] = [
    ("recalibrate", {"estimater": "ema"}, "has no keyword 'estimater': did you mean 'estimator'?"),
    ("recalibrate", {"batchsize": 8}, "has no keyword 'batchsize': did you mean 'batch_size'?"),
    ("adapt", {"priors": 2}, "has no keyword 'priors': did you mean 'prior'?"),
    ("adapting", {"batches": DATA}, "has no keyword 'batches': it has model, prior, memory, layers."),
    ("fuse", {"activation": "relu"}, "has no keyword 'activation': it has model."),
    ("param_groups", {"decay_biass": True}, "has no keyword 'decay_biass': did you mean 'decay_bias'?"),
    ("pool_statistics", {"processgroup": None}, "has no keyword 'processgroup': did you mean 'process_group'?"),
    ("accumulate_gradients", {"weight": [1]}, "has no keyword 'weight': did you mean 'weights'?"),
]


@pytest.mark.parametrize(("name", "keywords", "message"), MISSPELT)
def test_a_misspelt_keyword_is_refused_with_the_nearest(name: str, keywords: dict[str, Any], message: str) -> None:
    model = network()
    before = model.state_dict()["0.running_mean"].clone()
    with pytest.raises(TypeError) as refused:
        getattr(normwise, name)(model, DATA, **keywords)
    assert str(refused.value) == f"{name} {message}"
    assert torch.equal(model[0].running_mean, before)


def test_a_wrong_number_of_arguments_is_pythons_own_error() -> None:
    missing: Any = normwise.recalibrate
    with pytest.raises(TypeError, match=r"^recalibrate\(\) missing 1 required positional argument: 'batches'$"):
        missing(network())
    with pytest.raises(TypeError, match=r"^fuse\(\) takes 1 positional argument but 2 were given$"):
        normwise.fuse(network(), "relu")  # type: ignore[call-arg]  # on purpose


@pytest.mark.parametrize("name", ["recalibrate", "adapt"])
@pytest.mark.parametrize("value", [64, 32.0, None, np.array([32, 32])])
def test_a_keyword_of_the_other_framework_is_refused_by_name(name: str, value: Any) -> None:
    model = network()
    with pytest.raises(TypeError) as refused:
        getattr(normwise, name)(model, DATA, batch_size=value)
    assert str(refused.value) == (
        f"{name} takes batch_size for Keras models only, received it with a PyTorch model: leave it out."
    )
    assert model[0].running_mean.item() == 0.0


@pytest.mark.parametrize("name", ["recalibrate", "adapt"])
def test_its_default_asks_for_nothing_and_is_as_good_as_left_out(name: str) -> None:
    one, other = network(), network()
    getattr(normwise, name)(one, DATA)
    getattr(normwise, name)(other, DATA, batch_size=32)
    assert one[0].running_mean.item() == other[0].running_mean.item() > 0


def test_every_argument_may_be_given_by_name() -> None:
    report = normwise.recalibrate(batches=DATA, model=network(), at_most=1)
    assert report.samples == 2


def test_a_warning_names_the_line_of_the_caller() -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        normwise.recalibrate(nn.Sequential(nn.Linear(1, 1)), DATA)
    (warning,) = found
    assert (warning.category, warning.filename) == (NothingChanged, __file__)


def test_a_door_for_one_framework_says_what_the_other_has() -> None:
    with pytest.raises(TypeError) as refused:
        normwise.convert_to_keras(network())
    assert str(refused.value) == (
        "convert_to_keras needs a Keras model (keras.Model), received a PyTorch model (Sequential): "
        "pass its state_dict to a model with torch's own layers, which load it."
    )
    with pytest.raises(TypeError) as none:
        normwise.convert_from_keras("model.keras")
    assert str(none.value) == (
        "convert_from_keras needs a Keras model (keras.Model), received the string 'model.keras': "
        "build the model, load its weights, and pass it."
    )


def test_torchs_layers_load_what_normwises_save() -> None:
    """As the sentence above says."""
    ours = network()
    normwise.fuse(ours)
    theirs: Any = network()
    theirs.load_state_dict(ours.state_dict())
    assert theirs[0].running_mean.tolist() == ours[0].running_mean.tolist()
    assert type(theirs[0]) is nn.BatchNorm1d


def test_a_door_with_no_way_for_a_framework_has_a_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normwise.surgery.door.TABLE", {})

    @door(keras=lazy_import_module("normwise.keras.models.conversion", "convert"))
    def polish(model: Any) -> None:
        """Nothing."""

    with pytest.raises(TypeError) as refused:
        polish(network())
    assert str(refused.value) == (
        "polish needs a Keras model (keras.Model), received a PyTorch model (Sequential): "
        "there is no such operation for PyTorch, so build the model with Keras for it."
    )


PROGRAM = """\
import normwise
from torch import nn

model = nn.Sequential(nn.BatchNorm1d(1))
normwise.recalibrate(model, [], estimater="ema")
normwise.recalibrate(model, [], at_most="3")
normwise.param_groups(model)
normwise.recalibrate(model, [], estimator="ema", batch_size=8)
reveal_type(normwise.param_groups(model, 0.1))
"""


def test_a_type_checker_sees_every_keyword(tmp_path: Path) -> None:
    """The doors' own files are checked with it, and nothing of the frameworks is followed: that takes a minute."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    doors = [ROOT / "src/normwise/__init__.py", *sorted((ROOT / "src/normwise/surgery").glob("*.py"))]
    options = ["--strict", "--follow-imports=skip", "--ignore-missing-imports", f"--cache-dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "mypy", "--config-file=", *options, str(program), *map(str, doors)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [line.partition("program.py:")[2] for line in found.stdout.splitlines()]
    said = [line for line in lines if ": error: " in line or "Revealed" in line]
    assert said == [
        '5: error: Unexpected keyword argument "estimater" for "recalibrate"; did you mean "estimator"?  [call-arg]',
        '6: error: Argument "at_most" to "recalibrate" has incompatible type "str"; expected "int | None"  [arg-type]',
        '7: error: Missing positional argument "weight_decay" in call to "param_groups"  [call-arg]',
        '9: note: Revealed type is "list[dict[str, Any]]"',
    ], found.stdout + found.stderr
