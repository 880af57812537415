"""PyTorch's own sample inputs for batch norm, from the tables that its test suite is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import normwise.torch as nt
from normwise.kernels import choose
from normwise.torch.functional import batch_norm
from tests.cases import saved_buffers

(OP,) = [op for op in op_db if op.name == "nn.functional.batch_norm" and op.variant_test_name == ""]
MODULES = {info.module_cls.__name__: info for info in module_db if info.module_cls.__name__.startswith("BatchNorm")}


@pytest.fixture(params=["", "two_pass"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel of the layers' choice, and the one that they take where PyTorch's is not exact."""
    monkeypatch.setattr(choose, "_ASKED", request.param)
    return str(request.param)


def samples(dtype: torch.dtype) -> list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]]:
    """Fresh inputs of the operator, the same at every call."""
    torch.manual_seed(0)
    found = OP.sample_inputs("cpu", dtype, requires_grad=True)
    return [(sample.input, sample.args, sample.kwargs) for sample in found]


def same(found: Any, right: Any, kernel: str) -> None:
    """Assert that results are equal to the bit, or within rounding where the kernel is another one."""
    if kernel:
        torch.testing.assert_close(found, right)
    else:
        torch.testing.assert_close(found, right, rtol=0, atol=0)


def differentiable(x: Tensor, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among the arguments that take a gradient."""
    return [tensor for tensor in (x, *args) if isinstance(tensor, Tensor) and tensor.requires_grad]


def test_the_tables_hold_what_they_are_meant_to() -> None:
    assert len(samples(torch.float64)) >= 12
    assert {*MODULES} == {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"}
    assert len([*module_cases()]) >= 22


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_function_on_the_operators_samples(dtype: torch.dtype) -> None:
    for (x, args, kwargs), (other, others, _) in zip(samples(dtype), samples(dtype), strict=True):
        y, right = batch_norm(x, *args, **kwargs), nn.functional.batch_norm(other, *others, **kwargs)
        torch.testing.assert_close(y, right, rtol=0, atol=0)
        inputs, twins = differentiable(x, args), differentiable(other, others)
        found, wanted = (
            torch.autograd.grad(out.sum() + (out * out).sum(), tensors, allow_unused=True)
            for out, tensors in ((y, inputs), (right, twins))
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        torch.testing.assert_close(args[:2], others[:2], rtol=0, atol=0)  # the running statistics


def test_gradients_of_the_function_by_finite_differences(kernel: str) -> None:
    checked = 0
    for x, args, kwargs in samples(torch.float64):
        if x.numel() == 0:
            continue
        mean, var, weight, bias = args
        inputs = [tensor.detach().requires_grad_() for tensor in (x, weight, bias) if tensor is not None]
        call = partial(_call, mean=mean, var=var, kwargs=kwargs)
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True), kernel
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True), kernel
        checked += 1
    assert checked >= 10


def _call(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None,
    var: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    return batch_norm(x, mean, var, weight, bias, **kwargs)


def module_cases() -> Iterator[tuple[str, int, bool]]:
    """Every sample of every module, in training and in inference."""
    for name, info in MODULES.items():
        for training in (True, False):
            count = len(info.module_inputs_func(info, "cpu", torch.float64, requires_grad=True, training=training))
            yield from ((name, number, training) for number in range(count))


def module_sample(name: str, number: int, training: bool, dtype: torch.dtype) -> Any:
    """The sample; the same numbers at every call."""
    torch.manual_seed(0)
    info = MODULES[name]
    return info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=training)[number]


Make = Callable[[Any, Any], nn.Module]


def _eager(module: Any, constructor: Any) -> nn.Module:
    layer = module(*constructor.args, **constructor.kwargs)
    assert isinstance(layer, nn.Module)
    return layer


def _lazy(module: Any, constructor: Any) -> nn.Module:
    layer = module(*constructor.args[1:], **constructor.kwargs)  # without the number of features
    assert isinstance(layer, nn.Module)
    return layer


@pytest.mark.parametrize(("prefix", "make"), [("", _eager), ("Lazy", _lazy)], ids=["layer", "lazy"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("name", "number", "training"), [*module_cases()])
def test_the_layers_on_the_modules_samples(
    name: str, number: int, training: bool, dtype: torch.dtype, prefix: str, make: Make, kernel: str
) -> None:
    results = []
    first = module_sample(name, number, training, dtype)
    empty = first.forward_input.args[0].numel() == 0
    constructor = first.constructor_input
    averaged = len(constructor.args) > 2 and constructor.args[2] is None  # torch rounds 1/k to float32 first
    for module in (nt, nn):
        sample = module_sample(name, number, training, dtype)
        layer = make(getattr(module, prefix + name), sample.constructor_input).to(dtype)
        x = sample.forward_input.args[0]
        if prefix:
            layer(x.detach())
        y = layer.train(training)(x)
        gradients = torch.autograd.grad((y * y).sum() + y.sum(), [x, *layer.parameters()])
        results.append((y, *gradients, *saved_buffers(layer)))
    ours, theirs = results
    assert len(ours) == len(theirs)
    for found, right in zip(ours, theirs, strict=True):
        if found.numel() == 0:
            assert found.shape == right.shape
        elif averaged:
            torch.testing.assert_close(found, right)
        elif not empty or found.is_floating_point():  # an empty batch is one that torch counts and we do not
            same(found, right, kernel)


def test_an_empty_batch_changes_nothing_at_all() -> None:
    choices: list[dict[str, Any]] = [{}, {"momentum": None}, {"estimator": "pooled"}]
    for settings in choices:
        layer = nt.BatchNorm1d(3, **settings)
        layer(torch.randn(4, 3))
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        assert layer(torch.zeros(0, 3)).shape == (0, 3)
        assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize(("name", "number", "training"), [*module_cases()])
def test_gradients_of_the_layers_by_finite_differences(name: str, number: int, training: bool, kernel: str) -> None:
    sample = module_sample(name, number, training, torch.float64)
    layer = _eager(getattr(nt, name), sample.constructor_input).double().train(training)
    x = sample.forward_input.args[0]
    if x.numel():
        assert torch.autograd.gradcheck(layer, (x,), fast_mode=True), kernel
        assert torch.autograd.gradgradcheck(layer, (x,), fast_mode=True), kernel
    else:
        assert layer(x).shape == x.shape


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_modules_errors(name: str) -> None:
    info = MODULES[name]
    errors = info.module_error_inputs_func(info, "cpu", torch.float32, requires_grad=False, training=True)
    assert len(errors) >= 2
    for error in errors:
        sample = error.module_error_input
        layer = _eager(getattr(nt, name), sample.constructor_input)
        with pytest.raises(error.error_type, match=error.error_regex):
            layer(*sample.forward_input.args)
        assert int(layer.state_dict()["num_batches_tracked"]) == 0
