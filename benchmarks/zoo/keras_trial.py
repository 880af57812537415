"""One architecture of keras.applications: what ``trial`` does for PyTorch's, in Keras's words."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from benchmarks.zoo.architectures import Architecture, NotHere
from benchmarks.zoo.operations import OPERATIONS, Operation, Trying


def tried(architecture: Architecture, task: dict[str, Any]) -> dict[str, Any]:
    """What came of one architecture; see ``trial.main``."""
    keras.utils.set_random_seed(task["seed"])
    model, size = _built(architecture, task["sizes"])
    norms = [layer for layer in _layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        raise NotHere("it has no batch norm")
    batches = [_images(task["batch"], size, seed) for seed in (1, 2)]
    result: dict[str, Any] = {
        "size": size,
        "dtype": "float32",
        "norms": len(norms),
        "parameters": int(model.count_params()),
        "followed": None,  # seen in PyTorch's models only
        "followed_by_addition": None,
        "operations": {},
    }
    weights = model.get_weights()
    before = _seconds(model, batches[0])
    for name in task["operations"]:
        operation = OPERATIONS[name]
        if "keras" in operation.frameworks:
            model.set_weights(weights)
            result["operations"][name] = _operated(operation, model, batches, before)
    return result


def _built(architecture: Architecture, sizes: list[int]) -> tuple[Any, int]:
    make, why = getattr(getattr(keras.applications, architecture.family), architecture.name), "no size was tried"
    for size in [*sizes, 224]:
        try:
            return make(weights=None, input_shape=(size, size, 3)), size
        except (ValueError, TypeError) as error:
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"
    raise NotHere(f"it cannot be built: {why}")


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers(include_self=False))


def _images(batch: int, size: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def _seconds(model: Any, x: Any) -> float:
    model(x, training=False)
    began = time.perf_counter()
    model(x, training=False)
    return time.perf_counter() - began


def _operated(operation: Operation, model: Any, batches: list[Any], before: float) -> dict[str, Any]:
    plain = keras.ops.convert_to_numpy(model(batches[0], training=False))
    try:
        began = time.perf_counter()
        said = operation.apply(Trying(model, batches, {}))
        seconds = time.perf_counter() - began
        after = keras.ops.convert_to_numpy(model(batches[0], training=False))
    except Exception as error:  # what an operation says about a foreign model is what is asked for
        return {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"}
    compared: dict[str, Any] = {"finite": bool(np.isfinite(after).all())}
    if operation.same:
        compared = {"inference": float(np.abs(after - plain).max() / max(np.abs(plain).max(), 1e-30))}
    times = {"seconds": round(seconds, 3), "before_ms": round(1e3 * before, 1)}
    return {**said, **times, "after_ms": round(1e3 * _seconds(model, batches[0]), 1), **compared}
