"""Batch norm + ReLU, forward and backward, and a training step of a small network: ours against Keras's layer.

    KERAS_BACKEND=torch python -m benchmarks.keras_layer [--quick]

Both take turns in one process, once warmed up; what is printed is the median of the paired ratios, theirs to ours, with
the smallest and the largest. On JAX and TensorFlow both are compiled as ``fit`` does it.
"""

import argparse
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from normwise.keras import BatchNormalization

# Of ResNet-50 on images of 224 at a batch of 8, channels last, and a Dense layer's.
SHAPES = [(8, 112, 112, 64), (8, 56, 56, 64), (8, 56, 56, 256), (8, 28, 28, 512), (8, 14, 14, 1024), (8, 7, 7, 2048)]
SMALL = [(32, 64), (256, 256)]
BACKEND = keras.backend.backend()


def layer_pass(shape: tuple[int, ...], *, ours: bool, axis: int = -1, fused: bool = True) -> Callable[[], Any]:
    """Forward and backward of the layer and a ReLU behind it; ``fused``: ours has the ReLU inside."""
    inside = {"activation": "relu"} if ours and fused else {}
    normalization = (BatchNormalization if ours else layers.BatchNormalization)(axis=axis, **inside)
    relu = None if inside else layers.ReLU()
    normalization.build(shape)
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(0, 1, shape).astype("float32") for _ in range(2))

    def forward(inputs: Any) -> Any:
        y = normalization(inputs, training=True)
        return y if relu is None else relu(y)

    if BACKEND == "torch":
        import torch

        x, dy = torch.as_tensor(x).requires_grad_(), torch.as_tensor(dy)
        learned = [x, *(variable.value for variable in normalization.trainable_variables)]
        return lambda: torch.autograd.grad(forward(x), learned, dy)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x, dy = tf.constant(x), tf.constant(dy)

        @tf.function(jit_compile=True)
        def step() -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = forward(x)
            return tape.gradient(y, [x, *(v.value for v in normalization.trainable_variables)], dy)

        return lambda: step()[0].numpy
    import jax

    x, dy = jax.numpy.asarray(x), jax.numpy.asarray(dy)
    fixed = [variable.value for variable in normalization.non_trainable_variables]
    learned = [variable.value for variable in normalization.trainable_variables]

    def stateless(inputs: Any, learned: Any) -> Any:
        y, after = normalization.stateless_call(learned, fixed, inputs, training=True)
        return (y if relu is None else relu(y)), after

    @jax.jit
    def both(x: Any, learned: Any, dy: Any) -> Any:
        y, pull, after = jax.vjp(stateless, x, learned, has_aux=True)
        return y, pull(dy), after

    return lambda: jax.block_until_ready(both(x, learned, dy))


def training_step(*, ours: bool) -> Callable[[], Any]:
    """``train_on_batch`` of a small residual network without skips: Conv2D, batch norm and ReLU, six times."""
    keras.utils.set_random_seed(0)
    steps: list[Any] = [keras.Input((32, 32, 16))]
    for _ in range(6):
        steps.append(layers.Conv2D(32, 3, padding="same", use_bias=False))
        steps += [BatchNormalization(activation="relu")] if ours else [layers.BatchNormalization(), layers.ReLU()]
    model = keras.Sequential([*steps, layers.GlobalAveragePooling2D(), layers.Dense(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (32, 32, 32, 16)).astype("float32"), rng.integers(0, 10, 32)
    return lambda: model.train_on_batch(x, y)


def paired(theirs: Callable[[], Any], ours: Callable[[], Any], pairs: int, block: float = 2e-3) -> dict[str, float]:
    """Times of both in turn, in ratios and in milliseconds."""
    for _ in range(2):
        seconds(theirs, 1)
        single = seconds(ours, 1)
    repeats = max(1, round(block / single))
    times = []
    for index in range(pairs):
        order = (theirs, ours) if index % 2 else (ours, theirs)
        pair = [seconds(call, repeats) for call in order]
        times.append(pair if index % 2 else pair[::-1])
    ratios = [a / b for a, b in times]
    return {
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "theirs_ms": 1e3 * statistics.median(a for a, _ in times),
        "ours_ms": 1e3 * statistics.median(b for _, b in times),
    }


def seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 pairs each instead of 21")
    parser.add_argument("--json", help="where to write the numbers")
    options = parser.parse_args()
    pairs = 5 if options.quick else 21
    print(f"{BACKEND}, keras {keras.__version__}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads")
    found = {}
    for shape in [*SHAPES, *SMALL]:
        found[str(shape)] = paired(layer_pass(shape, ours=False), layer_pass(shape, ours=True), pairs)
        print(f"{shape!s:22} {line(found[str(shape)])}", flush=True)
    found["training step"] = paired(training_step(ours=False), training_step(ours=True), pairs)
    print(f"{'training step':22} {line(found['training step'])}")
    if options.json:
        with pathlib.Path(options.json).open("w", encoding="utf-8") as file:
            json.dump({"backend": BACKEND, "pairs": pairs, "results": found}, file, indent=1)


def line(result: dict[str, float]) -> str:
    spread = f"({result['low']:.2f} to {result['high']:.2f})"
    return f"{result['ratio']:5.2f}x {spread:18} {result['theirs_ms']:9.3f} ms, ours {result['ours_ms']:.3f} ms"


if __name__ == "__main__":
    main()
