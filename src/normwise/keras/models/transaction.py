"""A snapshot of a Keras model, variable by variable, from which it is restored."""

from __future__ import annotations

import random
import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from keras import ops
from keras.src.backend.common import global_state  # where the seed of calls without a seed lies

_SEEDS = "global_seed_generator"


class RandomState:
    """The state of every generator that running a model may move: Keras's, NumPy's, Python's and PyTorch's global ones.

    Example:
        >>> state = RandomState()
        >>> first = random.random()
        >>> state.restore()
        >>> random.random() == first
        True
    """

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy: Any = np.random.get_state()  # noqa: NPY002  # the global one is what must come back
        self._seeds = global_state.get_global_attribute(_SEEDS)  # None: made from the others when it is asked for
        self._keras = None if self._seeds is None else _Variable(self._seeds.state)
        self._torch = sys.modules.get("torch")  # its loaders serve on every backend
        self._cpu = None if self._torch is None else self._torch.get_rng_state()
        self._cuda = self._torch.cuda.get_rng_state_all() if self._torch and self._torch.cuda.is_initialized() else []

    def bytes(self) -> Hashable:
        """All of it, which is equal to another one if no generator has moved in between."""
        kind, keys, *places = self._numpy
        tensors = [] if self._torch is None else [self._cpu, *self._cuda]
        keras = None if self._keras is None else ops.convert_to_numpy(self._keras.value).tobytes()
        return (
            self._python, kind, keys.tobytes(), *places, id(self._seeds), keras,
            *(tensor.numpy(force=True).tobytes() for tensor in tensors),
        )  # fmt: skip

    def restore(self) -> None:
        """Draw from now on what would have been drawn then."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002  # as above
        global_state.set_global_attribute(_SEEDS, self._seeds)
        if self._keras is not None:
            self._keras.restore()
        if self._torch is not None:
            self._torch.set_rng_state(self._cpu)
            if self._cuda:
                self._torch.cuda.set_rng_state_all(self._cuda)


class Snapshot:
    """Everything that a model is: the values of its variables, its layers' attributes, and the random state.

    The variables are those of the layers and their seeds, of the metrics and of the optimizer. They are copied where
    they are, so a snapshot takes as much memory as they do. Not in it: what lies inside an attribute.

    Args:
        model: any model that is built.
    """

    def __init__(self, model: Any) -> None:
        # On JAX, fit holds the newest values elsewhere while it runs.
        for layer in model._flatten_layers():
            if hasattr(layer, "jax_state_sync"):
                layer.jax_state_sync()
        self._layers = [(layer, dict(vars(layer)), layer.built) for layer in model._flatten_layers()]
        self._losses = [(layer._losses, list(layer._losses), set(layer._loss_ids)) for layer, *_ in self._layers]
        found = [*model.variables, *getattr(model, "metrics_variables", ())]
        optimizer = getattr(model, "optimizer", None)
        found += [] if optimizer is None else optimizer.variables
        self._variables = [_Variable(variable) for variable in {id(each): each for each in found}.values()]
        self.random = RandomState()

    def restore(self) -> None:
        """Make the model what it was, whatever happened to it since; also the random state."""
        for (layer, attributes, built), (losses, before, ids) in zip(self._layers, self._losses, strict=True):
            losses[:] = before
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)
            if layer.built != built:  # it has variables since, and what refers to them stays
                continue
            now = vars(layer)
            for name in [name for name in now if name not in attributes]:
                del now[name]
            for name, value in attributes.items():
                if now.get(name, self) is not value:
                    now[name] = value
        for variable in self._variables:
            variable.restore()
        self.random.restore()


@contextmanager
def unchanged(model: Any) -> Iterator[Snapshot]:
    """Restore the model at the end of the block, whatever was done to it inside, after an error too.

    Example:
        >>> import keras
        >>> layer = keras.layers.BatchNormalization()
        >>> layer.build((None, 2))
        >>> with unchanged(layer):
        ...     layer.moving_mean.assign(np.ones(2)) is None
        False
        >>> ops.convert_to_numpy(layer.moving_mean.value).tolist()
        [0.0, 0.0]
    """
    snapshot = Snapshot(model)
    try:
        yield snapshot
    finally:
        snapshot.restore()


class _Variable:
    """A variable's value, and whether it learns."""

    def __init__(self, variable: Any) -> None:
        self.variable, self.learns = variable, variable.trainable
        value = variable.value
        self.value = ops.copy(value.detach() if hasattr(value, "detach") else value)

    def restore(self) -> None:
        self.variable.assign(self.value)
        if self.variable.trainable != self.learns:
            self.variable.trainable = self.learns
