"""A folder with models, data and weights in it, most of them wrong in one way each."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

NETS = """
import sys

import torch
from torch import nn

number = 3


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def wide(width, depth):
    return nn.BatchNorm1d(width)


class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, pixels, weight=None):
        return self.norm(pixels.view(7, 30))


def nothing():
    pass


def generator():
    yield net()


def fails():
    raise ValueError("no such thing.\\nand more")


def leaves():
    sys.exit(3)


def batches():
    return [torch.ones(4, 3), torch.zeros(4, 3)]


def nans():
    return [torch.full((4, 3), float("nan"))]


def empty():
    return []


def chatty():
    print("hello")
    return batches()
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, made once; every file in it is of the kind that its name says."""
    folder = tmp_path_factory.mktemp("wrong")
    for name, text in {
        "nets.py": NETS,
        "syntax.py": "def net(\n",
        "exits.py": "import sys\nsys.exit('bye')\n",
        "broken.py": "values = []\nvalue = values[3]\n",
        "needs.py": "import no_such_library\n",
        "text.npz": "hello",
        "nothing.npz": "",
        "damaged.keras": "no archive",
        "damaged.pt": "no archive",
        "damaged.safetensors": "no archive",
        "nothing.keras": "",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    rows = np.random.default_rng(0).normal(2, 3, (70, 3)).astype(np.float32)
    np.savez(folder / "rows.npz", images=rows)
    np.savez(folder / "classes.npz", x=rows, y=np.arange(70) % 2)
    np.savez(folder / "empty.npz")
    np.savez(folder / "objects.npz", images=np.array([{}, []], dtype=object))
    np.savez(folder / "scalar.npz", images=np.float32(3))
    np.savez(folder / "words.npz", images=np.array(["a", "b"]))
    np.savez(folder / "norows.npz", images=rows[:0])
    np.savez(folder / "uneven.npz", pixels=rows, weight=rows[:3])
    with (folder / "renamed.npz").open("wb") as file:
        np.save(file, rows)
    whole = bytearray((folder / "rows.npz").read_bytes())
    (folder / "short.npz").write_bytes(whole[:200])
    whole[300] ^= 255  # in the middle of the numbers
    (folder / "flipped.npz").write_bytes(whole)
    for name in ("other.npz", "other.keras"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("readme.txt", "x")
    for name in ("folder", "folder.npz", "folder.keras", "folder.pt"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def folder(built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as the current one; nothing new is in it afterwards, and no module of it is still imported."""
    monkeypatch.chdir(built)
    there, before = {*built.iterdir()}, {*sys.modules}
    yield built
    for name in {*sys.modules} - before & {"nets", "syntax", "exits", "broken", "needs"}:
        del sys.modules[name]
    left = {*built.iterdir()} - there - {built / "__pycache__"}
    for path in left:
        path.unlink()
    assert not left
