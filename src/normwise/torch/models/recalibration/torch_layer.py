"""A PyTorch batch norm as ``recalibrate`` and ``adapt`` see it: its buffers, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.errors import NormwiseError
from normwise.estimators import RunningStatistics
from normwise.moments import Moments
from normwise.recalibration.layer import Array, Hear
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.models.recalibration.site_statistics import statistics_of
from normwise.torch.models.transaction import write
from normwise.torch.steps.buffers import STATISTICS


class TorchLayer:
    """The ``normwise.recalibration.layer.Layer`` of PyTorch.

    Args:
        name: of the layer in the model.
        norm: a batch norm that keeps running statistics.

    Example:
        >>> TorchLayer("bn", nn.BatchNorm1d(2)).read()[1]
        tensor([1., 1.], dtype=torch.float64)
    """

    def __init__(self, name: str, norm: _BatchNorm) -> None:
        self.name, self.norm = name, norm
        self._statistics = statistics_of(norm)
        device = self._statistics.buffers[0].device
        # Where the device has no float64, these few numbers per channel are kept on the CPU.
        self.device = torch.device("cpu") if device.type == "mps" else device

    @property
    def eps(self) -> float:
        """The layer's."""
        return self.norm.eps

    def read(self) -> tuple[Tensor, Tensor]:
        """Copies of the mean and the variance that the layer has."""
        return self._statistics.read(self.device)

    def fresh(self) -> tuple[Tensor, Tensor]:
        """Those of a layer that has seen nothing."""
        return self._statistics.fresh(self.device)

    def write(self, mean: Array, var: Array) -> None:
        """Put these in the place of the running statistics."""
        for buffer, value in self._for_buffers(mean, var):
            write(buffer, value)

    def writes(self, mean: Array, var: Array) -> list[Callable[[], None]]:
        """Functions that write these into the buffers.

        Raises:
            NormwiseError: a buffer's dtype cannot hold them.
        """
        for buffer, value in self._for_buffers(mean, var):
            if not value.to(buffer.dtype).isfinite().all():
                raise NormwiseError(
                    f"the statistics of batch norm {self.name!r}, up to {float(value.abs().max()):.3g}, do not fit its "
                    f"buffers of {str(buffer.dtype).removeprefix('torch.')}: the model is as it was; keep these in "
                    "float32."
                )
        return [partial(write, buffer, value) for buffer, value in self._for_buffers(mean, var)]

    def counter_writes(self, statistics: RunningStatistics) -> list[Callable[[], None]]:
        """Functions that write ``num_batches_tracked``, and ``running_count`` where the layer has it."""
        found: list[Callable[[], None]] = []
        for counter, array in (("num_batches_tracked", statistics.updates), ("running_count", statistics.count)):
            buffer, number = getattr(self.norm, counter, None), self._tensor(array)
            if isinstance(buffer, Tensor):
                found.append(partial(write, buffer, number if buffer.dim() else number.max()))
        return found

    def moved(self, before: tuple[Array, Array], after: tuple[Array, Array]) -> Tensor:
        """The distance of statistics from those before, in standard deviations of those after."""
        (mean, var), (new_mean, new_var) = before, after
        of = self._tensor
        return self._statistics.moved((of(mean), of(var)), (of(new_mean), of(new_var)), self.eps)

    def restorer(self) -> Callable[[], None]:
        """A function that gives the layer the mean and variance that it has now, wherever it is by then."""
        before = [(name, getattr(self.norm, name).detach().clone()) for name in STATISTICS]

        def back() -> None:
            for name, value in before:
                write(getattr(self.norm, name), value)

        return back

    def listen(self, hear: Hear) -> Callable[[], None]:
        """Call ``hear`` before every forward of the layer."""

        def hook(norm: nn.Module, args: tuple[object, ...], named: dict[str, object]) -> None:
            _ = norm
            x = self.input_in(args, named)
            if x is not None:
                hear(self.moments(x, named), x[0, 0].numel())

        return self.norm.register_forward_pre_hook(hook, with_kwargs=True).remove

    def input_in(self, args: tuple[object, ...], named: dict[str, object]) -> Tensor | None:
        """The input of a call; None where there is nothing to gather, or the layer's own error to come."""
        x = args[0] if args else next(iter(named.values()), None)
        channels = self._statistics.buffers[0].numel()
        return x if isinstance(x, Tensor) and x.dim() > 1 and x.numel() and x.shape[1] == channels else None

    def moments(self, x: Tensor, named: dict[str, object]) -> Moments:
        """The moments of an input, under the mask of its call, as the statistics are kept."""
        mask = named.get("mask") if isinstance(self.norm, TrackedBatchNorm) else None
        return self._statistics.moments(x, mask if isinstance(mask, Tensor) else None, self.device)

    def _for_buffers(self, mean: Array, var: Array) -> list[tuple[Tensor, Tensor]]:
        values = self._statistics.for_buffers(self._tensor(mean), self._tensor(var))
        return list(zip(self._statistics.buffers, values, strict=True))

    def _tensor(self, array: Array) -> Tensor:
        return torch.as_tensor(array, device=self.device)
