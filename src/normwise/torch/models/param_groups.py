"""Groups for an optimizer, in which the parameters of normalization layers do not decay."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from normwise.errors import NormwiseError
from normwise.recalibration.asked import as_number
from normwise.torch.models.model_checks import ALL_NORMS, check_model, check_reach

TORCHS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
# What layers of other packages are called: LayerNorm2d, LlamaRMSNorm, SyncBatchNorm, EvoNorm2dS0, FilterResponseNorm.
NAME = re.compile(r"Norm(alization)?(\d+d\w{0,2})?$")


def param_groups(
    model: nn.Module,
    weight_decay: float,
    decay_norm: bool = False,
    *,
    decay_bias: bool = True,
    norm_types: tuple[type[nn.Module], ...] = (),
) -> list[dict[str, Any]]:
    r"""Groups of parameters for an optimizer: the scale and shift of every normalization layer do not decay.

    Decay draws :math:`\gamma` towards 0, which shuts a channel, and not a simpler function: the weights before a
    normalization layer can be of any size without a change of its output, its own scale cannot. Whether that hurts is
    a matter of the network; most recipes leave it out, and many leave out all biases too.

    Every parameter of the model is in exactly one group, and in the model's order in it: one that is shared counts
    once, and does not decay if one of its places says so; frozen ones are there too, for the day that they learn, as
    optimizers pass by what has no gradient.

    Args:
        model: any module.
        weight_decay: for the parameters that decay, 0 or more.
        decay_norm: whether those of normalization layers do.
        decay_bias: whether what is called ``bias`` elsewhere does.
        norm_types: classes that are normalization layers too. Known are PyTorch's, normwise's and what is derived from
            them, and by their names those of other packages: every class whose name ends in ``Norm``, ``Norm2d`` or
            the like. Only what a layer itself holds counts, not what lies in modules within it.

    Returns:
        one or two groups, of which none is empty: with ``params``, ``weight_decay``, and a ``name``: ``"decayed"`` or
        ``"not decayed"``.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one in whose code normalization cannot be told from the rest.
        NormwiseError: a weight decay that is none, or a model without parameters.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from normwise.torch import param_groups
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(10))
        >>> groups = param_groups(model, weight_decay=5e-4)
        >>> [(group["name"], group["weight_decay"], len(group["params"])) for group in groups]
        [('decayed', 0.0005, 4), ('not decayed', 0.0, 2)]
        >>> optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    """
    check_model(model, called="param_groups", code=True)
    check_reach(model, called="param_groups", kinds=ALL_NORMS)
    if not 0 <= as_number(weight_decay) < math.inf:
        raise NormwiseError(f"weight_decay must be 0 or more, received {weight_decay!r}: pass for example 5e-4.")
    spared: dict[int, bool] = {}
    for of_norm, name, parameter in _places(model, (*TORCHS, *norm_types)):
        here = not decay_norm if of_norm else name == "bias" and not decay_bias
        spared[id(parameter)] = spared.get(id(parameter), False) or here
    everything = list(model.parameters())
    groups = [
        {
            "name": name,
            "params": [parameter for parameter in everything if spared[id(parameter)] == without],
            "weight_decay": decay,
        }
        for name, without, decay in (("decayed", False, weight_decay), ("not decayed", True, 0.0))
    ]
    found = [group for group in groups if group["params"]]
    if not found:
        raise NormwiseError(f"{type(model).__name__} has no parameters, so there is nothing to optimize: pass a model.")
    return found


def _places(
    module: nn.Module, norms: tuple[type[nn.Module], ...], name: str = "", of_norm: bool = False
) -> Iterator[tuple[bool, str, nn.Parameter]]:
    """Every place of every parameter: whether it is a normalization layer's, and what it is called there.

    A parametrized one (``torch.nn.utils.parametrize``) lies deeper, and is what its layer and its name say.
    """
    parametrized = isinstance(module, nn.utils.parametrize.ParametrizationList)
    if not parametrized:
        of_norm = isinstance(module, norms) or NAME.search(type(module).__name__) is not None
    for own, parameter in module._parameters.items():
        if parameter is not None:
            yield of_norm, name if parametrized else own, parameter
    for child_name, child in module._modules.items():
        if child_name == "parametrizations" and child is not None:
            for own, way in child._modules.items():
                if way is not None:
                    yield from _places(way, norms, own, of_norm)
        elif child is not None:
            yield from _places(child, norms)
