"""Every layer among PyTorch's tools and given strange tensors: it works as without the tool, or is refused."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import normwise
from normwise.errors import StatisticsCaptured
from tests.torch.every_layer import CASES, Case

NAMES = list(CASES)
TRACKING = [name for name, case in CASES.items() if case.tracks]


class Same(nn.Module):
    """A parametrization that changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Passing(TorchDispatchMode):
    """Sees every operation and lets it be."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Subclass(Tensor):
    """A tensor of another class that behaves like one."""


def built(case: Case) -> Any:
    """The layer after one batch, so that nothing is at its beginning or lazy."""
    torch.manual_seed(0)
    layer = case.make()
    layer(case.input(5))
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


def step(layer: Any, x: Tensor) -> list[Tensor | None]:
    """The output and the gradient of the input, then every gradient and buffer."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    slope = (torch.arange(y.numel(), dtype=y.dtype) % 7).view(y.shape)
    (y.square() * slope).sum().backward()
    rest = [parameter.grad for parameter in layer.parameters()] + [*layer.buffers()]
    return [y.detach(), x.grad, *(None if each is None else each.detach().clone() for each in rest)]


def assert_close(found: list[Tensor | None], wanted: list[Tensor | None]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)


def after_inference_mode(layer: Any, x: Tensor) -> Any:
    with torch.inference_mode():
        layer.eval()(x)
    return step(layer.train(), x)


def copied(layer: Any, x: Tensor) -> Any:
    return step(copy.deepcopy(layer), x)


def pickled(layer: Any, x: Tensor) -> Any:
    return step(pickle.loads(pickle.dumps(layer)), x)


def saved(layer: Any, x: Tensor) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return step(torch.load(file, weights_only=False), x)


def sent_to_another_process(layer: Any, x: Tensor) -> Any:
    return step(pickle.loads(ForkingPickler.dumps(layer.share_memory())), x)


def saved_on_the_cpu(layer: Any, x: Tensor) -> Any:
    with torch.autograd.graph.save_on_cpu():
        return step(layer, x)


def without_anomalies(layer: Any, x: Tensor) -> Any:
    with torch.autograd.set_detect_anomaly(True):
        return step(layer, x)


def deterministically(layer: Any, x: Tensor) -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        return step(layer, x)
    finally:
        torch.use_deterministic_algorithms(False)


def seen_by_a_dispatch_mode(layer: Any, x: Tensor) -> Any:
    with Passing():
        return step(layer, x)


def checkpointed(layer: Any, x: Tensor) -> Any:
    return step(_Checkpointed(layer, False), x)


def checkpointed_reentrantly(layer: Any, x: Tensor) -> Any:
    return step(_Checkpointed(layer, True), x)


def data_parallel(layer: Any, x: Tensor) -> Any:
    return step(nn.DataParallel(layer), x)


class _Checkpointed(nn.Module):
    def __init__(self, layer: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.layer, self.reentrant = layer, reentrant

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.layer, x, use_reentrant=self.reentrant)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")  # which is what is tried
@pytest.mark.parametrize(
    "way",
    [
        after_inference_mode,
        copied,
        pickled,
        saved,
        sent_to_another_process,
        saved_on_the_cpu,
        without_anomalies,
        deterministically,
        seen_by_a_dispatch_mode,
        checkpointed,
        checkpointed_reentrantly,
        data_parallel,
    ],
)
def test_a_step_is_the_same(way: Callable[[Any, Tensor], Any]) -> None:
    for case in CASES.values():
        layer, x = built(case), case.input(1)
        assert_close(way(copy.deepcopy(layer), x), step(layer, x))


def parametrized(layer: Any) -> None:
    parametrize.register_parametrization(layer, "weight", Same())
    parametrize.register_parametrization(layer, "bias", Same())


def weight_normed(layer: Any) -> None:
    weight_norm(layer, dim=None)  # type: ignore[arg-type]  # of the whole vector, which its annotation forgets


