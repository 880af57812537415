"""Models that are PyTorch's alone after ``swap``, whatever else of normwise was done to them before."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normwise
from normwise.torch.models.fusion.rewriting import fused_from
from normwise.torch.models.memory.save_memory import save_memory, saves_memory
from tests.torch import networks_to_fuse, networks_to_swap
from tests.torch.models.test_fold_fused import Branch, OwnBranch, Residual
from tests.torch.models.test_swap import prepared
from tests.torch.models.test_swap_served import packed, served
from tests.torch.networks_to_swap import images

NETWORKS: dict[str, Callable[[], Any]] = {
    **{name: getattr(networks_to_fuse, name) for name in ("resnet18", "densenet")},
    **{name: getattr(networks_to_swap, name) for name in ("in_order", "blocks", "one_block")},
}
WAYS: dict[str, tuple[Callable[[Any], object], ...]] = {
    "fuse, fold": (normwise.fuse, normwise.fold),
    "fuse, save_memory": (normwise.fuse, save_memory),
    "save_memory": (save_memory,),
    "fuse, fold, save_memory": (normwise.fuse, normwise.fold, save_memory),
    "fuse, fold, of a copy": (normwise.fuse, normwise.fold, copy.deepcopy),
}


def done(name: str, way: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    model(images(0))
    model.eval()
    with torch.no_grad():
        wanted = model(images(9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing to fold or to swap is as good
        for step in WAYS[way]:
            if isinstance(result := step(model), nn.Module):
                model = result
        normwise.swap(model)
    return model, wanted


@pytest.mark.parametrize("way", WAYS)
def test_a_file_of_the_whole_model_needs_no_normwise(way: str, tmp_path: Path) -> None:
    folders = []
    for name in NETWORKS:
        model, wanted = done(name, way)
        assert not any(saves_memory(module) for module in model.modules()), name
        assert not any(fused_from(module) for module in model.modules()), name
        assert not any(type(module).__module__.startswith("normwise.") for module in model.modules()), name
        folders.append(packed("pickle", model, wanted, tmp_path / name))
    served("pickle", *folders)


@pytest.mark.parametrize("branch", [Branch, OwnBranch])
def test_what_is_done_across_modules_goes_back_too(branch: Callable[[], nn.Module]) -> None:
    model = prepared(lambda: Residual(branch)).eval()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    wanted = model(x)
    normwise.fuse(model)
    normwise.fold(model)
    report = normwise.swap(model)
    torch.testing.assert_close(model(x), wanted)
    assert str(report).splitlines()[0] == "the model has no normalization layer"
    assert len(report.also) == 1
    assert not any(type(module).__module__.startswith("normwise.") for module in model.modules())


def test_save_memory_stays_on_the_layers_that_were_not_asked_for() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    save_memory(model)
    normwise.swap(model, layers=["1"])
    assert [saves_memory(each) for each in (model, model[1], model[3])] == [True, False, True]
    normwise.swap(model, layers=["3"])
    assert not any(saves_memory(each) for each in model.modules())


def test_fold_says_whose_hooks_those_are_and_how_to_take_them_away_from_a_copy_too() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    save_memory(model)
    twin = copy.deepcopy(model)
    with pytest.warns(normwise.errors.NothingChanged, match="save_memory has put its hooks on it: .* undo()"):
        normwise.fold(model)
    normwise.save_memory(twin).undo()
    assert [*normwise.fold(twin).folded] == ["1"]
