"""A fused model in which somebody replaces a part: the activation is not lost, and not done twice."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import normwise
from normwise.errors import NormwiseError
from normwise.torch import BatchNorm2d, GroupNorm


class Called(nn.Module):
    """One activation, called in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        y: Tensor = self.act(self.norm2(self.conv2(x)))
        return y


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)) + x)


def in_order() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())


def fused(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    assert normwise.fuse(model).fused
    return model


LOSSES = {
    "norm, in order": (in_order, "1", lambda: nn.GroupNorm(2, 4), "relu itself .* would be lost with GroupNorm"),
    "norm, by nothing": (Called, "norm1", lambda: None, "leaky_relu:0.1 itself .* would be lost with None"),
    "norm, folded": (Called, "norm2", nn.Identity, "leaky_relu:0.1 itself .* would be lost with Identity"),
    "norm, added": (Added, "norm", lambda: BatchNorm2d(4), "relu itself .* would be lost with BatchNorm2d"),
    "norm, another": (in_order, "1", lambda: GroupNorm(2, 4, activation="silu"), "relu itself .* lost with GroupNorm"),
    "activation, in order": (in_order, "2", nn.GELU, r"was ReLU\(\), .* and would do before GELU"),
    "activation, called": (Called, "act", nn.GELU, r"is LeakyReLU\(.*, and would go on doing beside GELU"),
    "activation, setting": (Called, "act", lambda: nn.LeakyReLU(0.2), "beside LeakyReLU"),
    "activation, by nothing": (Called, "act", lambda: None, "beside None"),
}


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "not copied": lambda model: model,
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("case", LOSSES)
def test_a_replacement_that_would_lose_or_double_the_activation_is_refused(case: str, copied: str) -> None:
    make, name, new, said = LOSSES[case]
    model = COPIES[copied](fused(make))
    x = torch.randn(2, 4, 3, 3)
    before = model(x)
    for assign in (setattr, nn.Module.add_module):
        with pytest.raises(NormwiseError, match=f"'{name}' of this .*{said}.*normwise.swap"):
            assign(model, name, new())  # type: ignore[operator]  # one of two functions
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("to", ["group", "ghost", "sync", "domains"])
def test_a_layer_that_another_operation_put_there_keeps_the_guard(to: str) -> None:
    model = fused(in_order)
    settings: dict[str, dict[str, Any]] = {
        "ghost": {"num_splits": 1},
        "domains": {"domains": ["day", "night"], "domain": "day"},
    }
    normwise.swap(model, to=to, **settings.get(to, {}))
    with pytest.raises(NormwiseError, match=r"relu itself .* would be lost with LayerNorm"):
        model.add_module("1", nn.LayerNorm(3))


def test_after_the_remedy_the_replacement_does_what_it_does_in_the_model_that_was_not_fused() -> None:
    for make, name in ((in_order, "1"), (Called, "norm1"), (Added, "norm")):
        model = fused(make).eval()
        torch.manual_seed(0)
        plain = make().eval()
        normwise.swap(model, to="torch")
        for each in (model, plain):
            setattr(each, name, nn.GroupNorm(2, 4))
        x = torch.randn(2, 4, 3, 3)
        torch.testing.assert_close(model(x), plain(x))


HARMLESS: dict[str, tuple[Callable[[], nn.Module], str, Callable[[nn.Module], nn.Module]]] = {
    "itself": (in_order, "1", lambda old: old),
    "a copy": (in_order, "1", copy.deepcopy),
    "a wrapper": (Called, "norm1", nn.Sequential),
    "compiled": (in_order, "1", lambda old: cast(nn.Module, torch.compile(old, backend="eager"))),
    "another norm with the activation": (Called, "norm1", lambda _: GroupNorm(2, 4, activation="leaky_relu:0.1")),
    "no activation": (in_order, "2", lambda _: nn.Identity()),
    "the same activation": (Called, "act", lambda _: nn.LeakyReLU(0.1, inplace=True)),
    "another part": (in_order, "0", lambda _: nn.Conv2d(4, 4, 3, padding=1)),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_a_replacement_that_loses_nothing_is_taken(case: str) -> None:
    make, name, new = HARMLESS[case]
    model = fused(make)
    replaced = new(getattr(model, name))
    setattr(model, name, replaced)
    assert getattr(model, name) is replaced
    with torch.no_grad():
        assert model(torch.randn(2, 4, 3, 3)).min() >= -1


def test_a_layer_that_its_owner_gave_the_activation_may_be_replaced() -> None:
    model = nn.Sequential(BatchNorm2d(4, activation="relu"))
    model[0] = nn.GroupNorm(2, 4)
    assert model(torch.randn(2, 4, 3, 3)).min() < 0


def test_a_file_of_a_fused_model_is_guarded_where_nothing_but_the_file_brought_normwise_in(tmp_path: Path) -> None:
    file = tmp_path / "model.pickle"
    file.write_bytes(pickle.dumps(fused(in_order)))
    program = (
        "import pickle, sys, torch\n"
        "model = pickle.load(open(sys.argv[1], 'rb'))\n"
        "try:\n"
        "    model[1] = torch.nn.GroupNorm(2, 4)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "NormwiseError"


def test_a_setting_of_an_activation_that_a_layer_took_over_cannot_change_unseen() -> None:
    model = fused(Called)
    x = torch.randn(2, 4, 3, 3)
    model(x)
    model.get_submodule("act").negative_slope = 0.5  # type: ignore[assignment]  # a number, no module
    with pytest.raises(
        RuntimeError, match=r"act.negative_slope of this Called was 0.1 .*, received 0.5: set it before"
    ):
        model(x)
