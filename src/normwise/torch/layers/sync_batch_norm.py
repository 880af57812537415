"""Batch normalization over the batches of several processes, which are taken for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from normwise.estimators import Estimator
from normwise.torch.layers.batch_norm import torch_bias
from normwise.torch.layers.joint_forward import joint_forward
from normwise.torch.layers.left_away import added_late, is_larger
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.steps.checks import refuse_nested


class SyncBatchNorm(TrackedBatchNorm):
    r"""Batch normalization by the moments of all processes' batches together, a drop-in for ``torch.nn.SyncBatchNorm``.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big), \quad
        n = \sum_k n_k, \quad \mu = \sum_k \tfrac{n_k}{n} \mu_k, \quad
        v = \sum_k \tfrac{n_k}{n} \big(v_k + (\mu_k - \mu)^2\big)

    with :math:`\mu_k, v_k, n_k` of process k. On every device and backend of ``torch.distributed`` that has
    ``all_gather`` and ``all_reduce`` of float64: gloo on CPUs, with which it is tested, nccl on GPUs. The parts may be
    of any sizes, and a process without any samples still calls the layer, with an input of shape (0, C, ...), and the
    backward. There is one collective call in the forward and one in the backward, where the input is to have a
    gradient; all processes have to come to the layers in the same order.

    The output, the gradient of ``input`` and the running statistics are those of one process with all batches. The
    gradients of weight and bias are those of a process's own part, as torch's are: ``DistributedDataParallel``
    averages them. The running statistics are the same in all processes, bit for bit; a batch that is not finite in
    one of them enters in none.

    In inference, in one process alone and without a process group it is plain batch normalization, as torch's layer
    is. It has first derivatives only, is left out of graphs by ``torch.compile`` (so not with ``fullgraph=True``), and
    ``torch.func`` cannot transform it. ``torch.utils.checkpoint`` can run it again, if it does so in all processes.

    Args:
        num_features: C.
        eps: :math:`\epsilon`, added to the variance.
        momentum: weight of the new batch in the running statistics; None for the plain average.
        affine: whether to learn :math:`\gamma` and :math:`\beta`.
        track_running_stats: whether to keep statistics for inference; without them, batch statistics are used in
            eval mode too, there those of each process's own batch.
        process_group: whose batches are taken together; None for all processes.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether to learn :math:`\beta`.
        activation: :math:`f`, for example ``"relu"``; None for the identity.
        estimator: how batches become running statistics, as in ``BatchNorm1d``.
        on_tiny_batch: what to do with too few values per channel in all processes together, as in ``BatchNorm1d``.

    ``forward`` takes inputs of any number of axes from two on, and ``residual``, ``mask`` and ``sample_weight`` as
    ``BatchNorm1d`` does, each process those of its part. The ``state_dict`` is that of torch's layers. Copies share
    the process group.

    Raises:
        ValueError: fewer than two values per channel in all processes together, and what ``BatchNorm1d`` refuses.
        NormwiseError: another process ended, or is later than the group's timeout (with gloo; nccl ends the process
            itself); it is at another layer of the model (on CPUs, for layers that ``convert_to_synchronized`` made);
            this process is not in the group; ``torch.func`` is transforming the call.

    References:
        Ioffe and Szegedy, Batch normalization, 2015. Peng et al., MegDet: a large mini-batch object detector, 2018
        (moments over several devices). Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for
        computing sample variances, 1979.

    Example:
        >>> import torch
        >>> from normwise.torch import SyncBatchNorm
        >>> layer = SyncBatchNorm(16, activation="relu")
        >>> layer.load_state_dict(torch.nn.SyncBatchNorm(16).state_dict())
        <All keys matched successfully>
        >>> layer(torch.randn(8, 16, 4, 4)).shape  # no process group: plain batch normalization
        torch.Size([8, 16, 4, 4])
    """

    why_not_joined = "it is synchronized already"
    # What the layer was made of and where, for the conversion back and for errors; ``class_change`` sets both.
    _was: type[torch.nn.Module] | None = None
    # How a whole model is converted: ``models/conversion`` stands above the layers and sets it.
    _convert: ClassVar[Callable[[torch.nn.Module, Any, str], object] | None] = None
    _place: str | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        estimator: Estimator | str | None = None,
        on_tiny_batch: str = "error",
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **torch_bias(bias))
        self.process_group = process_group
        self._settle(activation, estimator, on_tiny_batch)

    @property
    def process_group(self) -> Any:
        """Whose batches are taken together; None for all processes."""
        return self._group.group

    @process_group.setter
    def process_group(self, group: Any) -> None:
        if isinstance(group, str | list | tuple):
            raise TypeError(
                f"process_group must be a group of torch.distributed, as new_group makes it, received {group!r}: leave "
                "it out for all processes."
            )
        self._group = _Group(group)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """``activation(normalize(input) + residual)``; see ``normwise.torch.functional.batch_norm`` for the shapes."""
        self._check_input_dim(input)
        if residual is not None and is_larger(self, input, residual):
            return added_late(self, input, residual, mask=mask, sample_weight=sample_weight)
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            joined = joint_forward
            if torch.compiler.is_compiling():
                from normwise.torch.layers.joint_compiled import joint_forward as joined
            y: Tensor | None = joined(self, input, residual, mask, sample_weight)
            if y is not None:
                return y
        return super().forward(input, residual, mask=mask, sample_weight=sample_weight)

    def _check_input_dim(self, input: Tensor) -> None:
        """Refuse an input of fewer than two axes, of no channels or of nested tensors, in torch's words."""
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.is_nested:
            refuse_nested(self)
        if input.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    def called(self) -> str:
        """The name of the layer in errors."""
        return f"{type(self).__name__}({self.extra_repr()})" if self._place is None else f"batch norm {self._place!r}"

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> torch.nn.Module:
        """Synchronize the plain batch norms of a model and return the model, as torch's method of that name does.

        ``normwise.torch.convert_to_synchronized`` does the same and says what it left and why.

        Args:
            module: changed in place.
            process_group: whose batches are taken together; None for all processes.

        Example:
            >>> import torch
            >>> from normwise.torch import SyncBatchNorm
            >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
            >>> type(SyncBatchNorm.convert_sync_batchnorm(model)[1]).__name__
            'SyncBatchNorm'
        """
        assert cls._convert is not None  # by whatever imports normwise.torch
        cls._convert(module, process_group, "SyncBatchNorm.convert_sync_batchnorm")
        return module


class _Group:
    """A process group in a layer's attributes, which copies of the layer share: it cannot be copied itself."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> _Group:
        return self
