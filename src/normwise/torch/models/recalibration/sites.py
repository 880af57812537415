"""The batch norms of a model whose statistics are to be estimated, and those that are left, with the reason."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.estimators import Estimator, estimator_class, named
from normwise.estimators.cumulative import Cumulative
from normwise.recalibration.asked import names_asked
from normwise.torch.layers.frozen import FrozenStatistics
from normwise.torch.layers.whitening import Whitening
from normwise.torch.models.feeding import unwrapped
from normwise.torch.models.model_checks import out_of_reach
from normwise.torch.models.recalibration.torch_layer import TorchLayer


def survey(
    model: nn.Module, layers: Collection[str] | None, *, covariances: bool = False
) -> tuple[list[TorchLayer], dict[str, str]]:
    """The layers whose statistics are to be estimated, and those that are not, with the reason.

    Args:
        model: any module.
        layers: the names of the only ones to change, or None.
        covariances: whether who asks can do with layers that keep a covariance.

    Raises:
        UnknownName: ``layers`` names what is no batch norm of the model.
        TypeError: ``layers`` is a string.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    layers = names_asked(layers, norms, "batch norm")
    found, skipped = [], out_of_reach(model)
    for name, norm in norms.items():
        why = _reason_to_skip(norm, model, None if layers is None else name in layers, covariances)
        if why is None:
            found.append(TorchLayer(name, norm))
        else:
            skipped[name] = why
    return found, skipped


def _reason_to_skip(norm: _BatchNorm, model: nn.Module, asked: bool | None, covariances: bool) -> str | None:
    if isinstance(norm, Whitening):
        spread = norm.running_covariance
        if spread is not None and not covariances:
            return "it whitens, and keeps a covariance: normwise.recalibrate estimates that from data"
    else:
        spread = norm.running_var
    if norm.running_mean is None or spread is None:
        return "it keeps no running statistics and uses batch statistics in eval mode too"
    if asked is not None:
        return None if asked else "it was not asked for"
    if isinstance(norm, FrozenStatistics):
        return "it is frozen: normwise.freeze froze its statistics"
    if unwrapped(model).training and not norm.training:
        return "it is frozen: in inference mode while the model is in training mode"
    if norm.momentum == 0:
        return "it is frozen: its momentum is 0"
    own = list(norm.parameters(recurse=False))
    if own and not any(each.requires_grad for each in own) and any(each.requires_grad for each in model.parameters()):
        return "it is frozen: its weight and bias do not learn while others do"
    return None


def estimator_for(norm: _BatchNorm, estimator: Estimator | str) -> Estimator:
    """One that is given by name takes the weight of a new batch from the layer, where it has one.

    Raises:
        UnknownName: there is no such estimator.
        NormwiseError: it needs settings that were not given.
    """
    if isinstance(estimator, Estimator):
        return estimator
    if norm.momentum is None and "weight_of_new" in estimator_class(estimator).__annotations__:
        return Cumulative()  # what torch's layer does then
    return named(estimator, weight_of_new=norm.momentum)
