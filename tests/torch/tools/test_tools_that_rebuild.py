"""PyTorch tools that build batch norms again: the same answers, or a refusal; never an activation that is gone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import normwise.torch as nt
from normwise.errors import NormwiseError
from tests.torch.recorded_layers import NAMES, batch, made

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning"),  # in PyTorch 2.13
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),  # the same
    pytest.mark.filterwarnings("ignore::UserWarning:torch.ao"),  # of its own observers and storages
]
LAYERS = [name for name in NAMES if not name.endswith(("1d", "3d")) and not name.startswith("Lazy")]
WITH_ACTIVATIONS = [
    nt.BatchNorm2d(6, activation="sigmoid"),
    nt.GhostBatchNorm2d(6, num_splits=2, activation="relu"),
    nt.BatchRenorm2d(6, activation="tanh"),
    nt.SyncBatchNorm(6, activation="gelu"),
]


EVERY = [
    *(pytest.param(layer, id=f"{type(layer).__name__}-{layer.activation}") for layer in WITH_ACTIVATIONS),
    *(pytest.param(made(name), id=name) for name in LAYERS),
]


def called(layer: nn.Module) -> str:
    return type(layer).__name__


def model_with(layer: nn.Module) -> nn.Module:
    """A convolution, the layer, and an activation, in inference, after some training of the statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 6, 1), copy.deepcopy(layer), nn.ReLU())
    for _ in range(3):
        model(batch("BatchNorm2d"))
    return model.eval()


def fused_by_fx(model: nn.Module, x: Tensor) -> Any:
    return import_module("torch.fx.experimental.optimization").fuse(model)(x)


def optimized_by_fx(model: nn.Module, x: Tensor) -> Any:
    return import_module("torch.fx.experimental.optimization").optimize_for_inference(model)(x)


def without_dropout(model: nn.Module, x: Tensor) -> Any:
    return import_module("torch.fx.experimental.optimization").remove_dropout(model)(x)


def transformed_by_fx(model: nn.Module, x: Tensor) -> Any:
    return fx.Transformer(fx.symbolic_trace(model)).transform()(x)


def fused_for_quantization(model: nn.Module, x: Tensor) -> Any:
    return import_module("torch.ao.quantization.quantize_fx").fuse_fx(model)(x)


def quantized_dynamically(model: nn.Module, x: Tensor) -> Any:
    return import_module("torch.ao.quantization").quantize_dynamic(model)(x)


def frozen(model: nn.Module, x: Tensor) -> Any:
    return torch.jit.freeze(torch.jit.trace(model, x))(x)


def optimized_by_jit(model: nn.Module, x: Tensor) -> Any:
    found = torch.jit.optimize_for_inference(torch.jit.trace(model, x))
    found(x)
    return found(x)


def fused_by_jit(model: nn.Module, x: Tensor) -> Any:
    return import_module("torch.ao.quantization.quantize_jit").fuse_conv_bn_jit(torch.jit.trace(model, x))(x)


def fused_by_the_inductor(model: nn.Module, x: Tensor) -> Any:
    rewrite = import_module("torch._inductor.fx_passes.pre_grad").fuse_conv_bn
    torch.compiler.reset()
    with torch.no_grad():
        return torch.compile(model, backend=lambda graph, _: rewrite(graph))(x)


def made_efficient_by_the_inductor(model: nn.Module, x: Tensor) -> Any:
    rewrite = import_module("torch._inductor.fx_passes.efficient_conv_bn_eval").efficient_conv_bn_eval_pass
    torch.compiler.reset()

    def backend(graph: fx.GraphModule, _: Any) -> Any:
        with import_module("torch._inductor.config").patch(efficient_conv_bn_eval_fx_passes=True):
            rewrite.apply(graph.graph)
        return fx.Interpreter(graph).run

    return torch.compile(model, backend=backend)(x)


