"""The policies for a training batch that has too few values per channel.

``error``
    One value per channel is refused.
``running``
    A batch with one value per channel is normalized by the moving statistics, as in inference, and does not move them.
``renorm``
    A batch with fewer than ``FEW`` values per channel is normalized as batch renormalization does it, towards the
    moving statistics.

The number of values that a mask leaves, and of samples in a batch whose size TensorFlow's graph does not know, is not
known while the call is traced. ``error`` then does what ``running`` does.

References:
    Ioffe, Batch renormalization: towards reducing minibatch dependence in batch-normalized models, 2017.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from normwise.errors import UnknownName
from normwise.keras.steps.gather import Gathered
from normwise.keras.steps.normalize import along
from normwise.keras.steps.normalize_renormalized import composed, corrections

POLICIES = ("error", "running", "renorm")
# Fewer values per channel than this are too few for ``renorm``; normwise.torch says why.
FEW = 32
# The bounds at which the paper's schedule ends.
BOUNDS = {"rmin": 1 / 3, "rmax": 3.0, "dmax": 5.0}


def check_policy(name: str) -> None:
    """Refuse a policy that does not exist."""
    if name not in POLICIES:
        raise UnknownName("on_tiny_batch", name, POLICIES)


def refuse_single_values(layer: str, shape: tuple[int | None, ...]) -> None:
    """Say that a batch has one value per channel.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"Expected more than 1 value per channel when training, got input shape {shape} in layer {layer!r}: "
        "leave such a batch out, or choose on_tiny_batch='running'."
    )


def by_moving_where_single(batch: Any, mean: Any, var: Any, axis: int) -> Any:
    """The moments to normalize with: where one value counts, the moving ones.

    Args:
        batch: as gathered.
        mean: moving, shape (C,).
        var: moving, shape (C,).
        axis: of the channels.
    """
    single = batch.is_single(axis)
    if single is False:
        return batch
    return batch._replace(
        offset=ops.where(single, along(mean, batch.centred, axis) - batch.near, batch.offset),
        var=ops.where(single, along(var, batch.centred, axis), batch.var),
    )


def renormalized(batch: Gathered, mean: Any, var: Any, scale: Any, shift: Any, epsilon: float) -> tuple[Any, Any]:
    """Scale and shift that renormalize where fewer than ``FEW`` values count.

    Args:
        batch: as gathered.
        mean: moving, shape (C,).
        var: moving, shape (C,).
        scale: shape (C,), or None for 1.
        shift: shape (C,), or None for 0.
        epsilon: added to the variance.
    """
    count = batch.count
    if isinstance(count, int) and count >= FEW:
        return scale, shift
    r, d = corrections(batch.mean(), batch.variance(), mean, ops.sqrt(var + epsilon), epsilon, BOUNDS)
    few = ops.convert_to_tensor([count < FEW]) if isinstance(count, int) else count < FEW
    return composed(ops.where(few, r, ops.ones_like(r)), ops.where(few, d, ops.zeros_like(d)), scale, shift)
