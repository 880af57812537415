"""``fold``: into what a batch norm goes, and that the model computes what it did."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.torch.layers.activation import Activation
from normwise.torch.models.conversion.fold import fold
from normwise.torch.models.conversion.freeze import freeze
from normwise.torch.models.fusion.fuse import fuse
from tests.tolerances import SAFETY, unit
from tests.torch import networks_to_fuse as networks
from tests.torch.every_layer import CASES, C, Case

EXACT = 1e-12
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def tolerance(dtype: torch.dtype, layers: int = 1) -> float:
    """The tolerance, a share of the largest output: roundings of both ways, in as many layers."""
    return EXACT if dtype == torch.float64 else SAFETY * unit(dtype) * 4 * layers


def trained(model: nn.Module, dtype: torch.dtype) -> Any:
    """The model in inference mode, with statistics, scales and shifts that are not those at the beginning."""
    torch.manual_seed(0)
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or not tensor.is_floating_point() or "Norm" not in type(module).__name__:
                continue
            low, high = {"running_var": (0.2, 3.0), "weight": (0.5, 1.5)}.get(name, (-1.0, 1.0))
            if name in ("running_mean", "running_var", "weight", "bias"):
                nn.init.uniform_(tensor, low, high)
    return model.to(dtype).eval()


def far(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


def assert_folds(model: Any, x: Tensor, into: dict[str, str], layers: int = 1) -> Any:
    """The layers named go where they are said to, and the outputs are the same; on data and without."""
    trained(model, x.dtype)
    expected = model(x)
    twin = copy.deepcopy(model)
    report = fold(model, [x])
    assert {name: done.into for name, done in report.folded.items()} == into
    assert far(model(x), expected) <= tolerance(x.dtype, layers)
    assert report.output_error <= tolerance(x.dtype, layers)
    assert {name: done.into for name, done in fold(twin).folded.items()} == into
    assert torch.equal(twin(x), model(x))
    assert report.model is model
    return report


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2 + 1


SIZES = {1: (9,), 2: (9, 8), 3: (5, 6, 7)}
GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "padded": {"padding": 1, "stride": 2},
    "groups": {"groups": 2, "dilation": 2, "padding": 2},
    "depthwise": {"groups": 4, "bias": False, "padding": 1},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("axes", SIZES)
def test_into_the_convolution_in_front(axes: int, geometry: str, dtype: str) -> None:
    conv, norm = getattr(nn, f"Conv{axes}d"), getattr(nn, f"BatchNorm{axes}d")
    model = nn.Sequential(conv(4, 8, 3, **GEOMETRIES[geometry]), norm(8), nn.ReLU())
    had_bias = model[0].bias is not None
    report = assert_folds(model, images(3, 4, *SIZES[axes], dtype=DTYPES[dtype]), {"1": "0"})
    assert type(model[1]) is nn.Identity
    assert isinstance(model[0].bias, nn.Parameter)
    assert model[0].bias.dtype == DTYPES[dtype]
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert report.folded["1"].growth > 0
    assert had_bias == GEOMETRIES[geometry].get("bias", True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "settings", [{}, {"groups": 2, "stride": 2, "output_padding": 1}, {"bias": False, "padding": 1}]
)
@pytest.mark.parametrize("axes", SIZES)
def test_into_the_transposed_convolution_in_front(axes: int, settings: dict[str, Any], dtype: str) -> None:
    conv, norm = getattr(nn, f"ConvTranspose{axes}d"), getattr(nn, f"BatchNorm{axes}d")
    model = nn.Sequential(conv(4, 6, 3, **settings), norm(6))
    assert_folds(model, images(3, 4, *SIZES[axes], dtype=DTYPES[dtype]), {"1": "0"})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_into_the_linear_layer_in_front_and_behind(bias: bool, dtype: str) -> None:
    x = images(9, 5, dtype=DTYPES[dtype])
    assert_folds(nn.Sequential(nn.Linear(5, 7, bias=bias), nn.BatchNorm1d(7)), x, {"1": "0"})
    assert_folds(nn.Sequential(nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 7, bias=bias)), x, {"1": "2"})


BEHIND: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    # what is behind, and whether it takes a shift
    "plain": (lambda: nn.Conv2d(4, 6, 3), True),
    "no bias, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False, stride=2), True),
    "valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), True),
    "same, one tap": (lambda: nn.Conv2d(4, 6, 1, padding="same"), True),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), True),
    "transposed, one tap": (lambda: nn.ConvTranspose2d(4, 6, 1, groups=2), True),
    "padded": (lambda: nn.Conv2d(4, 6, 3, padding=1), False),
    "same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), False),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), False),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", BEHIND)
def test_into_the_convolution_behind_where_that_is_exact(what: str, dtype: str) -> None:
    make, takes_shift = BEHIND[what]
    x = images(3, 4, 9, 8, dtype=DTYPES[dtype])
    if takes_shift:
        assert_folds(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), make()), x, {"1": "2"})
    model = trained(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, bias=False), make()), DTYPES[dtype])
    model[1].running_mean.zero_()  # no shift: zeros stay zeros
    expected = model(x)
    assert fold(model).folded["1"].into == "2"
    assert far(model(x), expected) <= tolerance(DTYPES[dtype])


def test_of_two_the_one_in_front() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3))
    assert_folds(model, images(2, 3, 9, 9), {"1": "0"})


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_into_batch_norm(affine: bool) -> None:
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3, affine=affine), nn.BatchNorm2d(3), nt.BatchNorm2d(3))
    assert_folds(model, images(2, 3, 4, 4), {"2": "1", "3": "1"})
    assert [type(each).__name__ for each in model] == ["ReLU", "BatchNorm2d", "Identity", "Identity"]
    assert model[1].affine


def test_a_row_of_them_rounds_once() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Identity(), nt.BatchNorm1d(4), nn.BatchNorm1d(4)
    )
    twin = trained(copy.deepcopy(model), torch.float32).double()
    trained(model, torch.float32)
    assert [*fold(model).folded] == [*fold(twin).folded] == ["1", "3", "4"]
    assert torch.equal(model[0].weight, twin[0].weight.float())
    assert torch.equal(model[0].bias, twin[0].bias.float())


# Those of a PerDomain and those that are no batch norms in inference are left, see test_fold_left.py.
OF_ALL = {
    name: case
    for name, case in CASES.items()
    if re.search("BatchNorm|Renorm", name) and "PerDomain" not in name and case.make().unlike_torch is None
}


@pytest.mark.parametrize("name", OF_ALL)
def test_every_batch_norm_of_ours(name: str) -> None:
    case: Case = OF_ALL[name]
    layer = case.make()
    layer(case.input())
    conv = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(case.shape)](C, C, 1)
    assert_folds(nn.Sequential(conv, layer), case.input().double(), {"1": "0"})


@pytest.mark.parametrize("activation", ["relu", "gelu", "leaky_relu", "hardswish", "elu", "mish", "relu6", "silu"])
def test_the_activation_of_a_layer_stays(activation: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nt.BatchNorm2d(4, activation=activation))
    report = assert_folds(model, images(2, 3, 9, 9), {"1": "0"})
    assert report.folded["1"].stays == activation
    assert type(model[1]).__module__ == "torch.nn.modules.activation"
    assert not model[1].training


def test_a_frozen_layer_too() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.float64)
    freeze(model)
    model.train()
    expected = model(images(2, 3, 9, 9))
    assert fold(model).folded["1"].into == "0"
    assert far(model(images(2, 3, 9, 9)), expected) <= EXACT


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # how many are folded, how many are left
    "resnet18": (networks.resnet18, 10, 0),
    "resnet50": (networks.resnet50, 15, 0),
    "vgg": (networks.vgg, 3, 0),
    "mobilenet": (networks.mobilenet, 6, 0),
    "densenet": (networks.densenet, 1, 2),
    "branching": (networks.Branching, 5, 2),
}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_as_people_write_them(name: str, dtype: str, fused: bool) -> None:
    make, folded, left = NETWORKS[name]
    model = trained(make(), DTYPES[dtype])
    x = images(4, 3, 8, 8, dtype=DTYPES[dtype])
    if fused:
        fuse(model)
    names, expected = [*dict(model.named_modules())], model(x)
    report = fold(model, [x])
    assert (len(report.folded), len(report.skipped)) == (folded, left), str(report)
    assert far(model(x), expected) <= tolerance(DTYPES[dtype], 20)
    assert [*dict(model.named_modules())] == names
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(again(x), model(x))
    assert {*fold(model).skipped} == {*report.skipped}


def test_an_addition_that_fuse_put_into_the_layer_stays() -> None:
    model = trained(networks.resnet18(), torch.float64)
    fuse(model)
    report = fold(model)
    assert report.folded["layer1.0.bn2"].stays == "add, relu"
    assert isinstance(model.layer1[0].bn2, Activation)
    assert repr(model.layer1[0].bn2) == "Activation(relu)"
    assert type(model.layer1[0].bn1) is nn.ReLU


class Written(nn.Module):
    """An optional argument, so that torch.fx does not follow; the source shows what goes together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.other = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.third, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.second(x)
        x = self.other(x)
        y = self.third(x)
        z: Tensor = self.last(y)
        return z if skip is None else z + y


