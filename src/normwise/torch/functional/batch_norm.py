"""``torch.nn.functional.batch_norm`` with the activation, the residual addition, a mask and weights."""

from __future__ import annotations

from torch import Tensor

from normwise.moments import Moments
from normwise.torch.steps.call import checked, like_torch, normalize_and_update


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
        activation: for example ``"relu"``, ``"silu"``, ``"gelu"`` or, with its slope, ``"leaky_relu:0.2"``; None for
            the identity. The error about an unknown name lists all.
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
        >>> from normwise.torch.functional import batch_norm
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> batch_norm(x, None, None, training=True, activation="relu").flatten()
        tensor([0.0000, 1.0000])
    """
    call, kernel = checked(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        eps,
        activation,
        residual,
        mask,
        sample_weight,
        by_batch=training,
        momentum=momentum,
    )
    return normalize_and_update(call, kernel, momentum) if training else kernel.forward_running(call)


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
    call, kernel = checked(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        eps,
        activation,
        residual,
        mask,
        sample_weight,
        by_batch=True,
        ask_torch=False,
    )
    return kernel.forward_batch(like_torch(call, by_batch=True))
