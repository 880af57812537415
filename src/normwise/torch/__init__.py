"""Normalization for PyTorch: drop-in layers, in PyTorch's names.

Local response normalization, RMS and spectral normalization, weight normalization and dropout are not here: PyTorch has
them (``torch.nn.LocalResponseNorm``, ``torch.nn.RMSNorm``, ``torch.nn.utils.parametrizations``, ``torch.nn.Dropout``),
there is nothing to mend in them, and they work next to these layers.

Example:
    >>> import torch
    >>> from normwise.torch import BatchNorm2d
    >>> layer = BatchNorm2d(16, activation="relu")
    >>> layer(torch.randn(8, 16, 4, 4)).min().item()
    0.0
"""

from normwise.errors import MissingExtra, NormwiseError

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtra("torch", extra="torch") from error

if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
    raise NormwiseError(
        f"normwise.torch needs PyTorch 2.11 or newer, received {torch.__version__}: "
        "upgrade it with: pip install --upgrade torch"
    )

from normwise.kernels.choose import built
from normwise.torch import functional
from normwise.torch.accumulation import accumulate_gradients, forward_together
from normwise.torch.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normwise.torch.decorrelated import DecorrelatedBatchNorm1d, DecorrelatedBatchNorm2d, DecorrelatedBatchNorm3d
from normwise.torch.domain_choice import domain
from normwise.torch.domain_conversion import convert_from_domains, convert_to_domains
from normwise.torch.domains import PerDomain, statistics_from
from normwise.torch.ghost import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from normwise.torch.groupnorm import GroupNorm
from normwise.torch.instancenorm import (
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LazyInstanceNorm1d,
    LazyInstanceNorm2d,
    LazyInstanceNorm3d,
)
from normwise.torch.iterative_norm import IterativeNorm1d, IterativeNorm2d, IterativeNorm3d
from normwise.torch.layernorm import LayerNorm
from normwise.torch.lazy import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from normwise.torch.memory import release_memory
from normwise.torch.param_groups import param_groups
from normwise.torch.pooling import pool_statistics
from normwise.torch.renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from normwise.torch.renorm_schedule import RenormSchedule
from normwise.torch.state import BatchNormState, batch_norm_with_state
from normwise.torch.statistics import paused_statistics
from normwise.torch.sync_conversion import convert_from_synchronized, convert_to_synchronized
from normwise.torch.synchronized import SyncBatchNorm

if built():
    from normwise.torch import operators

    operators.register()

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormState",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "DecorrelatedBatchNorm1d",
    "DecorrelatedBatchNorm2d",
    "DecorrelatedBatchNorm3d",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "IterativeNorm1d",
    "IterativeNorm2d",
    "IterativeNorm3d",
    "LayerNorm",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "PerDomain",
    "RenormSchedule",
    "SyncBatchNorm",
    "accumulate_gradients",
    "batch_norm_with_state",
    "convert_from_domains",
    "convert_from_synchronized",
    "convert_to_domains",
    "convert_to_synchronized",
    "domain",
    "forward_together",
    "functional",
    "param_groups",
    "paused_statistics",
    "pool_statistics",
    "release_memory",
    "statistics_from",
]
