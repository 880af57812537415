"""A whole model from one set of running statistics to one per domain, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from normwise.errors import NormwiseError
from normwise.torch.layers.per_domain import HOOKS, PerDomain, reason_against
from normwise.torch.models.model_checks import check_model, has_forward, out_of_reach, why_fixed
from normwise.torch.models.transaction import transaction


class DomainConversion(NamedTuple):
    """The result of a conversion to layers with domains, or from them.

    Attributes:
        model: the model that was given, or what stands in its place where it was such a layer itself.
        layers: the names of the layers that were replaced; a layer with several names has all of them here.
        left: the names of normalization layers that were not, with the reason.
    """

    model: nn.Module
    layers: list[str]
    left: dict[str, str]


def convert_to_domains(
    model: nn.Module, domains: Iterable[str], *, own_affine: bool = False, default: str | None = None
) -> DomainConversion:
    """Give every layer with running statistics a set of them for each domain, all starting from what it has.

    In place. Modes, hooks, devices and dtypes stay; so do the parameters themselves, unless ``own_affine`` asks for
    one of each per domain: build the optimizer afterwards then. On any error the model is as before.

    Args:
        model: with normwise's or torch's layers.
        domains: the names.
        own_affine: whether every domain also gets a weight and a bias of its own.
        default: the domain where none is chosen.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        NormwiseError: there is no layer to convert.
        ValueError: as ``PerDomain`` does.
        TypeError: as ``PerDomain`` does.

    Example:
        >>> from torch import nn
        >>> from normwise.torch import convert_to_domains
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        >>> convert_to_domains(model, ["day", "night"]).layers
        ['1']
        >>> model[1].domains
        ('day', 'night')
    """
    check_model(model, called="convert_to_domains")
    names = domains if isinstance(domains, str) else list(domains)
    left, fixed = out_of_reach(model), _why_fixed(model, own_affine)

    def made(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, PerDomain):
            left[name] = f"it has the domains {', '.join(module.domains)} already"
            return None
        if isinstance(module, torch.jit.ScriptModule) or "running_mean" not in module._buffers:
            return None
        if not has_forward(module):
            return None
        reason = fixed.get(id(module)) or reason_against(module)
        if reason is not None:
            left[name] = reason
            return None
        layer = PerDomain(module, names, own_affine=own_affine, default=default)
        _move_hooks(module, layer)
        return layer

    with transaction(model):
        after, layers = _replaced(model, made)
        if not layers:
            why = "".join(f" ({name or 'itself'}: {reason})" for name, reason in left.items())
            raise NormwiseError(
                f"{type(model).__name__} has no layer with running statistics{why}: nothing can differ by domain."
            )
    return DomainConversion(after, layers, left)


def convert_from_domains(model: nn.Module, domain: str) -> DomainConversion:
    """Leave every layer the statistics of one domain only: the plain model for that domain, for shipping it.

    In place; modes, hooks, devices and dtypes stay. On any error the model is as before.

    Args:
        model: with ``PerDomain`` layers.
        domain: one that all of them have.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        UnknownName: a layer does not have the domain.
        NormwiseError: there is no such layer.

    Example:
        >>> from torch import nn
        >>> from normwise.torch import convert_from_domains, convert_to_domains
        >>> model = convert_to_domains(nn.Sequential(nn.BatchNorm1d(8)), ["day", "night"]).model
        >>> type(convert_from_domains(model, "night").model[0])
        <class 'torch.nn.modules.batchnorm.BatchNorm1d'>
    """
    check_model(model, called="convert_from_domains")

    def made(_: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, PerDomain):
            return None
        layer: nn.Module = module.of(domain)
        _move_hooks(module, layer)
        return layer

    with transaction(model):
        after, layers = _replaced(model, made)
        if not layers:
            raise NormwiseError(f"{type(model).__name__} has no layer with statistics per domain: it is plain already.")
    return DomainConversion(after, layers, {})


def _why_fixed(model: nn.Module, own_affine: bool) -> dict[int, str]:
    """The layers of ``why_fixed``, and those where a new layer, or parameters of its own, would not be used -> why."""
    found = why_fixed(model)
    for module in model.modules():
        compiled = None if isinstance(module, torch.jit.ScriptModule) else module._modules.get("_orig_mod")
        if compiled is not None:
            found.setdefault(id(compiled), "torch.compile has compiled this very layer: do this before that")
        if own_affine and isinstance(module, nn.parallel.DistributedDataParallel):
            for inner in module.modules():
                why = "DistributedDataParallel knows no parameters that come now: do this to the model before"
                found.setdefault(id(inner), why)
    return found


def _replaced(model: nn.Module, made: Callable[[str, nn.Module], nn.Module | None]) -> tuple[nn.Module, list[str]]:
    """The model with other layers in the places of some, one and the same wherever one and the same was."""
    stands_for: dict[nn.Module, nn.Module] = {}
    layers = []

    def visit(name: str, module: nn.Module) -> nn.Module:
        if module in stands_for:
            after = stands_for[module]
            if after is not module:
                layers.append(name)
            return after
        after = made(name, module) or module
        stands_for[module] = after
        if after is not module:
            layers.append(name)
        elif not isinstance(module, PerDomain):
            for key, child in module._modules.items():
                if child is not None:
                    module._modules[key] = visit(f"{name}.{key}" if name else key, child)
        return after

    return visit("", model), layers


def _move_hooks(source: nn.Module, target: Any) -> None:
    """Hooks go with the place in the model: their handles hold these very dictionaries."""
    for name in (*HOOKS, "_is_full_backward_hook"):
        empty = None if name == "_is_full_backward_hook" else type(getattr(source, name))()
        setattr(target, name, getattr(source, name))
        setattr(source, name, empty)
