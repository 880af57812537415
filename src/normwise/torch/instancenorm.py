"""Drop-in ``torch.nn.InstanceNorm1d/2d/3d`` with fused activation, residual and mask, on batch norm's own kernels."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _LazyNormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from normwise.estimators.ema import Ema
from normwise.kernels.kernel import Call
from normwise.kernels.two_pass import TWO_PASS
from normwise.moments import Moments
from normwise.torch.batchnorm import torch_bias
from normwise.torch.buffers import STATISTICS, readable, widen
from normwise.torch.by_sample import finished
from normwise.torch.lazy_norm import LazyNorm
from normwise.torch.mask_checks import check_mask
from normwise.torch.recordable import Recordable
from normwise.torch.steps.call import checked, kernel_for
from normwise.torch.steps.checks import cast_parameters, check_activation, check_residual
from normwise.torch.steps.estimate import update_running
from normwise.torch.unsaved_buffers import kept_unsaved, make_real, reset_unsaved, skipped_of


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
    r"""``torch.nn.functional.instance_norm`` with the activation, the residual addition and a mask.

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
        activation: a name from ``normwise.kernels.reference_activations``, or None.
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
    call = Call(rows, None, None, None, scale, shift, eps, activation, added)
    if mask is None:
        y, found = kernel_for(call, by_batch=True).forward_batch(call)
    else:
        y, found = TWO_PASS.forward_batch(call._replace(weights=mask.expand(x.shape).reshape(shape)))
    return y.view(x.shape), found


def _averaged(found: Moments, samples: int, channels: int, positions: int, *, masked: bool) -> Moments:
    """What torch keeps: the averages of the instances' means and unbiased variances, of those that have both."""
    mean, var = found.mean.view(samples, channels), found.population_var().view(samples, channels)
    if masked:
        known = found.count.view(samples, channels) > 1
        number = known.sum(0)
        share = known / number.clamp(min=1)
        mean, var = (torch.where(known, value * share, 0).sum(0) for value in (mean, var))
        return Moments.from_population_var(mean, var, positions * (number > 0).to(mean.dtype))
    return Moments.from_population_var(mean.mean(0), var.mean(0), positions)


def _check_masked_positions(mask: Tensor, input: Tensor) -> None:
    """Refuse an instance of which the mask leaves one position, as torch does without a mask; on the CPU only."""
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
    """Whether nothing about the arguments is such that torch might refuse them."""
    if x.dim() < 3 or not x.is_floating_point() or x[0, 0].numel() == 1 or eps <= 0:
        return False
    given = [tensor for tensor in (weight, bias, mean, var) if tensor is not None]
    dtypes = {tensor.dtype for tensor in given}
    return (
        (mean is None) == (var is None)
        and (dtypes <= {x.dtype} or dtypes == {torch.promote_types(x.dtype, torch.float32)})
        and all(tensor.shape == (x.shape[1],) and tensor.device == x.device for tensor in given)
    )


