"""The settings that tools of torch would silently drop from a layer, and how that is noticed.

``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` builds a new layer for everything that is a batch norm by its class,
from the attributes that torch's layers have. An activation, an estimator or a policy is gone then; virtual batches,
renormalization and whitening too. ``torch.nn.utils.fuse_conv_bn_eval`` and ``fuse_linear_bn_eval`` put the affine map
of a layer into the one before it, ``torch.utils.mkldnn.to_mkldnn`` and the quantized batch norms build another of its
numbers, and all of them lose the activation. None offers a hook, but the first asks every batch norm for a ``qconfig``
(which quantization sets), the others for its ``running_var``, and all are known by their code.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from normwise.errors import NormwiseError

CONVERSION: CodeType = nn.SyncBatchNorm.convert_sync_batchnorm.__func__.__code__  # type: ignore[attr-defined]  # a method
_UNFUSED = "build the layer without activation= and put the activation behind it, or leave it unfused."
_HALF_DONE = (
    "build the model again, of which it has converted a part by now, with the activation behind the layer and not in "
    "it."
)
# Where the code of a tool is: what it is called, and what to do instead.
_TOOLS = {
    "torch.nn.utils.fusion": ("torch.nn.utils.{function}", _UNFUSED),
    "torch.utils.mkldnn": ("torch.utils.mkldnn.to_mkldnn", _HALF_DONE),
    "torch.ao.nn.quantized.modules.batchnorm": ("{function} of torch.ao.nn.quantized's batch norms", _HALF_DONE),
}
_PLAIN = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")


def beyond_torch(layer: Any) -> list[str]:
    """The settings of a layer of normwise that torch's batch norm does not have, in words."""
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
        if sys._getframe(1).f_code is CONVERSION:
            lost = beyond_torch(layer)
            if lost:
                raise NormwiseError(
                    "torch.nn.SyncBatchNorm.convert_sync_batchnorm would make a torch.nn.SyncBatchNorm of "
                    f"{type(layer).__name__}({layer.extra_repr()}), without {', '.join(lost)}: build the model again, "
                    "of which it has converted a part by now, and use normwise.torch.convert_to_synchronized."
                )
        raise AttributeError(f"{owner.__name__!r} object has no attribute 'qconfig'")


def check_fusion(layer: Any) -> None:
    """Refuse if what asked the caller for an attribute would build the layer again and lose its activation.

    Raises:
        NormwiseError: says so.
    """
    asking = sys._getframe(2)
    found = _TOOLS.get(asking.f_globals.get("__name__", ""))
    if found is not None and layer.activation is not None:
        tool, instead = found
        raise NormwiseError(
            f"{tool.format(function=asking.f_code.co_name)} would lose the activation of "
            f"{type(layer).__name__}({layer.extra_repr()}): {instead}"
        )


def check_pairing(layer: Any) -> None:
    """Refuse if what asked for ``parametrizations`` takes layers of exactly PyTorch's own classes only.

    ``torch.ao.quantization.fuse_modules`` and ``fuse_modules_qat`` look for a pair of classes in a table, and the pairs
    of ``torch.ao.nn.intrinsic`` compare classes; in both, PyTorch's words name classes and no way out. A table of the
    caller's own may well have these layers. Of a layer that does something else at inference PyTorch's words are right.

    Raises:
        NormwiseError: says which layers to put there.
    """
    if layer.unlike_torch is not None:
        return
    asking = sys._getframe(4)  # behind __getattr__, is_parametrized, type_before_parametrizations
    if asking.f_code.co_name == "<genexpr>" and asking.f_back is not None:
        asking = asking.f_back
    module = asking.f_globals.get("__name__", "")
    if module == "torch.ao.quantization.fuse_modules" and not asking.f_locals.get("additional_fuser_method_mapping"):
        tool = "torch.ao.quantization.fuse_modules"
    elif module == "torch.ao.nn.intrinsic.modules.fused":
        tool = f"torch.ao.nn.intrinsic.{type(asking.f_locals.get('self')).__name__}"
    else:
        return
    raise NormwiseError(
        f"{tool} takes layers of exactly PyTorch's own classes, received {type(layer).__name__}"
        f"({layer.extra_repr()}): call normwise.swap(model, to='torch') before, or normwise.fold(model) for inference."
    )
