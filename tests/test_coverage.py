"""The table of `make coverage`: what is summed up to a room."""

from __future__ import annotations

from tests import rooms_covered


def test_a_room_is_the_sum_of_its_files() -> None:
    files = {
        "torch/layers/a.py": (10, 1),
        "torch/layers/in/b.py": (30, 3),
        "moments.py": (60, 0),
        "lab/empty.py": (0, 0),
    }
    text = rooms_covered.table((rooms_covered.SOURCE / name, *counts) for name, counts in files.items())
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert list(rows) == ["room", "lab", "normwise", "torch/layers", "all"]
    assert rows["torch/layers"] == ["2", "40", "4", "90.0", "%"]
    assert rows["lab"] == ["1", "0", "0", "100.0", "%"]
    assert rows["all"] == ["4", "100", "4", "96.0", "%"]


def test_a_room_inside_a_framework_has_a_row_of_its_own() -> None:
    rooms = [rooms_covered.room_of(rooms_covered.SOURCE / name) for name in ("keras/steps/x.py", "kernels/cpp/y.py")]
    assert rooms == ["keras/steps", "kernels"]
