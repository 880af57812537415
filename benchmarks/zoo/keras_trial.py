"""One architecture of keras.applications: what ``trial`` does for PyTorch's, in Keras's words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

import normwise
from benchmarks.zoo import pairs
from benchmarks.zoo.architectures import Architecture, NotHere
from benchmarks.zoo.reasons import grouped

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """Outputs in inference, those of one training step with its gradients, the statistics behind it, all weights."""

    inference: Arrays
    training: Arrays
    gradients: Arrays
    statistics: Arrays
    state: Arrays


@dataclass
class Trying:
    """The arguments of an operation.

    Args:
        make: a new model with the same weights every time.
        batches: its inputs.
        plain: what it computes.
        seconds: how long the pairs of a time may take.
    """

    make: Callable[[], Any]
    batches: Sequence[Any]
    plain: Measured
    seconds: float


def tried(architecture: Architecture, task: dict[str, Any]) -> dict[str, Any]:
    """The results of one architecture; see ``trial.main``."""
    from benchmarks.zoo.trial import operated

    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(task["seed"])
    model, size = _built(architecture, task)
    norms = norms_of(model)
    batches = [_images(task["batch"], size, seed) for seed in (1, 2)]
    rng = np.random.default_rng(task["seed"])
    settle(model, batches)
    for norm in norms.values():  # near what data give, so that nothing overflows, and not the same
        norm.moving_variance.assign(_array(norm.moving_variance) * rng.uniform(0.8, 1.25, norm.moving_variance.shape))
        for weight, low, high in ((norm.gamma, 0.5, 1.5), (norm.beta, -0.2, 0.2)):
            if weight is not None:
                weight.assign(rng.uniform(low, high, weight.shape))
    weights = model.get_weights()

    def make() -> Any:
        made, _ = _built(architecture, task)
        made.set_weights(weights)
        return made

    trying = Trying(make, batches, measured(model, batches[0]), task["pairs"])
    # On PyTorch, Keras's own batch norm is 1e-5 off the formula in float64 too; ours is not.
    dtype = "float32" if keras.backend.backend() == "torch" else "float64"
    result: dict[str, Any] = {
        "size": size,
        "dtype": dtype,
        "norms": len(norms),
        "parameters": int(model.count_params()),
        "followed": None,  # seen in PyTorch's models only
        "followed_by_addition": None,
        "operations": {},
    }
    for name in task["operations"]:
        if name in OPERATIONS:
            apply = partial(OPERATIONS[name], trying)
            result["operations"][name] = operated(apply, dtype, partial(_conditioning, trying, dtype))
    return result


def norms_of(model: Any) -> dict[str, Any]:
    """The batch norms by their paths."""
    layers = model._flatten_layers(include_self=False)
    return {layer.path: layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)}


def settle(model: Any, batches: Sequence[Any]) -> dict[str, int]:
    """Give every batch norm the mean and the population's variance of its input; how often each was called."""
    calls: dict[str, int] = {}
    norms = norms_of(model)
    for path, norm in norms.items():

        def call(inputs: Any, *args: Any, norm: Any = norm, path: str = path, **named: Any) -> Any:
            calls[path] = calls.get(path, 0) + 1
            if calls[path] == 1:
                values, axis = _array(inputs), norm.axis % len(inputs.shape)
                others = tuple(each for each in range(values.ndim) if each != axis)
                norm.moving_mean.assign(values.mean(others))
                norm.moving_variance.assign(values.var(others, ddof=1))
            return type(norm).call(norm, inputs, *args, **named)

        norm.call = call
    try:
        model(np.concatenate(batches), training=False)
    finally:
        for norm in norms.values():
            del norm.call
    return calls


def measured(model: Any, x: Any) -> Measured:
    """The weights of the model are as before afterwards."""
    weights = model.get_weights()
    state = {name: _array(each) for name, each in _named(model.variables) if "seed" not in name}
    inference = _outputs(model(x, training=False))
    keras.utils.set_random_seed(3)
    for name, each in _named(model.variables):
        if "seed" in name:  # dropout and its like draw from a state of their own
            each.assign(np.arange(*each.shape))
    training, gradients = _step(model, x)
    statistics = {name: _array(each) for name, each in _named(model.non_trainable_variables) if "moving" in name}
    model.set_weights(weights)
    return Measured(inference, training, gradients, statistics, state)


