"""All batches through the model side by side, in step with each other at its layers: one forward for each.

Each forward waits at the first layer that is not settled. When all of them wait, the layer where the first one stands
is settled by what those of them brought that stand there, and these go on. So each layer meets what it will meet at
inference, as it does layer by layer, by the same operations in the same order. What that rests on is watched: batches
that come back to a layer, random numbers, memory, and forwards that disturb each other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from normwise.moments import Moments
from normwise.recalibration.batches import Batches
from normwise.recalibration.memory import in_words
from normwise.recalibration.model import Model
from normwise.recalibration.one_pass import Pass, StopForward
from normwise.recalibration.site import Site, of_finite_channels
from normwise.recalibration.stepping import Parking, Stepping
from normwise.side_by_side import Overdue, SideBySide, Work

PATIENCE = 60.0, 20.0
"""Seconds that a part of a forward may take, and how many times as long as a whole forward alone."""
SAME = 1e-3
"""Standard deviations by which the moments of a batch may differ between two forwards where a device rounds freely."""


class NotInStep(Exception):
    """The batches cannot go through the model in step; a clause says why.

    Args:
        why: the clause.
        went: whether they went through the data before that turned out.
    """

    def __init__(self, why: str, *, went: bool = False) -> None:
        super().__init__(why)
        self.why, self.went = why, went


class Alone(NamedTuple):
    """The cost of a forward of one batch: its seconds, and the bytes that it held at most where it would wait."""

    seconds: float
    bytes: int


class Taken(NamedTuple):
    """The batches, of which the first ones lie in other memory while they wait: where, and how many of them."""

    batches: list[Any]
    parking: Parking | None
    parked: int


def go_in_step(model: Model, stepping: Stepping, source: Batches, sites: Sequence[Site]) -> tuple[list[Site], Pass]:
    """Let every site gather and settle, with one forward for each batch, and one or two more.

    Args:
        model: inside its ``unchanged`` block, with the random state of the beginning.
        stepping: what its framework says besides.
        source: the batches.
        sites: the layers. If this does not end well, they have to be set back, and the model too.

    Returns:
        the layers that were reached, in the order of their calls; the pass.

    Raises:
        NotInStep: they cannot, or the result would not be that of layer by layer.
    """
    if why := stepping.why_not():
        raise NotInStep(why)
    for site in sites:
        site.begin()
    with closing(iter(source)) as items:
        try:
            first = next(items)
        except StopIteration:
            raise NotInStep("there is no batch") from None
        try:
            alone = _alone(model, stepping, first, sites)
        except NotInStep:
            raise
        except Exception as error:  # layer by layer it is raised again, if it is the model's
            raise NotInStep(f"a forward failed with {type(error).__name__}") from error
        taken = _all_of(first, items, stepping, alone, source.number)
        batches = taken.batches
    stepping.restore()
    before = stepping.random_state()
    try:
        order, brought = _together(model, stepping, taken, sites, alone.seconds)
        if len(batches) > 1:
            _check(model, batches[0], sites, brought)
    except Overdue:
        why = "a forward waited for another one, which takes a minute to be noticed (memory=0 saves it)"
        raise NotInStep(why, went=True) from None
    except NotInStep:
        raise
    except Exception as error:  # layer by layer it is raised again, if it is the model's
        raise NotInStep(f"a forward failed with {type(error).__name__}", went=True) from error
    if stepping.random_state() != before:
        raise NotInStep("a forward draws random numbers", went=True)
    reached = [site for site in order if site.reached]
    return reached, Pass(len(batches), sum(model.samples_in(batch) for batch in batches))


def _alone(model: Model, stepping: Stepping, batch: Any, sites: Sequence[Site]) -> Alone:
    """A forward of one batch, whose layers normalize by it; what is known afterwards costs no second look.

    Raises:
        NotInStep: it draws random numbers, or comes to a layer twice, whose statistics are of both calls then: the
            second one has to come before these are known.
    """
    came: set[str] = set()
    most = 0
    me = threading.get_ident()

    def hear(site: Site, moments: Moments, _: float) -> None:
        nonlocal most
        if threading.get_ident() != me:
            came.add("")
            return
        if site.name in came:
            raise StopForward
        came.add(site.name)
        most = max(most, held())
        site.normalize_by(moments)

    before, twice = stepping.random_state(), False
    began = time.perf_counter()
    with _heard(sites, hear), stepping.held(batch) as held:
        try:
            model.forward(batch)
        except StopForward:
            twice = True
    seconds = time.perf_counter() - began
    if twice:
        raise NotInStep("a batch comes to a layer more than once")
    if "" in came:
        raise NotInStep("a forward has threads of its own")
    if stepping.random_state() != before:
        raise NotInStep("a forward draws random numbers")
    return Alone(seconds, most)


def _all_of(first: Any, rest: Iterable[Any], stepping: Stepping, alone: Alone, number: int | None) -> Taken:
    """The batches, as long as what all of them hold is within the bound, or where they can wait elsewhere.

    Args:
        first: the one whose forward is known.
        rest: those behind it.
        stepping: knows the bound.
        alone: what the first one was like.
        number: how many there will be, if that is known.

    Raises:
        NotInStep: they are too many, or share memory: a loader that fills the same array again and again.
    """
    bound, parking = stepping.bound(), stepping.parking()
    batches, needed, brought = list[Any](), 0.0, 0.0
    mine = max(sum(place.bytes for place in stepping.places(first)), 1)
    addresses = set[Any]()

    def refuse_beyond(number: int, needed: float, brought: float) -> None:
        if number > stepping.at_most:
            raise NotInStep(f"there are more batches than the {stepping.at_most} that may go in step")
        elsewhere = parking is not None and brought <= bound
        allowed = max(bound, parking.bound) if parking is not None and elsewhere else bound
        if needed > allowed:
            raise NotInStep(
                f"{number} batches need {in_words(needed)} at a time, and memory allows {in_words(allowed)}"
            )

    if number is not None:
        refuse_beyond(number, number * (alone.bytes + mine), number * mine)
    for batch in _chained(first, rest):
        places = list(stepping.places(batch))
        if addresses & {place.address for place in places}:
            raise NotInStep("batches share their memory")
        addresses |= {place.address for place in places}
        size = sum(place.bytes for place in places) or mine
        needed, brought = needed + size + alone.bytes * size / mine, brought + size
        batches.append(batch)
        refuse_beyond(len(batches), needed, brought)
    if needed <= bound:
        return Taken(batches, None, 0)
    each = (needed - brought) / len(batches)
    stay = max(0, int((bound - brought) / each) - 1)  # beside the one that runs
    return Taken(batches, parking, max(1, len(batches) - stay))


def _chained(first: Any, rest: Iterable[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _together(
    model: Model, stepping: Stepping, taken: Taken, sites: Sequence[Site], seconds: float
) -> tuple[list[Site], dict[str, Moments]]:
    """The forwards in step.

    Returns:
        the layers in the order in which they were settled, and what the first batch brought to each.

    Raises:
        NotInStep: a batch came to a layer that was settled before: it needs what that one will pass on now.
        Overdue: a forward waits for something else than its turn.
    """
    patience = max(PATIENCE[0], PATIENCE[1] * seconds)
    strange = threading.Event()
    order: list[Site] = []
    first_brought: dict[str, Moments] = {}
    places = count()

    away: dict[Work | None, Any] = {}

    def forward(number: int, batch: Any) -> None:
        if taken.parking is None or number >= taken.parked:
            model.forward(batch)  # and its output is not kept
            return
        with taken.parking.around(batch) as away[together.current()]:
            model.forward(batch)

    works = [partial(forward, number, batch) for number, batch in enumerate(taken.batches)]
    together = SideBySide(works, stepping.enter_state())

    def hear(site: Site, moments: Moments, values_per_sample: float) -> None:
        work = together.current()
        if work is None:
            strange.set()
            return
        with away[work]((moments.mean, moments.var, moments.count)) if work in away else nullcontext():
            together.wait(site, (moments, values_per_sample))

    with _heard(sites, hear), together:
        together.resume_all(together.works, patience)
        while going := [work for work in together.works if not work.done]:
            site: Site = going[0].at
            if strange.is_set():
                raise NotInStep("a forward has threads of its own", went=True)
            if any(site is each for each in order):
                raise NotInStep("batches come to the layers in different orders, or more than once", went=True)
            order.append(site)
            here = [work for work in going if work.at is site]
            brought: list[tuple[Moments, float]] = [work.brought for work in here]
            if here[0] is together.works[0]:
                first_brought[site.name] = brought[0][0]
            for moments, values_per_sample in brought:
                site.take(moments, values_per_sample)
                site.end_of_batch()
            site.place = next(places)
            if site.reached:
                site.settle()
                together.resume_all(here, patience)
                continue
            for work, (moments, _) in zip(here, brought, strict=True):  # as layer by layer
                site.normalize_by(moments)
                together.resume(work, patience)
    return order, first_brought


def _check(model: Model, batch: Any, sites: Sequence[Site], brought: dict[str, Moments]) -> None:
    """The first batch on its own meets in every layer what it met beside the others.

    It does not where a forward keeps something outside of its own variables, which the next one overwrites.

    Raises:
        NotInStep: it does not.
    """
    left = set(brought)
    different = set[str]()

    def hear(site: Site, moments: Moments, _: float) -> None:
        if site.name not in left:
            different.add(site.name)
            raise StopForward
        left.remove(site.name)
        if not _alike(site, brought[site.name], moments):
            different.add(site.name)
        if different or not left:
            raise StopForward
        if not site.settled:
            site.normalize_by(moments)

    with _heard(sites, hear), suppress(StopForward):
        model.forward(batch)
    if different or left:
        raise NotInStep("forwards change what others need", went=True)


def _alike(site: Site, one: Moments, other: Moments) -> bool:
    (one, _), (other, _) = of_finite_channels(one), of_finite_channels(other)
    if not bool((one.count == other.count).all()):
        return False
    far = site.layer.moved((one.mean, one.var), (other.mean, other.var))
    return not bool((far > SAME).any())


@contextmanager
def _heard(sites: Sequence[Site], hear: Callable[[Site, Moments, float], None]) -> Iterator[None]:
    """Call ``hear`` at every call of a layer inside the block, with the site as the first argument."""
    with ExitStack() as ends:
        for site in sites:
            ends.callback(site.layer.listen(partial(hear, site)))
        yield
