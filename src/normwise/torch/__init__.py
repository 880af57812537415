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
from normwise.torch.layers import replacement_guard
from normwise.torch.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normwise.torch.layers.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from normwise.torch.layers.decorrelated_batch_norm import (
    DecorrelatedBatchNorm1d,
    DecorrelatedBatchNorm2d,
    DecorrelatedBatchNorm3d,
)
from normwise.torch.layers.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from normwise.torch.layers.group_norm import GroupNorm
from normwise.torch.layers.instance_norm import (
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LazyInstanceNorm1d,
    LazyInstanceNorm2d,
    LazyInstanceNorm3d,
)
from normwise.torch.layers.iterative_norm import IterativeNorm1d, IterativeNorm2d, IterativeNorm3d
from normwise.torch.layers.layer_norm import LayerNorm
from normwise.torch.layers.lazy_batch_norm import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from normwise.torch.layers.per_domain import PerDomain
from normwise.torch.layers.renorm_schedule import RenormSchedule
from normwise.torch.layers.state import BatchNormState, batch_norm_with_state
from normwise.torch.layers.sync_batch_norm import SyncBatchNorm
from normwise.torch.models.accumulation.accumulate import accumulate_gradients, forward_together
from normwise.torch.models.conversion.domains import convert_from_domains, convert_to_domains
from normwise.torch.models.conversion.synchronized import convert_from_synchronized, convert_to_synchronized
from normwise.torch.models.domain import domain
from normwise.torch.models.domain_statistics import statistics_from
from normwise.torch.models.param_groups import param_groups
from normwise.torch.models.paused import paused_statistics
from normwise.torch.models.pooling import pool_statistics
from normwise.torch.steps import triton_operators
from normwise.torch.steps.memory import release_memory

if built():
    from normwise.torch.steps import graph_operators, operators

    operators.register()
    graph_operators.register()
triton_operators.register()
replacement_guard.register()

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