class _FusedInstanceNorm(Recordable, _InstanceNorm):
    activation: str | None
    # Buffers that no checkpoint holds, and the value that each starts from.
    _unsaved: ClassVar[dict[str, float]] = {"num_batches_skipped": 0}

    def _settle(self, activation: str | None) -> None:
        """Take the keyword that torch does not have; called once, after torch's own ``__init__``."""
        check_activation(activation)
        self.activation = activation
        counter = self.num_batches_tracked
        skipped = None if counter is None else torch.zeros_like(counter)
        self.register_buffer("num_batches_skipped", skipped, persistent=False)
        widen(self, {})

    def forward(self, input: Tensor, residual: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        """``activation(normalize(input) + residual)``; see ``instance_norm`` for the shapes."""
        self._check_input_dim(input)
        without_batch = self._get_no_batch_dim()
        channels = input.size(input.dim() - without_batch)
        if channels != self.num_features:
            # Torch's words.
            axis = input.dim() - without_batch
            if self.affine:
                raise ValueError(
                    f"expected input's size at dim={axis} to match num_features"
                    f" ({self.num_features}), but got: {channels}."
                )
            warnings.warn(
                f"input's size at dim={axis} does not match num_features. "
                "You can silence this warning by not passing in num_features, "
                "which is not used because affine=False",
                stacklevel=2,
            )
        if input.dim() == without_batch:
            given = [None if tensor is None else tensor.unsqueeze(0) for tensor in (residual, mask)]
            return self._normalized(input.unsqueeze(0), *given).squeeze(0)
        return self._normalized(input, residual, mask)

    def _normalized(self, input: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        by_input = self.training or not self.track_running_stats
        # In inference torch's operator uses the statistics only where it is told to.
        return instance_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            by_input,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
            activation=self.activation,
            residual=residual,
            mask=mask,
            skipped=skipped_of(self),
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As torch's, but the running statistics stay in float32 where ``.half()`` or ``.bfloat16()`` converts."""
        originals = {name: buffer for name in STATISTICS if (buffer := self._buffers.get(name)) is not None}
        with kept_unsaved(self, fn):
            super()._apply(fn, recurse)
        widen(self, originals)
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        widen(self, {})  # assign=True takes a checkpoint's tensors as they are
        make_real(self)

    def reset_running_stats(self) -> None:
        """Back to mean 0, variance 1, nothing seen."""
        super().reset_running_stats()
        reset_unsaved(self)

    def extra_repr(self) -> str:
        """Torch's line, and what is set beyond it."""
        activation = "" if self.activation is None else f", activation={self.activation}"
        return f"{super().extra_repr()}{activation}"


class _InstanceNormNd(_FusedInstanceNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **torch_bias(bias))
        self._settle(activation)


class InstanceNorm1d(_InstanceNormNd, torch.nn.InstanceNorm1d):
    r"""Instance normalization of (N, C, L) or (C, L), a drop-in for ``torch.nn.InstanceNorm1d``.

    .. math:: y = f\Big(\gamma \frac{x - \mu_{nc}}{\sqrt{v_{nc} + \epsilon}} + \beta + r\Big)

    Each channel of each sample is normalized by itself. That is batch norm of one sample with N * C channels, and the
    kernels of batch norm do it, with the activation and the residual in the same pass.

    Args:
        num_features: C.
        eps: :math:`\epsilon`, added to the variance.
        momentum: weight of the new batch in the running statistics; None is torch's way of leaving them.
        affine: whether to learn :math:`\gamma` and :math:`\beta`.
        track_running_stats: whether to keep statistics for inference, the averages of the instances' means and unbiased
            variances; without them, which is the default, inference is as training.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether to learn :math:`\beta`.
        activation: :math:`f`, for example ``"relu"``; None for the identity.

    ``forward(input, residual=None, *, mask=None)``: the residual is added before the activation; where ``mask``,
    (N, *spatial) or with an axis for the channels, is False, values do not count, the output is 0, and no gradient
    flows. Running statistics stay in float32, and what is not finite does not enter them, as in ``BatchNorm1d``; they
    are always a moving average.

    Raises:
        ValueError: an unknown activation, and whatever torch refuses, in torch's words.

    References:
        Ulyanov, Vedaldi and Lempitsky, Instance normalization: the missing ingredient for fast stylization, 2016.

    Example:
        >>> layer = InstanceNorm1d(2, activation="relu")
        >>> layer(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
        tensor([[[0.0000, 1.0000],
                 [0.0000, 0.0000]]])
    """


class InstanceNorm2d(_InstanceNormNd, torch.nn.InstanceNorm2d):
    """Instance normalization of (N, C, H, W) or (C, H, W); arguments as ``InstanceNorm1d``.

    Example:
        >>> InstanceNorm2d(3, affine=True, activation="relu")(torch.randn(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
    """


class InstanceNorm3d(_InstanceNormNd, torch.nn.InstanceNorm3d):
    """Instance normalization of (N, C, D, H, W) or (C, D, H, W); arguments as ``InstanceNorm1d``.

    Example:
        >>> InstanceNorm3d(3)(torch.randn(2, 3, 2, 4, 4)).shape
        torch.Size([2, 3, 2, 4, 4])
    """


class _LazyInstanceNormNd(LazyNorm, _FusedInstanceNorm, _LazyNormBase):
    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        _LazyNormBase.__init__(self, eps, momentum, affine, track_running_stats, device, dtype, **torch_bias(bias))
        self._settle(activation)


class LazyInstanceNorm1d(_LazyInstanceNormNd, torch.nn.LazyInstanceNorm1d):
    """An ``InstanceNorm1d`` whose number of channels is that of its first input, or of a checkpoint loaded before.

    Example:
        >>> layer = LazyInstanceNorm1d()
        >>> _ = layer(torch.randn(4, 7, 5))
        >>> layer.num_features
        7
    """

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyInstanceNormNd, torch.nn.LazyInstanceNorm2d):
    """An ``InstanceNorm2d`` whose number of channels is that of its first input.

    Example:
        >>> type(LazyInstanceNorm2d()).__name__
        'LazyInstanceNorm2d'
    """

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyInstanceNormNd, torch.nn.LazyInstanceNorm3d):
    """An ``InstanceNorm3d`` whose number of channels is that of its first input.

    Example:
        >>> type(LazyInstanceNorm3d()).__name__
        'LazyInstanceNorm3d'
    """

    cls_to_become = InstanceNorm3d
