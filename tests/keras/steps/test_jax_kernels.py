"""The compiled kernels as XLA's custom calls: what JAX's transforms make of them, and where they are not used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from normwise.installation import kernels_command
from normwise.keras import BatchNormalization
from normwise.kernels.choose import VARIABLE, built_for_jax
from tests.keras.calls import BACKEND, double_precision

if BACKEND != "jax" or not built_for_jax():
    pytest.skip("these are for JAX, where the kernels were built for it", allow_module_level=True)

import jax
from jax import numpy as jnp

from normwise.keras.steps import jax_kernels
from normwise.keras.steps.jax_derivatives import Task, plain

ROOT = Path(__file__).resolve().parents[3]
SHAPE = (4, 3, 3, 5)
Function = Callable[..., Any]


def arguments(residual: bool, dtype: str = "float32", shape: tuple[int, ...] = SHAPE, axis: int = -1) -> list[Any]:
    """x, scale, shift and perhaps a residual."""
    rng = np.random.default_rng(0)
    wide = "float64" if dtype == "float64" else "float32"
    parameters = [jnp.asarray(rng.normal(1, 0.5, shape[axis]), wide) for _ in range(2)]
    x, added = (jnp.asarray(rng.normal(mean, 2, shape), dtype) for mean in (3, 0))
    return [x, *parameters, *([added] if residual else [])]


def assert_close(found: Any, right: Any, tolerance: float) -> None:
    """Each array within the tolerance, in units of the largest value or 1."""
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        assert mine.dtype == theirs.dtype
        error, size = jnp.abs(mine - theirs).max(), jnp.abs(theirs).max()
        assert float(error) <= tolerance * max(1.0, float(size))


def gradients(function: Function) -> Function:
    """The gradients of a sum whose second derivatives are not those of the identity."""

    def total(*given: Any) -> Any:
        y = function(*given)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape)) + y**2)

    return lambda *given: jax.grad(total, argnums=tuple(range(len(given))))(*given)


def directional(function: Function) -> Function:
    """The derivative along a direction that depends on where it starts."""
    return lambda *given: jax.jvp(function, given, tuple(jnp.cos(each) for each in given))[1]


def squared(function: Function) -> Function:
    """A number from all results."""
    return lambda *given: sum(jnp.sum(each**2) for each in jax.tree.leaves(function(*given)))


def mapped(function: Function) -> Function:
    """The function mapped over three inputs, with the other arguments in common."""
    return lambda x, *others: jax.vmap(lambda one: function(one, *others))(jnp.stack([x, 2 * x - 1, x**2]))


TRANSFORMS: dict[str, Function] = {
    "as it is": lambda f: f,
    "reverse": gradients,
    "reverse for x alone": lambda f: lambda x, *o: gradients(lambda one: f(one, *o))(x),
    "reverse for the scale alone": lambda f: lambda x, scale, *o: gradients(lambda one: f(x, one, *o))(scale),
    "forward": directional,
    "forward over reverse": lambda f: directional(gradients(f)),
    "reverse over reverse": lambda f: jax.grad(squared(gradients(f))),
    "reverse over forward": lambda f: jax.grad(squared(directional(f))),
    "forward over forward": lambda f: directional(directional(f)),
    "vmap": mapped,
    "vmap of reverse": lambda f: mapped(gradients(f)),
    "reverse of vmap": lambda f: jax.grad(squared(mapped(f))),
    "recomputed": lambda f: gradients(jax.checkpoint(f)),
}


@pytest.mark.parametrize(("activation", "residual"), [(None, False), ("relu", True), ("silu", False)])
def test_all_of_jaxs_transforms_are_those_of_the_elementary_operations(activation: str | None, residual: bool) -> None:
    task = Task(3, 1e-3, activation)
    given = arguments(residual)
    jax_kernels.library()

    def compiled(*given: Any) -> Any:
        return jax_kernels.normalized(task, *given)[0]

    def elementary(*given: Any) -> Any:
        return plain(task, *given)

    def everything(function: Function) -> Function:
        return jax.jit(lambda *given: [transform(function)(*given) for transform in TRANSFORMS.values()])

    for name, found, right in zip(
        TRANSFORMS, everything(compiled)(*given), everything(elementary)(*given), strict=True
    ):
        try:
            assert_close(found, right, 2e-3)
        except AssertionError as error:
            raise AssertionError(name) from error


def test_without_jit_too() -> None:
    given = arguments(True)
    task = Task(3, 1e-3, "relu")
    jax_kernels.library()
    for name in ("reverse", "vmap"):
        transform = TRANSFORMS[name]
        found = transform(lambda *given: jax_kernels.normalized(task, *given)[0])(*given)
        assert_close(found, transform(lambda *given: plain(task, *given))(*given), 2e-4)


@pytest.mark.parametrize(("axis", "activation", "residual"), [(-1, "relu", False), (1, "silu", True)])
def test_second_derivatives_in_double_precision(axis: int, activation: str, residual: bool) -> None:
    with double_precision():
        given = arguments(residual, "float64", axis=axis)
        task = Task(axis % 4, 1e-3, activation)
        twice = jax.jit(jax.grad(squared(gradients(lambda *a: jax_kernels.normalized(task, *a)[0]))))
        right = jax.grad(squared(gradients(lambda *a: plain(task, *a))))(*given)
        jax_kernels.library()
        assert_close(twice(*given), right, 1e-10)


def calls_in(layer: Any, x: Any, **how: Any) -> bool:
    """True if the layer's program has a custom call of ours."""
    layer.build(x.shape)
    learned, fixed = ([v.value for v in some] for some in (layer.trainable_variables, layer.non_trainable_variables))
    program = jax.jit(lambda x: layer.stateless_call(learned, fixed, x, **how)).lower(x)
    return "normwise_forward" in program.as_text()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(8, 4), (2, 3, 4), (2, 3, 3, 4)])
