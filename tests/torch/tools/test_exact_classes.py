"""PyTorch tools that want its own classes exactly, or hand a layer its arguments by position."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import normwise
import normwise.torch as nt
from normwise.errors import NormwiseError
from tests.torch.recorded_layers import NAMES, batch, made

# The older exporter and torch.ao.quantization are on their way out, and say so.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
WITHOUT_EIGENVALUES = [name for name in NAMES if not name.startswith("Decorrelated")]
WAY_OUT = "call normwise.swap(model, to='torch') before, or normwise.fold(model) for inference."
EXACT = "takes layers of exactly PyTorch's own classes, received"


def exported(layer: nn.Module, arguments: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> bytes:
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    # The last step looks for functions of users' own, for which it wants the library onnx.
    monkeypatch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda model, _: model)
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says about its own insides
        torch.onnx.export(layer, arguments, file, dynamo=False, opset_version=17)
    found: bytes = file.getvalue()
    return found


@pytest.mark.parametrize("name", WITHOUT_EIGENVALUES)
def test_the_older_exporter_to_onnx_takes_a_layer_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(name).eval()
    alone = exported(layer, (batch(name),), monkeypatch)
    inside = exported(nn.Sequential(layer), (batch(name),), monkeypatch)
    operators = (b"BatchNormalization", b"InstanceNormalization", b"LayerNormalization", b"MatMul", b"Div", b"Sub")
    assert [each in alone for each in operators] == [each in inside for each in operators]
    assert any(each in alone for each in operators)


def test_it_takes_domains_of_a_layer_of_pytorch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nt.PerDomain(nn.BatchNorm2d(6), ["day", "night"], default="day").eval()
    assert b"BatchNormalization" in exported(layer, (batch("BatchNorm2d"),), monkeypatch)


def test_the_older_exporter_takes_a_residual_too(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made("BatchNorm2d").eval(), batch("BatchNorm2d")
    file = exported(layer, (x, x.clone()), monkeypatch)
    assert b"BatchNormalization" in file
    assert b"Add" in file


@pytest.mark.parametrize("name", ["DecorrelatedBatchNorm1d", "DecorrelatedBatchNorm2d"])
def test_eigenvalues_are_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(name).eval()
    with pytest.raises(NormwiseError) as caught:
        exported(layer, (batch(name),), monkeypatch)
    assert str(caught.value) == (
        f"ONNX has no operator for the eigenvalues of {name}({layer.extra_repr()}): train with an IterativeNorm in its "
        "place, or record the model by torch.export.export."
    )


def network(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU())
    for _ in range(3):
        model(torch.randn(4, 3, 6, 6))
    return model


@pytest.mark.parametrize("pair", [["0", "1"], ["0", "1", "2"], ["1", "2"]], ids=str)
@pytest.mark.parametrize("norm", [nt.BatchNorm2d(4), nt.BatchRenorm2d(4, activation="relu")], ids=type)
def test_fuse_modules_names_the_way_out(norm: nn.Module, pair: list[str]) -> None:
    model = network(norm)
    before = copy.deepcopy(model.state_dict())
    for fuse, ready in (
        (torch.ao.quantization.fuse_modules, model.eval()),
        (torch.ao.quantization.fuse_modules_qat, model.train()),
    ):
        with pytest.raises(NormwiseError) as caught:
            fuse(ready.train(fuse is torch.ao.quantization.fuse_modules_qat), [pair])
        received = f"{type(norm).__name__}({norm.extra_repr()})"
        assert str(caught.value) == f"torch.ao.quantization.fuse_modules {EXACT} {received}: {WAY_OUT}"
    torch.testing.assert_close(model.state_dict(), before)


def test_the_way_out_is_one() -> None:
    model = network(nt.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 6, 6)
    wanted = model(x)
    normwise.swap(model, to="torch")
    fused = torch.ao.quantization.fuse_modules(model, [["0", "1", "2"]])
    assert type(fused[1]) is nn.Identity
    torch.testing.assert_close(fused(x), wanted)


def test_a_table_of_the_callers_own_may_have_them() -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    def fuser(is_qat: bool, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
        assert not is_qat
        return fuse_conv_bn_eval(convolution, norm)

    model = network(nt.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 6, 6)
    wanted = model(x)
    table = {"additional_fuser_method_mapping": {(nn.Conv2d, nt.BatchNorm2d): fuser}}
    fused = torch.ao.quantization.fuse_modules(model, [["0", "1"]], fuse_custom_config_dict=table)
    torch.testing.assert_close(fused(x), wanted)


def test_the_pairs_of_quantization_name_the_way_out() -> None:
    from torch.ao.nn import intrinsic

    norm = nt.BatchNorm2d(4)
    received = f"BatchNorm2d({norm.extra_repr()})"
    with pytest.raises(NormwiseError) as caught:
        intrinsic.ConvBn2d(nn.Conv2d(3, 4, 3), norm)
    assert str(caught.value) == f"torch.ao.nn.intrinsic.ConvBn2d {EXACT} {received}: {WAY_OUT}"
    with pytest.raises(NormwiseError) as caught:
        intrinsic.BNReLU2d(norm, nn.ReLU())
    assert str(caught.value) == f"torch.ao.nn.intrinsic.BNReLU2d {EXACT} {received}: {WAY_OUT}"


def test_others_may_ask_whether_a_layer_is_parametrized() -> None:
    from torch.nn.utils import parametrize

    norm = nt.BatchNorm2d(4)
    assert not parametrize.is_parametrized(norm)
    assert parametrize.type_before_parametrizations(norm) is nt.BatchNorm2d
    parametrize.register_parametrization(norm, "weight", nn.Softplus())
    assert parametrize.is_parametrized(norm)
