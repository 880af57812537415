"""A PyTorch model as ``recalibrate`` and ``adapt`` see it: how batches go through it, on one process or more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import nn

from normwise.errors import NormwiseError
from normwise.estimators import RunningStatistics
from normwise.recalibration.one_pass import Pass, check_upstream
from normwise.recalibration.site import Gathered, Site
from normwise.torch.models.feeding import ForwardFn, call, samples_in, uncompiled, unwrapped
from normwise.torch.models.ranks import Ranks, joined
from normwise.torch.models.transaction import Snapshot, sharded_parts, unchanged


class TorchModel:
    """The ``normwise.recalibration.model.Model`` of PyTorch.

    Args:
        model: with all that is wrapped around it.
        forward_fn: how a batch enters the model.
        ranks: the processes that work together.

    Example:
        >>> TorchModel(nn.Linear(2, 3), None, Ranks(True, called="adapt")).forward(torch.ones(4, 2)).shape
        torch.Size([4, 3])
    """

    loader = "DataLoader"

    def __init__(self, model: nn.Module, forward_fn: ForwardFn | None, ranks: Ranks) -> None:
        self._model, self._inner, self._forward_fn, self._ranks = model, unwrapped(model), forward_fn, ranks
        self.to_the_end = bool(sharded_parts(model))  # fully_shard waits for the end of a forward
        self.rank = ranks.own
        self._snapshot: Snapshot | None = None

    @contextmanager
    def unchanged(self) -> Iterator[Callable[[], None]]:
        """Put the model into inference mode for a block and run it as it was written; afterwards it is as before."""
        with unchanged(self._model) as snapshot, uncompiled():
            self._snapshot = snapshot
            self._inner.eval()
            yield snapshot.random.restore
        self._snapshot = None

    def restore(self) -> None:
        """Make everything what it was at the beginning of the block of ``unchanged``, inside it, in inference mode."""
        assert self._snapshot is not None
        self._snapshot.restore()
        self._inner.eval()

    def why_not_in_step(self) -> str:
        """A clause that says why batches cannot go side by side through this model; empty where they can."""
        if self._ranks.several:
            return "several processes settle every layer together"
        return "a forward of fully_shard must not wait for another one" if self.to_the_end else ""

    def forward(self, batch: Any) -> Any:
        """One batch through the model, without gradients."""
        return call(self._inner, batch, self._forward_fn)

    def samples_in(self, batch: Any) -> int:
        """The number of samples in a batch."""
        return samples_in(batch)

    def together(self, work: Callable[[], Pass], gathering: Sequence[Site]) -> list[Pass]:
        """Do the work, and give each site what all processes gathered in it, in one collective call."""
        if not self._ranks.several:
            return [work()]

        def gather() -> tuple[Pass, list[Gathered]]:
            return work(), [_on(torch.device("cpu"), site.gathered()) for site in gathering]

        parts = self._ranks.exchange(gather)
        for place, site in enumerate(gathering):
            everyones = _joined(site, [gathered[place] for _, gathered in parts])
            site.take_over(_on(torch.as_tensor(site.samples).device, everyones))
        return [done for done, _ in parts]


def _on(device: torch.device, gathered: Gathered) -> Gathered:
    statistics = RunningStatistics(
        *(torch.as_tensor(part, device=device) for part in vars(gathered.statistics).values())
    )
    return gathered._replace(statistics=statistics, samples=torch.as_tensor(gathered.samples, device=device))


def _joined(site: Site, parts: Sequence[Gathered]) -> Gathered:
    return Gathered(
        joined(site.estimator, [part.statistics for part in parts]),
        reduce(torch.add, [part.samples for part in parts]),
        sum(part.not_finite for part in parts),
        min(part.place for part in parts),
        frozenset[str]().union(*(part.after for part in parts)),
        all(part.once for part in parts),
    )


def check_values(model: nn.Module, upstream: str, *, called: str) -> None:
    """Refuse a model without values, whose statistics cannot be estimated.

    Raises:
        NormwiseError: it has no values yet, or there is no such ``upstream``.
    """
    check_upstream(upstream)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise NormwiseError(
                f"{called} needs a model whose lazy layers have seen an input, and {name!r} has no shape yet: "
                "run one batch through the model first."
            )
        if tensor.is_meta:
            raise NormwiseError(
                f"{called} needs a model with values, and {name!r} is on the meta device: load its weights first."
            )
