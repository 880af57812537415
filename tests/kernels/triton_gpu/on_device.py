"""The Triton kernels as one of the implementations that ``tests/kernels/test_agreement.py`` compares."""

from __future__ import annotations

from collections.abc import Callable

import torch

from normwise.kernels.kernel import Call
from normwise.moments import Moments
from normwise.torch.steps.triton_operators import TritonGpu
from tests.cases import Problem
from tests.kernels.test_agreement import Inputs, Outcome
from tests.kernels.triton_gpu.device import DEVICE

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _on_device(p: Problem, i: Inputs) -> Outcome:
    x, scale, shift = (tensor.to(DEVICE) for tensor in (i.x, i.scale, i.shift))
    residual, mask = (None if tensor is None else tensor.to(DEVICE) for tensor in (i.residual, p.mask))
    call = Call(x, mask, p.mean.to(DEVICE), p.var.to(DEVICE), scale, shift, p.eps, p.activation, residual)
    if not p.training:
        return Outcome(TritonGpu().forward_running(call).cpu())
    y, batch = TritonGpu().forward_batch(call)
    count = torch.as_tensor(batch.count).cpu()
    return Outcome(y.cpu(), Moments(batch.mean.cpu(), batch.var.cpu(), count))


TRITON: dict[str, Callable[[Problem, Inputs], Outcome]] = {"triton": _on_device}