def compared(before: Measured, after: Measured) -> dict[str, float | str]:
    """The largest difference of each kind, relative to the largest value of an array; words where bytes differ."""
    kinds = ("inference", "training", "gradients", "statistics")
    found: dict[str, float | str] = {
        what: difference(getattr(before, what), getattr(after, what))
        for what in kinds
        if getattr(before, what) is not None
    }
    if before.state.keys() != after.state.keys():
        found["state"] = f"other variables: {min(before.state.keys() ^ after.state.keys())}"
    elif unequal := [name for name, one in before.state.items() if not np.array_equal(one, after.state[name])]:
        found["state"] = f"other values in {unequal[0]} and {len(unequal) - 1} more"
    return found


def difference(before: Arrays, after: Arrays) -> float | str:
    """The largest difference between arrays, as ``comparison.difference`` has it for tensors."""
    if missing := before.keys() ^ after.keys():
        return f"not the same arrays: {min(missing)}"
    largest = 0.0
    floor = 1e-6 * max([float(np.abs(each).max()) for each in before.values()] or [0.0])
    for name, one in before.items():
        if not np.isfinite(one).all():
            continue
        apart = float(np.abs(one - after[name]).max() / max(np.abs(one).max(), floor, 1e-30))
        if not apart < np.inf:
            return f"{name} is not finite"
        largest = max(largest, apart)
    return largest


def _conditioning(trying: Trying, dtype: str) -> dict[str, float]:
    """The distance that everything moves by where the input is rounded to another digit."""
    x = trying.batches[0]
    noise = np.random.default_rng(0).normal(size=x.shape)
    moved = measured(trying.make(), x * (1 + np.finfo(dtype).eps * noise))
    found = compared(trying.plain, moved)
    return {what: value for what, value in found.items() if not isinstance(value, str)}


def _there_and_back(trying: Trying) -> dict[str, Any]:
    first = normwise.swap(trying.make(), to="normwise")
    there = normwise.swap(first.model, to="keras")
    found = {f"there, {what}": value for what, value in compared(trying.plain, _now(there.model, trying)).items()}
    wrong = []
    kinds = {type(layer) for layer in there.model._flatten_layers()}
    if kept := [kind.__name__ for kind in kinds if kind.__module__.startswith("normwise.")]:
        wrong.append(f"{kept[0]} is normwise's still")
    back = normwise.swap(there.model, to="normwise")
    found |= {f"back, {what}": value for what, value in compared(trying.plain, _now(back.model, trying)).items()}
    return _row(there.swapped, there.skipped, there.model, found, wrong)


def _normwise(trying: Trying) -> dict[str, Any]:
    report = normwise.swap(trying.make(), to="normwise")
    found = compared(trying.plain, _now(report.model, trying))
    return _row(report.swapped, report.skipped, report.model, found)


def _freeze(trying: Trying) -> dict[str, Any]:
    model = trying.make()
    learned = [each.path for each in model.trainable_variables]
    report = normwise.freeze(model)
    # Keras's other layers that differ in training, such as dropout, draw from seeds; only batch norms are called so.
    norms = norms_of(model)
    now = _now(model, trying)
    found: dict[str, Any] = {
        "inference": difference(trying.plain.inference, now.inference),
        "statistics": difference(_statistics(trying.plain.state), now.statistics),
    }
    if not any(isinstance(layer, keras.layers.Dropout) and layer.rate for layer in model._flatten_layers()):
        found["training"] = difference(trying.plain.inference, now.training)
    wrong = []
    affine = {id(each) for norm in norms.values() for each in (norm.gamma, norm.beta)}
    if any(id(each) in affine for each in model.trainable_variables):
        wrong.append("affine parameters learn still")
    normwise.unfreeze(model)
    if learned != [each.path for each in model.trainable_variables]:
        wrong.append("after unfreeze other variables learn than before")
    again = compared(trying.plain, _now(model, trying))
    found |= {f"unfrozen, {what}": value for what, value in again.items()}
    done = [name for name, parts in report.layers.items() if "statistics" in parts]
    return _row(done, report.skipped, model, found, wrong)


def _fold(trying: Trying) -> dict[str, Any]:
    model = trying.make()
    report = normwise.fold(model, trying.batches[0])
    x = keras.ops.convert_to_tensor(trying.batches[0])
    found = {"inference": difference(trying.plain.inference, _outputs(report.model(x, training=False)))}
    times = {}
    if report.folded and trying.seconds:
        before, after = _call(model), _call(report.model)
        times = {"inference": pairs.paired(lambda: before(x), lambda: after(x), seconds=trying.seconds)}
    row = _row(report.folded, {**report.skipped, **report.not_reached}, model, found)
    return {**row, "output_error": report.output_error, "times": times}


