"""Iterative normalization: whitening by a few Newton steps, which leaves the weakest directions as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.estimators import Estimator
from normwise.kernels.newton_root import newton_root
from normwise.torch.layers.whitening import Whitening


class IterativeNorm(Whitening):
    """The matrix of so many Newton steps, for all numbers of axes. Not for direct use."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        group_size: int = 64,
        steps: int = 5,
        activation: str | None = None,
        estimator: Estimator | str | None = None,
    ) -> None:
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise TypeError(f"steps must be a whole number, received {type(steps).__name__}: pass for example 5.")
        if steps < 1:
            raise ValueError(f"steps must be 1 or more, received {steps}: pass for example 5, the paper's.")
        self.steps = steps
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
            group_size=group_size,
            activation=activation,
            estimator=estimator,
        )

    def _root(self, covariance: Tensor) -> Tensor:
        return newton_root(covariance, self.eps, self.steps)

    def _settings(self) -> tuple[Any, ...]:
        """The steps too."""
        return (*super()._settings(), self.steps)

    def extra_repr(self) -> str:
        """The line of a whitening layer, and the steps."""
        return f"{super().extra_repr()}, steps={self.steps}"


class IterativeNorm1d(IterativeNorm, torch.nn.BatchNorm1d):
    r"""Batch whitening of (N, C) or (N, C, L) by Newton steps: nearly uncorrelated channels, by products of matrices.

    .. math:: y = f\big(\gamma \, W_g (x - \mu) + \beta + r\big), \quad W_g = \frac{P_T}{\sqrt{t}}, \quad
        P_{k+1} = \tfrac12 \Big(3 P_k - P_k^3 \frac{\Sigma_g + \epsilon I}{t}\Big), \quad
        t = \operatorname{tr}(\Sigma_g + \epsilon I)

    for each group g of channels, from :math:`P_0 = I`, with the covariance :math:`\Sigma_g` of the batch. With T it
    tends to what ``DecorrelatedBatchNorm1d`` does. A direction of small variance gets there last: with a share s of the
    group's variance, its standard deviation in the output is 0.66 after 5 steps where s is 0.01, and 0.24 where it is
    0.001. These directions are the noise of small batches, which the paper wants to leave out.

    Training takes 3 to 7 times as long as torch's batch norm for images on a CPU, and more for features, about what it
    takes by eigendecomposition there: the table is ``DecorrelatedBatchNorm1d``'s. What the iteration saves is the
    eigendecomposition, which the paper found slow on GPUs, and not the products of matrices with all values.

    Args:
        num_features: C.
        eps: :math:`\epsilon`, added to the diagonal of the covariance.
        momentum: weight of the new batch in the running statistics; None for the plain average.
        affine: whether to learn :math:`\gamma` and :math:`\beta`, one per channel.
        track_running_stats: whether to keep statistics for inference; without them, batch statistics are used
            in eval mode too.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether to learn :math:`\beta`.
        group_size: channels that are whitened together, which divides C; a layer with fewer is one group.
        steps: T, 5 in the paper.
        activation: :math:`f`, for example ``"relu"``; None for the identity.
        estimator: how batches become running statistics, as in ``BatchNorm1d``.

    Attributes:
        running_mean: shape (C,).
        running_covariance: (groups, size, size), unbiased, in the place of a running variance; inference takes as many
            steps from it. The paper averages the matrices of the batches, which is biased
            (``normwise.torch.layers.whitening``).

    ``forward`` takes ``residual``, ``mask`` and ``sample_weight`` as ``BatchNorm1d`` does; the mask and the weights are
    those of positions, which all channels share. A batch that is not finite in some channel of a group leaves that
    group's statistics as they were. The steps are made in pairs (``normwise.kernels.newton_root``), which are the
    paper's but for their rounding errors, so that any number of them is safe. For checkpoints and PyTorch's tools,
    see ``DecorrelatedBatchNorm1d``.

    Raises:
        ValueError: a ``group_size`` that does not divide C, a mask for single channels, and what ``BatchNorm1d``
            refuses.

    References:
        Huang, Zhou, Zhu, Liu and Shao, Iterative normalization: beyond standardization towards efficient whitening,
        2019.

    Example:
        >>> import torch
        >>> from normwise.torch import IterativeNorm1d
        >>> layer = IterativeNorm1d(2, eps=1e-8, steps=20)
        >>> y = layer(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 1.0], [3.0, 4.0]]))
        >>> (y.T @ y / 4).detach().round(decimals=4).abs()
        tensor([[1., 0.],
                [0., 1.]])
    """


class IterativeNorm2d(IterativeNorm, torch.nn.BatchNorm2d):
    """Batch whitening of (N, C, H, W) by Newton steps; arguments as ``IterativeNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import IterativeNorm2d
        >>> IterativeNorm2d(16, activation="relu")(torch.randn(4, 16, 8, 8)).shape
        torch.Size([4, 16, 8, 8])
    """


class IterativeNorm3d(IterativeNorm, torch.nn.BatchNorm3d):
    """Batch whitening of (N, C, D, H, W) by Newton steps; arguments as ``IterativeNorm1d``.

    Example:
        >>> import torch
        >>> from normwise.torch import IterativeNorm3d
        >>> IterativeNorm3d(4)(torch.randn(2, 4, 3, 3, 3)).shape
        torch.Size([2, 4, 3, 3, 3])
    """
