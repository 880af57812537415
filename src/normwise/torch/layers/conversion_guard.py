"""What tools of torch would drop from a layer without a word, and how that is heard.

``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` builds a new layer for everything that is a batch norm by its class,
from the attributes that torch's have. An activation, an estimator or a policy is gone then; virtual batches,
renormalization and whitening too. ``torch.nn.utils.fuse_conv_bn_eval`` and ``fuse_linear_bn_eval`` put the affine map
of a layer into the one before it, and lose the activation. None offers a hook, but the first asks every batch norm for
a ``qconfig`` (which quantization sets), the others for its ``running_var``, and all are known by their code.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from normwise.errors import NormwiseError

_CONVERSION: CodeType = nn.SyncBatchNorm.convert_sync_batchnorm.__func__.__code__  # type: ignore[attr-defined]  # a method
_FUSIONS = {tool.__code__: tool.__name__ for tool in (fuse_conv_bn_eval, fuse_linear_bn_eval)}
_PLAIN = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")


def beyond_torch(layer: Any) -> list[str]:
    """What is set in a layer of normwise that torch's batch norm does not have."""
    found = []
    if type(layer).__name__ not in _PLAIN:
        found.append(f"all that {type(layer).__name__} adds")
    if layer.activation is not None:
        found.append("its activation")
    if layer.estimator is not None:
        found.append("its estimator")
    if layer.on_tiny_batch != "error":
        found.append("its on_tiny_batch")
    return found


class QConfig:
    """The attribute ``qconfig`` of a class of layers: absent until it is set, and it knows who asks."""

    def __get__(self, layer: _NormBase | None, owner: type) -> Any:
        if layer is None:
            return self
        if sys._getframe(1).f_code is _CONVERSION:
            lost = beyond_torch(layer)
            if lost:
                raise NormwiseError(
                    "torch.nn.SyncBatchNorm.convert_sync_batchnorm would make a torch.nn.SyncBatchNorm of "
                    f"{type(layer).__name__}({layer.extra_repr()}), without {', '.join(lost)}: build the model anew, "
                    "of which it has converted a part by now, and use normwise.torch.convert_to_synchronized."
                )
        raise AttributeError(f"{owner.__name__!r} object has no attribute 'qconfig'")


def check_fusion(layer: Any) -> None:
    """Refuse if what asked the caller for an attribute would fuse the layer and lose its activation.

    Raises:
        NormwiseError: says so.
    """
    tool = _FUSIONS.get(sys._getframe(2).f_code)
    if tool is not None and layer.activation is not None:
        raise NormwiseError(
            f"torch.nn.utils.{tool} would lose the activation of {type(layer).__name__}({layer.extra_repr()}): build "
            "the layer without activation= and put the activation behind it, or leave it unfused."
        )