def test_what_the_source_shows_is_enough_where_a_trace_is_not() -> None:
    model = trained(Written(), torch.float64)
    x = images(2, 3, 5, 5)
    expected = [model(x), model(x, torch.ones(1))]
    report = fold(model)
    assert {name: done.into for name, done in report.folded.items()} == {"norm": "first", "other": "second"}
    assert report.skipped == {
        "last": "the model (Written) cannot be followed: its forward takes optional arguments",
    }
    assert [far(model(x), expected[0]), far(model(x, torch.ones(1)), expected[1])] <= [EXACT] * 2


def test_half_precision_and_gradients_and_modes_stay() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), torch.bfloat16)
    model[0].weight.requires_grad_(False)
    weight = model[0].weight
    fold(model)
    assert model[0].weight is weight
    assert (model[0].bias.dtype, model[0].bias.requires_grad) == (torch.bfloat16, False)
    assert not model[1].training
    assert model(images(1, 3, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_compiled_and_a_wrapped_model() -> None:
    x = images(2, 3, 9, 9)
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.float64)
    expected = model(x)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    report = fold(compiled, [x])  # type: ignore[arg-type]  # a module, which the stubs do not say
    assert report.folded["_orig_mod.1"].into == "_orig_mod.0"
    assert far(compiled(x), expected) <= EXACT
    wrapped = nn.DataParallel(trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.float64))
    expected = wrapped(x)
    assert fold(wrapped).folded["module.1"].into == "module.0"
    assert far(wrapped(x), expected) <= EXACT


def test_the_report() -> None:
    model = trained(
        nn.Sequential(nn.Conv2d(1, 1, 1), nt.BatchNorm2d(1, activation="relu"), nn.Linear(3, 3)), torch.float64
    )
    with torch.no_grad():
        model[0].weight.fill_(0.5), model[1].weight.fill_(3), model[1].running_var.fill_(1 - 1e-5)
    report = fold(model, [(images(2, 1, 3, 3), 0), (images(3, 1, 3, 3), 0)])
    first, second = str(report).splitlines()
    assert first.startswith("1 of 1 batch norms folded; largest relative error of an output ")
    assert first.endswith(" on 5 samples in 2 batches")
    assert second == "  folded       1: into 0, whose largest weight is now 3 times as large; its relu stays"
    assert report.to_json().startswith('{"folded": {"1": {"into": "0", "growth": 3.0')
    assert str(fold(model)) == "nothing folded: the model has no batch norm"
    assert '"output_error": null' in fold(model).to_json()
