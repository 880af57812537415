"""PyTorch's tools for batch norm on whitening layers: they do the right thing, or are refused; never anything else."""

from __future__ import annotations

import copy
import re
import warnings
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval, parametrizations
from torch.optim.swa_utils import AveragedModel, update_bn

import normwise
import normwise.torch as nt

REFUSED = (
    "{} has no running_var, because it whitens groups of channels by its running_covariance: what was called is for "
    "layers that divide each channel by its own deviation, as SyncBatchNorm.convert_sync_batchnorm and "
    "fuse_conv_bn_eval are; leave this layer out of it."
)
# what these tools of torch are made of, torch itself has deprecated
scripted_inside = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
KINDS = [nt.DecorrelatedBatchNorm2d, nt.IterativeNorm2d]


class TurnedBatchNorm2d(nn.BatchNorm2d):
    """Anyone's layer that is not for single channels either, written as PyTorch's are."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).flip(1)


def network(norm: nn.Module) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU())
    for x in batches():
        model(x)
    return model


def batches() -> list[Tensor]:
    return [torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step)) for step in range(3)]


def test_convert_sync_batchnorm_replaces_foreign_layers_without_a_word() -> None:
    # When this fails, PyTorch has learnt to ask, and the sentence below may go.
    model = network(TurnedBatchNorm2d(4)).eval()
    x = batches()[0]
    before = model(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted[1]) is nn.SyncBatchNorm
    assert not torch.allclose(converted(x), before, atol=0.1)


def test_fuse_conv_bn_eval_drops_what_foreign_layers_do_without_a_word() -> None:
    model = network(TurnedBatchNorm2d(4)).eval()
    x = batches()[0]
    fused = fuse_conv_bn_eval(model[0], model[1])
    assert not torch.allclose(fused(x), model[1](model[0](x)), atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_convert_sync_batchnorm_is_refused_and_changes_nothing(kind: type[nn.Module]) -> None:
    model = network(kind(4, group_size=2))
    with pytest.raises(AttributeError) as error:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert str(error.value) == REFUSED.format(kind.__name__)
    assert type(model[1]) is kind


@pytest.mark.parametrize("kind", KINDS)
def test_fusions_into_a_convolution_are_refused(kind: type[nn.Module]) -> None:
    model = network(kind(4, group_size=2)).eval()
    with pytest.raises(AttributeError) as error:
        fuse_conv_bn_eval(model[0], model[1])
    assert str(error.value) == REFUSED.format(kind.__name__)


def test_fusions_into_a_linear_layer_are_refused() -> None:
    norm = nt.IterativeNorm1d(4).eval()
    with pytest.raises(AttributeError) as error:
        fuse_linear_bn_eval(nn.Linear(3, 4).eval(), norm)
    assert str(error.value) == REFUSED.format("IterativeNorm1d")


@scripted_inside
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="there is no such library on this machine")
def test_to_mkldnn_is_refused() -> None:
    model = network(nt.IterativeNorm2d(4)).eval()
    with pytest.raises(AttributeError, match="IterativeNorm2d has no running_var"):
        import_module("torch.utils.mkldnn").to_mkldnn(model)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")  # by torch itself
@pytest.mark.parametrize("kind", KINDS)
def test_quantization_fuses_them_into_nothing_and_leaves_them_in_float(kind: type[nn.Module]) -> None:
    quantization = import_module("torch.ao.quantization")
    model = network(kind(4, group_size=2)).eval()
    x = batches()[0]
    for modules in (["0", "1"], ["1", "2"]):
        with pytest.raises(AssertionError, match="did not find fuser method"):
            quantization.fuse_modules(model, modules)
    torch.testing.assert_close(quantization.quantize_dynamic(model)(x), model(x))


@scripted_inside
@pytest.mark.parametrize("kind", KINDS)
def test_fx_fusion_leaves_them(kind: type[nn.Module]) -> None:
    model = network(kind(4, group_size=2)).eval()

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, kind) or super().is_leaf_module(m, module_qualified_name)

    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    fused = import_module("torch.fx.experimental.optimization").fuse(traced, no_trace=True)
    x = batches()[0]
    torch.testing.assert_close(fused(x), model(x))
    assert sum(isinstance(module, kind) for module in fused.modules()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_functorchs_replacement_normalizes_by_the_batch(kind: type[nn.Module]) -> None:
    model = network(kind(4, group_size=2)).eval()
    x = batches()[0]
    expected = copy.deepcopy(model).train()(x)
    torch.func.replace_all_batch_norm_modules_(model)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_averaged_models_and_update_bn(kind: type[nn.Module]) -> None:
    model = network(kind(4, group_size=2))
    average = AveragedModel(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
    average.update_parameters(model)
    update_bn(batches(), average)
    expected: Any = copy.deepcopy(average.module)
    expected[1].reset_running_stats()
    expected[1].momentum = None
    for x in batches():
        expected(x)
    torch.testing.assert_close(average.module.state_dict(), expected.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_averaged_buffers(kind: type[nn.Module]) -> None:
    one, other = (network(kind(4, group_size=2, momentum=momentum)) for momentum in (0.1, 0.5))
    average = AveragedModel(one, use_buffers=True)
    for model in (one, other):
        average.update_parameters(model)
    mean = (one[1].running_covariance + other[1].running_covariance) / 2
    torch.testing.assert_close(average.module.get_submodule("1").running_covariance, mean)
    x = batches()[0]
    before = average.eval()(x)
    average.update_parameters(one)  # a kept matrix would not notice
    assert not torch.allclose(average(x), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_parametrized_weight_in_training_and_inference(kind: type[nn.Module]) -> None:
    model, plain = (network(kind(4, group_size=2)) for _ in range(2))
    parametrizations.weight_norm(model[1], "weight", dim=0)
    x = batches()[0]
    torch.testing.assert_close(model(x), plain(x))
    for each in (model, plain):
        each.eval()
        torch.testing.assert_close(each(x), each(x))
    torch.testing.assert_close(model(x), plain(x))


def test_fuse_leaves_them_and_says_so() -> None:
    model = network(nt.DecorrelatedBatchNorm2d(4, group_size=2)).eval()
    x = batches()[0]
    expected = model(x)
    report = normwise.fuse(model)
    assert [*report.left] == ["1"]
    assert torch.equal(model(x), expected)


def plain_statistics() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4)
    for x in batches():
        norm(nn.functional.pad(x, (0, 0, 0, 0, 0, 1)) + torch.arange(4.0).view(1, 4, 1, 1))
    return norm.eval()


@pytest.mark.parametrize("assign", [False, True])
def test_a_batch_norms_checkpoint_is_loaded_as_one_of_uncorrelated_channels(assign: bool) -> None:
    plain, x = plain_statistics(), torch.randn(4, 4, 3, 3)
    with torch.no_grad():
        plain.weight.copy_(torch.rand(4) + 0.5)
    layer = nt.DecorrelatedBatchNorm2d(4, group_size=2).eval()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    with pytest.warns(UserWarning, match="uncorrelated") as caught:
        layer.load_state_dict(plain.state_dict(), assign=assign)
    assert [str(each.message) for each in caught] == [
        "DecorrelatedBatchNorm2d was given a batch norm's statistics, a running_var and no running_covariance: it "
        "takes the channels as uncorrelated, and so divides each by its own deviation in inference, until it was "
        "trained or normwise.recalibrate has seen data."
    ]
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(plain.state_dict(), before)
    layer.train()(x + 1)
    torch.testing.assert_close(plain.state_dict()["running_var"], before["running_var"])


def test_its_own_checkpoint_is_loaded_without_a_word_and_one_of_other_channels_is_refused() -> None:
    layer, twin = (nt.IterativeNorm2d(4, group_size=2) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin.load_state_dict(layer.state_dict())
        with pytest.raises(RuntimeError, match=re.escape("running_mean: copying a param with shape torch.Size([6])")):
            layer.load_state_dict(nn.BatchNorm2d(6).state_dict())


@pytest.mark.parametrize("plain", [nn.BatchNorm2d, nt.BatchNorm2d], ids=["torch", "normwise"])
def test_a_batch_norm_refuses_its_checkpoint_and_names_what_is_missing_and_surplus(plain: type[nn.Module]) -> None:
    with pytest.raises(RuntimeError) as error:
        plain(4).load_state_dict(nt.IterativeNorm2d(4).state_dict())
    assert str(error.value) == (
        f"Error(s) in loading state_dict for {plain.__name__}:\n"
        '\tMissing key(s) in state_dict: "running_var". \n'
        '\tUnexpected key(s) in state_dict: "running_covariance". '
    )


def test_the_diagonal_is_a_batch_norms_variance() -> None:
    layer, plain = nt.DecorrelatedBatchNorm2d(4, group_size=2), nt.BatchNorm2d(4)
    for x in batches():
        wide = torch.cat((x, x[:, :1]), 1)
        layer(wide)
        plain(wide)
    state: dict[str, Any] = layer.state_dict()
    state["running_var"] = state.pop("running_covariance").diagonal(dim1=1, dim2=2).flatten()
    torch.testing.assert_close(state, plain.state_dict(), check_stride=False)
    nn.BatchNorm2d(4).load_state_dict(state)
