"""PyTorch's own modules and forwards in the place of what ``fold`` has left of the layers of a fused model."""

from __future__ import annotations

from torch import nn

from normwise.torch.layers.activation import Activation
from normwise.torch.models.conversion.swap_places import Place, Places
from normwise.torch.models.fusion.activation_calls import activation_of, module_of
from normwise.torch.models.fusion.rewriting import fused_from, layers_fused_in


def rests_in(model: nn.Module) -> dict[nn.Module, str]:
    """The modules that ``fold`` made and that only normwise has, or that stand in a forward of normwise, with names.

    The latter, activations of PyTorch, become such modules too, because they do not say that ``fold`` made them.

    Args:
        model: changed in place.

    Example:
        >>> rests_in(nn.Sequential(Activation("relu"), nn.ReLU()))
        {Activation(relu): '0'}
    """
    for owner in model.modules():
        for layer in layers_fused_in(owner) if fused_from(owner) is not None else ():
            activation = activation_of(layer)
            if activation is not None:
                _replace(model, layer, Activation(activation))
    return {module: name for name, module in model.named_modules() if type(module) is Activation}


def stands_by_itself(rest: nn.Module, places: Places) -> bool:
    """True if all calls of the module give it its input and nothing to add."""
    found = places.of(rest)
    return not isinstance(found, str) and not any(_given_more(place) for place in found)


def _given_more(place: Place) -> bool:
    return any(len(node.args) != 1 or node.kwargs for node in place.calls)


def put_back(model: nn.Module, rest: nn.Module, *, itself: bool) -> str:
    """Put PyTorch's module in all places of one that ``fold`` made; what it is now, in words.

    Args:
        model: the module that has it inside.
        rest: an ``Activation``.
        itself: whether the new one has to do the activation, which otherwise is done elsewhere.
    """
    activation = rest.activation if itself else None
    made = nn.Identity() if activation is None else module_of(str(activation))
    _replace(model, rest, made)
    return type(made).__name__


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    new.train(old.training)
    for module in model.modules():
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new