def _recalibrate(trying: Trying) -> dict[str, Any]:
    model, reference = trying.make(), trying.make()
    report = normwise.recalibrate(model, trying.batches)
    calls = settle(reference, trying.batches)
    twice = [name for name, number in calls.items() if number > 1]
    ours, theirs = (_statistics({name: _array(each) for name, each in _named(m.variables)}) for m in (model, reference))
    found: dict[str, Any] = {} if twice else {"statistics": difference(theirs, ours)}
    after = _outputs(model(trying.batches[0], training=False))
    wrong = []
    if not all(np.isfinite(each).all() for each in after.values()):
        wrong.append("outputs are not finite")
    if difference(trying.plain.inference, after) == 0.0:
        wrong.append("the outputs are what they were")
    unreached = dict.fromkeys(report.not_reached, "no batch came to it")
    row = _row(report.recalibrated, {**report.skipped, **unreached}, model, found, wrong)
    return {**row, "twice": len(twice), "in_step": report.in_step}


OPERATIONS: dict[str, Callable[[Trying], dict[str, Any]]] = {
    "swap there and back": _there_and_back,
    "swap to normwise": _normwise,
    "freeze": _freeze,
    "fold": _fold,
    "recalibrate": _recalibrate,
}


def _row(
    done: Any, skipped: Mapping[str, str], model: Any, found: Mapping[str, Any], wrong: Sequence[str] = ()
) -> dict[str, Any]:
    names = [word for layer in model._flatten_layers() for word in (layer.name, layer.path) if word]
    norms = {norm.path for norm in norms_of(model).values()} | {norm.name for norm in norms_of(model).values()}
    reasons = [why for name, why in skipped.items() if name in norms]
    return {
        "done": len(done),
        "of": len(done) + len(reasons),
        "reasons": grouped(reasons, names),
        "compared": dict(found),
        "wrong": [*wrong],
    }


def _now(model: Any, trying: Trying) -> Measured:
    return measured(model, trying.batches[0])


def _built(architecture: Architecture, task: Mapping[str, Any]) -> tuple[Any, int]:
    make, why = getattr(getattr(keras.applications, architecture.family), architecture.name), "no size was tried"
    for size in [*task["sizes"], 224, 331]:
        keras.utils.clear_session()  # the same names every time
        try:
            # Logits: a softmax of random weights is 0 or 1, which hides small differences and magnifies others.
            model = make(weights=None, input_shape=(size, size, 3), classifier_activation=None)
        except (ValueError, TypeError) as error:
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"
            continue
        if not norms_of(model):
            raise NotHere("it has no batch norm")
        if model.count_params() > 1e6 * task["parameters"]:
            raise NotHere(f"it has more than {task['parameters']} million parameters")
        return model, size
    raise NotHere(f"it cannot be built: {why}")


def _images(batch: int, size: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3))


def _named(variables: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(each.path, each) for each in variables]


def _statistics(state: Arrays) -> dict[str, Any]:
    return {name: each for name, each in state.items() if "moving" in name}


def _array(value: Any) -> Any:
    return np.array(keras.ops.convert_to_numpy(value))


def _outputs(value: Any) -> dict[str, Any]:
    return {str(number): _array(each) for number, each in enumerate(keras.tree.flatten(value))}


def _step(model: Any, x: Any) -> tuple[dict[str, Any], Any]:
    """The outputs of a step of training, and the gradients of their mean square; None on JAX."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        with sys.modules["tensorflow"].GradientTape() as tape:
            y = model(x, training=True)
            loss = keras.ops.mean(keras.ops.square(y))
        values = tape.gradient(loss, [each.value for each in model.trainable_variables])
        named = zip(model.trainable_variables, values, strict=True)
        return _outputs(y), {each.path: _array(value) for each, value in named if value is not None}
    y = model(x, training=True)
    if backend != "torch":
        return _outputs(y), None
    model.zero_grad()
    keras.ops.mean(keras.ops.square(y)).backward()
    grads = {each.path: each.value.grad for each in model.trainable_variables}
    return _outputs(y.detach()), {name: _array(each) for name, each in grads.items() if each is not None}


def _call(model: Any) -> Callable[[Any], Any]:
    """A call in inference as the backend serves it."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        compiled: Callable[[Any], Any] = sys.modules["tensorflow"].function(lambda x: model(x, training=False))
        return compiled

    def call(x: Any) -> Any:
        if backend == "torch":
            with sys.modules["torch"].inference_mode():
                return model(x, training=False)
        return model.predict_on_batch(x)

    return call
