"""A Keras model as ``recalibrate`` and ``adapt`` see it: how batches go through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from normwise.errors import NormwiseError
from normwise.keras.models.feeding import ForwardFn, call, samples_in
from normwise.keras.models.transaction import Snapshot, unchanged
from normwise.recalibration.asked import check_forward_fn
from normwise.recalibration.one_pass import Pass, check_upstream
from normwise.recalibration.site import Site


class KerasModel:
    """The ``normwise.recalibration.model.Model`` of Keras; it works on one process.

    Args:
        model: built.
        forward_fn: how a batch enters the model.
    """

    loader, to_the_end, rank = "data set", False, 0

    def __init__(self, model: Any, forward_fn: ForwardFn | None) -> None:
        self._model, self._forward_fn = model, forward_fn
        self._snapshot: Snapshot | None = None

    @contextmanager
    def unchanged(self) -> Iterator[Callable[[], None]]:
        """Afterwards the model is as before; ``forward`` calls it in inference mode."""
        with unchanged(self._model) as snapshot:
            self._snapshot = snapshot
            yield snapshot.random.restore
        self._snapshot = None

    def restore(self) -> None:
        """Make everything what it was at the beginning of the block of ``unchanged``, inside of that block."""
        assert self._snapshot is not None
        self._snapshot.restore()

    def forward(self, batch: Any) -> Any:
        """One batch through the model, without gradients."""
        return call(self._model, batch, self._forward_fn)

    def samples_in(self, batch: Any) -> int:
        """The number of samples in a batch."""
        return samples_in(batch)

    def together(self, work: Callable[[], Pass], gathering: Sequence[Site]) -> list[Pass]:
        """Do the work: the sites know then what this process gathered."""
        _ = gathering
        return [work()]


def check_model(model: Any, upstream: str, forward_fn: ForwardFn | None, *, called: str) -> None:
    """Refuse what has no statistics to be estimated.

    Raises:
        TypeError: no Keras model.
        NormwiseError: it has no values yet, there is no such ``upstream``, or ``forward_fn`` is no function.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"{called} needs a Keras model, received {type(model).__name__}: pass the model itself.")
    check_upstream(upstream)
    check_forward_fn(forward_fn)
    if not model.built:
        raise NormwiseError(not_built(model, called))


def not_built(model: Any, called: str) -> str:
    """The sentence about a model, or a single layer, that has no variables yet.

    Example:
        >>> not_built(keras.layers.Dense(3, name="head"), "adapt")
        "adapt needs a layer that is built, and 'head' has no variables yet: run one batch through the layer first."
    """
    kind = "model" if isinstance(model, keras.Model) else "layer"
    return (
        f"{called} needs a {kind} that is built, and {model.name!r} has no variables yet: run one batch through the "
        f"{kind} first."
    )
