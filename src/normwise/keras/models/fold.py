"""Batch norms of a Keras model in inference are affine maps: a new model without them computes the same."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from normwise.errors import NormwiseError, UnsuitableModel
from normwise.frameworks import with_article
from normwise.keras.models.feeding import ForwardFn, batches_of, call, samples_in
from normwise.keras.models.fold_plan import Plan, activation_of, graph_of
from normwise.keras.models.fold_weights import Weights, weights_of
from normwise.keras.models.freeze import check_keras_model, chosen_of, named_layers
from normwise.keras.models.learning import carry_learning
from normwise.keras.models.rebuilding import again
from normwise.recalibration.asked import check_forward_fn
from normwise.recalibration.batches import Batches
from normwise.reports.fold_report import Folded, FoldReport


def fold(
    model: Any,
    batches: Any = None,
    *,
    layers: Collection[str] | None = None,
    forward_fn: ForwardFn | None = None,
    at_most: int | None = None,
    batch_size: int = 32,
) -> FoldReport:
    r"""Make a model of the same outputs in inference, whose layers beside each batch norm do what the batch norm did.

    .. math:: \gamma \frac{(W x + b) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = (s W) x + (s (b - \mu) + \beta),
        \quad s = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}

    Keras cannot take a layer out of a graph, so the model that is given stays as it is, and ``report.model`` is a new
    one with copies of all weights, to be shipped. In it stands, under the name of the batch norm, its activation, or a
    ``keras.layers.Identity``. A batch norm goes into the convolution (transposed, depthwise, separable), dense layer or
    batch norm directly in front of it, else into the one directly behind it, where that is exact: a convolution that
    pads with zeros takes a shift only if it is 0 in every channel. Dropout between the two, which does nothing in
    inference, does not matter. New weights are worked out in float64 and rounded once.

    Args:
        model: a functional or sequential model, also with such models inside; it is not changed.
        batches: data on which outputs are compared, as ``normwise.keras.models.recalibrate`` takes them; None to
            compare nothing.
        layers: the paths or names of the only batch norms to change; None for all.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters a model, if the rules do not serve.
        at_most: use so many batches; None for all.
        batch_size: rows per batch of arrays.

    Returns:
        the new model; which batch norms were folded and into what, and which were skipped and why; how much the largest
        weights grew, and the largest relative error of an output on the data.

    Raises:
        UnsuitableModel: not a Keras model, or one whose calls are no graph.
        UnknownName: ``layers`` names what is no batch norm of the model.
        TypeError: not an iterable of batches, or ``layers`` is a string.
        NormwiseError: no batches in ``batches``, or ``forward_fn`` or ``at_most`` without any.

    Example:
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((4,)),
        ...         keras.layers.Dense(3, name="dense"),
        ...         keras.layers.BatchNormalization(name="bn"),
        ...     ],
        ...     name="model",
        ... )
        >>> report = fold(model, np.ones((8, 4), "float32"))
        >>> report.folded["model/bn"].into, report.output_error < 1e-5, type(report.model.layers[1]).__name__
        ('model/dense', True, 'Identity')
    """
    check_keras_model(model, "fold")
    if not isinstance(model, keras.Model) or graph_of(model) is None:
        received = with_article(type(model).__name__)
        raise UnsuitableModel(
            f"fold needs a functional or sequential model that is built, received {received}, whose calls are no "
            "graph: build it by keras.Model(inputs, outputs), or fold the functional models inside of it one by one."
        )
    if batches is None and (forward_fn is not None or at_most is not None):
        raise NormwiseError("fold was told how to use batches, and received none: pass batches too.")
    check_forward_fn(forward_fn)
    norms = named_layers(model, (keras.layers.BatchNormalization,))
    chosen = chosen_of(norms, layers, "batch norm")
    names = {id(layer): layer.path or layer.name for layer in model._flatten_layers()}
    plan = Plan(model, names)
    skipped = {}
    for name, norm in norms.items():
        why = plan.add(norm) if name in chosen else "it was not asked for"
        if why is not None:
            skipped[name] = why
    made = _Rebuilding(plan).of(model)
    places = {id(norm): name for name, norm in norms.items()}
    folded = {
        places[id(each.norm)]: Folded(names[id(each.into)], _growth(each.into, plan.changed[id(each.into)]), each.stays)
        for each in plan.folded
    }
    folded = {name: folded[name] for name in norms if name in folded}
    if batches is None:
        return FoldReport(folded, skipped, {}, model=made)
    items = batches_of(batches, batch_size, at_most=at_most, called="fold")
    error, number, samples = 0.0, 0, 0
    for batch in Batches(items, at_most=at_most, called="fold"):
        outputs = [tree.flatten(call(each, batch, forward_fn)) for each in (model, made)]
        for was, now in zip(*outputs, strict=True):
            error = max(error, _relative_error(was, now))
        number, samples = number + 1, samples + samples_in(batch)
    if not number:
        raise NormwiseError("fold received batches with no batch in them: pass at least one, or leave batches out.")
    return FoldReport(folded, skipped, {}, error, number, samples, made)


class _Rebuilding:
    """A model made again with a plan carried out; the weights of all other layers are copies."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._left = {id(each.norm): each.norm for each in plan.folded}
        self._made: dict[int, Any] = {}
        self._new: list[Any] = []  # what stands in the places of batch norms

    def of(self, model: Any) -> Any:
        pairs: list[tuple[Any, Any]] = []

        def clone(layer: Any) -> Any:
            if id(layer) not in self._made:
                self._made[id(layer)] = self._again(layer)
                if isinstance(layer, keras.Layer):  # and no operation of keras.ops, which holds nothing
                    pairs.append((layer, self._made[id(layer)]))
            return self._made[id(layer)]

        def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return layer(args[0]) if layer in self._new else layer(*args, **kwargs)  # a batch norm is told the mask

        settings = {} if isinstance(model, keras.Sequential) else {"call_function": called}
        made = keras.models.clone_model(model, clone_function=clone, **settings)
        for old, new in pairs:
            self._fill(old, new)
        carry_learning(model, made)
        return made

    def _again(self, layer: Any) -> Any:
        if isinstance(layer, keras.Model) and graph_of(layer) is not None:
            return self.of(layer)
        if id(layer) in self._left:
            activation = activation_of(layer)
            # As Keras writes it: a layer that was built with an object has no config, and the model could not be saved.
            settings = {"name": layer.name, "dtype": keras.dtype_policies.serialize(layer.dtype_policy)}
            identity = activation is None
            self._new.append(
                keras.layers.Identity(**settings) if identity else keras.layers.Activation(activation, **settings)
            )
            return self._new[-1]
        more: dict[str, bool] = {}
        if id(layer) in self._plan.changed:
            norm = isinstance(layer, keras.layers.BatchNormalization)
            more = {"center": True, "scale": True} if norm else {"use_bias": True}
        return again(layer, lambda: layer.get_config() | more, "fold")

    def _fill(self, old: Any, new: Any) -> None:
        if id(old) in self._left or isinstance(old, keras.layers.InputLayer):
            return
        changed = self._plan.changed.get(id(old))
        if changed is not None:
            self._change(old, new, changed)
        elif isinstance(old, keras.Model) and graph_of(old) is not None:
            return  # its layers were filled when it was made
        else:
            new.set_weights(old.get_weights())
        carry_learning(old, new)

    @staticmethod
    def _change(old: Any, new: Any, changed: Weights) -> None:
        if isinstance(old, keras.layers.BatchNormalization):
            for mine, theirs in zip(new._non_trainable_variables, old._non_trainable_variables, strict=True):
                mine.assign(theirs)
        for name, value in changed.items():
            variable = getattr(new, name)
            variable.assign(ops.cast(value, variable.dtype))


def _growth(layer: Any, changed: Weights) -> float:
    """The largest weight after folding, divided by the largest one before."""
    pairs = [(weights_of(layer)[name], value) for name, value in changed.items() if name not in ("bias", "beta")]
    before, after = (max(float(np.abs(pair[side]).max()) for pair in pairs) for side in (0, 1))
    return after / before if before else math.inf if after else 1.0


def _relative_error(was: Any, now: Any) -> float:
    """The largest difference over the largest value; infinite where one is finite and the other is not."""
    one, other = (np.asarray(ops.convert_to_numpy(each), np.float64) for each in (was, now))
    if one.size == 0 or np.array_equal(one, other, equal_nan=True):
        return 0.0
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return math.inf
    size, far = float(np.abs(one[finite]).max()), float(np.abs(one - other)[finite].max())
    return far / size if size else math.inf