def test_training_is_by_the_kernels_and_inference_by_xla(shape: tuple[int, ...], dtype: str) -> None:
    x = jnp.ones(shape, dtype)
    assert calls_in(BatchNormalization(dtype=dtype), x, training=True)
    assert not calls_in(BatchNormalization(dtype=dtype), x)


def test_what_the_kernels_do_not_have_is_by_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.ones((8, 4))
    assert not calls_in(BatchNormalization(), x, training=True, mask=jnp.ones(8, bool))
    assert not calls_in(BatchNormalization(renorm=True), x, training=True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not calls_in(BatchNormalization(), x, training=True)
    monkeypatch.undo()
    monkeypatch.setenv(VARIABLE, "two_pass")
    assert not calls_in(BatchNormalization(), x, training=True)


def test_a_library_for_another_jax_is_a_warning_and_xla_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("version 9.9 is not supported")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    jax_kernels.library.cache_clear()
    with pytest.warns(RuntimeWarning, match="do not fit the installed JAX") as caught:
        assert not calls_in(BatchNormalization(), jnp.ones((8, 4)), training=True)
    jax_kernels.library.cache_clear()
    assert str(caught[0].message) == (
        f"The compiled kernels do not fit the installed JAX {jax.__version__} (version 9.9 is not supported); XLA's "
        f"own code computes in their place. Build them again beside this JAX: {kernels_command()}"
    )


def test_many_layers_at_once_on_few_threads() -> None:
    """Custom calls that wait for each other's threads would stand still."""
    layers = [BatchNormalization(activation="relu") for _ in range(16)]
    x = jnp.asarray(np.random.default_rng(0).normal(0, 1, (64, 16, 16, 16)), jnp.float32)
    for layer in layers:
        layer.build(x.shape)
    learned = [[v.value for v in layer.trainable_variables] for layer in layers]
    fixed = [[v.value for v in layer.non_trainable_variables] for layer in layers]

    @jax.jit
    def side_by_side(x: Any) -> Any:
        found = [
            layer.stateless_call(*weights, x * (number + 1), training=True)[0]
            for number, (layer, *weights) in enumerate(zip(layers, learned, fixed, strict=True))
        ]
        return [y.sum() for y in found]

    found = np.array(side_by_side(x))
    assert np.abs(found / found[-1] - 1).max() < 1e-2  # they differ by epsilon


SHARDED = """
import jax, numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from normwise.keras import BatchNormalization

x = jnp.asarray(np.random.default_rng(0).normal(1, 2, (8, 3, 3, 5)), jnp.float32)
layer = BatchNormalization(activation="relu")
layer.build(x.shape)
learned, fixed = ([v.value for v in some] for some in (layer.trainable_variables, layer.non_trainable_variables))
call = lambda x: layer.stateless_call(learned, fixed, x, training=True)[0]
gradient = lambda f: jax.jit(jax.grad(lambda x: (f(x) ** 3).sum()))
mesh = Mesh(np.array(jax.devices()), ("batch",))
sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
assert len(sharded.devices()) == 4
print(float(jnp.abs(gradient(call)(sharded) - gradient(call)(x)).max()))

parts = lambda x: jnp.concatenate([call(x[i : i + 2]) for i in range(0, 8, 2)])
each = jax.shard_map(call, mesh=mesh, in_specs=PartitionSpec("batch"), out_specs=PartitionSpec("batch"))
print(float(jnp.abs(gradient(each)(sharded) - gradient(parts)(x)).max()))
"""


def test_a_sharded_batch_is_one_batch_and_in_shard_map_each_part_is_one() -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "KERAS_BACKEND": "jax"}
    run = subprocess.run(
        [sys.executable, "-c", SHARDED],
        cwd=ROOT,
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    errors = [float(line) for line in run.stdout.split()]
    assert len(errors) == 2
    assert max(errors) < 1e-3


def test_fit_gives_the_losses_that_xla_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, target = rng.normal(0, 1, (64, 8, 8, 3)).astype("float32"), rng.integers(0, 4, 64)

    def losses() -> list[float]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3),
            BatchNormalization(activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ])  # fmt: skip
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        found: list[float] = model.fit(x, target, batch_size=16, epochs=3, shuffle=False, verbose=0).history["loss"]
        return found

    by_kernels = losses()
    monkeypatch.setenv(VARIABLE, "two_pass")
    np.testing.assert_allclose(by_kernels, losses(), rtol=1e-4)