def pruned(layer: Any) -> None:
    prune.identity(layer, "weight")


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("tool", [parametrized, weight_normed, pruned])
def test_parameters_that_are_computed(tool: Callable[[Any], None], training: bool) -> None:
    for name, case in CASES.items():
        layer, x = built(case).train(training), case.input(1)
        if "PerDomain" in name:  # the layer inside has its parameters from outside
            continue
        wanted = step(copy.deepcopy(layer), x)
        tool(layer)
        assert_close(step(layer, x)[:2], wanted[:2])


def spread_out(x: Tensor) -> Tensor:
    wide = torch.empty(*x.shape[:-1], x.shape[-1] * 2)
    wide[..., ::2] = x
    return wide[..., ::2]


def turned(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("lay", [spread_out, turned])
def test_memory_of_any_order(lay: Callable[[Tensor], Tensor]) -> None:
    for case in CASES.values():
        layer, x = built(case), lay(case.input(1))
        assert not x.is_contiguous()
        wanted = copy.deepcopy(layer)(x.contiguous())
        torch.testing.assert_close(layer(x), wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_tensors_of_another_class_stay_of_it_and_make_no_buffer_so(training: bool) -> None:
    for case in CASES.values():
        layer, x = built(case).train(training), case.input(1)
        wanted = copy.deepcopy(layer)(x)
        y = layer(x.as_subclass(Subclass))
        assert type(y) is Subclass
        torch.testing.assert_close(y.as_subclass(Tensor), wanted, rtol=2e-5, atol=2e-5)
        assert all(type(buffer) is Tensor for buffer in layer.buffers())


def test_functional_call_with_a_checkpoint_under_vmap() -> None:
    """A ``state_dict`` has no ``num_batches_skipped``; what is not passed in is left alone."""
    for case in CASES.values():
        layer, x = built(case), case.input(1)
        both = {key: torch.stack([value, value]).detach() for key, value in layer.state_dict().items()}
        buffers = {key: value.clone() for key, value in layer.named_buffers()}

        def call(state: dict[str, Tensor], x: Tensor, layer: Any = layer) -> Any:
            return functional_call(layer, state, (x,))

        y = vmap(call)(both, torch.stack([x, x + 1]))
        for key, value in layer.named_buffers():
            torch.testing.assert_close(value, buffers[key], rtol=0, atol=0)
        torch.testing.assert_close(y[0], layer(x), rtol=1e-4, atol=1e-4)
        for key, value in layer.state_dict().items():
            torch.testing.assert_close(both[key][0], value, rtol=1e-4, atol=1e-4)


CAPTURED = (
    "running statistics cannot change in place inside of torch.func (vmap, grad, jvp, ...), received a call in "
    "training mode that would: use normwise.torch.batch_norm_with_state, put normwise.paused_statistics around it, or "
    "pass the buffers in by torch.func.functional_call."
)


@pytest.mark.parametrize("name", TRACKING)
def test_statistics_that_torch_func_captures(name: str) -> None:
    case = CASES[name]
    layer, x = built(case), case.input(1)
    before = {key: value.clone() for key, value in layer.named_buffers()}
    calls: list[Callable[[], Any]] = [
        lambda: vmap(layer)(torch.stack([x, x])),
        lambda: grad(lambda x: layer(x).square().sum())(x),
    ]
    for call in calls:
        with pytest.raises(StatisticsCaptured) as refused:
            call()
        assert isinstance(refused.value, RuntimeError)
        assert str(refused.value) == CAPTURED
        with normwise.paused_statistics(layer):
            assert torch.isfinite(call()).all()
    for key, value in layer.named_buffers():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def as_complex(x: Tensor) -> Tensor:
    return x.to(torch.complex64)


def as_integers(x: Tensor) -> Tensor:
    return x.to(torch.int64)


def as_float8(x: Tensor) -> Tensor:
    return x.to(torch.float8_e4m3fn)


def as_sparse(x: Tensor) -> Tensor:
    return x.relu().to_sparse()


def as_array(x: Tensor) -> Any:
    return x.numpy()


@pytest.mark.parametrize("make", [as_complex, as_integers, as_float8, as_sparse, as_array])
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_plain_tensor_of_floats_is_refused_and_changes_nothing(
    name: str, training: bool, make: Callable[[Tensor], Any]
) -> None:
    case = CASES[name]
    layer, x = built(case).train(training), case.input(1)
    before = {key: value.clone() for key, value in layer.named_buffers()}
    with pytest.raises((RuntimeError, TypeError, AttributeError)):  # NotImplementedError is a RuntimeError
        layer(make(x))
    for key, value in layer.named_buffers():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype:UserWarning")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "LayerNorm"])
def test_a_nested_tensor_is_refused_with_the_way_to_a_mask(name: str, layout: torch.layout) -> None:
    case = CASES[name]
    layer, x = built(case), case.input(1)
    nested = torch.nested.nested_tensor([x[0], x[1]], layout=layout)
    kind = type(layer.of("day") if "PerDomain" in name else layer).__name__
    for training in (True, False):
        with pytest.raises(TypeError) as refused:
            layer.train(training)(nested)
        assert str(refused.value) == (
            f"{kind} takes plain tensors, received a nested one: pad it with to_padded_tensor(0.0), with the channels "
            "on axis 1, and pass mask=, True where a value counts."
        )


def test_averaged_models_take_all_buffers() -> None:
    for name, case in CASES.items():
        layer = built(case)
        average = AveragedModel(layer, use_buffers=True)
        for seed in range(2):
            layer(case.input(seed))
            average.update_parameters(layer)
        assert all(torch.isfinite(buffer).all() for buffer in average.buffers()), name
        assert average.eval()(case.input()).shape == case.shape


def test_update_bn_is_the_plain_average() -> None:
    for name, case in CASES.items():
        if not case.tracks or "PerDomain" in name or "Instance" in name or "pooled" in name:
            continue
        layer = built(case)
        batches = [case.input(seed) for seed in range(3)]
        update_bn(batches, layer)
        axes = [axis for axis in range(len(case.shape)) if axis != 1]
        mean = torch.stack([batch.mean(axes) for batch in batches]).mean(0)
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-4, atol=1e-5)


def test_no_samples() -> None:
    for case in CASES.values():
        layer, x = built(case), case.input(1)[:0].requires_grad_()
        before = {key: value.clone() for key, value in layer.named_buffers()}
        for training in (True, False):
            y = layer.train(training)(x)
            y.sum().backward()
            assert y.shape == x.shape
        for key, value in layer.named_buffers():
            torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_a_residual_of_another_dtype_under_autocast() -> None:
    for case in CASES.values():
        layer, x = built(case), case.input(1)
        for training in (True, False):
            layer.train(training)
            with torch.autocast("cpu", torch.bfloat16):
                y = layer(x.bfloat16(), residual=x)
            y.float().sum().backward()
            wanted = copy.deepcopy(layer)(x.bfloat16()).float() + x
            torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.1)


def test_several_threads_at_once() -> None:
    for case in CASES.values():
        layer, x = built(case).eval(), case.input(1)
        found: list[Any] = [None] * 3

        def work(place: int, layer: Any = layer, x: Tensor = x, found: list[Any] = found) -> None:
            found[place] = layer(x)

        threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(y, found[0]) for y in found)


@pytest.mark.parametrize("shape", [(8, 3, 4, 4), (32, 3, 64, 64)], ids=["small", "large"])
def test_statistics_that_are_to_learn_are_refused_in_torchs_words(shape: tuple[int, ...]) -> None:
    messages = []
    for module in (normwise.torch, nn):
        layer = module.BatchNorm2d(3).eval()
        layer.running_mean.requires_grad_()
        with pytest.raises(RuntimeError) as refused:
            layer(torch.randn(shape))
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert "is not differentiable with respect to argument 'running_mean'" in messages[0]
