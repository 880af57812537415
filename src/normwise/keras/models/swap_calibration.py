"""Keras layers that normalize in another way start from the moments that the layers before them had."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from keras import ops, tree

from normwise.errors import NormwiseError
from normwise.keras.models.feeding import ForwardFn, call
from normwise.keras.models.keras_layer import moments
from normwise.keras.models.keras_model import not_built
from normwise.keras.models.transaction import unchanged
from normwise.moments import Moments
from normwise.recalibration.batches import Batches


class Calibration:
    """The results of a model before its layers were swapped, and the scales and shifts that come nearest to them.

    Args:
        batches: of its inputs, or None for no calibration at all.
        at_most: use so many; None for all.
        forward_fn: how a batch enters the model.

    Attributes:
        output_change: how far the output moved, relative to its size; NaN until it is known.
        uncalibrated_change: the same before any layer was calibrated.
        not_reached: layers that no batch came to.
    """

    def __init__(self, batches: Any, at_most: int | None, forward_fn: ForwardFn | None) -> None:
        self._forward_fn = forward_fn
        self._batches = None if batches is None else Batches(batches, at_most=at_most, called="swap")
        self._targets: dict[str, Moments] = {}
        self._outputs: list[list[Any]] = []
        self.output_change, self.uncalibrated_change = float("nan"), float("nan")
        self.not_reached: list[str] = []

    def before(self, model: Any, norms: Mapping[str, Any]) -> None:
        """Note what the model and these batch normalizations of it compute, before anything is swapped.

        Raises:
            NormwiseError: there is no batch, or the model is not built.
        """
        if self._batches is None:
            return
        if not model.built:
            raise NormwiseError(not_built(model, "swap with calibrate="))
        inputs, self._outputs = self._pass(model, norms, of_inputs=True)
        if not self._outputs:
            raise NormwiseError("swap got no batches to calibrate with: pass at least one.")
        self._targets = {path: _normalized(norms[path], found) for path, found in inputs.items()}

    def after(self, model: Any, swapped: Mapping[str, Any]) -> None:
        """Calibrate the layers that stand in the others' places, in the order of their calls.

        Args:
            model: with them.
            swapped: the layers that are there now, by the names of those that ``before`` was told of.
        """
        if self._batches is None:
            return
        change = self._change(model)
        for path in [path for path in self._targets if path in swapped]:
            layer, target = swapped[path], self._targets[path]
            now = self._pass(model, {path: layer}, of_inputs=False)[0][path]
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.sqrt(target.var / now.var)
            ratio = np.where(np.isfinite(ratio) & (now.var > 0), ratio, 1.0)
            if layer.scale and layer.center:
                gamma, beta = (ops.convert_to_numpy(each.value).astype("float64") for each in (layer.gamma, layer.beta))
                shift = target.mean - ratio * (now.mean - beta)
                for variable, value in ((layer.gamma, gamma * ratio), (layer.beta, shift)):
                    variable.assign(ops.convert_to_tensor(value, dtype=variable.dtype))
        self.not_reached = [path for path in swapped if path not in self._targets]
        calibrated = any(path in self._targets for path in swapped)
        self.output_change = self._change(model) if calibrated else change
        self.uncalibrated_change = change if calibrated else float("nan")

    def _change(self, model: Any) -> float:
        moved = size = 0.0
        for ours, theirs in zip(self._pass(model, {}, of_inputs=False)[1], self._outputs, strict=True):
            for new, old in zip(ours, theirs, strict=True):
                moved += float(np.square(new - old).sum())
                size += float(np.square(old).sum())
        return math.sqrt(moved / size) if size else math.inf if moved else 0.0

    def _pass(
        self, model: Any, norms: Mapping[str, Any], *, of_inputs: bool
    ) -> tuple[dict[str, Moments], list[list[Any]]]:
        """Go through the batches in inference mode: the moments per channel, and the outputs."""
        assert self._batches is not None
        found: dict[str, Moments] = {}
        outputs = []
        with unchanged(model), _covered(norms, found, of_inputs), closing(iter(self._batches)) as batches:
            for batch in batches:
                flat = tree.flatten(call(model, batch, self._forward_fn))
                outputs.append([ops.convert_to_numpy(each).astype("float64") for each in flat])
        return found, outputs


@contextmanager
def _covered(norms: Mapping[str, Any], found: dict[str, Moments], of_inputs: bool) -> Iterator[None]:
    """Observe every call of the layers: a ``call`` of the instance covers that of the class."""
    try:
        for path, layer in norms.items():
            vars(layer)["call"] = _listener(path, layer, found, of_inputs)
        yield
    finally:
        for layer in norms.values():
            vars(layer).pop("call", None)


def _listener(path: str, layer: Any, found: dict[str, Moments], of_inputs: bool) -> Callable[..., Any]:
    below = layer.call

    def listen(*args: Any, **named: Any) -> Any:
        y = below(*args, **named)
        heard = (args[0] if args else named["inputs"]) if of_inputs else y
        new = moments(heard, None, layer.axis)
        if not (np.isfinite(new.mean).all() and np.isfinite(new.var).all()):
            raise NormwiseError(
                f"swap received batches for which layer {path!r} has NaN or infinite values: leave such samples out of "
                "calibrate."
            )
        found[path] = found[path].merge(new) if path in found else new
        return y

    return listen


def _normalized(layer: Any, inputs: Moments) -> Moments:
    """The moments of what a batch normalization puts out before its activation, from those of what comes in."""
    mean, var = layer._moving() if hasattr(layer, "_moving") else (layer.moving_mean.value, layer.moving_variance.value)
    mean, var = (ops.convert_to_numpy(each).astype("float64") for each in (mean, var))
    scale = 1 / np.sqrt(var + layer.epsilon)
    if layer.scale:
        scale = scale * ops.convert_to_numpy(layer.gamma.value).astype("float64")
    shift = ops.convert_to_numpy(layer.beta.value).astype("float64") if layer.center else 0.0
    return Moments((inputs.mean - mean) * scale + shift, inputs.var * scale * scale, inputs.count)
