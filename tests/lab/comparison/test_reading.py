"""The user's model and rows: one sentence for everything that can be wrong with them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from normwise.errors import NormwiseError
from normwise.lab.comparison import reading
from normwise.lab.comparison.rows import Rows

BAD = [
    (
        {"x": np.ones((5, 2))},
        "must hold the arrays x and y, received a file that holds x: write it with numpy.savez(file, x=inputs, "
        "y=targets).",
    ),
    (
        {"x": np.ones((30, 2)), "y": np.ones(29)},
        "must give one target for each row of inputs, received 30 rows and 29 targets: give as many of one as of the "
        "other.",
    ),
    (
        {"x": np.ones((5, 2)), "y": np.ones(5)},
        "must give 20 rows or more, which are split into rows for training, validation and test, received 5: give "
        "more.",
    ),
    (
        {"x": np.where(np.arange(60).reshape(30, 2) == 9, np.nan, 1.0), "y": np.ones(30)},
        "must give finite numbers, received inputs with NaN or infinity, first in row 4: leave such rows out, or "
        "replace the values.",
    ),
    (
        {"x": np.ones((30, 2)), "y": np.where(np.arange(30) == 7, np.inf, 1.0)},
        "must give finite numbers, received targets with NaN or infinity, first in row 7: leave such rows out, or "
        "replace the values.",
    ),
    (
        {"x": np.ones((30, 2)), "y": np.arange(30) - 1},
        "with targets of shape (30,) from -1 on: number the classes from 0, or give floating-point numbers if the "
        "targets are values to predict.",
    ),
    (
        {"x": np.ones((30, 2)), "y": np.ones(30, int)},
        "must give targets of two classes or more, received the class 1 alone: give rows of other classes too.",
    ),
    (
        {"x": np.array(["a"] * 30), "y": np.ones(30)},
        "must give two arrays of numbers, with one row per sample, received inputs that are of dtype <U1: convert "
        "them.",
    ),
    (
        {"x": np.ones((30, 2)), "y": np.array(1.0)},
        "must give two arrays of numbers, with one row per sample, received targets that are one value: convert them.",
    ),
]


@pytest.mark.parametrize(("arrays", "sentence"), BAD)
def test_damaged_rows_are_named(arrays: dict[str, np.ndarray], sentence: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]  # its stubs take the arrays for a switch
    with pytest.raises(NormwiseError, match=f"{re.escape(sentence)}$"):
        reading.load(str(tmp_path / "data.npz"))


def test_a_file_that_is_not_there_or_is_none_is_named(tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.npz", tmp_path / "broken.npz"
    broken.write_bytes(b"no archive")
    with pytest.raises(NormwiseError, match=f"^there is no file '{missing}': give the path of the data\\.$"):
        reading.load(str(missing))
    with pytest.raises(NormwiseError, match=f"^'{broken}' cannot be read as an .npz with the arrays x and y: "):
        reading.load(str(broken))


def test_a_callable_may_return_anything_that_is_an_array(tmp_path: Path) -> None:
    (tmp_path / "rows_to_read.py").write_text(
        "import torch\n"
        "def good():\n    return torch.ones(30, 2, dtype=torch.float64), list(range(30))\n"
        "def bad():\n    return 3\n",
        encoding="utf-8",
    )
    found = reading.load(f"{tmp_path}/rows_to_read.py:good")
    assert [str(array.dtype) for array in (found.inputs, found.targets)] == ["float32", "int64"]
    assert found.classes
    with pytest.raises(
        NormwiseError, match=r"bad must return two arrays, .* received an int: return \(inputs, targets\)\.$"
    ):
        reading.load(f"{tmp_path}/rows_to_read.py:bad")


def test_a_model_is_told_from_others_by_the_text_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "net_to_read.py"
    file.write_text("def net():\n    return 1\n", encoding="utf-8")
    make, first = reading.model(f"{file}:net")
    assert make() == 1
    assert reading.model(f"{file}:net")[1] == first
    file.write_text("def net():\n    return 22\n", encoding="utf-8")
    assert reading.model(f"{file}:net")[1] != first
    with pytest.raises(
        NormwiseError, match=r"^math:pi must be a function, received a float: write the name of a function\.$"
    ):
        reading.model("math:pi")


def test_no_test_row_is_used_for_a_choice(rows: Rows) -> None:
    parts = {seed: [set(part.tolist()) for part in rows.split(seed)] for seed in (0, 5, 100)}
    assert parts[0][2] == parts[5][2] == parts[100][2]
    assert parts[0][0] != parts[5][0]
    for found in parts.values():
        assert sum(map(len, found)) == len(set.union(*found)) == len(rows.targets)


def test_outputs_that_do_not_fit_the_targets_are_refused() -> None:
    classes, values = Rows(np.ones((30, 2)), np.arange(30)), Rows(np.ones((30, 2)), np.ones(30, np.float32))
    values.check((2, 1))
    classes.check((2, 30))
    with pytest.raises(
        NormwiseError,
        match=r"^MODEL must return one value for each class, received outputs of shape \(rows, 10\) for 30 classes \(0 "
        r"to 29\): "
        r"give the last layer 30 outputs\.$",
    ):
        classes.check((2, 10))
    with pytest.raises(
        NormwiseError, match=r"received outputs of shape \(rows, 2\) for targets of shape \(rows\): change "
    ):
        values.check((2, 2))


def test_a_score_is_the_higher_the_better() -> None:
    classes = Rows(np.ones((4, 1)), np.array([0, 1, 1, 0]))
    every = np.arange(4)
    assert classes.scores(np.array([[-1.0], [1.0], [-1.0], [1.0]]), every).tolist() == [100, 100, 0, 0]
    assert classes.scores(np.array([[0, 1], [0, 1], [0, 1], [1, 0]]), every).tolist() == [0, 100, 100, 100]
    assert np.isnan(classes.scores(np.array([[np.nan], [1.0], [1.0], [1.0]]), every)).all()
    values = Rows(np.ones((2, 1)), np.array([1.0, 2.0], np.float32))
    assert values.scores(np.array([[1.0], [4.0]]), np.arange(2)).tolist() == [0, -4]
