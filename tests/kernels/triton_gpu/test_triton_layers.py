"""The Triton kernels as PyTorch sees them: layers, gradients of gradients, torch.compile, fake tensors, autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import normwise.torch as nt
from normwise.kernels import choose
from normwise.kernels.activation_numbers import number_of
from normwise.kernels.kernel import Call
from normwise.kernels.two_pass import TWO_PASS
from normwise.moments import Moments
from normwise.torch.functional import batch_norm
from normwise.torch.steps.normalize_joined import Joined, join, normalize_by_joined
from normwise.torch.steps.triton_operators import TritonGpu
from tests.cases import running
from tests.kernels.triton_gpu.device import DEVICE

SHAPE = (3, 4, 5, 7)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for Triton as ``NORMWISE_KERNEL=triton`` does, which is read once."""
    monkeypatch.setattr(choose, "_ASKED", "triton")


def drawn(seed: int = 0, *, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Normal values, with a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE).requires_grad_()


def learned(layer: Any, *inputs: Tensor, **named: Any) -> list[Tensor]:
    """The output and every gradient."""
    y = layer(*inputs, **named)
    leaves = [*inputs, *layer.parameters()]
    return [y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel(), device=DEVICE).view_as(y)).sum(), leaves)]


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
def test_a_layer_with_all_of_it(last: bool, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nt.BatchNorm2d(4, activation="relu", device=DEVICE)
    twin = nt.BatchNorm2d(4, activation="relu", device=DEVICE)
    form = torch.channels_last if last else torch.contiguous_format
    x, residual = (drawn(seed).contiguous(memory_format=form).detach().requires_grad_() for seed in range(2))
    mask = (torch.rand(3, 1, 5, 7) < 0.6).to(DEVICE) if masked else None
    found = learned(layer, x, residual, mask=mask)
    monkeypatch.setattr(choose, "_ASKED", "two_pass")
    for one, other in zip(found, learned(twin, x, residual, mask=mask), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for one, other in zip(running(layer), running(twin), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("adds", [False, True], ids=["", "residual"])
def test_a_gradient_of_the_gradient(adds: bool) -> None:
    x, scale, residual = drawn().double().float(), drawn(1, shape=(4,)), drawn(2) if adds else None
    found = []
    for kernel in (TritonGpu(), TWO_PASS):
        y, _ = kernel.forward_batch(Call(x, scale=scale, activation="relu", residual=residual))
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(g.square().sum(), (x, scale)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_only_one_bit_of_the_residual_is_kept() -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x, residual = drawn(), drawn(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        TritonGpu().forward_batch(Call(x, activation="relu", residual=residual))
    assert [tensor.dtype for tensor in saved if tensor.numel() > 4] == [torch.float32, torch.uint8]
    assert sum(tensor.numel() for tensor in saved if tensor.dtype is torch.uint8) == 3 * 4 * 5


@pytest.mark.parametrize("by_batch", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("adds", [False, True], ids=["", "residual"])
def test_the_operators_are_what_they_are_registered_as(by_batch: bool, adds: bool) -> None:
    """Schemas, shapes on fake tensors, and gradients, by PyTorch's own check."""
    x, scale, shift = drawn(), drawn(1, shape=(4,)), drawn(2, shape=(4,))
    statistics = (None, None) if by_batch else (torch.zeros(4, device=DEVICE), torch.ones(4, device=DEVICE))
    residual = drawn(3) if adds else None
    arguments = (x, residual, None, scale, shift, *statistics, 1e-5, number_of("relu"), adds, 0)
    operator: Any = torch.ops.normwise.triton_forward.default
    checks = torch.library.opcheck(
        operator, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )
    assert set(checks.values()) == {"SUCCESS"}
    y, mean, var, bits = operator(*arguments)
    given = (y.detach(), x.detach(), None, None, scale.detach(), shift.detach(), mean, var, bits)
    checks = torch.library.opcheck(
        torch.ops.normwise.triton_backward.default,
        (*given, 1e-5, number_of("relu"), by_batch, True, adds, 0),
        test_utils=("test_schema", "test_faketensor"),
    )
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("adds", [False, True], ids=["", "residual"])
def test_torch_compile_traces_it_whole(adds: bool) -> None:
    """Without a break of the graph, forward and backward."""
    layer = nt.BatchNorm2d(4, activation="relu", device=DEVICE)
    twin = nt.BatchNorm2d(4, activation="relu", device=DEVICE)
    inputs = (drawn(), drawn(1)) if adds else (drawn(),)
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for one, other in zip(learned(compiled, *inputs), learned(twin, *inputs), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(running(layer), running(twin), strict=True):
        torch.testing.assert_close(one, other)
    compiled.eval()
    assert compiled(*inputs).shape == SHAPE


@pytest.mark.usefixtures("asked")
def test_under_autocast() -> None:
    convolution, layer = torch.nn.Conv2d(4, 4, 1, device=DEVICE), nt.BatchNorm2d(4, activation="relu", device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        y = layer(convolution(drawn()))
    y.float().sum().backward()
    assert y.dtype is torch.bfloat16
    assert convolution.weight.grad is not None
    assert running(layer)[0].dtype is torch.float32


class Alone:
    """The peers of a process that is alone."""

    def gathered(self, part: Moments) -> Any:
        """The moments of all processes."""

        class Parts:
            def merged(self) -> Moments:
                return part

        return Parts()

    def summed(self, sums: Tensor) -> Tensor:
        """The sums over all processes."""
        return sums


def test_the_synchronized_form_is_the_whole_batch() -> None:
    """Local moments, joined, and then normalized by: output and gradients, of a large mean."""
    found = []
    for synchronized in (True, False):
        x = (drawn().detach() + 1e3).requires_grad_()
        scale, shift = drawn(1, shape=(4,)), drawn(2, shape=(4,))
        call, peers = Call(x, scale=scale, shift=shift, activation="silu"), Alone()
        if synchronized:
            moments = join(call, TritonGpu(), peers)  # type: ignore[arg-type]  # what is used of it is there
            share = torch.full((4,), 1 / float(moments.count), dtype=torch.float64, device=DEVICE)
            joined = Joined(moments.mean, moments.var, share)
            y = normalize_by_joined(call, joined, kernel=TritonGpu(), peers=peers)  # type: ignore[arg-type]  # as above
        else:
            y, _ = TWO_PASS.forward_batch(call)
        found.append((y, *torch.autograd.grad((y * drawn(3).detach()).sum(), (x, scale, shift))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=1e-5, atol=2e-5)


def test_two_parts_of_a_batch_are_merged() -> None:
    x = drawn().detach() + 100
    parts = [TritonGpu().moments(Call(part)) for part in (x[:1], x[1:])]
    whole = TritonGpu().moments(Call(x))
    merged = parts[0].merge(parts[1])
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-9, atol=0)
    torch.testing.assert_close(merged.var, whole.var, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("asked")
def test_what_a_batch_of_one_value_does_is_the_layers_policy() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        batch_norm(torch.zeros(1, 3, device=DEVICE), None, None, training=True)
