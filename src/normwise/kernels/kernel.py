"""The record of one call, and what every kernel can do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from normwise.moments import Moments

if TYPE_CHECKING:
    from torch import Tensor


class Call(NamedTuple):
    r"""One batch to be normalized: all that a kernel is given, checked before (``torch/steps/call.py``).

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)
    """

    x: Tensor  # (N, C, *spatial)
    weights: Tensor | None = None  # a mask or sample weights, (N, C, *spatial) or 1 in place of any of these
    mean: Tensor | None = None  # the running mean, (C,)
    var: Tensor | None = None  # the running variance, (C,)
    scale: Tensor | None = None  # gamma, (C,)
    shift: Tensor | None = None  # beta, (C,)
    eps: float = 1e-5
    activation: str | None = None  # a name of ``reference_activations``
    residual: Tensor | None = None  # r, the shape of x


class Kernel(Protocol):
    """One implementation of gather, normalize and activate on tensors; it agrees with ``reference`` in all of it."""

    name: str
    """The name by which ``choose`` and ``NORMWISE_KERNEL`` call it."""

    def forward_batch(self, call: Call) -> tuple[Tensor, Moments]:
        """Normalize with the batch's own statistics; returns these too, without a gradient."""

    def forward_running(self, call: Call) -> Tensor:
        """Normalize with running statistics, which may change before the backward."""

    def moments(self, call: Call) -> Moments:
        """The batch's statistics alone, without a gradient; of no values, mean 0, variance 0 and count 0."""
