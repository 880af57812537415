"""The user's own files, which import others beside them: at once, or later in a function; of one folder or of two."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from normwise.cli import main

pytest.importorskip("torch", reason="the models here are PyTorch's")

import torch
from torch import nn

LATER = """
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        import beside_in_a_function
        self.norm = nn.BatchNorm1d(beside_in_a_function.WIDTH)

    def forward(self, x):
        import beside_in_forward
        return self.norm(beside_in_forward.same(x))


class Rows(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        from beside_in_a_dataset import row
        return row(index)


def net():
    return Net().eval()


def batches():
    return DataLoader(Rows(), 16)
"""
BESIDE = {
    "beside_in_a_function": "WIDTH = 3",
    "beside_in_forward": "def same(x): return x",
    "beside_in_a_dataset": "import torch\ndef row(index): return torch.randn(3)",
}
FIRST = """
import torch
from {block} import make


def net():
    torch.manual_seed(0)
    return make().eval()


def batches():
    torch.manual_seed(1)
    return [torch.randn(16, 3) for _ in range(4)]
"""
BLOCK = "from torch import nn\ndef make(): return nn.Sequential(nn.BatchNorm1d(3, eps={eps}), nn.Linear(3, 2))\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder as the current one; no module of it is imported afterwards, and Python no longer looks there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def doctor(model: str, data: str, *more: str) -> Result:
    return CliRunner().invoke(main, ["doctor", model, "--data", data, "--allow", "never_updated_statistics", *more])


def test_what_lies_beside_a_file_can_be_imported_when_its_functions_are_called(folder: Path) -> None:
    write(folder, {"sub/later.py": LATER, **{f"sub/{name}.py": text for name, text in BESIDE.items()}})
    result = doctor("sub/later.py:net", "sub/later.py:batches")
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    assert result.stdout.startswith("healthy")


@pytest.mark.parametrize("block", ["own_block", "own_parts.own_block"])
@pytest.mark.parametrize("stems", [("nets", "nets"), ("one", "two")])
@pytest.mark.parametrize("model", ["v1", "v2"])
def test_files_of_two_folders_have_modules_of_the_same_name(
    folder: Path, block: str, stems: tuple[str, str], model: str
) -> None:
    files = {f"v1/{stems[0]}.py": 1e-5, f"v2/{stems[1]}.py": 0.3}
    for name, eps in files.items():
        top = name.partition("/")[0]
        write(folder, {name: FIRST.format(block=block), f"{top}/{block.replace('.', '/')}.py": BLOCK.format(eps=eps)})
    one, two = sorted(files, key=lambda name: not name.startswith(model))
    other = doctor(f"{one}:net", f"{one}:batches", "--source", f"{two}:net")
    assert "changed_eps" in other.stdout, other.output
    same = doctor(f"{one}:net", f"{two}:batches", "--source", f"{one}:net")
    assert "changed_eps" not in same.stdout, same.output
    assert same.exit_code == 0, same.output


def test_what_is_installed_below_an_earlier_folder_stays_imported(folder: Path) -> None:
    """A virtual environment in the folder of the first file, and a folder named like a library beside the second."""
    write(folder, {"nets.py": FIRST.format(block="block"), "block.py": BLOCK.format(eps=1e-5)})
    write(folder, {"lib/installed_here.py": "", "v2/installed_here/readme.txt": "", "v2/two.py": "import block"})
    sys.path.append(str(folder / "lib"))
    installed = __import__("installed_here")
    write(folder, {"v2/nets.py": FIRST.format(block="block")})
    result = doctor("nets.py:net", "nets.py:batches", "--source", "v2/nets.py:net")
    assert result.exit_code == 0, result.output
    assert sys.modules["installed_here"] is installed


def test_only_what_can_be_chosen_is_listed_and_targets_need_a_row_for_each_sample(folder: Path) -> None:
    write(folder, {"nets.py": FIRST.format(block="block"), "block.py": BLOCK.format(eps=1e-5)})
    torch.save(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).state_dict(), "net.pt")
    np.savez("rows.npz", x=np.ones((32, 3), np.float32), y=np.arange(10))
    words = "recalibrate", "nets.py:net", "--data", "nets.py:batches", "--out", "new.pt", "--estimator", "poled"
    estimators = CliRunner().invoke(main, [*words]).stderr
    assert "did you mean 'pooled'?" in estimators
    assert "window" not in estimators
    assert "'net.pt' holds one set of weights and no key 'ema': leave out the key" in (
        doctor("nets.py:net", "nets.py:batches", "--weights", "net.pt:ema").stderr
    )
    assert "must have one row per sample, received {'x': 32, 'y': 10}" in doctor("nets.py:net", "rows.npz").stderr
