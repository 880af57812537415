"""``torch.nn.functional.instance_norm`` with an activation, a residual and a mask, on batch norm's kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.estimators.ema import Ema
from normwise.kernels.kernel import Call
from normwise.kernels.recording import traced
from normwise.kernels.torch_activations import activate
from normwise.moments import Moments
from normwise.torch.steps.buffers import readable, transformed
from normwise.torch.steps.call import ATEN, checked, kernel_for
from normwise.torch.steps.checks import cast_parameters, check_activation, check_residual
from normwise.torch.steps.checks_mask import check_mask
from normwise.torch.steps.estimate import update_running
from normwise.torch.steps.normalize_samples import finished


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    skipped: Tensor | None = None,
) -> Tensor:
    r"""``torch.nn.functional.instance_norm`` with an activation, a residual and a mask.

    .. math:: y = f\Big(\gamma \frac{x - \mu_{nc}}{\sqrt{v_{nc} + \epsilon}} + \beta + r\Big)

    with the moments of channel c of sample n over all positions (where ``mask`` is True), or the running ones.

    Args:
        input: (N, C, *spatial), any floating dtype.
        running_mean: shape (C,), moved towards the average of the samples' means, or None.
        running_var: shape (C,), moved towards the average of the samples' unbiased variances, or None.
        weight: :math:`\gamma`, shape (C,), or None for 1.
        bias: :math:`\beta`, shape (C,), or None for 0.
        use_input_stats: whether to normalize by the input, or else by the running statistics.
        momentum: weight of the new batch in the running statistics.
        eps: added to the variance.
        activation: for example ``"relu"``, ``"silu"``, ``"gelu"`` or, with its slope, ``"leaky_relu:0.2"``; None for
            the identity. The error about an unknown name lists all.
        residual: the shape of ``input``, added before the activation, or None.
        mask: boolean, True where a value counts: (N, *spatial), or with an axis for the channels, each axis its full
            size or 1. Where it is False the output is 0 and no gradient flows.
        skipped: int64, counts the batches that did not enter the statistics in some channel, or None.

    Returns:
        The shape and dtype of ``input``.

    Raises:
        ValueError: one position only, as torch does; an unknown activation; a residual or a mask of the wrong shape.
        RuntimeError: as ``torch.nn.functional.instance_norm`` does.
        TypeError: a mask that is not boolean, a residual that is not a tensor.

    References:
        Ulyanov, Vedaldi and Lempitsky, Instance normalization: the missing ingredient for fast stylization, 2016.

    Example:
        >>> import torch
        >>> from normwise.torch.functional import instance_norm
        >>> instance_norm(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]), activation="relu")
        tensor([[[0.0000, 1.0000],
                 [0.0000, 0.0000]]])
    """
    check_activation(activation)
    check_residual(residual, input)
    mask = check_mask(mask, input)
    if not use_input_stats:
        call, kernel = checked(
            input, running_mean, running_var, weight, bias, eps, activation, residual, mask, None, by_batch=False
        )
        return kernel.forward_running(call)
    weight, bias = cast_parameters(input, running_mean, weight, bias)
    if input.dim() > 2 and input.numel() == 0:  # torch refuses it where there is a weight, for no reason
        along = (1, -1, *[1] * (input.dim() - 2))
        scale, shift = (None if parameter is None else parameter.view(along) for parameter in (weight, bias))
        return finished(input, input, scale, shift, activation, residual, mask)
    if not _is_plain(input, weight, bias, running_mean, running_var, eps):
        # Torch has the words for what is wrong; should nothing be, only copies of the statistics have moved.
        mean, var = (None if buffer is None else buffer.clone() for buffer in (running_mean, running_var))
        F.instance_norm(input, mean, var, weight, bias, True, momentum, eps)
    if mask is not None:
        _check_masked_positions(mask, input)
    samples, channels = input.shape[:2]
    y, found = _rows(input, weight, bias, eps, activation, residual, mask)
    if running_mean is not None and running_var is not None:
        batch = _averaged(found, samples, channels, input[0, 0].numel(), masked=mask is not None)
        update_running(Ema(momentum), batch, running_mean, running_var, skipped=skipped)
    return y


def _rows(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Moments]:
    """Batch norm of one sample with as many channels as the batch has instances."""
    samples, channels = x.shape[:2]
    shape = (1, samples * channels, *x.shape[2:])
    scale, shift = (None if parameter is None else parameter.repeat(samples) for parameter in (weight, bias))
    rows, added = (None if tensor is None else tensor.reshape(shape) for tensor in (x, residual))
    assert rows is not None
    weights = None if mask is None else mask.expand(x.shape).reshape(shape)
    call = Call(rows, weights, None, None, scale, shift, eps, activation, added)
    kernel = kernel_for(call, by_batch=True)
    if kernel is ATEN and traced() and not transformed():
        # One operator, which exporters know; so many channels as there are instances, they do not.
        y = activate(F.instance_norm(x, weight=weight, bias=bias, eps=eps), activation, residual)
        return y, ATEN.moments(call)
    y, found = kernel.forward_batch(call)
    return y.view(x.shape), found


def _averaged(found: Moments, samples: int, channels: int, positions: int, *, masked: bool) -> Moments:
    """The statistics that torch keeps: averages of the means and unbiased variances of the instances that have both."""
    mean, var = found.mean.view(samples, channels), found.unbiased_var().view(samples, channels)
    if masked:
        known = found.count.view(samples, channels) > 1
        number = known.sum(0)
        share = known / number.clamp(min=1)
        mean, var = (torch.where(known, value * share, 0).sum(0) for value in (mean, var))
        return Moments.from_unbiased_var(mean, var, positions * (number > 0).to(mean.dtype))
    return Moments.from_unbiased_var(mean.mean(0), var.mean(0), positions)


def _check_masked_positions(mask: Tensor, input: Tensor) -> None:
    """Refuse an instance if the mask leaves it one position, as torch does without a mask; on the CPU only."""
    if not readable(mask) or mask.numel() == 0:
        return
    spatial = [axis for axis in range(mask.dim()) if axis > 1]
    repeats = input[0, 0].numel() // max(mask[0, 0].numel(), 1)
    if bool((mask.sum(spatial) * repeats == 1).any()):
        raise ValueError(
            "Expected more than 1 spatial element when training, got 1 position where the mask is True in input size "
            f"{input.size()}"
        )


def _is_plain(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
) -> bool:
    """True if there is nothing about the arguments that torch might refuse."""
    if x.dim() < 3 or not x.is_floating_point() or x[0, 0].numel() == 1 or eps <= 0:
        return False
    given = [tensor for tensor in (weight, bias, mean, var) if tensor is not None]
    dtypes = {tensor.dtype for tensor in given}
    return (
        (mean is None) == (var is None)
        and (dtypes <= {x.dtype} or dtypes == {torch.promote_types(x.dtype, torch.float32)})
        and all(tensor.shape == (x.shape[1],) and tensor.device == x.device for tensor in given)
    )
