"""The work that ``normwise.fuse`` moved into a layer, and how its loss is noticed when a part of the model is replaced.

After ``fuse`` the batch norm does the activation, and the activation's module does nothing or is called no more.
Whoever replaces one of the two afterwards sees a plain batch norm or an ``nn.Identity`` and knows nothing of that: the
model would go on without its activation, or with two. PyTorch calls a hook at every assignment of a module, which costs
a forward nothing.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from normwise.errors import NormwiseError
from normwise.torch.layers.per_domain import PerDomain

# The attribute of a class that ``fuse`` wrote: the names of the activations that a batch norm does in their place.
TAKEN_OVER = "_taken_over"
# The attribute of the ``nn.Identity`` in an activation's place: a tuple, or the activation would be its child.
STOOD_HERE = "_stood_here"


def check_replacement(owner: nn.Module, name: str, new: nn.Module | None) -> None:
    """Refuse a module in the place of one that shares its work with another since ``fuse``.

    What holds the old module inside (a wrapper, a compiled one) may take its place, and a layer that has the same
    ``activation``. Called by PyTorch before the assignment, so a refused one changes nothing.

    Args:
        owner: the module whose child is replaced.
        name: of the child.
        new: what shall stand there.

    Raises:
        NormwiseError: the activation would be lost, or done twice.

    Example:
        >>> import normwise, torch
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.ReLU())
        >>> normwise.fuse(model).fused
        {'0': 'relu'}
        >>> try:
        ...     model[0] = torch.nn.LayerNorm(4)
        ... except normwise.errors.NormwiseError as error:
        ...     print(str(error).partition(":")[0])
        '0' of this Sequential does the activation relu itself since normwise.fuse, which would be lost with LayerNorm
    """
    if name not in owner._modules or (old := owner._modules[name]) is None:
        return
    loss = _loss(owner, name, old, new)
    if loss is None or (new is not None and any(part is old for part in new.modules())):
        return
    raise NormwiseError(
        f"{name!r} of this {type(owner).__name__} {loss}: replace it in the model as it was before `fuse`, which "
        "normwise.swap(model, to='torch') gives back, and fuse again."
    )


def _loss(owner: nn.Module, name: str, old: nn.Module, new: nn.Module | None) -> str | None:
    """A clause on what would go wrong; None where nothing would."""
    instead = "None" if new is None else type(new).__name__
    layers = [old, *old.children()] if isinstance(old, PerDomain) else [old]
    activation = next((layer.activation for layer in layers if getattr(layer, "_fused", False)), None)
    if activation is not None and getattr(new, "activation", None) != activation:
        return f"does the activation {activation} itself since normwise.fuse, which would be lost with {instead}"
    if STOOD_HERE in vars(old) and new is not None and type(new) is not nn.Identity:
        (stood_here,) = vars(old)[STOOD_HERE]
        return f"was {stood_here}, which a batch norm does itself since normwise.fuse, and would do before {instead}"
    if name in vars(type(owner)).get(TAKEN_OVER, ()) and (new is None or _settings(new) != _settings(old)):
        return f"is {old}, which a batch norm does itself since normwise.fuse, and would go on doing beside {instead}"
    return None


def _settings(activation: nn.Module) -> tuple[type[nn.Module], dict[str, Any]]:
    """All that an activation computes by: its class, and its attributes but for those that change no number."""
    settings = {name: value for name, value in vars(activation).items() if not name.startswith("_")}
    return type(activation), {name: settings[name] for name in settings.keys() - {"training", "inplace"}}


def register() -> None:
    """Have PyTorch ask ``check_replacement`` from now on; ``import normwise.torch`` calls it once."""
    register_module_module_registration_hook(check_replacement)
