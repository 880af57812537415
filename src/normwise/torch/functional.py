"""``torch.nn.functional.batch_norm`` with the activation, the residual addition and a mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.estimators.ema import Ema
from normwise.estimators.estimator import Estimator, RunningStatistics
from normwise.kernels import aten, two_pass
from normwise.kernels.choose import Choice, choose
from normwise.kernels.torch_activations import activate
from normwise.moments import Moments
from normwise.torch.autograd import TwoPassBatchNorm
from normwise.torch.checks import check_activation, check_mask, check_masked_count, check_residual

# |mean|/std * sqrt(n) beyond which PyTorch's float32 running sums cost more than about 2e-4 of a standard deviation.
TRUSTED = 1e4


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
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> batch_norm(x, None, None, training=True, activation="relu").flatten()
        tensor([0.0000, 1.0000])
    """
    check_activation(activation)
    check_residual(residual, input)
    mask = check_mask(mask, input)
    parameters = (weight, bias, running_mean, running_var)
    if not training:
        if mask is None or not _serviceable(input, *parameters, needs_statistics=True):
            y = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
            return activate(y, activation, residual)
        assert running_mean is not None  # serviceable says so
        assert running_var is not None
        return two_pass.forward_fixed(
            input, running_mean, running_var, weight, bias, eps, activation=activation, residual=residual, mask=mask
        )
    choice = choose(input, masked=mask is not None, compiling=torch.compiler.is_compiling())
    if mask is None and ((choice.name == "aten" and not choice.verify) or not _serviceable(input, *parameters)):
        y = F.batch_norm(input, running_mean, running_var, weight, bias, True, momentum, eps)
        return activate(y, activation, residual)
    y, batch = normalize_by_batch(
        input, weight, bias, eps, activation=activation, residual=residual, mask=mask, choice=choice
    )
    if running_mean is not None and running_var is not None:
        update_running(Ema(momentum), batch, running_mean, running_var)
    return y


def normalize_by_batch(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
    choice: Choice | None = None,
) -> tuple[Tensor, Moments]:
    """The gather and normalize steps in training: the output and the batch's moments; arguments are already checked."""
    if choice is None:
        choice = choose(input, masked=mask is not None, compiling=torch.compiler.is_compiling())
    if not _serviceable(input, weight, bias) or eps <= 0 or input.numel() == input.shape[1]:
        # torch refuses these with its own words; a copy of nothing is at stake
        F.batch_norm(input, None, None, weight, bias, True, 0.0, eps)
    if mask is not None:
        check_masked_count(mask, input)
        return two_pass.forward_batch(input, weight, bias, eps, activation=activation, residual=residual, mask=mask)
    if choice.name == "aten":
        y, batch = aten.forward_batch(input, weight, bias, eps)
        if not choice.verify or _trustworthy(batch):
            return activate(y, activation, residual), batch
    y, mean, var, *_ = TwoPassBatchNorm.apply(input, weight, bias, eps)
    return activate(y, activation, residual), Moments(mean, var, input.numel() // input.shape[1])


@torch.no_grad()
def update_running(
    estimator: Estimator,
    batch: Moments,
    running_mean: Tensor,
    running_var: Tensor,
    updates: Tensor | None = None,
    count: Tensor | None = None,
) -> None:
    """The estimate step: one more batch enters the buffers, in place.

    Args:
        estimator: how.
        batch: the batch's moments.
        running_mean: shape (C,).
        running_var: shape (C,), unbiased.
        updates: int64, how many batches entered, or None where nobody counts.
        count: int64, how many values per channel entered, or None where the estimator does not need it.
    """
    # 1 - (1 - w)^k has no digits to lose: in float64 wherever the device has it.
    wide = torch.float32 if running_mean.device.type == "mps" else torch.float64
    before = RunningStatistics(
        running_mean, running_var, 0 if updates is None else updates.to(wide), 0 if count is None else count
    )
    after = estimator.update(before, batch)
    for buffer, value in zip((running_mean, running_var, updates, count), vars(after).values(), strict=True):
        if buffer is not None:
            buffer.copy_(value if isinstance(value, Tensor) else torch.as_tensor(value))


def _trustworthy(batch: Moments) -> bool:
    """Whether PyTorch's sums have kept enough digits of these moments; NaN and inf are as right as they can be."""
    lost = (batch.mean.square() > batch.var * (TRUSTED * TRUSTED / batch.count)) & (batch.mean != 0)
    return not bool(lost.any())


def _serviceable(input: Tensor, *per_channel: Tensor | None, needs_statistics: bool = False) -> bool:
    """Whether shapes are what our own kernels take; what is not goes to torch, which has the words for it."""
    if input.dim() < 2 or not input.is_floating_point():
        return False
    if needs_statistics and (per_channel[2] is None or per_channel[3] is None):
        return False
    channels = (input.shape[1],)
    return all(tensor is None or tensor.shape == channels for tensor in per_channel)
