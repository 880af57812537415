"""``torch.nn.functional.batch_norm`` with the activation, the residual addition and a mask."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from normwise.estimators.ema import Ema
from normwise.kernels import aten
from normwise.kernels.torch_activations import activate
from normwise.moments import Moments
from normwise.torch.checks import as_torch_takes_them, check_activation, check_mask, check_residual
from normwise.torch.steps import choice_for, normalize_by_batch, normalize_by_fixed, update_running


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Normalize each channel of a batch, add the residual, and activate.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    With ``training`` the moments :math:`\mu, v` are those of the batch (of the values where ``mask`` is True), and the
    running statistics move towards them by ``momentum``; else they are the running statistics.

    Args:
        input: (N, C, *spatial), float16, bfloat16, float32 or float64.
        running_mean: shape (C,), changed in place when training, or None.
        running_var: shape (C,), unbiased, changed in place when training, or None.
        weight: :math:`\gamma`, shape (C,), or None for 1.
        bias: :math:`\beta`, shape (C,), or None for 0.
        training: whether to normalize by the batch.
        momentum: weight of the new batch in the running statistics.
        eps: added to the variance.
        activation: a name from ``normwise.kernels.reference_activations``, or None.
        residual: added before the activation, the shape of ``input``.
        mask: boolean, True where a value counts: (N, *spatial) or with an axis of 1 for the channels, broadcastable.
            Where it is False the output is 0 and no gradient flows. An empty mask leaves the statistics untouched.

    Returns:
        The shape, dtype and memory format of ``input``.

    Raises:
        ValueError: as ``torch.nn.functional.batch_norm`` does; an unknown activation; a residual or a mask of the
            wrong shape. Nothing is changed then.
        TypeError: a mask that is not boolean, a residual that is not a tensor.

    References:
        Ioffe and Szegedy 2015, algorithms 1 and 2.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> batch_norm(x, None, None, training=True, activation="relu").flatten()
        tensor([0.0000, 1.0000])
    """
    check_activation(activation)
    check_residual(residual, input)
    mask = check_mask(mask, input)
    kernel = choice_for(input, by_batch=training, mask=mask).name
    if kernel == "aten" and training:
        y = F.batch_norm(aten.with_plain_strides(input), running_mean, running_var, weight, bias, True, momentum, eps)
        return activate(y, activation, residual)
    if kernel != "aten":
        running_mean, running_var, weight, bias = as_torch_takes_them(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    if not training:
        return normalize_by_fixed(
            input, running_mean, running_var, weight, bias, eps, activation, residual, mask, kernel=kernel
        )
    y, batch = normalize_by_batch(input, weight, bias, eps, activation, residual, mask, kernel=kernel)
    if running_mean is not None and running_var is not None:
        update_running(Ema(momentum), batch, running_mean, running_var)
    return y


def batch_norm_with_moments(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Moments]:
    """``batch_norm`` in training that leaves the running statistics alone and hands out the batch's moments instead.

    Args:
        input: as in ``batch_norm``.
        running_mean: what the moments are meant for: refused here, before anything is changed, if it does not fit.
        running_var: the same.
        weight: as in ``batch_norm``.
        bias: as in ``batch_norm``.
        eps: as in ``batch_norm``.
        activation: as in ``batch_norm``.
        residual: as in ``batch_norm``.
        mask: as in ``batch_norm``.

    Returns:
        the output, and the moments without a gradient.

    Raises:
        ValueError: as in ``batch_norm``.
        TypeError: as in ``batch_norm``.

    Example:
        >>> import torch
        >>> y, batch = batch_norm_with_moments(
        ...     torch.tensor([[1.0], [3.0]]), torch.zeros(1), torch.ones(1), None, None, 1e-5
        ... )
        >>> batch.mean.item(), batch.count
        (2.0, 2)
    """
    check_activation(activation)
    check_residual(residual, input)
    mask = check_mask(mask, input)
    kernel = choice_for(input, by_batch=True, mask=mask).name
    _, _, weight, bias = as_torch_takes_them(input, running_mean, running_var, weight, bias, True, 0.0, eps)
    return normalize_by_batch(input, weight, bias, eps, activation, residual, mask, kernel=kernel)
