"""The effects of some training steps on the batch norms of a Keras model, which is restored afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.stateless_scope import in_stateless_scope  # the public class does not say

from normwise.facts import Steps
from normwise.keras.models.keras_layer import cover
from normwise.keras.models.transaction import unchanged


def steps_of(
    model: Any, norms: Mapping[str, Any], train_step: Callable[[Any, Any], object], batches: Sequence[Any]
) -> Steps | str:
    """Train, look, and take it back; or why there is nothing to tell of.

    On the model itself, because not every model can be copied, and because the user's step may know this one only. The
    functions that ``train_on_batch`` and ``fit`` compiled are put aside, and except on JAX the model runs eagerly, so
    that every call of a layer is seen. An optimizer that came with the model, but was never used, has a copy in its
    place.

    Args:
        model: built.
        norms: its batch norms by their paths.
        train_step: of the model and a batch, one step of the optimizer.
        batches: one for each step.
    """
    changes = dict.fromkeys(norms, 0)
    with unchanged(model), ExitStack() as ends:
        _put_aside(model)
        weights = _weights(model)
        started = {name: (_statistics(norm), _affine(norm)) for name, norm in norms.items()}
        watches = [_Watch(norm) for norm in norms.values()]
        for watch in watches:
            ends.callback(cover(watch.norm, watch.around))
        for batch in batches:
            train_step(model, batch)
            for name, watch in zip(norms, watches, strict=True):
                changes[name] += watch.updates_in_this_step()
        if weights and _weights(model) == weights:
            return "no weight of the model that train_step was given changed: let it train that model"
        return Steps(
            len(batches),
            {name: change / len(batches) for name, change in changes.items()},
            frozenset(name for name, norm in norms.items() if _statistics(norm) != started[name][0]),
            frozenset(name for name, norm in norms.items() if _affine(norm) != started[name][1]),
            {name: watch.count for name, watch in zip(norms, watches, strict=True) if watch.count is not None},
        )


def _weights(model: Any) -> list[bytes]:
    return [ops.convert_to_numpy(variable.value).tobytes() for variable in model.trainable_variables]


class _Watch:
    """The number of times that the statistics of one layer move in a step.

    Where a call computes with values, it is seen. In JAX's ``value_and_grad`` the calls that would move them are
    counted instead. In a function that the user's own step compiled, nothing is seen but that they moved.
    """

    def __init__(self, norm: Any) -> None:
        self.norm = norm
        self.before = _statistics(norm)
        self.calls = self.last = 0
        self.count: float | None = None

    def around(self, below: Callable[..., Any]) -> Callable[..., Any]:
        """The layer's ``call``, watched."""

        def call(*args: Any, **named: Any) -> Any:
            training = args[1] if len(args) > 1 else named.get("training")
            self._count(args[0] if args else named.get("inputs"), training)
            if in_stateless_scope():
                self.calls += bool(training and self.norm.trainable)
                return below(*args, **named)
            if not _computes():
                return below(*args, **named)
            before = _statistics(self.norm)
            y = below(*args, **named)
            self.calls += _statistics(self.norm) != before
            return y

        return call

    def _count(self, x: Any, training: Any) -> None:
        """Keep the fewest values per channel of a call that normalizes by the batch."""
        shape = tuple(getattr(x, "shape", ()))
        if training and self.norm.trainable and len(shape) > 1 and None not in shape:
            count = float(np.prod(shape)) / max(shape[self.norm.axis % len(shape)], 1)
            self.count = count if self.count is None else min(self.count, count)

    def updates_in_this_step(self) -> int:
        """The number of updates since the last time it was asked."""
        now, calls = _statistics(self.norm), self.calls
        moved, self.before, self.calls = now != self.before, now, 0
        if not moved:
            return 0
        self.last = calls or self.last or 1  # a compiled function is seen once, when it is made
        return self.last


def _put_aside(model: Any) -> None:
    """Put aside the way the model trains and parts that its first training would build; the snapshot restores them."""
    if not getattr(model, "compiled", False):
        return
    model.train_function = None
    model.run_eagerly, model.jit_compile = True, False  # compiled functions call a layer when they are traced only
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, keras.optimizers.Optimizer) and not optimizer.built:
        with suppress(NotImplementedError, TypeError):  # one without a config; what it has of variables comes back
            model.optimizer = type(optimizer).from_config(optimizer.get_config())
    if getattr(getattr(model, "_compile_metrics", None), "built", True) is False:
        vars(model)["_compile_metrics"] = None
    loss = getattr(model, "_compile_loss", None)
    if getattr(loss, "built", True) is False:
        vars(model)["_compile_loss"] = new = object.__new__(type(loss))  # copy.copy would write it to a file
        vars(new).update(vars(loss))


def _computes() -> bool:
    """False while TensorFlow makes a graph."""
    if keras.backend.backend() != "tensorflow":
        return True
    found: bool = sys.modules["tensorflow"].executing_eagerly()
    return found


def _statistics(norm: Any) -> bytes:
    return b"".join(_bytes(norm, name) for name in ("moving_mean", "moving_variance")) if norm.built else b""


def _affine(norm: Any) -> bytes:
    return b"".join(_bytes(norm, name) for name in ("gamma", "beta"))


def _bytes(norm: Any, name: str) -> bytes:
    variable = getattr(norm, name, None)
    return b"" if variable is None else ops.convert_to_numpy(variable.value).tobytes()
