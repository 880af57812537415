"""The distance between the moving statistics of a Keras model and those of data, and the dead channels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from normwise.errors import NormwiseError
from normwise.estimators.pooled import Pooled
from normwise.keras.models.feeding import ForwardFn, call
from normwise.keras.models.freeze import chosen_of
from normwise.keras.models.keras_layer import F64, KerasLayer, cover, moments
from normwise.keras.models.sites import norms_of
from normwise.keras.models.transaction import unchanged
from normwise.keras.steps.checks_mask import along_input
from normwise.keras.steps.inputs import given
from normwise.recalibration.batches import Batches
from normwise.recalibration.drift import LayerDrift, drift_between
from normwise.recalibration.site import Site


def drift_of(
    model: Any,
    batches: Batches,
    *,
    layers: Collection[str] | None,
    forward_fn: ForwardFn | None,
    flat_below: float,
) -> dict[str, LayerDrift]:
    """One pass over the data in inference mode; the model is afterwards as before.

    Args:
        model: built.
        batches: the data.
        layers: the paths or names of the only layers to be looked at, or None.
        forward_fn: how a batch enters the model, or None for the rules.
        flat_below: the range of outputs that counts as none.

    Raises:
        UnknownName: ``layers`` names what is no batch norm of the model.
        NormwiseError: no batch.
    """
    norms = norms_of(model)
    wanted = chosen_of(norms, layers, "batch norm")
    probes = [_Probe(path, layer) for path, layer in wanted.items()]
    seen = 0
    with unchanged(model), _observing(probes):
        for batch in batches:
            call(model, batch, forward_fn)
            seen += 1
    if not seen:
        raise NormwiseError(f"{batches.called} received no batches, so there is nothing to compare with: pass data.")
    return {probe.site.name: probe.found(flat_below) for probe in probes if probe.site.reached}


class _Probe:
    """The moments of a layer's inputs, and the range of its outputs, behind its activation where it has one."""

    def __init__(self, path: str, layer: Any) -> None:
        self.layer = KerasLayer(path, layer)
        self.site = Site(self.layer, Pooled())
        self.activation = _activation_behind(layer)
        self.low: F64 = np.full(self.layer.channels, np.inf)
        self.high: F64 = np.full(self.layer.channels, -np.inf)

    def around(self, below: Callable[..., Any]) -> Callable[..., Any]:
        """The layer's ``call``, with its inputs and outputs observed."""

        def call(*args: Any, **named: Any) -> Any:
            y = below(*args, **named)
            x = self.layer.input_in(args, named)
            if x is not None:
                self.take(x, y, args[2] if len(args) > 2 else named.get("mask"))
            return y

        return call

    def take(self, x: Any, y: Any, mask: Any) -> None:
        axis = self.layer.norm.axis % len(x.shape) - len(x.shape)
        seen = given(x, mask, None, axis)
        x, y, mask = seen.inputs, given(y, None, None, axis).inputs, seen.mask
        self.site.take(moments(x, mask, axis))
        y = y if self.activation is None else self.activation(y)
        values = np.moveaxis(ops.convert_to_numpy(ops.cast(y, "float32")), axis, -1)
        if mask is not None:
            counts = np.moveaxis(ops.convert_to_numpy(along_input(mask, x, axis)), axis, -1)
            values = values[np.broadcast_to(counts, (*values.shape[:-1], 1))[..., 0] > 0]
        values = values.reshape(-1, values.shape[-1])
        self.low = np.minimum(self.low, values.min(0, initial=np.inf))
        self.high = np.maximum(self.high, values.max(0, initial=-np.inf))

    def found(self, flat_below: float) -> LayerDrift:
        dead = self.high - self.low <= flat_below
        return drift_between(self.site.before, self.site.estimate(), self.layer.eps, dead)


@contextmanager
def _observing(probes: Sequence[_Probe]) -> Iterator[None]:
    """The layers' ``call`` covered by one of the instance, as in ``recalibrate``; what is compiled does not notice."""
    with ExitStack() as ends:
        for probe in probes:
            ends.callback(cover(probe.layer.norm, probe.around))
        yield


def _activation_behind(layer: Any) -> Any:
    """The one activation layer that takes all that a layer of a functional or sequential model puts out, or None."""
    behind = {id(node.operation): node.operation for node in getattr(layer, "_outbound_nodes", ())}
    alone = next(iter(behind.values())) if len(behind) == 1 else None
    return alone if isinstance(alone, keras.layers.Activation | keras.layers.ReLU) else None
