"""Through the data, once or layer by layer, until every layer has gathered what it will meet at inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count, pairwise
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from normwise.errors import NormwiseError, UnknownName
from normwise.keras.models.feeding import ForwardFn, call, samples_in
from normwise.keras.models.sites import Site
from normwise.keras.models.transaction import unchanged
from normwise.keras.steps.checks_mask import along_input
from normwise.keras.steps.inputs import given
from normwise.kernels import reference
from normwise.moments import Moments
from normwise.recalibration.batches import Batches
from normwise.recalibration.share import UPSTREAM, Gone, Share, feed

AT_ONCE = 1 << 20
"""So many values are taken to float64 at a time: a piece that the processor's cache can hold."""


class Passes(NamedTuple):
    """What came of going through the data.

    Attributes:
        sites: the layers that were reached, in the order of their calls.
        share: the first pass.
        number: how many passes there were.
    """

    sites: list[Site]
    share: Share
    number: int


def go_through(
    model: Any,
    source: Batches,
    sites: Sequence[Site],
    *,
    upstream: str,
    forward_fn: ForwardFn | None,
    limit: float,
) -> Passes:
    """Let every site gather; the model is afterwards as before, and so is the random state.

    Args:
        model: built.
        source: the batches.
        sites: which of its layers gather.
        upstream: how the layers below one that gathers normalize, as in ``recalibrate``.
        forward_fn: how a batch enters the model.
        limit: the standard error that is small enough; 0 for all data.

    Raises:
        NormwiseError: there was no batch.
    """
    number = 1
    with closing(source), unchanged(model) as snapshot:

        def through(gathering: Sequence[Site], limit: float) -> Share:
            snapshot.random.restore()  # so that a loader that shuffles and augments gives the same again
            with listening(sites, gathering), closing(iter(source)) as items:
                return feed(items, gathering, lambda batch: call(model, batch, forward_fn), samples_in, limit)

        source.passes = len(sites) if upstream == "inference" else 1
        share = through(sites, limit)
        found = sorted((site for site in sites if site.reached), key=lambda site: site.place)
        source.at_most = share.batches
        source.passes = len(found)
        if upstream == "inference":
            # Nothing that gathers comes before the first, which met what it will meet; the others wait for those
            # before them, and normalize by the batch meanwhile, which keeps what they pass on at its size.
            for before, site in pairwise(found):
                before.settle()
                through([site], 0.0)
                number += 1
    if not share.batches:
        raise NormwiseError(
            f"{source.called} received no batches, so there is nothing to estimate from: pass data; an iterator that "
            "was gone through before is empty, its data set is not."
        )
    return Passes(found, share, number)


def check_model(model: Any, upstream: str, *, called: str) -> None:
    """Refuse what has no statistics to be estimated.

    Raises:
        TypeError: no model of Keras's.
        NormwiseError: it has no values yet, or there is no such ``upstream``.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"{called} needs a Keras model, received {type(model).__name__}: pass the model itself.")
    if upstream not in UPSTREAM:
        raise UnknownName("upstream", upstream, UPSTREAM)
    if not model.built:
        raise NormwiseError(
            f"{called} needs a model that is built, and {model.name!r} has no variables yet: "
            "run one batch through the model first."
        )


@contextmanager
def listening(sites: Sequence[Site], gathering: Sequence[Site]) -> Iterator[None]:
    """Every call of the layers that gather is gathered, and layers that are not settled normalize by the batch.

    A layer's ``call`` is covered by one of the instance, which Keras's own machinery looks up like any other; functions
    that were compiled before do not notice. By the batch means that its moments take the place of the moving statistics
    for one call. A call of one value per channel is normalized by what was gathered before it.

    Args:
        sites: all there are.
        gathering: those of them that gather. If it is one, and no batch ever comes to it twice, the forward ends
            there, with ``Gone``.
    """
    places = count()
    covered = []
    try:
        for site in sites:
            if site in gathering or not site.settled:
                covered.append((site.layer, vars(site.layer).get("call")))
                alone = len(gathering) == 1 and site in gathering
                vars(site.layer)["call"] = _listener(site, site in gathering, alone, places)
        yield
    finally:
        for layer, was in covered:
            vars(layer).pop("call", None)
            if was is not None:
                vars(layer)["call"] = was


def _listener(site: Site, gathers: bool, alone: bool, places: Iterator[int]) -> Callable[..., Any]:
    below = site.layer.call

    def call(*args: Any, **named: Any) -> Any:
        x: Any = args[0] if args else named.get("inputs")
        if fits(x, site):
            mask = args[2] if len(args) > 2 else named.get("mask")
            if (
                mask is None and named.get("residual") is not None
            ):  # of several tensors, Keras hands on the mask of none
                mask = getattr(x, "_keras_mask", None)
            axis = site.layer.axis % len(x.shape) - len(x.shape)
            seen = given(x, mask, None, axis)
            batch = moments(seen.inputs, seen.mask, axis)
            if gathers:
                site.take(batch, seen.values_per_sample(axis))
                site.place = min(site.place, next(places))
            if alone and site.once:
                raise Gone
            if not site.settled:
                several = batch.count > 1
                mean, var = site.estimate()
                site.normalize_by(np.where(several, batch.mean, mean), np.where(several, batch.var, var))
        return below(*args, **named)

    return call


def fits(x: Any, site: Site) -> bool:
    """Whether there is something to gather; if not, it is the layer's own error, or none."""
    shape = tuple(getattr(x, "shape", ()))
    channels = len(site.before[0])
    return len(shape) > 1 and 0 not in shape and shape[site.layer.axis % len(shape)] == channels


def moments(inputs: Any, mask: Any, axis: int) -> Moments:
    """The moments of a batch in float64, as they are: with NaN where it has NaN.

    Args:
        inputs: a tensor or array of any rank.
        mask: as the layer takes it, or None.
        axis: of the channels.

    Returns:
        mean, biased variance and count, shape (C,), NumPy's.

    Example:
        >>> moments(np.array([[1.0], [3.0]]), None, 1)
        Moments(mean=array([2.]), var=array([1.]), count=array([2.]))
    """
    axis %= len(inputs.shape)
    weights: NDArray[Any] | None = None if mask is None else ops.convert_to_numpy(along_input(mask, inputs, axis))
    x = ops.convert_to_numpy(inputs)
    rows = len(x) if axis == 0 else max(1, AT_ONCE * len(x) // max(1, x.size))
    channels = x.shape[axis]
    found = Moments(np.zeros(channels), np.zeros(channels), np.zeros(channels))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(x), rows):
            piece = None if weights is None else weights if len(weights) == 1 else weights[start : start + rows]
            part = reference.moments(x[start : start + rows], weights=piece, axis=axis)
            found = found.merge(Moments(part.mean, part.var, np.broadcast_to(part.count, channels)))
    return found
