"""The bytes that a batch norm with ReLU keeps for its backward, by PyTorch's operator and by the kernels.

A tensor without memory (meta) goes the way of a GPU's: PyTorch's operator. Bytes are those of the storages that
autograd keeps, each counted once, however many nodes keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from normwise.kernels import choose
from normwise.kernels.choose import built

SIZE = (8, 64, 28, 28)
T = 4 * torch.Size(SIZE).numel()
SMALL = 0.01  # of T: a channel's own numbers


def kept(function: Callable[..., Tensor], *inputs: Tensor) -> float:
    """The storages that are kept, in units of one tensor."""
    found: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage  # which stays alive, so that no other one has its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(*inputs)
    return float(sum(storage.nbytes() for storage in found.values())) / T


def drawn(device: str) -> Tensor:
    return torch.zeros(SIZE, device=device).requires_grad_()


def ours(device: str) -> nn.Module:
    return nt.BatchNorm2d(SIZE[1], activation="relu", device=device)


def torchs(device: str) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(SIZE[1]), nn.ReLU(inplace=True)).to(device)


def convolution(device: str) -> nn.Module:
    return nn.Conv2d(SIZE[1], 4, 1, device=device)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_pytorchs_operator_keeps_x_and_y_as_pytorchs_own_layers_do(training: bool) -> None:
    """ReLU's sign comes from y, not from x: on a GPU, a fused layer keeps as much as the two that it stands for."""
    for layer in (ours("meta"), torchs("meta")):
        assert kept(layer.train(training), drawn("meta")) == pytest.approx(2, abs=SMALL)


def test_an_addition_keeps_nothing_more() -> None:
    x, residual = drawn("meta"), drawn("meta")
    normalize = nn.BatchNorm2d(SIZE[1], device="meta")
    assert kept(ours("meta"), x, residual) == pytest.approx(2, abs=SMALL)
    assert kept(lambda x, residual: torch.relu_(normalize(x) + residual), x, residual) == pytest.approx(2, abs=SMALL)


@pytest.mark.skipif(not built(), reason="the compiled kernels are not built")
def test_the_compiled_kernels_keep_x_and_one_bit_per_element() -> None:
    x, residual = drawn("cpu"), drawn("cpu")
    assert kept(ours("cpu"), x) == pytest.approx(1, abs=SMALL)
    assert kept(ours("cpu"), x, residual) == pytest.approx(1 + 1 / 32, abs=SMALL)
    assert kept(torchs("cpu"), x) == pytest.approx(2, abs=SMALL)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_before_a_convolution_all_of_them_keep_two_tensors(device: str) -> None:
    """The convolution keeps its input, which is y: there is nothing left to save by keeping x only."""
    for layer in (ours(device), torchs(device)):
        whole = nn.Sequential(layer, convolution(device))
        assert kept(whole, drawn(device)) == pytest.approx(2, abs=SMALL)


@pytest.mark.parametrize(("layer", "after"), [(ours, 1), (torchs, 2)], ids=["fused", "two layers"])
def test_save_memory_keeps_x_only_by_pytorchs_operators(
    layer: Callable[[str], nn.Module], after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU without Triton, and the gradients are those of before, to the last bit."""
    monkeypatch.setattr(choose, "_ASKED", "aten")
    model, x = nn.Sequential(layer("cpu"), convolution("cpu")), torch.randn(SIZE).requires_grad_()
    before = torch.autograd.grad(model(x).square().sum(), x)[0]
    assert kept(model, x) == pytest.approx(2, abs=SMALL)
    report = normwise.save_memory(model, x)
    assert (report.bytes_after or 0) / T == pytest.approx(after, abs=SMALL)
    assert torch.equal(torch.autograd.grad(model(x).square().sum(), x)[0], before)
