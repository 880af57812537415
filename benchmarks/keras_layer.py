"""Batch norm + ReLU, forward and backward, and training steps of small networks: ours against Keras's layer.

    KERAS_BACKEND=torch python -m benchmarks.keras_layer [--quick] [--xla]

Both take turns in one process, once warmed up; what is printed is the median of the paired ratios, theirs to ours, with
the smallest and the largest. On JAX and TensorFlow both are compiled as ``fit`` does it: on TensorFlow's CPU that is
without XLA, and with it under ``--xla``, as ``compile(jit_compile=True)``. ``make bench ARGS="--part keras"`` measures
all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks.shapes import RESNET50_LAYERS
from benchmarks.spread import Spread, calmest, ratios
from benchmarks.timing import in_turn
from normwise.keras import BatchNormalization

# Behind Dense layers.
SMALL = [(32, 64), (256, 256)]
BACKEND = keras.backend.backend()
# The side of the convolutions' kernels in a training step: the smaller, the larger the norms' part of the time.
STEPS = (3, 1)


def layer_pass(
    shape: tuple[int, ...], *, ours: bool, axis: int = -1, fused: bool = True, xla: bool = False
) -> Callable[[], Any]:
    """Forward and backward of the layer and a ReLU behind it; ``fused``: ours has the ReLU inside; TensorFlow's XLA."""
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

        @tf.function(jit_compile=xla)
        def step() -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = forward(x)
            return tape.gradient(y, [x, *(v.value for v in normalization.trainable_variables)], dy)

        return step
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


def training_step(side: int, *, ours: bool, bound: bool = False, xla: bool = False) -> Callable[[], Any]:
    """``train_on_batch`` of a small residual network without skips: Conv2D, batch norm and ReLU, six times.

    Args:
        side: of the convolutions' kernels.
        ours: whether the norms are ours.
        bound: whether there are no norms in place of ours: what the fastest of all layers would come to.
        xla: whether to compile with XLA where Keras would not.
    """
    keras.utils.set_random_seed(0)
    steps: list[Any] = [keras.Input((32, 32, 16))]
    for _ in range(6):
        steps.append(layers.Conv2D(32, side, padding="same", use_bias=False))
        if ours and not bound:
            steps.append(BatchNormalization(activation="relu"))
        else:
            steps += [layers.ReLU()] if ours else [layers.BatchNormalization(), layers.ReLU()]
    model = keras.Sequential([*steps, layers.GlobalAveragePooling2D(), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=xla or "auto")
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (32, 32, 32, 16)).astype("float32"), rng.integers(0, 10, 32)
    return lambda: model.train_on_batch(x, y)


def measure(theirs: Callable[[], Any], ours: Callable[[], Any], pairs: int) -> tuple[Spread, float]:
    """Their time over ours, and the milliseconds of ours."""

    def attempt() -> tuple[Spread, float]:
        times, _ = in_turn({"theirs": theirs, "ours": ours}, rounds=pairs, seconds=math.inf)
        return ratios(times["theirs"], times["ours"]), 1e3 * statistics.median(times["ours"])

    return calmest(attempt, lambda found: found[0].width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 pairs each instead of 21")
    parser.add_argument("--xla", action="store_true", help="on TensorFlow, compiled with XLA")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    pairs = 5 if options.quick else 21
    version = f"{BACKEND} {import_module(BACKEND).__version__}"
    print(f"{version}, Keras {keras.__version__}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads", flush=True)
    rows = []
    for name, count, make in calls(xla=options.xla):
        ratio, milliseconds = measure(make(ours=False), make(ours=True), pairs)
        print(f"{name:22} {ratio.said}, ours {milliseconds:.3g} ms", flush=True)
        rows.append({"name": name, "count": count, "ratio": asdict(ratio), "milliseconds": milliseconds})
    if options.json:
        found = {"backend": version, "keras": keras.__version__, "pairs": pairs, "rows": rows}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def calls(*, xla: bool = False) -> Iterator[tuple[str, int, Callable[..., Callable[[], Any]]]]:
    """The layers to measure: name, number in a ResNet-50, and the function that makes the call of either side."""
    for shape in RESNET50_LAYERS:
        size = (8, *shape.size[2:], shape.size[1])
        yield "x".join(map(str, size)), shape.count, partial(layer_pass, size, xla=xla)
    for size in SMALL:
        yield "x".join(map(str, size)), 0, partial(layer_pass, size, xla=xla)
    for side in STEPS:
        name = f"training step, {side} x {side} convolutions"
        yield name, 0, partial(training_step, side, xla=xla)
        yield f"{name}, no norms", 0, partial(training_step, side, bound=True, xla=xla)


if __name__ == "__main__":
    main()
