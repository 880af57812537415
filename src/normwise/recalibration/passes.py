"""Passes through the data, in step or layer by layer, until every layer has gathered what it will meet at inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from normwise.errors import NormwiseError
from normwise.moments import Moments
from normwise.recalibration.batches import Batches
from normwise.recalibration.in_step import NotInStep, go_in_step
from normwise.recalibration.model import Model
from normwise.recalibration.one_pass import Pass, StopForward, feed
from normwise.recalibration.order import Calls, in_order
from normwise.recalibration.site import Site
from normwise.recalibration.stepping import Stepping


class Passes(NamedTuple):
    """The result of going through the data.

    Attributes:
        sites: the layers that were reached, in the order of their calls.
        first: the first pass of every process.
        number: how many passes there were.
        in_step: whether all batches went through the model side by side.
        why_not: a clause that says why they did not; an empty string where they did, or nobody asked for it.
    """

    sites: list[Site]
    first: list[Pass]
    number: int
    in_step: bool = False
    why_not: str = ""


def go_through(
    model: Model,
    source: Batches,
    sites: Sequence[Site],
    *,
    upstream: str,
    limit: float,
    stepping: Stepping | None = None,
) -> Passes:
    """Let every site gather; the model is afterwards as before, and so is the random state.

    Args:
        model: as its framework describes it.
        source: the batches.
        sites: which of its layers gather.
        upstream: how the layers below one that gathers normalize, as in ``recalibrate``.
        limit: the standard error that is small enough; 0 for all data.
        stepping: what the framework says so that all batches may go in step; None for layer by layer.

    Raises:
        NormwiseError: there was no batch.
    """
    number, why_not = 0, ""
    with closing(source), model.unchanged() as restore_random_state:

        def through(gathering: Sequence[Site], limit: float) -> list[Pass]:
            def work() -> Pass:
                restore_random_state()  # so that a loader that shuffles and augments gives the same again
                calls = Calls()

                def forward(batch: Any) -> None:
                    calls.begin_batch()
                    model.forward(batch)  # and its output is not kept

                with listening(sites, gathering, calls, to_the_end=model.to_the_end), closing(iter(source)) as items:
                    return feed(items, gathering, forward, model.samples_in, limit)

            return model.together(work, gathering)

        def all_in_step(stepping: Stepping) -> tuple[list[Site], Pass] | None:
            nonlocal number, why_not
            before = [site.gathered() for site in sites]
            source.passes = 1
            try:
                restore_random_state()
                found = go_in_step(model, stepping, source, sites)
            except NotInStep as no:
                why_not = no.why
                for site, gathered in zip(sites, before, strict=True):
                    site.set_back(gathered)
                stepping.restore()
                source.close()
                number += no.went
                return None
            number += 1
            return found

        if upstream == "batch" or len(sites) < 2:
            stepping = None
        if stepping is not None and limit == 0 and (found := all_in_step(stepping)):
            return Passes(found[0], [found[1]], number, in_step=True)
        source.passes = len(sites) if upstream == "inference" else 1
        number += 1
        first = through(sites, limit)
        source.at_most = first[model.rank].batches
        if stepping is not None and limit > 0 and (found := all_in_step(stepping)):
            return Passes(found[0], first, number, in_step=True)
        reached = in_order(sites)
        source.passes = len(reached)
        if upstream == "inference":
            # Nothing that gathers comes before the first, which met what it will meet; the others wait for those
            # before them, and normalize by the batch meanwhile, which keeps what they pass on at its size.
            for before, site in pairwise(reached):
                before.settle()
                through([site], 0.0)
                number += 1
    if not any(each.batches for each in first):
        raise NormwiseError(
            f"{source.called} received no batches, so there is nothing to estimate from: pass data; an iterator that "
            f"was gone through before is empty, its {model.loader} is not."
        )
    return Passes(reached, first, number, why_not=why_not)


@contextmanager
def listening(
    sites: Sequence[Site], gathering: Sequence[Site], calls: Calls, *, to_the_end: bool = False
) -> Iterator[None]:
    """Gather every call of the layers that gather, and let layers that are not settled normalize by the batch.

    By the batch: its own moments are put in the place of the running statistics, for one call. That is the output of
    training, without what layers do besides in training mode. A call of one value per channel has no such output and
    is normalized by what was gathered before it.

    Args:
        sites: all there are; their layers are in inference mode.
        gathering: those of them that gather. If it is one, and no batch ever comes to it twice, the forward ends
            there, with ``StopForward``.
        calls: where the calls of those that gather are noted.
        to_the_end: that it does not.
    """
    last = gathering[0] if len(gathering) == 1 and not to_the_end else None
    with ExitStack() as ends:
        for site in sites:
            gathers = site in gathering
            if gathers or not site.settled:
                hear = partial(_hear, site, calls if gathers else None, site is last)
                ends.callback(site.layer.listen(hear))
        yield


def _hear(site: Site, calls: Calls | None, last: bool, batch: Moments, values_per_sample: float) -> None:
    if calls is not None:
        site.take(batch, values_per_sample)
        calls.add(site)
    if last and site.once:
        raise StopForward
    if not site.settled:
        site.normalize_by(batch)
