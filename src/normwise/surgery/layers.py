"""Doors to other layers in a model: fused, with statistics per domain, or synchronized."""

# mypy: disable-error-code="empty-body"
# A door has a signature and a docstring; its decorator is the body.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normwise.surgery.door import door, lazy_import_module

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from normwise.torch.layers.class_change import Kind
    from normwise.torch.models.conversion.domains import DomainConversion
    from normwise.torch.models.conversion.synchronized import SyncConversion
    from normwise.torch.models.fusion.fuse import FuseReport

__all__ = [
    "convert_from_domains",
    "convert_from_synchronized",
    "convert_to_domains",
    "convert_to_synchronized",
    "fuse",
]


@door(torch=lazy_import_module("normwise.torch.models.fusion.fuse", "fuse"))
def fuse(model: nn.Module) -> FuseReport:
    r"""Let the batch norms of a PyTorch model do the activation and the residual addition that follow them.

    .. math:: f(\mathrm{bn}(x) + r) \quad\text{in one layer instead of three}

    The model stays what it is: the same modules under the same names, the same parameters and buffers, ``state_dict``
    keys, hooks, modes, devices and dtypes. Outputs, gradients and running statistics are the same within rounding. A
    module is left as it is if ``fuse`` cannot follow its forward (control flow that depends on the data), or if other
    code calls one of its parts directly. A forward that ``fuse`` rewrote is valid for the settings that the module and
    its parts have now, and raises an error with others; it keeps the values that global variables have now.

    An activation that the batch norm does is an ``Identity`` afterwards. An assignment to one of the two places by
    which the model would lose the activation, or do another one too, is an error. What calls a part of the model, or
    hooks into the batch norm, gets the fused layer: change the model first, and fuse then.

    On any error the model is as before.

    Args:
        model: a ``torch.nn.Module`` on any device, changed in place; before ``fully_shard`` and ``AveragedModel``.

    Returns:
        which batch norms were fused, which were only swapped for normwise's own, and which were left, and why.

    Raises:
        UnsuitableModel: not a PyTorch model, or one that torch.jit or torch.export compiled.

    Example:
        >>> import torch
        >>> from normwise import fuse
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.SiLU())
        >>> fuse(model).fused
        {'1': 'silu'}
    """


@door(torch=lazy_import_module("normwise.torch.models.conversion.domains", "convert_to_domains"))
def convert_to_domains(
    model: nn.Module, domains: Iterable[str], *, own_affine: bool = False, default: str | None = None
) -> DomainConversion:
    """Give every layer with running statistics in a PyTorch model one set of them per domain, which starts as a copy.

    Modes, hooks, devices and dtypes stay, and so do the parameters, unless ``own_affine`` gives each domain its own: in
    this case build the optimizer afterwards. On any error the model is as before.

    Args:
        model: a ``torch.nn.Module`` with normwise's or PyTorch's layers, changed in place.
        domains: the names of the domains.
        own_affine: whether every domain also gets a weight and a bias of its own.
        default: the domain that is used until the program chooses one with ``normwise.torch.domain``.

    Returns:
        the model (if it is itself such a layer, the layer that replaces it); which layers were replaced; and which
        normalization layers were left, and why.

    Raises:
        UnsuitableModel: not a PyTorch model, or one that torch.jit or torch.export compiled.
        NormwiseError: there is no layer to convert.
        ValueError: no domain, the same domain twice, an empty name or one with a dot.
        TypeError: ``domains`` is a string or holds something else than strings.

    Example:
        >>> import torch
        >>> from normwise import convert_to_domains
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU())
        >>> convert_to_domains(model, ["day", "night"]).layers
        ['1']
    """


@door(torch=lazy_import_module("normwise.torch.models.conversion.domains", "convert_from_domains"))
def convert_from_domains(model: nn.Module, domain: str) -> DomainConversion:
    """Keep the statistics of one domain only in every layer of a PyTorch model, to ship it as a plain model.

    Modes, hooks, devices and dtypes stay. On any error the model is as before.

    Args:
        model: a ``torch.nn.Module`` with ``PerDomain`` layers, changed in place.
        domain: the name of a domain that all of them have.

    Returns:
        the model (if it is itself such a layer, the layer that replaces it), and which layers were replaced.

    Raises:
        UnsuitableModel: not a PyTorch model, or one that torch.jit or torch.export compiled.
        UnknownName: a layer does not have the domain.
        NormwiseError: the model has no ``PerDomain`` layer.

    Example:
        >>> import torch
        >>> from normwise import convert_from_domains, convert_to_domains
        >>> model = convert_to_domains(torch.nn.Sequential(torch.nn.BatchNorm1d(8)), ["day", "night"]).model
        >>> type(convert_from_domains(model, "night").model[0])
        <class 'torch.nn.modules.batchnorm.BatchNorm1d'>
    """


@door(torch=lazy_import_module("normwise.torch.models.conversion.synchronized", "convert_to_synchronized"))
def convert_to_synchronized(model: nn.Module, process_group: Any = None) -> SyncConversion:
    """Let every plain batch norm of a PyTorch model take its statistics over the batches of all processes.

    The layers themselves, their parameters and buffers, modes, hooks, devices and dtypes stay, and so do activations,
    estimators and policies. On any error the model is as before.

    Args:
        model: a ``torch.nn.Module``, changed in place; before it is wrapped in ``DistributedDataParallel``.
        process_group: the group of ``torch.distributed`` whose batches are taken together. None: all processes, and
            for a ``torch.nn.SyncBatchNorm`` the group that it has.

    Returns:
        the model, which layers were converted, and which were left, and why.

    Raises:
        UnsuitableModel: not a PyTorch model, or one that torch.jit or torch.export compiled.
        NormwiseError: there is no layer to convert.

    Example:
        >>> import torch
        >>> from normwise import convert_to_synchronized
        >>> convert_to_synchronized(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))).layers
        ['1']
    """


@door(torch=lazy_import_module("normwise.torch.models.conversion.synchronized", "convert_from_synchronized"))
def convert_from_synchronized(model: nn.Module, *, plain: Kind | None = None) -> SyncConversion:
    """Make synchronized batch norms of a PyTorch model plain again, for one process: to ship, export or debug it.

    A layer that was converted becomes what it was. On any error the model is as before.

    Args:
        model: a ``torch.nn.Module`` with normwise's or PyTorch's ``SyncBatchNorm``, changed in place.
        plain: the class that layers get which were synchronized from the start, for example
            ``normwise.torch.BatchNorm2d``; without it they are left.

    Returns:
        the model, which layers were converted, and which were left, and why.

    Raises:
        UnsuitableModel: not a PyTorch model, or one that torch.jit or torch.export compiled.
        TypeError: ``plain`` is no plain batch norm.
        NormwiseError: there is no layer to convert.

    Example:
        >>> import torch
        >>> from normwise import convert_from_synchronized, convert_to_synchronized
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm2d(8))
        >>> _ = convert_to_synchronized(model)
        >>> convert_from_synchronized(model).layers
        ['0']
    """
