"""A Keras model as the doctor examines it: its normalization layers, and ways to run it and to look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from normwise.facts import Input, LayerFacts, Neighbours, Outcome, Source, Steps
from normwise.failures import sentence
from normwise.keras.models.feeding import ForwardFn, call, forward, layer_of, samples_in
from normwise.keras.models.input_gradients import input_gradients
from normwise.keras.models.keras_layer import KerasLayer, cover
from normwise.keras.models.keras_model import check_model
from normwise.keras.models.neighbours import neighbours, weighted
from normwise.keras.models.sites import norms_of, survey
from normwise.keras.models.sources import pairs, weights_apart
from normwise.keras.models.targets import labels_in, outputs_first, outputs_in, part_of, targets_of
from normwise.keras.models.training_steps import steps_of
from normwise.keras.models.transaction import unchanged
from normwise.observed_input import LOOKED_AT, input_of

DROPOUTS = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.AlphaDropout)  # the spatial ones are too


class KerasSubject:
    """The ``normwise.doctor.subject.Subject`` of Keras.

    Args:
        model: built.
        forward_fn: how a batch enters the model.
        called: the operation, for the errors.

    Raises:
        TypeError: no Keras model.
        NormwiseError: a model without variables.
    """

    framework, averaged = "keras", False

    def __init__(self, model: Any, forward_fn: ForwardFn | None, *, called: str = "examine") -> None:
        check_model(model, "inference", forward_fn, called=called)
        self.model, self.forward_fn = model, forward_fn
        self.norms = norms_of(model)
        self.layers = [KerasLayer(path, norm) for path, norm in self.norms.items() if norm.built]
        left = survey(model, None)[1]
        self.facts: Mapping[str, LayerFacts] = {
            path: facts_of(path, norm, left.get(path), steps_in(model)) for path, norm in self.norms.items()
        }
        self._dropouts = [
            layer for layer in model._flatten_layers() if isinstance(layer, DROPOUTS) and getattr(layer, "rate", 0) > 0
        ]
        self.dropouts = bool(self._dropouts)
        self.missing: dict[str, str] = {}
        if any(facts.updates is None for facts in self.facts.values()):
            self.missing["updates"] = "Keras's own layers count no updates, and the model has no optimizer that does"

    @contextmanager
    def unchanged(self) -> Iterator[Callable[[], None]]:
        """Put the model back behind a block as it was before it; a Keras model has no mode to be set."""
        with unchanged(self.model) as snapshot:
            yield snapshot.random.restore

    def forward(self, batch: Any) -> Any:
        """Run one batch through the model without gradients, by ``forward_fn`` or with ``training=False``."""
        return call(self.model, batch, self.forward_fn)

    def takes(self) -> str:
        """The contents that a batch must have, in words, with the dtype in which the model computes."""
        return f"arrays of the shape and dtype that it needs (it computes in {self.model.compute_dtype})"

    def place_of(self, error: Exception) -> str:
        """The layer or the class that Keras names in its message; empty where it names none."""
        return layer_of(self.model, error)

    def not_finite(self) -> str | None:
        """The path of the first trainable variable that holds NaN or infinite values; None where there is none."""
        named = ((each.path, _values(each.value)) for each in self.model.trainable_variables)
        return next((path for path, values in named if not np.isfinite(values).all()), None)

    @contextmanager
    def with_dropout(self) -> Iterator[None]:
        """Turn dropout on for a block: its layers are called with ``training=True``, and no others."""

        def around(below: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **named: Any) -> Any:
                inputs = args[0] if args else named.pop("inputs")
                return below(inputs, **{**named, "training": True})

            return call

        with ExitStack() as ends:
            for layer in {id(each): each for each in self._dropouts}.values():
                ends.callback(cover(layer, around))
            yield

    def look(self, hear: Callable[[str, Input], object]) -> Callable[[], None]:
        """Call ``hear`` before each call of a layer, with its path and its input; returns a function that ends it."""
        return self._listen(lambda layer, x, masked: hear(layer.name, _input_of(x, layer.norm.axis, masked=masked)))

    def outputs(self, result: Any) -> NDArray[np.float64] | None:
        """The first floating-point array of the output, as float64 of shape (N, k); None where there is none."""
        return outputs_in(result)

    def part(self, batch: Any, rows: Sequence[int]) -> Any:
        """A batch of some samples of a batch; None where it cannot be cut."""
        return part_of(batch, rows)

    def targets(self, batch: Any) -> Any:
        """The part of a batch that is not the model's input, by the rules of ``fit``; None where there is none."""
        return targets_of(self.model, batch, self.forward_fn)

    def labels(self, targets: Any) -> NDArray[np.float64] | None:
        """The targets as one number per sample, of one-hot rows the classes; None where they are no such numbers."""
        return labels_in(targets)

    def outputs_first(self, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """The function, of outputs and targets; Keras's own losses and metrics take the targets first."""
        return outputs_first(function)

    def number(self, value: Any) -> float:
        """The mean of a loss or metric: Keras's plain functions give one number for each sample."""
        return float(np.mean(ops.convert_to_numpy(value)))

    def samples_in(self, batch: Any) -> int:
        """The length of the first array in a batch; 0 where there is none."""
        return samples_in(batch)

    def first_that_differs(self, one: Any, other: Any, limit: float) -> str | None:
        """The first layer whose output for the first sample differs between two batches by more than the limit."""
        first, second = (self._first_samples(batch) for batch in (one, other))
        both = ((name, x, second[name]) for name, x in first.items() if name in second)
        return next((name for name, x, y in both if x.shape == y.shape and _apart(x, y) > limit), None)

    def neighbours(self, batch: Any) -> Mapping[str, Neighbours]:
        """The surroundings of the layers, as far as a run of the batch in inference mode shows them."""
        return neighbours(self.model, self.layers, lambda: self.forward(batch))

    def steps(self, train_step: Callable[[Any, Any], object], batches: Sequence[Any]) -> Steps | None:
        """The effects of some steps on the model itself, which is put back; not every Keras model can be copied."""
        found = steps_of(self.model, self.norms, train_step, batches)
        if isinstance(found, Steps):
            return found
        self.missing["steps"] = found
        return None

    def gradients(self, loss: Callable[[Any, Any], Any], batch: Any) -> Mapping[str, float]:
        """The gradients on the model, which is put back: with batch statistics, as in training, and dropout off."""
        with unchanged(self.model):
            try:
                found = input_gradients(
                    weighted(self.model),
                    self.layers,
                    lambda: loss(forward(self.model, batch, self.forward_fn), self.targets(batch)),
                )
            except Exception as error:  # a loss need not have gradients to be measured
                self.missing["gradients"] = f"the loss could not be differentiated ({sentence(error)})"
                return {}
        if not found:
            self.missing["gradients"] = "the loss could not be differentiated (it is no function of a layer's input)"
        return found

    def compared(self, source: Any, batches: Sequence[Any]) -> Source:
        """The differences of the model from the one that it was derived from, on the same batches."""
        other = KerasSubject(source, self.forward_fn, called="examine, for source_model,")
        both = pairs((self.model, self.layers), (source, other.layers))
        far = {}
        for layer, of_source in both:
            if layer.channels == of_source.channels:
                far[layer.name] = float(of_source.moved(layer.read(), of_source.read()).max())
        with other.unchanged():
            theirs = other._outcome(batches)
        with self.unchanged():
            mine, alike = self._outcome(batches), None
            if any(far.values()) and len(far) == len(self.layers) == len(other.layers):
                for layer, of_source in both:
                    layer.write(*of_source.read())
                alike = self._outcome(batches)
        return Source(
            mine.apart(theirs),
            {layer.name: of_source.eps for layer, of_source in both},
            weights_apart(self.model, source),
            far,
            len(other.layers),
            None if alike is None else alike.apart(theirs),
        )

    def _outcome(self, batches: Sequence[Any]) -> Outcome:
        found = [outputs_in(self.forward(batch)) for batch in batches]
        return Outcome(np.concatenate([np.zeros((0, 1)) if each is None else each for each in found]))

    def _listen(self, hear: Callable[[KerasLayer, Any, bool], object]) -> Callable[[], None]:
        """Call ``hear`` with a layer, its input, and whether a mask came with it, before each of its calls."""
        ends = ExitStack()
        for layer in self.layers:

            def around(below: Callable[..., Any], layer: KerasLayer = layer) -> Callable[..., Any]:
                def call(*args: Any, **named: Any) -> Any:
                    x = layer.input_in(args, named)
                    if x is not None:
                        hear(layer, x, (args[2] if len(args) > 2 else named.get("mask")) is not None)
                    return below(*args, **named)

                return call

            ends.callback(cover(layer.norm, around))
        return ends.close

    def _first_samples(self, batch: Any) -> dict[str, NDArray[np.float64]]:
        """The output of each layer for the first sample, layers inside of others first."""
        found: dict[str, NDArray[np.float64]] = {}

        def around(name: str, below: Callable[..., Any]) -> Callable[..., Any]:
            def heard(*args: Any, **named: Any) -> Any:
                result = below(*args, **named)
                values = outputs_in(result)
                if values is not None and len(values):
                    found.setdefault(name, values[0])
                return result

            return heard

        with ExitStack() as ends:
            for layer in self.model._flatten_layers():
                ends.callback(cover(layer, partial(around, layer.path or layer.name)))
            self.forward(batch)
        return found


def steps_in(model: Any) -> int | None:
    """The number of steps that a model's optimizer counted; None where there is no optimizer, or no step."""
    iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
    return None if iterations is None else int(ops.convert_to_numpy(getattr(iterations, "value", iterations))) or None


def facts_of(path: str, norm: Any, left: str | None, steps: int | None = None) -> LayerFacts:
    """The settings and the state of one batch norm.

    Args:
        path: of it in the model.
        norm: it.
        left: why ``recalibrate`` would leave it, or None.
        steps: of the optimizer, which stand for the updates of a layer of Keras's own, which counts none; or None.

    Example:
        >>> facts = facts_of("bn", keras.layers.BatchNormalization(momentum=0.9, trainable=False), None)
        >>> round(facts.weight_of_new, 3), facts.trains, facts.mean
        (0.1, False, None)
    """
    estimator = getattr(norm, "estimator", None)
    weight = 1 - norm.momentum if estimator is None else getattr(estimator, "weight_of_new", None)
    settings: dict[str, Any] = {"trains": bool(norm.trainable)}
    if norm.built:
        mean, var = KerasLayer(path, norm).read()
        gamma, beta = (getattr(norm, name, None) for name in ("gamma", "beta"))
        updates = getattr(norm, "updates", None)
        instead = steps if left is None and norm.trainable and (mean.any() or (var != 1).any()) else None
        own = [variable for variable in (gamma, beta) if variable is not None]
        settings |= {
            "scale": _array(gamma), "shift": _array(beta), "mean": mean, "var": var,
            "dtype": norm.moving_mean.dtype, "learns": any(each.trainable for each in own) if own else None,
            "updates": int(ops.convert_to_numpy(updates.value)) if isinstance(updates, keras.Variable) else instead,
            "frozen": left,
        }  # fmt: skip
    return LayerFacts(path, type(norm).__name__, norm.epsilon, weight, **settings)


def _array(variable: Any) -> NDArray[np.float64] | None:
    return None if variable is None else _values(variable.value)


def _values(tensor: Any) -> NDArray[np.float64]:
    return np.array(ops.convert_to_numpy(tensor)).astype(np.float64)


def _input_of(x: Any, axis: int, *, masked: bool) -> Input:
    values = ops.convert_to_numpy(x)
    largest = float(np.abs(values.astype(np.float64)).max())
    dtype = keras.backend.standardize_dtype(x.dtype)
    found = input_of(values[:LOOKED_AT].astype(np.float64), tuple(values.shape), axis % values.ndim, largest, dtype)
    # What is masked enters no statistics.
    return replace(found, tails=np.full(len(found.tails), np.nan)) if masked else found


def _apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(one - other).max() / (np.abs(one).max() or 1.0)) if one.size else 0.0