TOOLS = [
    fused_by_fx,
    optimized_by_fx,
    without_dropout,
    transformed_by_fx,
    fused_for_quantization,
    quantized_dynamically,
    frozen,
    optimized_by_jit,
    fused_by_jit,
    fused_by_the_inductor,
    made_efficient_by_the_inductor,
]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("layer", EVERY)
def test_the_same_answers(layer: nn.Module, tool: Callable[[nn.Module, Tensor], Any]) -> None:
    model, x = model_with(layer), batch("BatchNorm2d")
    right = model(x)
    torch.testing.assert_close(tool(copy.deepcopy(model), x), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prepare", ["prepare_fx", "prepare_qat_fx"])
@pytest.mark.parametrize("layer", EVERY)
def test_quantization_leaves_the_layers_in_float(layer: nn.Module, prepare: str) -> None:
    tools, mappings = import_module("torch.ao.quantization.quantize_fx"), import_module("torch.ao.quantization")
    model, x = model_with(layer), batch("BatchNorm2d")
    right = model(x)
    training = prepare == "prepare_qat_fx"
    mapping = mappings.get_default_qat_qconfig_mapping() if training else mappings.get_default_qconfig_mapping()
    prepared = getattr(tools, prepare)(copy.deepcopy(model).train(training), mapping, (x,)).eval()
    prepared(x)
    converted = tools.convert_fx(prepared)
    assert any(type(part).__name__ == called(layer) for part in converted.modules())
    # 8 bits for the convolution's output; were the activation gone, most values would be other ones.
    assert float((converted(x) - right).detach().abs().mean()) < 0.02 * float(right.detach().abs().max())


@pytest.mark.parametrize("layer", EVERY)
def test_a_quantized_tensor_is_refused_in_a_sentence(layer: nn.Module) -> None:
    quantization, x = import_module("torch.ao.quantization"), batch("BatchNorm2d")
    model = nn.Sequential(quantization.QuantStub(), model_with(layer), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(model)
    prepared(x)
    converted = quantization.convert(prepared)
    with pytest.raises(NormwiseError) as caught:
        converted(x)
    assert str(caught.value) == (
        "normalization needs a tensor of floating dtype, received a quantized one, torch.quint8: put a "
        "torch.ao.quantization.DeQuantStub before the layer and a QuantStub behind it, or quantize the model by "
        "torch.ao.quantization.quantize_fx, which does so by itself."
    )


@pytest.mark.parametrize("layer", EVERY)
def test_fuse_modules_takes_none_of_them(layer: nn.Module) -> None:
    quantization = import_module("torch.ao.quantization")
    sentence = "fuse_modules takes layers of exactly PyTorch's own classes, received"
    # PyTorch's own words where it would not know PyTorch's own layer of that kind either.
    with pytest.raises((NormwiseError, AssertionError), match=f"{sentence}|did not find fuser method") as caught:
        quantization.fuse_modules(model_with(layer), ["0", "1"])
    known = isinstance(layer, nn.BatchNorm2d | nt.SyncBatchNorm) and layer.unlike_torch is None
    assert isinstance(caught.value, NormwiseError) == known


@pytest.mark.parametrize("layer", WITH_ACTIVATIONS[:3], ids=called)
def test_fuse_modules_that_was_told_of_them_refuses_an_activation(layer: Any) -> None:
    quantization = import_module("torch.ao.quantization")
    methods = import_module("torch.ao.quantization.fuser_method_mappings")
    told = {"additional_fuser_method_mapping": {(nn.Conv2d, type(layer)): methods.fuse_conv_bn}}
    plain = model_with(type(layer)(6, **({"num_splits": 2} if isinstance(layer, nt.GhostBatchNorm2d) else {})))
    x = batch("BatchNorm2d")
    fused = quantization.fuse_modules(plain, ["0", "1"], fuse_custom_config_dict=told)
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(NormwiseError, match="fuse_conv_bn_eval would lose the activation of"):
        quantization.fuse_modules(model_with(layer), ["0", "1"], fuse_custom_config_dict=told)
    # For training it puts both into one module, whose constructor wants torch's own.
    with pytest.raises(NormwiseError, match="ConvBn2d takes layers of exactly PyTorch's own classes, received"):
        quantization.fuse_modules_qat(model_with(layer).train(), ["0", "1"], fuse_custom_config_dict=told)


@pytest.mark.parametrize("method", ["from_float", "from_reference"])
@pytest.mark.parametrize("layer", WITH_ACTIVATIONS[:3], ids=called)
def test_the_quantized_layer_refuses_to_be_made_of_an_activation(layer: Any, method: str) -> None:
    quantized = import_module("torch.ao.nn.quantized").BatchNorm2d
    layer = copy.deepcopy(layer)
    layer.activation_post_process = import_module("torch.ao.quantization").default_observer()
    layer.activation_post_process(batch("BatchNorm2d"))
    arguments = () if method == "from_float" else (1.0, 0)
    with pytest.raises(NormwiseError) as caught:
        getattr(quantized, method)(layer, *arguments)
    assert str(caught.value) == (
        f"{method} of torch.ao.nn.quantized's batch norms would lose the activation of {called(layer)}"
        f"({layer.extra_repr()}): build the model again, of which it has converted a part by now, with the activation "
        "behind the layer and not in it."
    )


@pytest.mark.parametrize("layer", WITH_ACTIVATIONS[:3], ids=called)
def test_to_mkldnn_refuses_an_activation(layer: Any) -> None:
    to_mkldnn = import_module("torch.utils.mkldnn").to_mkldnn
    model: Any = model_with(layer)
    with pytest.raises(NormwiseError) as caught:
        to_mkldnn(model)
    assert str(caught.value) == (
        f"torch.utils.mkldnn.to_mkldnn would lose the activation of {called(layer)}({model[1].extra_repr()}): build "
        "the model again, of which it has converted a part by now, with the activation behind the layer and not in it."
    )


@pytest.mark.parametrize("name", ["BatchNorm2d", "GhostBatchNorm2d", "BatchRenorm2d", "SyncBatchNorm", "PerDomain"])
def test_to_mkldnn_of_a_layer_that_is_plain_in_inference(name: str) -> None:
    to_mkldnn = import_module("torch.utils.mkldnn").to_mkldnn
    model, x = model_with(made(name)), batch("BatchNorm2d")
    right = model(x)
    torch.testing.assert_close(to_mkldnn(model)(x.to_mkldnn()).to_dense(), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", EVERY)
def test_without_statistics_every_batch_normalizes_itself(layer: Any) -> None:
    model: Any = model_with(layer)
    x = batch("BatchNorm2d")
    right = copy.deepcopy(model)
    for part in right.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train()  # with batch statistics, too
            part.track_running_stats = False
    torch.func.replace_all_batch_norm_modules_(model)
    if isinstance(layer, nt.GhostBatchNorm2d):  # whose virtual batches are of training
        right = nn.Sequential(
            right[0], nt.BatchNorm2d(6, track_running_stats=False, activation=layer.activation), right[2]
        )
        right[1].load_state_dict(model[1].state_dict())
    torch.testing.assert_close(model(x), right(x), rtol=1e-4, atol=1e-5)
    batch_norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert all(part.running_mean is None for part in batch_norms)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("BatchRenorm")])
def test_renormalization_without_statistics_is_refused_in_training(name: str) -> None:
    layer: Any = torch.func.replace_all_batch_norm_modules_(made(name))
    with pytest.raises(NormwiseError) as caught:
        layer(batch(name))
    assert str(caught.value) == (
        f"{name}({layer.extra_repr()}) corrects towards running statistics, and they were taken away, as "
        "torch.func.replace_all_batch_norm_modules_ does it: put a BatchNorm in its place, or leave the layer its "
        "statistics and freeze it by eval()."
    )


@pytest.mark.parametrize("name", [name for name in NAMES if "InstanceNorm" not in name])
def test_update_bn_finds_the_average_over_the_data(name: str) -> None:
    batches = [batch(name) + step for step in range(3)]
    model = nn.Sequential(made(name))
    torch.optim.swa_utils.update_bn(batches, model)
    means = [value for key, value in model.named_buffers() if key.endswith("running_mean")]
    right = torch.stack([x.mean([axis for axis in range(x.dim()) if axis != 1]) for x in batches]).mean(0)
    if means:  # of the first domain, where there are several
        torch.testing.assert_close(means[0], right, rtol=1e-4, atol=1e-4)
    assert bool(means) == (name not in ("GroupNorm", "LayerNorm"))
