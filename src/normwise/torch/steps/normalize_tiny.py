r"""The policies for a training batch that has too few values per channel, one function for each.

``error``
    PyTorch's own: one value per channel is refused, everything else is normalized by itself.
``running``
    A batch with one value per channel is normalized by the running statistics, as in inference, and does not move them.
``renorm``
    A batch with fewer than ``FEW`` values per channel is normalized as batch renormalization does it:

    .. math:: y = f\Big(\gamma \Big(\frac{x - \mu_B}{\sigma_B} r + d\Big) + \beta\Big), \quad
        r = \Big[\frac{\sigma_B}{\sigma}\Big]_{1/3}^{3}, \quad d = \Big[\frac{\mu_B - \mu}{\sigma}\Big]_{-5}^{5}

    with the running :math:`\mu, \sigma` as they were before the batch, r and d taken for constants. Inside the bounds
    the output is what inference would give, and the gradient is a training batch's. Of one value the output is
    :math:`\gamma d + \beta` and no gradient reaches it. A forward that ``torch.utils.checkpoint`` runs again takes the
    statistics of the first time, not those that the batch has moved.

Without a mask the number of values follows from the shape, so all of it works in compiled graphs. The values that a
mask leaves are counted on the CPU; elsewhere, and in compiled graphs, both outcomes are computed and ``where`` picks.

References:
    Ioffe, Batch renormalization: towards reducing minibatch dependence in batch-normalized models, 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.errors import KernelUnavailable, UnknownName
from normwise.kernels import choose, two_pass
from normwise.kernels.choose import VARIABLE
from normwise.kernels.kernel import Call, Kernel
from normwise.kernels.two_pass import TWO_PASS
from normwise.moments import Moments
from normwise.torch.steps.buffers import readable
from normwise.torch.steps.call import kernel_for, like_torch
from normwise.torch.steps.checks_mask import counting_values
from normwise.torch.steps.estimate_recomputation import StatisticsMet
from normwise.torch.steps.normalize_aten import AtenAtAnyOrder

# Fewer values per channel than this are too few for ``renorm``: with 32 normal values, dividing by the batch's own
# deviation makes the output 4 % too large on average, and with 16 already 9 %.
FEW = 32
# The bounds at which the paper's schedule ends.
R_MAX, D_MAX = 3.0, 5.0


class Normalized(NamedTuple):
    """The output, and what enters the running statistics."""

    y: Tensor
    moments: Moments | None


def by_running(call: Call, _: StatisticsMet | None = None) -> Normalized | None:
    """One value per channel with the running statistics; None for a batch that has more."""
    x, mask = call.x, call.weights
    if mask is None:
        alone: Any = x.numel() == x.shape[1]
        if not isinstance(alone, Tensor):  # which it is where torch.jit.trace records the size
            return Normalized(_running(call), None) if alone else None
        single = alone.view(1)
    else:
        single = counting_values(mask, x) == 1
    if readable(single):
        if not bool(single.any()):
            return None
        if bool(single.all()):
            return Normalized(_running(call), None)
    # In inference, as which torch checks it, one value per channel is enough.
    call = like_torch(call, by_batch=False)
    kernel = _kernel(call)
    y, moments = kernel.forward_batch(call)
    along = single.view(1, -1, *[1] * (x.dim() - 2))
    count = moments.count * ~(single if moments.count.dim() else single.all())
    return Normalized(torch.where(along, kernel.forward_running(call), y), Moments(moments.mean, moments.var, count))


def renormalized(call: Call, met: StatisticsMet | None = None) -> Normalized | None:
    """Fewer than ``FEW`` values per channel by batch renormalization; None for a batch that has more."""
    x, mask = call.x, call.weights
    few: Any = None
    if mask is None or x.numel() == 0:
        below: Any = x.numel() < FEW * x.shape[1]
        if isinstance(below, Tensor):  # torch.jit.trace records the size
            few = below
        elif not below or x.numel() == 0:
            return None
    else:
        few = counting_values(mask, x) < FEW
        if readable(few) and not bool(few.any()):
            return None
    call = like_torch(call, by_batch=False)
    assert call.mean is not None
    assert call.var is not None
    kernel = _kernel(call)
    gathered = two_pass.gather(x, mask) if kernel is TWO_PASS else None
    moments = kernel.moments(call) if gathered is None else gathered.moments()
    with torch.no_grad():
        mean, var = (call.mean, call.var) if met is None else met.of(moments.mean, (call.mean, call.var))
        r, d = corrections(moments, mean, var, call.eps)
        if few is not None:
            r, d = torch.where(few, r, 1), torch.where(few, d, 0)
    if gathered is not None:
        return Normalized(two_pass.normalize(gathered, corrected(call, r, d)), moments)
    r, d = r.to(call.mean.dtype), d.to(call.mean.dtype)
    return Normalized(kernel.forward_batch(corrected(call, r, d))[0], moments)


def corrected(call: Call, r: Tensor, d: Tensor) -> Call:
    """The call with the scale and shift that come to the correction by r and d."""
    scale, shift = (r, d) if call.scale is None else (r * call.scale, d * call.scale)
    return call._replace(scale=scale, shift=shift if call.shift is None else shift + call.shift)


def corrections(moments: Moments, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The paper's r and d for a batch against the running statistics, within their bounds, shape (C,)."""
    spread = torch.sqrt(var.to(moments.var.dtype) + eps)
    r = (torch.sqrt(moments.var + eps) / spread).clamp(1 / R_MAX, R_MAX)
    d = ((moments.mean - mean) / spread).clamp(-D_MAX, D_MAX)
    return r, d


Policy = Callable[[Call, StatisticsMet | None], Normalized | None]

# None where PyTorch's own error is wanted: there is nothing to be done before it.
POLICIES: dict[str, Policy | None] = {"error": None, "running": by_running, "renorm": renormalized}


def check_policy(name: str, tracks: bool) -> None:
    """Refuse a policy that does not exist, or one that needs statistics which the layer does not keep."""
    if name not in POLICIES:
        raise UnknownName("on_tiny_batch", name, POLICIES)
    if name != "error" and not tracks:
        raise ValueError(
            f"on_tiny_batch={name!r} needs running statistics, received track_running_stats=False: "
            "keep the statistics, or leave it at 'error'."
        )


def _kernel(call: Call) -> Kernel:
    """Plain operations, or what the environment asks for by name.

    Raises:
        KernelUnavailable: that is PyTorch's operator, which refuses a channel with one value.
    """
    if not choose._ASKED:
        return TWO_PASS
    kernel = kernel_for(call, by_batch=True)
    single: Any = call.x.numel() <= call.x.shape[1]
    if isinstance(kernel, AtenAtAnyOrder) and (isinstance(single, Tensor) or single):
        raise KernelUnavailable(
            f"{VARIABLE}=aten asks for PyTorch's operator, which takes no batch of one value per channel, and one was "
            f"received: unset {VARIABLE} or set it to two_pass."
        )
    return kernel


def _running(call: Call) -> Tensor:
    kernel = kernel_for(call, by_batch=False)
    return kernel.forward_running(call if isinstance(kernel, AtenAtAnyOrder) else like_torch(call, by_batch=False))
