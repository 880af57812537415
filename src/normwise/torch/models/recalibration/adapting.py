"""Statistics that follow data which go on drifting, batch by batch, while a model is in use."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from normwise.errors import NormwiseError
from normwise.moments import Moments
from normwise.recalibration.adaptation_report import AdaptReport
from normwise.recalibration.asked import as_number
from normwise.recalibration.prior import PRIOR, check_prior, held
from normwise.recalibration.report import Movement
from normwise.recalibration.site import of_finite_channels
from normwise.torch.models.feeding import uncompiled
from normwise.torch.models.model_checks import check_model
from normwise.torch.models.recalibration.sites import survey
from normwise.torch.models.recalibration.torch_layer import TorchLayer
from normwise.torch.models.recalibration.torch_model import check_values


def adapting(
    model: nn.Module,
    *,
    prior: float = PRIOR,
    memory: float = math.inf,
    layers: Collection[str] | None = None,
) -> Adaptation:
    r"""Adapt the batch norms of a model to every batch of a block, before they normalize it.

    .. math:: n \leftarrow n e^{-b/m} + b, \quad \mu = \frac{N_0 \mu_0 + n \mu_1}{N_0 + n}, \quad
        v = \frac{N_0 v_0 + n v_1}{N_0 + n} + \frac{N_0 n}{(N_0 + n)^2} (\mu_1 - \mu_0)^2

    for a batch of b samples, :math:`\mu_1, v_1` being the moments of the samples so far, in which one of m samples ago
    has the weight 1/e. The prior is not forgotten: when the drift comes back, so do the statistics.

    The model is used as ever, in inference mode; its layers adapt in their order, so that each meets what those before
    it have become. At the end of the block the statistics are what they were at its beginning, byte for byte, unless
    ``keep`` was called; on an error they are in any case. Nothing else of the model changes. What was compiled runs as
    it was written meanwhile. Of layers with statistics per domain those adapt that are called: put it inside
    ``with normwise.torch.domain(...):``.

    Args:
        model: any module with ``torch.nn.BatchNorm*``, ``SyncBatchNorm`` or ``normwise.torch`` layers.
        prior: :math:`N_0`, in samples, as in ``normwise.adapt``. With 0 the first samples stand alone.
        memory: m, in samples; infinity to forget nothing.
        layers: the names of the only layers to be adapted; None for all that are not frozen.

    Returns:
        a context manager, which can be entered once at a time and tells what it did.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        NormwiseError: a prior or memory that is no number of samples; and from the call of a layer that is in training
            mode.
        UnknownName: there is no such layer.

    References:
        As ``normwise.torch.models.recalibration.adapt.adapt``.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(1, affine=False)).eval()
        >>> with adapting(model, prior=1, memory=100) as adaptation:
        ...     for day in (0.0, 10.0, 20.0):
        ...         y = model(day + torch.tensor([[-1.0], [1.0]]))
        ...     now = model[0].running_mean.item()
        >>> round(now, 2), model[0].running_mean.item()
        (8.66, 0.0)
        >>> print(adaptation.report())
        1 of 1 batch norms adapted to 6 samples in 3 batches, with a prior of 1
          adapted       0: moved by 2.21 standard deviations, by 2.21 in one channel
    """
    check_model(model, called="adapting")
    check_values(model, "inference", called="adapting")
    check_prior(prior, called="adapting")
    if not as_number(memory) > 0:
        raise NormwiseError(
            f"adapting needs a memory of more than 0 samples, received {memory!r}: "
            "pass for example 1000, or leave it out to forget nothing."
        )
    return Adaptation(model, prior, memory, layers)


class Adaptation:
    """Batch norms that follow their data, inside a ``with`` block; made by ``adapting``."""

    def __init__(self, model: nn.Module, prior: float, memory: float, layers: Collection[str] | None) -> None:
        found, self._skipped = survey(model, layers)
        self._prior = prior
        self._streams = [_Stream(layer, prior, memory) for layer in found]
        self._block = ExitStack()
        self._inside = self._kept = False
        self._restorers: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        if self._inside:
            raise NormwiseError("this adaptation is in use already: make another one, or leave the block first.")
        self._inside, self._kept = True, False
        for stream in self._streams:
            stream.begin()
        self._restorers = [stream.layer.restorer() for stream in self._streams]
        with ExitStack() as block:
            block.enter_context(uncompiled())
            for stream in self._streams:
                handle = stream.layer.norm.register_forward_pre_hook(stream.hook, with_kwargs=True)
                block.callback(handle.remove)
            self._block = block.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.close()
        self._inside = False
        if error is not None or not self._kept:
            self._take_back()

    def keep(self) -> None:
        """Leave the statistics as they are when the block ends, if it ends without an error."""
        self._kept = True

    def reset(self) -> None:
        """Forget all data, as when they come from somewhere else from now on; the statistics are those at first.

        Behind a block with ``keep`` it takes the adaptation back.
        """
        for stream in self._streams:
            stream.forget()
        self._take_back()

    def _take_back(self) -> None:
        for restore in self._restorers:
            restore()

    def report(self) -> AdaptReport:
        """The report of what happened since the block began, or since ``reset``."""
        reached = [stream for stream in self._streams if stream.calls]
        return AdaptReport(
            {stream.layer.name: stream.movement() for stream in reached},
            self._skipped,
            tuple(stream.layer.name for stream in self._streams if not stream.calls),
            batches=max((stream.calls for stream in reached), default=0),
            samples=max((stream.rows for stream in reached), default=0),
            prior=self._prior,
            _restorers=list(self._restorers),
        )


class _Stream:
    """The inputs of one layer so far, of which older ones count less."""

    def __init__(self, layer: TorchLayer, prior: float, memory: float) -> None:
        self.layer, self._prior, self._memory = layer, prior, memory
        self.begin()

    def begin(self) -> None:
        """The prior is what the layer has now."""
        self._before = self.layer.read()
        self.forget()

    def forget(self) -> None:
        """Nothing came yet."""
        zeros = torch.zeros_like(self._before[0])
        self._seen, self._samples = Moments(zeros, zeros, zeros), zeros
        self.calls = self.rows = self._not_finite = 0

    def hook(self, norm: nn.Module, args: tuple[object, ...], named: dict[str, object]) -> None:
        """Adapt the layer to its input before its forward; refuse a layer in training mode."""
        if norm.training:
            raise NormwiseError(
                f"batch norm {self.layer.name!r} is in training mode, in which it normalizes by the batch and adapts "
                "to nothing: call model.eval() before the model is used inside adapting."
            )
        x = self.layer.input_in(args, named)
        if x is not None:
            self._take(self.layer.moments(x, named), len(x), x[0, 0].numel())
            self.layer.write(*self._estimate())

    def _take(self, batch: Moments, rows: int, values_per_sample: int) -> None:
        clean, finite = of_finite_channels(batch)
        left = math.exp(-rows / self._memory)
        self._seen = Moments(self._seen.mean, self._seen.var, self._seen.count * left).merge(clean)
        self._samples = self._samples * left + clean.count / values_per_sample
        self.calls += 1
        self.rows += rows
        self._not_finite += int(not finite.all())

    def _estimate(self) -> tuple[Tensor, Tensor]:
        return held(self._before, self._prior, self._seen, self._samples)

    def movement(self) -> Movement:
        """The movement of the statistics from those at first."""
        far = self.layer.moved(self._before, self._estimate())
        return Movement.of(torch.where(far.isfinite(), far, math.inf), self._not_finite)
