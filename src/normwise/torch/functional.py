"""``torch.nn.functional.batch_norm`` with the activation, the residual addition, a mask and weights."""

from __future__ import annotations

from torch import Tensor

from normwise.estimators.ema import Ema
from normwise.kernels.torch_activations import activate
from normwise.moments import Moments
from normwise.torch.checks import as_torch_takes_them, check_activation, check_residual, parameters_for
from normwise.torch.mask_checks import check_weights
from normwise.torch.running_statistics import update_running
from normwise.torch.steps import choice_for, normalize_and_move, normalize_by_batch, normalize_by_fixed


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
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Normalize each channel of a batch, add the residual, and activate.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    With ``training`` the moments :math:`\mu, v` are those of the batch (of the values where ``mask`` is True), and the
    running statistics move towards them by ``momentum``; else they are the running statistics.

    Args:
        input: (N, C, *spatial), float16, bfloat16, float32 or float64.
        running_mean: shape (C,), changed in place when training, or None.
        running_var: shape (C,), unbiased (the batch's variance times n/(n - 1)), changed in place when training, or
            None. What a batch would make of a channel that is not finite does not enter.
        weight: :math:`\gamma`, shape (C,), or None for 1.
        bias: :math:`\beta`, shape (C,), or None for 0.
        training: whether to normalize by the batch.
        momentum: weight of the new batch in the running statistics.
        eps: added to the variance.
        activation: a name from ``normwise.kernels.reference_activations``, or None.
        residual: added before the activation, the shape of ``input``.
        mask: boolean, True where a value counts: (N, *spatial), or with an axis for the channels, each axis its full
            size or 1. Where it is False the output is 0 and no gradient flows. A channel of which nothing counts
            keeps its statistics.
        sample_weight: how much each value counts, 0 or more: shape (N,), or as ``mask``. The moments are weighted
            means, and the sum of the weights stands for n; a weight of 2 is the same value twice. So scale the
            weights that they count values: n/(n - 1) means nothing for weights that sum to 1, and weights that do
            move no statistics. Where a weight is 0 it is as a mask of False.

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
    mask = check_weights(mask, sample_weight, input)
    weight, bias = parameters_for(input, running_mean, weight, bias)
    if training:
        return batch_norm_by_batch(
            input, running_mean, running_var, weight, bias, momentum, eps, activation, residual, mask
        )
    return batch_norm_by_fixed(input, running_mean, running_var, weight, bias, eps, activation, residual, mask)


def batch_norm_by_fixed(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """``batch_norm`` in inference; the arguments that torch does not have are checked, and the mask has all axes."""
    kernel = choice_for(input, by_batch=False, mask=mask).name
    if kernel != "aten":
        running_mean, running_var, weight, bias = as_torch_takes_them(
            input, running_mean, running_var, weight, bias, False, 0.0, eps
        )
    return normalize_by_fixed(
        input, running_mean, running_var, weight, bias, eps, activation, residual, mask, kernel=kernel
    )


def batch_norm_by_batch(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
    updates: Tensor | None = None,
    skipped: Tensor | None = None,
) -> Tensor:
    """``batch_norm`` in training, with the layers' counters; the arguments that torch does not have are checked.

    Args:
        input: as in ``batch_norm``.
        running_mean: as in ``batch_norm``.
        running_var: as in ``batch_norm``.
        weight: as in ``batch_norm``.
        bias: as in ``batch_norm``.
        momentum: as in ``batch_norm``.
        eps: as in ``batch_norm``.
        activation: as in ``batch_norm``.
        residual: as in ``batch_norm``.
        mask: mask or weights, with an axis for the channels.
        updates: int64, counts the batches that entered the statistics, or None.
        skipped: int64, counts those that did not in some channel, or None.
    """
    kernel = choice_for(input, by_batch=True, mask=mask).name
    if kernel == "aten":
        y = normalize_and_move(input, running_mean, running_var, weight, bias, momentum, eps, updates, skipped)
        return activate(y, activation, residual)
    running_mean, running_var, weight, bias = as_torch_takes_them(
        input, running_mean, running_var, weight, bias, True, momentum, eps
    )
    y, batch = normalize_by_batch(input, weight, bias, eps, activation, residual, mask, kernel=kernel)
    if running_mean is not None and running_var is not None:
        update_running(Ema(momentum), batch, running_mean, running_var, updates, skipped=skipped)
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
    sample_weight: Tensor | None = None,
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
        sample_weight: as in ``batch_norm``.

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
    mask = check_weights(mask, sample_weight, input)
    weight, bias = parameters_for(input, running_mean, weight, bias)
    return output_and_moments(input, running_mean, running_var, weight, bias, eps, activation, residual, mask)


def output_and_moments(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Moments]:
    """``batch_norm_with_moments`` behind its checks of what torch does not have."""
    kernel = choice_for(input, by_batch=True, mask=mask).name
    _, _, weight, bias = as_torch_takes_them(input, running_mean, running_var, weight, bias, True, 0.0, eps)
    return normalize_by_batch(input, weight, bias, eps, activation, residual, mask, kernel=kernel)
