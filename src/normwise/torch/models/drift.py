"""The drift of a PyTorch model's running statistics from those of data, and the dead channels."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.errors import NormwiseError
from normwise.estimators.pooled import Pooled
from normwise.moments import Moments
from normwise.recalibration.asked import names_asked
from normwise.recalibration.batches import Batches
from normwise.recalibration.drift import F64, LayerDrift, drift_between
from normwise.recalibration.site import Site
from normwise.torch.layers.whitening import Whitening
from normwise.torch.models.feeding import ForwardFn, call, uncompiled, unwrapped
from normwise.torch.models.model_checks import check_model, check_runnable
from normwise.torch.models.recalibration.torch_layer import TorchLayer
from normwise.torch.models.transaction import unchanged


def drift_of(
    model: nn.Module,
    batches: Batches,
    *,
    layers: Collection[str] | None,
    forward_fn: ForwardFn | None,
    flat_below: float,
) -> dict[str, LayerDrift]:
    """One pass over the data in inference mode; the model is afterwards as before.

    Args:
        model: with all that is wrapped around it.
        batches: the data.
        layers: the names of the only layers to be looked at, or None.
        forward_fn: how a batch enters the model, or None for the rules.
        flat_below: the range of outputs that counts as none.

    Raises:
        UnsuitableModel: no model, or one whose layers do not run in Python.
        UnknownName: ``layers`` names what is no batch norm of the model.
        NormwiseError: no batch.

    Example:
        >>> data = Batches([torch.tensor([[1.0, 5.0], [3.0, 5.0]])], called="MonitorStatistics")
        >>> drift_of(nn.BatchNorm1d(2), data, layers=None, forward_fn=None, flat_below=1e-6)[""].dead
        array([False,  True])
    """
    check_model(model, called=batches.called)
    check_runnable(model, forward_fn, called=batches.called)
    inner = unwrapped(model)
    norms = {name: module for name, module in inner.named_modules() if _keeps_channels(module)}
    layers = names_asked(layers, norms, "batch norm")
    probes = [_Probe(name, norm) for name, norm in norms.items() if layers is None or name in layers]
    seen = 0
    with unchanged(model), uncompiled(), ExitStack() as ends:
        inner.eval()
        for probe in probes:
            ends.callback(probe.layer.listen(probe.take))
            ends.callback(probe.layer.norm.register_forward_hook(probe.look).remove)
        for batch in batches:
            call(inner, batch, forward_fn)
            seen += 1
    if not seen:
        raise NormwiseError(f"{batches.called} received no batches, so there is nothing to compare with: pass data.")
    return {probe.layer.name: probe.found(flat_below) for probe in probes if probe.site.reached}


class _Probe:
    """The statistics of a layer's input, and the range of its output."""

    def __init__(self, name: str, norm: Any) -> None:
        self.layer = TorchLayer(name, norm)
        self.site = Site(self.layer, Pooled())
        self.low, self.high = (torch.full((norm.num_features,), sign * np.inf) for sign in (1, -1))

    def take(self, batch: Moments, values_per_sample: float) -> None:
        self.site.take(batch, values_per_sample)

    def look(self, _: nn.Module, args: object, y: Tensor) -> None:  # noqa: ARG002  # a hook has it
        rows = y.detach().float().cpu().movedim(1, -1).flatten(0, -2)
        if len(rows):
            self.low, self.high = torch.minimum(self.low, rows.amin(0)), torch.maximum(self.high, rows.amax(0))

    def found(self, flat_below: float) -> LayerDrift:
        before, seen = ((_array(mean), _array(var)) for mean, var in (self.site.before, self.site.estimate()))
        dead = _array(self.high - self.low) <= flat_below
        return drift_between(before, seen, self.layer.eps, dead)


def _keeps_channels(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and not isinstance(module, Whitening) and module.running_mean is not None


def _array(array: Any) -> F64:
    found: F64 = torch.as_tensor(array).cpu().double().numpy()
    return found
