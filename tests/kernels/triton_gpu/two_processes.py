"""DistributedDataParallel and synchronized batch norm on the Triton kernels, in one of two processes, and in one alone.

Over gloo the kernels are interpreted (``test_triton_processes.py``), over NCCL compiled (``test_on_a_gpu.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.kernels import choose, reference
from normwise.moments import Moments
from normwise.torch.steps.triton_operators import TritonGpu
from tests.cases import array, running

SHAPE, SHARES, STEPS = (6, 4, 3, 5), (4, 2), 2


class Case(NamedTuple):
    """One layer and its input."""

    activation: str | None = "relu"
    residual: bool = False
    mask: bool = False
    dtype: torch.dtype = torch.float32
    last: bool = False
    mean: float = 0.0


CASES = {
    "relu": Case(),
    "residual and its bits": Case(residual=True),
    "silu, mask and residual": Case("silu", residual=True, mask=True),
    "channels last, bfloat16": Case(residual=True, dtype=torch.bfloat16, last=True),
    "a large mean": Case(None, mean=1e3),
}


class Given(NamedTuple):
    """The whole batch of a step."""

    x: Tensor
    residual: Tensor | None
    mask: Tensor | None
    dy: Tensor


def given(case: Case, step: int) -> Given:
    """The batch of a step: the same in every process."""
    draw = torch.Generator().manual_seed(step)

    def normal() -> Tensor:
        x = torch.randn(SHAPE, generator=draw)
        return x.contiguous(memory_format=torch.channels_last) if case.last else x

    x, residual, dy = ((normal() + add).to(case.dtype) for add in (case.mean, 0, 0))
    mask = torch.rand((SHAPE[0], 1, *SHAPE[2:]), generator=draw) < 0.7
    return Given(x, residual if case.residual else None, mask if case.mask else None, dy)


def parameters() -> tuple[Tensor, Tensor]:
    """Scale and shift, in float32."""
    draw = torch.Generator().manual_seed(9)
    scale, shift = (torch.randn(SHAPE[1], generator=draw) for _ in range(2))
    return 1 + 0.5 * scale, shift


def one_of(rank: int, device: str) -> dict[str, dict[str, Any]]:
    """The findings of one of the processes: of each step its part of the output and gradients, then the statistics."""
    choose._ASKED = "triton"
    with counted() as calls:
        found = {name: _trained(case, rank, device) for name, case in CASES.items()}
    return {**found, "calls": calls}


def _trained(case: Case, rank: int, device: str) -> dict[str, Any]:
    layer = nt.SyncBatchNorm(SHAPE[1], activation=case.activation).to(device)
    with torch.no_grad():
        for parameter, value in zip((layer.weight, layer.bias), parameters(), strict=True):
            parameter.copy_(value)
    parallel = nn.parallel.DistributedDataParallel(layer, device_ids=[rank] if device == "cuda" else None)
    found: dict[str, Any] = {"y": [], "x": [], "residual": [], "scale": [], "shift": []}
    for step in range(STEPS):
        x, residual, mask, dy = (
            None if whole is None else whole.split(SHARES)[rank].to(device) for whole in given(case, step)
        )
        assert x is not None
        leaves = [tensor if tensor is None else tensor.detach().requires_grad_() for tensor in (x, residual)]
        parallel.zero_grad()
        y = parallel(*leaves, mask=mask)
        y.backward(dy)
        gradients = [None if leaf is None else leaf.grad for leaf in (*leaves, layer.weight, layer.bias)]
        for name, tensor in zip(found, (y.detach(), *gradients), strict=True):
            found[name].append(None if tensor is None else tensor.cpu())
    return {**found, "mean": running(layer)[0].cpu(), "var": running(layer)[1].cpu()}


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count how often the Triton kernels give moments and normalize by joined ones."""
    calls = dict.fromkeys(("moments", "forward_running"), 0)
    methods = {name: getattr(TritonGpu, name) for name in calls}

    def spy(name: str) -> Any:
        def called(self: TritonGpu, *inputs: Any, **named: Any) -> Any:
            calls[name] += 1
            return methods[name](self, *inputs, **named)

        return called

    for name in calls:
        setattr(TritonGpu, name, spy(name))
    try:
        yield calls
    finally:
        for name, method in methods.items():
            setattr(TritonGpu, name, method)


def assert_as_one(parts: list[dict[str, Any]], case: Case) -> None:
    """The parts of both processes are what the float64 formulas say of the whole batch.

    DistributedDataParallel averages the gradients of parameters over the processes, of which there are two.
    """
    scale, shift = map(array, parameters())
    mean, var = torch.zeros(SHAPE[1]).double().numpy(), torch.ones(SHAPE[1]).double().numpy()
    for step in range(STEPS):
        whole = given(case, step)
        residual = None if whole.residual is None else array(whole.residual)
        weights = None if whole.mask is None else whole.mask.numpy()
        how: Any = {"activation": case.activation, "residual": residual, "weights": weights}
        y, batch = reference.forward_batch(array(whole.x), scale, shift, 1e-5, **how)
        right = reference.backward_batch(array(whole.dy), array(whole.x), scale, shift, 1e-5, **how)
        for name, value in (("y", y), ("x", right.x), ("residual", right.residual)):
            if value is not None:
                _assert_near(torch.cat([part[name][step] for part in parts]), value, case)
        for name, value in (("scale", right.scale), ("shift", right.shift)):
            assert torch.equal(parts[0][name][step], parts[1][name][step])
            _assert_near(2 * parts[0][name][step], value, case)
        mean, var = mean + 0.1 * (batch.mean - mean), var + 0.1 * (Moments.unbiased_var(batch) - var)
    for part in parts:
        torch.testing.assert_close(part["mean"].double(), torch.from_numpy(mean), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(part["var"].double(), torch.from_numpy(var), rtol=1e-5, atol=1e-6)


def _assert_near(found: Tensor, value: Any, case: Case) -> None:
    """Agree to within rounding; where it decides on which side of a kink a value falls, its gradient is anybody's."""
    right = torch.from_numpy(value)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[case.dtype] * (1 + case.mean / 10)
    assert float((found.double() - right).abs().max()) <= rounding * max(1.0, float(right.abs().max()))
