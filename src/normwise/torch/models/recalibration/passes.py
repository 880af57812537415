"""Through the data, once or layer by layer, until every layer has gathered what it will meet at inference."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from normwise.errors import NormwiseError, UnknownName
from normwise.recalibration.batches import Batches
from normwise.recalibration.share import UPSTREAM, Share, feed
from normwise.torch.models.feeding import ForwardFn, call, samples_in, uncompiled, unwrapped
from normwise.torch.models.ranks import Ranks
from normwise.torch.models.recalibration.sites import Gathered, Site, listening
from normwise.torch.models.transaction import sharded_parts, unchanged


class Passes(NamedTuple):
    """What came of going through the data.

    Attributes:
        sites: the layers that were reached, in the order of their calls.
        shares: the first pass of every process.
        number: how many passes there were.
    """

    sites: list[Site]
    shares: list[Share]
    number: int


def go_through(
    model: nn.Module,
    source: Batches,
    sites: Sequence[Site],
    ranks: Ranks,
    *,
    upstream: str,
    forward_fn: ForwardFn | None,
    limit: float,
) -> Passes:
    """Let every site gather; the model is afterwards as before, and so is the random state.

    Args:
        model: with all that is wrapped around it.
        source: the batches.
        sites: which of its layers gather.
        ranks: the processes that do so together.
        upstream: how the layers below one that gathers normalize, as in ``recalibrate``.
        forward_fn: how a batch enters the model.
        limit: the standard error that is small enough; 0 for all data.

    Raises:
        NormwiseError: there was no batch.
    """
    inner = unwrapped(model)
    number, found = 1, list[Site]()
    to_the_end = bool(sharded_parts(model))  # fully_shard waits for the end of a forward
    with closing(source), unchanged(model) as snapshot, uncompiled():
        inner.eval()

        def through(gathering: Sequence[Site], limit: float) -> list[Share]:
            def work() -> tuple[Share, list[Gathered]]:
                snapshot.random.restore()  # so that a loader that shuffles and augments gives the same again
                with listening(sites, gathering, to_the_end=to_the_end), closing(iter(source)) as items:
                    share = feed(items, gathering, lambda batch: call(inner, batch, forward_fn), samples_in, limit)
                return share, [site.gathered() for site in gathering]

            parts = ranks.exchange(work)
            for place, site in enumerate(gathering):
                site.take_over([gathered[place] for _, gathered in parts])
            return [share for share, _ in parts]

        source.passes = len(sites) if upstream == "inference" else 1
        shares = through(sites, limit)
        found = sorted((site for site in sites if site.reached), key=lambda site: site.place)
        source.at_most = shares[ranks.own].batches
        source.passes = len(found)
        if upstream == "inference":
            # Nothing that gathers comes before the first, which met what it will meet; the others wait for those
            # before them, and normalize by the batch meanwhile, which keeps what they pass on at its size.
            for before, site in pairwise(found):
                before.settle()
                through([site], 0.0)
                number += 1
    if not any(share.batches for share in shares):
        raise NormwiseError(
            f"{source.called} received no batches, so there is nothing to estimate from: pass data; an iterator that "
            "was gone through before is empty, its DataLoader is not."
        )
    return Passes(found, shares, number)


def check_values(model: nn.Module, upstream: str, *, called: str) -> None:
    """Refuse a model without values, whose statistics cannot be estimated.

    Raises:
        NormwiseError: it has no values yet, or there is no such ``upstream``.
    """
    if upstream not in UPSTREAM:
        raise UnknownName("upstream", upstream, UPSTREAM)
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
