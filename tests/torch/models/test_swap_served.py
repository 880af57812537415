"""A model that was trained with normwise, swapped, saved, and served in a process that cannot import normwise."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.fusion.fuse import fuse
from tests.torch import networks_to_fuse, networks_to_swap
from tests.torch.networks_to_swap import images

SERVED: dict[str, Callable[[], nn.Module]] = {
    **{name: getattr(networks_to_swap, name) for name in ("in_order", "of_samples", "blocks", "one_block", "dropping")},
    **{name: getattr(networks_to_fuse, name) for name in ("resnet18", "densenet")},
}


def trained(name: str) -> nn.Module:
    """The model after a few steps, ready to be shipped."""
    torch.manual_seed(0)
    model = SERVED[name]().double()
    if hasattr(networks_to_fuse, name):
        fuse(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        model(images(step)).square().mean().backward()
        optimizer.step()
    return model.eval()


def saved(kind: str, model: nn.Module, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporters say about their own insides
        if kind == "pickle":
            torch.save(model, file)
        elif kind == "export":
            torch.export.save(torch.export.export(model, (images(0),)), file)
        else:
            torch.jit.trace(model, images(0)).save(file)


@pytest.mark.parametrize("kind", ["pickle", "export", "trace"])
def test_they_run_where_normwise_cannot_be_imported(kind: str, tmp_path: Path) -> None:
    folders = []
    for name in SERVED:
        model = trained(name)
        with torch.no_grad():
            wanted = model(images(9))
        assert swap(model).skipped == {}
        folders.append(packed(kind, model, wanted, tmp_path / name))
    served(kind, *folders)


def packed(kind: str, model: nn.Module, wanted: Tensor, folder: Path) -> Path:
    folder.mkdir()
    saved(kind, model, folder / ("model.pt2" if kind == "export" else "model.pt"))
    torch.save(images(9), folder / "x.pt")
    torch.save(wanted, folder / "y.pt")
    return folder


def served(*arguments: Any) -> None:
    program = Path(__file__).parent / "serve.py"
    done = subprocess.run(
        [sys.executable, str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_process_cannot_import_normwise_indeed(tmp_path: Path) -> None:
    model = trained("in_order")
    folder = packed("pickle", model, model(images(9)), tmp_path / "model")
    with pytest.raises(AssertionError, match="normwise is not installed here"):
        served("pickle", folder)


@pytest.mark.parametrize("name", SERVED)
def test_a_state_dict_loads_into_the_model_without_normwise(name: str) -> None:
    model = trained(name)
    keys = [*model.state_dict()]
    swap(model)
    assert [*model.state_dict()] == keys
    assert all(type(module).__module__.partition(".")[0] != "normwise" for module in model.modules())


@pytest.mark.skipif(
    any(importlib.util.find_spec(each) is None for each in ("onnxscript", "onnxruntime")),
    reason="the ONNX exporter is not installed",
)
@pytest.mark.parametrize("name", ["in_order", "blocks", "resnet18"])
def test_it_runs_as_onnx(name: str, tmp_path: Path) -> None:
    onnxruntime = importlib.import_module("onnxruntime")
    model = trained(name).float()
    with torch.no_grad():
        wanted = model(images(9, torch.float32))
    swap(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        torch.onnx.export(model, (images(9, torch.float32),), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images(9, torch.float32).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-4)
