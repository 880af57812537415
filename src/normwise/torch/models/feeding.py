"""Calls of a model with batches of any structure, whatever the batches hold beside the model's input."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from normwise.entering import add_note

ForwardFn = Callable[[nn.Module, Any], Any]

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of what distributes, averages or compiles it.

    A wrapper of several processes would make every forward a matter of all of them, and a compiled one may pass by
    hooks that came after its compilation.

    Example:
        >>> type(unwrapped(torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)))).__name__
        'Linear'
    """
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif not isinstance(model, torch.jit.ScriptModule) and "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        else:
            return model


def uncompiled() -> AbstractContextManager[Any]:
    """Run what was compiled as it was written for a block, so that every hook is called; nothing is compiled."""
    # Without its compiler loaded, torch has compiled nothing yet, and loading it takes a second.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on the device: in tuples, named tuples, lists, mappings, and what has ``.to``.

    Example:
        >>> moved({"image": torch.ones(2), "names": ["a", "b"]}, torch.device("meta"))["image"].device
        device(type='meta')
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(item, device) for item in batch))
    if type(batch) in (tuple, list):
        return type(batch)(moved(item, device) for item in batch)
    if type(batch) is dict:
        return {key: moved(item, device) for key, item in batch.items()}
    if not isinstance(batch, str | bytes) and callable(getattr(batch, "to", None)):
        return batch.to(device)  # packed sequences, graphs, the batches of tokenizers
    return batch


def arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The parts of a batch that are the model's arguments, by the parameters that its ``forward`` requires.

    * A tuple or list gives as many items as ``forward`` has parameters without a default, at least one: of (x, y) a
      model that takes only x gets x. A named tuple whose fields are called like these gives them by name.
    * A mapping gives, by name, every item that ``forward`` has a parameter for; it goes in whole where there is none.
    * Anything else is the one argument.

    Args:
        model: its ``forward`` is looked at, not called.
        batch: one batch.

    Returns:
        positional arguments and arguments by name.

    Example:
        >>> arguments(nn.Linear(2, 3), ("images", "labels"))
        (('images',), {})
        >>> arguments(nn.Linear(2, 3), {"input": "images", "labels": "labels"})
        ((), {'input': 'images'})
    """
    needed, known, any_name = _parameters(model)
    if isinstance(batch, Mapping):
        chosen = {str(key): item for key, item in batch.items() if any_name or key in known}
        return ((), chosen) if chosen and needed <= {*chosen} else ((batch,), {})
    fields = getattr(batch, "_fields", ())
    if isinstance(batch, tuple) and fields and needed and needed <= {*fields}:
        return (), {name: getattr(batch, name) for name in fields if name in needed}
    if isinstance(batch, tuple | list) and batch:
        return tuple(batch[: max(len(needed), 1)]), {}
    return (batch,), {}


def _parameters(model: nn.Module) -> tuple[set[str], set[str], bool]:
    """The names without a default, all names, and whether any name is taken."""
    try:
        found = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # compiled elsewhere, as scripted modules are
        return set(), set(), False
    named = [each for each in found if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = {each.name for each in named if each.default is each.empty}
    known = {each.name for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return needed, known, any(each.kind is each.VAR_KEYWORD for each in found)


def call(model: nn.Module, batch: Any, forward_fn: ForwardFn | None = None) -> Any:
    """One batch through the model, on the model's device, without gradients; an error says which rule was applied.

    Args:
        model: in whatever mode it is.
        batch: a tensor, tuple, list, mapping, named tuple, or anything that ``forward_fn`` understands.
        forward_fn: ``forward_fn(model, batch)`` instead of the rules of ``arguments``.

    Returns:
        what the model or ``forward_fn`` returns.

    Example:
        >>> call(nn.Linear(2, 3), (torch.ones(4, 2), torch.ones(4))).shape
        torch.Size([4, 3])
    """
    batch = moved(batch, device_of(model))
    with torch.no_grad():
        if forward_fn is not None:
            return forward_fn(model, batch)
        positional, named = arguments(model, batch)
        try:
            return model(*positional, **named)
        except Exception as error:
            given = [type(item).__name__ for item in positional]
            given += [f"{name}={type(item).__name__}" for name, item in named.items()]
            called = f"{type(model).__name__} was called with ({', '.join(given)})"
            of_numpy = any(type(item).__module__ == "numpy" for item in (*positional, *named.values()))
            remedy = "give tensors, for example torch.from_numpy(array)" if of_numpy else ""
            add_note(error, called, batch, layer_of(model, error), remedy)
            raise


def layer_of(model: nn.Module, error: BaseException) -> str:
    """The innermost module in the traceback of an error, with its class; empty where there is none.

    Args:
        model: of whose modules one may have failed.
        error: raised by a forward.

    Example:
        >>> try:
        ...     call(model := nn.Sequential(nn.Linear(2, 3)), torch.ones(4, 5))
        ... except RuntimeError as error:
        ...     print(layer_of(model, error))
        layer '0' (Linear)
    """
    names = {id(module): name for name, module in model.named_modules()}
    frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [module for module in frames if isinstance(module, nn.Module) and names.get(id(module))]
    return f"layer {names[id(inside[-1])]!r} ({type(inside[-1]).__name__})" if inside else ""


def samples_in(batch: Any) -> int:
    """The length of the first tensor found in a batch; 0 where there is none.

    Example:
        >>> samples_in({"name": "a", "x": (torch.zeros(5, 2), torch.zeros(3))})
        5
    """
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else 1
    items: Iterable[Any] = ()
    if isinstance(batch, Mapping):
        items = batch.values()
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        items = batch
    return next((found for item in items if (found := samples_in(item))), 0)
