"""Batch renormalization as Keras has it: the corrections r and d, and the five statistics behind them."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from normwise.keras.steps.estimate import enter, moved


def corrections(
    mean: Any, var: Any, near_mean: Any, near_stddev: Any, epsilon: float, clipping: dict[str, Any]
) -> tuple[Any, Any]:
    r"""The factor and the offset that make a batch's normalization that of running statistics, as constants.

    .. math:: r = \Big[\frac{\sigma_B}{\sigma}\Big]_{r_{min}}^{r_{max}}, \quad
        d = \Big[\frac{\mu_B - \mu}{\sigma}\Big]_{-d_{max}}^{d_{max}}, \quad \sigma_B = \sqrt{v_B + \epsilon}

    Args:
        mean: of the batch, shape (C,).
        var: of the batch, biased.
        near_mean: :math:`\mu`.
        near_stddev: :math:`\sigma`, with epsilon in it.
        epsilon: added to the variance.
        clipping: the bounds ``rmin``, ``rmax`` and ``dmax``; one that is missing or None does not bound.
    """
    r = ops.sqrt(var + epsilon) / near_stddev
    d = (mean - near_mean) / near_stddev
    rmin, rmax = clipping.get("rmin"), clipping.get("rmax")
    r = ops.clip(r, 0.0 if rmin is None else rmin, math.inf if rmax is None else rmax)
    if clipping.get("dmax") is not None:
        d = ops.clip(d, -clipping["dmax"], clipping["dmax"])
    return ops.stop_gradient(r), ops.stop_gradient(d)


def composed(r: Any, d: Any, scale: Any, shift: Any) -> tuple[Any, Any]:
    r"""Scale and shift with the corrections in them, :math:`\gamma (\hat x r + d) + \beta`."""
    scale, offset = (r, d) if scale is None else (r * scale, d * scale)
    return scale, offset if shift is None else offset + shift


def enter_renormalized(layer: Any, mean: Any, var: Any, count: Any) -> None:
    """One more batch into the statistics of a layer with ``renorm=True``, which are Keras's."""
    stddev = ops.sqrt(var + layer.epsilon)
    variables = [layer.renorm_mean, layer.renorm_stddev, layer.moving_mean, layer.moving_stddev]
    batches = [mean, stddev, mean, stddev]
    momenta = [layer.renorm_momentum, layer.renorm_momentum, layer.momentum, layer.momentum]
    new = [
        moved(ops.convert_to_tensor(variable), batch, momentum)
        for variable, batch, momentum in zip(variables, batches, momenta, strict=True)
    ]
    # The moving variance follows from the moving deviation.
    var_of_new = ops.relu(new[3] * new[3] - layer.epsilon)
    enter([*variables, layer.moving_variance], [*new, var_of_new], count)
