"""Drop-in ``torch.nn.InstanceNorm1d/2d/3d`` with fused activation, residual and mask, on batch norm's own kernels."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _LazyNormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from normwise.torch.functional.instance_norm import instance_norm
from normwise.torch.layers.batch_norm import torch_bias
from normwise.torch.layers.lazy import LazyNorm
from normwise.torch.layers.left_away import activation_now, added_late, is_larger
from normwise.torch.layers.recordable import Recordable
from normwise.torch.layers.unsaved_buffers import kept_unsaved, make_real, reset_unsaved, skipped_of
from normwise.torch.steps.buffers import STATISTICS, widen
from normwise.torch.steps.checks import cast_parameters, check_activation, refuse_nested


class TrackedInstanceNorm(Recordable, _InstanceNorm):
    """The common part of all instance norms. Not for direct use."""

    activation: str | None
    # Buffers that no checkpoint holds, and the value that each starts from.
    _unsaved: ClassVar[dict[str, float]] = {"num_batches_skipped": 0}
    # Set by ``paused_statistics``, as for batch norms.
    _paused: bool = False
    # Set where the layer takes the place of one that ``fuse`` gave an activation to, as for batch norms.
    _fused: bool = False

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
        if residual is not None and is_larger(self, input, residual):
            return added_late(self, input, residual, mask=mask)
        if input.is_nested:
            refuse_nested(self)
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
        mean, var = self.running_mean, self.running_var
        weight, bias = cast_parameters(input, mean, self.weight, self.bias)
        if by_input and self._paused:
            mean = var = None
        # In inference torch's operator uses the statistics only where it is told to.
        return instance_norm(
            input,
            mean,
            var,
            weight,
            bias,
            by_input,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
            activation=activation_now(self),
            residual=residual,
            mask=mask,
            skipped=skipped_of(self),
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Convert as torch does, but keep the running statistics in float32 under ``.half()`` and ``.bfloat16()``."""
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


class _InstanceNormNd(TrackedInstanceNorm):
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

    The layer is called with ``layer(input, residual, mask=...)``; all but the input may be left out. The residual
    is :math:`r`, added before the activation; where ``mask``, (N, *spatial) or with an axis for the channels, is
    False, values do not count, the output is 0, and no gradient flows. Running statistics stay in float32, and what
    is not finite does not enter them, as in ``BatchNorm1d``; they are always a moving average.

    Raises:
        ValueError: an unknown activation, and whatever torch refuses, in torch's words.

    References:
        Ulyanov, Vedaldi and Lempitsky, Instance normalization: the missing ingredient for fast stylization, 2016.

    Example:
        >>> import torch
        >>> from normwise.torch import InstanceNorm1d
        >>> layer = InstanceNorm1d(2, activation="relu")
        >>> layer(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
        tensor([[[0.0000, 1.0000],
                 [0.0000, 0.0000]]])
    """


class InstanceNorm2d(_InstanceNormNd, torch.nn.InstanceNorm2d):
    """Instance normalization of (N, C, H, W) or (C, H, W); arguments as ``InstanceNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import InstanceNorm2d
        >>> InstanceNorm2d(3, affine=True, activation="relu")(torch.randn(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
    """


class InstanceNorm3d(_InstanceNormNd, torch.nn.InstanceNorm3d):
    """Instance normalization of (N, C, D, H, W) or (C, D, H, W); arguments as ``InstanceNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import InstanceNorm3d
        >>> InstanceNorm3d(3)(torch.randn(2, 3, 2, 4, 4)).shape
        torch.Size([2, 3, 2, 4, 4])
    """


class _LazyInstanceNormNd(LazyNorm, TrackedInstanceNorm, _LazyNormBase):
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

    Arguments as ``InstanceNorm1d``, without ``num_features``.

    Example:
        >>> import torch
        >>> from normwise.torch import LazyInstanceNorm1d
        >>> layer = LazyInstanceNorm1d()
        >>> _ = layer(torch.randn(4, 7, 5))
        >>> layer.num_features
        7
    """

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyInstanceNormNd, torch.nn.LazyInstanceNorm2d):
    """An ``InstanceNorm2d`` whose number of channels is that of its first input.

    Arguments as ``InstanceNorm1d``, without ``num_features``.

    Example:
        >>> from normwise.torch import LazyInstanceNorm2d
        >>> type(LazyInstanceNorm2d()).__name__
        'LazyInstanceNorm2d'
    """

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyInstanceNormNd, torch.nn.LazyInstanceNorm3d):
    """An ``InstanceNorm3d`` whose number of channels is that of its first input.

    Arguments as ``InstanceNorm1d``, without ``num_features``.

    Example:
        >>> from normwise.torch import LazyInstanceNorm3d
        >>> type(LazyInstanceNorm3d()).__name__
        'LazyInstanceNorm3d'
    """

    cls_to_become = InstanceNorm3d
