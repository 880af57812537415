"""A batch norm of a user's own class becomes one of normwise's too: a class above both, which pickles as its own."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from normwise.kernels.torch_activations import activate
from normwise.torch.layers.class_change import OURS
from normwise.torch.layers.counterparts import become_torch
from normwise.torch.layers.left_away import activation_now
from normwise.torch.layers.recordable import at_home
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.models.fusion.settings import setting_now
from normwise.torch.models.fusion.subclasses import RANKS, Inside

_classes: WeakValueDictionary[type[nn.Module], type[nn.Module]] = WeakValueDictionary()


def become_both(norm: nn.Module, inside: Inside, activation: str | None) -> None:
    """Make a batch norm of a user's own class normwise's as well; parameters, buffers and children stay the same.

    Args:
        norm: whose class ``inside_of`` was asked about.
        inside: what that said.
        activation: what the layer does from now on: its own, or what follows it.
    """
    norm.__class__ = _class(type(norm), inside.base)
    norm._inside = inside  # type: ignore[assignment]  # no module: its children stand in a tuple, and stay what they are
    with torch.device("cpu"):
        norm._settle(activation, None)  # type: ignore[operator]  # of TrackedBatchNorm


def inside_kept(norm: nn.Module) -> Inside | None:
    """The computation of the layer's own class, where ``become_both`` changed the layer; else None."""
    found: Inside | None = vars(norm).get("_inside")
    return found


def become_own(norm: Any) -> None:
    """Undo ``become_both``: the layer is of its own class again; parameters, buffers and children stay the same.

    Args:
        norm: of a class that ``own_class`` knows.
    """
    become_torch(norm, own_class(norm))
    del vars(norm)["_inside"]


def own_class(norm: nn.Module) -> type[nn.Module] | None:
    """The class that ``become_both`` has put its own above, where that is the layer's; else None."""
    own = type(norm).__bases__[-1]
    return own if inside_kept(norm) is not None and _classes.get(own) is type(norm) else None


def why_not_as_fused(norm: nn.Module) -> str | None:
    """Why a layer that ``become_both`` changed computes by its own class's forward after all, or None."""
    inside = inside_kept(norm)
    if inside is None or _stands(norm, inside):
        return None
    return "a module or a setting inside of it was changed since it was fused"


def _class(own: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    """One class for all layers of a class, so that ``torch.compile`` compiles them once."""
    found = _classes.get(own)
    if found is not None:
        return found
    ranks = RANKS[base]

    def forward(self: Any, input: Tensor, residual: Tensor | None = None, **others: Any) -> Tensor:
        """Normwise's, as long as all stands that was there when the model was fused; else that of the layer's class."""
        inside: Inside = self._inside
        if input.dim() in ranks and _stands(self, inside):
            y: Tensor = TrackedBatchNorm.forward(self, input, residual, **others)
            return y
        y = own.forward(self, input, **others)
        behind = None if inside.activation is not None else activation_now(self)
        return y if residual is None and behind is None else activate(y.clone(), behind, residual)

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:  # noqa: ARG001  # pickle's signature
        return _blank, (own, base), self.__getstate__()

    body = {
        "__module__": at_home(own.__module__),
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
        "__reduce_ex__": reduce,
        "forward": forward,
    }
    made: type[nn.Module] = type(own.__name__, (OURS[base], own), body)
    _classes[own] = made
    return made


def _stands(norm: nn.Module, inside: Inside) -> bool:
    """True if the children and settings that the class's own forward uses are unchanged, and no child has hooks."""
    for name, child in inside.called:
        if norm._modules.get(name) is not child or child._forward_hooks or child._forward_pre_hooks:
            return False
        if child._backward_hooks or child._backward_pre_hooks:
            return False
    return all(setting_now(norm, name) == value for name, value in inside.settings)


def _blank(own: type[nn.Module], base: type[nn.Module]) -> nn.Module:
    """A layer without any state, for pickle and for deepcopy to fill."""
    made = _class(own, base)
    return made.__new__(made)
