"""How batches of any structure enter a model, whatever the batches hold beside the model's input."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from normwise.errors import NormwiseError

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
        elif isinstance(inner := model._modules.get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, what was compiled runs as it was written, so that every hook is heard; it compiles nothing."""
    # Without its compiler loaded, torch has compiled nothing yet, and loading it takes a second.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lies; the CPU for a model without any."""
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
    """What of a batch are the model's arguments, by the parameters that its ``forward`` cannot do without.

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
            error.add_note(
                f"Of a batch that is a {type(batch).__name__}, {type(model).__name__} was given "
                f"({', '.join(given)}): pass forward_fn=lambda model, batch: ... if it takes something else."
            )
            raise


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


class Batches:
    """Batches that can be gone through more than once, with a progress bar on a terminal when it takes long.

    What can be iterated again is. A generator cannot: what it gave is kept in memory for the next time.

    Args:
        batches: any iterable of batches.
        at_most: go through so many; None for all. May be changed between two passes, to 0 too.
        called: the operation, for the progress bar and the errors.

    Attributes:
        passes: how often they will be gone through, all of which one bar shows.

    Raises:
        TypeError: not an iterable, or a single tensor or mapping, whose items are no batches.

    Example:
        >>> pairs = Batches((number for number in (1, 2, 3)), at_most=2, called="recalibrate")
        >>> list(pairs), list(pairs)
        ([1, 2], [1, 2])
    """

    def __init__(self, batches: Iterable[Any], *, at_most: int | None = None, called: str) -> None:
        iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
        if not iterable or isinstance(batches, Tensor | Mapping | str | bytes):
            raise TypeError(
                f"{called} needs an iterable of batches, received {type(batches).__name__}: "
                "pass a DataLoader, or a list with one batch in it."
            )
        if at_most is not None and at_most < 1:
            raise NormwiseError(f"{called} needs at least one batch, received {at_most}: state how many, or None.")
        self._source, self._once = batches, hasattr(batches, "__next__")
        self._kept: list[Any] = []
        self._bar: Any = None
        self._passed, self.passes = 0, 1
        self.at_most, self.called = at_most, called

    def __iter__(self) -> Generator[Any]:
        if self.at_most == 0:
            return
        source = self._again() if self._once else iter(self._source)
        bar = self._bar_for_this_pass()
        try:
            for number, batch in enumerate(source, start=1):
                yield batch
                bar.update()
                if number == self.at_most:
                    return
        finally:
            self._passed += 1
            if self._passed >= self.passes:
                self.close()

    def close(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._passed = None, 0

    def _bar_for_this_pass(self) -> Any:
        if self._bar is None:
            self._bar = tqdm(desc=self.called, unit="batch", delay=2, leave=False, disable=None)
        length = len(self._source) if isinstance(self._source, Sized) else None
        in_a_pass = self.at_most if length is None else min(length, self.at_most or length)
        self._bar.total = None if in_a_pass is None else in_a_pass * self.passes
        return self._bar

    def _again(self) -> Iterator[Any]:
        """What was kept, then what the source still has."""
        yield from list(self._kept)
        for batch in self._source:
            self._kept.append(batch)
            yield batch
