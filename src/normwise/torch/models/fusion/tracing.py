"""Follow a module's own forward, its children being single calls; and say where one trace may not stand for all."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Tracer
from torch.fx.proxy import Proxy, TraceError

from normwise.kernels.internals import saved_tensors_hooks
from normwise.torch.models.fusion.questions import asked_arguments
from normwise.torch.models.fusion.settings import PLAIN
from normwise.torch.models.fusion.sources import CannotFollow
from normwise.torch.models.transaction import RandomState

MOST_ASKED = 3
"""Arguments that may be None or not, of one forward: each doubles the number of traces."""


class _OwnForward(Tracer):
    """Follows a forward.

    Args:
        absent: the arguments that are None.
        wrapped: the modules whose functions may be called with what the forward computes.
    """

    proxy_buffer_attributes = True  # a buffer that the forward changes would be changed by the trace, and by no call

    def __init__(self, absent: frozenset[str], wrapped: tuple[ModuleType, ...]) -> None:
        super().__init__(autowrap_modules=wrapped)  # type: ignore[arg-type]  # a tuple of any length
        self._absent = absent
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self._kinds = {"cpu"} if accelerator is None else {"cpu", accelerator.type}
        self._around: dict[str, object] = {}

    def _state_around(self) -> dict[str, object]:
        """Everything that a ``with`` statement or a decorator may change for a part of a forward, wherever."""
        casts = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in self._kinds]
        return {
            "without gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "in another precision": casts,
            "with checkpoints of activations or the like": saved_tensors_hooks(False),
        }

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> Node:
        if kind.startswith("call"):
            for how, now in self._state_around().items():
                if now != self._around.setdefault(how, now):
                    raise CannotFollow(f"runs one part {how} and another not")
        return super().create_node(kind, *args, **kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        function, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        return function, [None if self._is_absent(each) else each for each in arguments]

    def _is_absent(self, argument: Any) -> bool:
        return isinstance(argument, Proxy) and argument.node.target in self._absent

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  # torch's signature
        return True


def followed(module: nn.Module, absent: frozenset[str] = frozenset(), *, optional: bool = False) -> tuple[Graph, Graph]:
    """The module's forward in training and in inference; the module is left as it was.

    Args:
        module: is called with all of its arguments.
        absent: the arguments that are None.
        optional: whether there may be arguments with a default, of which the trace asks nothing.

    Raises:
        CannotFollow: with the reason.

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, x):
        ...         return x + 1 if self.training else x
        >>> [len(graph.nodes) for graph in followed(Net())]
        [3, 2]
    """
    if "forward" in module.__dict__:
        raise CannotFollow("was replaced on the instance")
    if type(module).__call__ is not nn.Module.__call__ and not isinstance(module, GraphModule):
        raise CannotFollow("is not all that a call does")
    arguments = [*inspect.signature(type(module).forward).parameters.values()][1:]
    if any(each.default is not each.empty for each in arguments) and not optional:
        raise CannotFollow("takes optional arguments")
    if any(each.kind is not each.POSITIONAL_OR_KEYWORD for each in arguments):
        raise CannotFollow("takes arguments of any number or by name only")
    if any(each.default is not each.empty and not isinstance(each.default, PLAIN) for each in arguments):
        raise CannotFollow("has a default value that is an object")
    return _graph(module, absent, training=True), _graph(module, absent, training=False)


@dataclass(frozen=True)
class Ways:
    """A forward, followed once for every way in which its arguments may be None or not, as far as it asks for that.

    Args:
        graphs: in training and in inference, for each way: the n-th bit of its number says whether the n-th of
            ``asked`` is None.
        asked: the arguments of which the forward asks whether they are None: the place among its arguments, the name.
    """

    graphs: tuple[Graph, ...]
    asked: tuple[tuple[int, str], ...] = ()


def followed_ways(module: nn.Module) -> Ways:
    """The module's forward with and without its optional arguments; the module is left as it was.

    Raises:
        CannotFollow: with the reason.

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, x, mask=None):
        ...         return x if mask is None else x * mask
        >>> ways = followed_ways(Net())
        >>> ways.asked, [len(graph.nodes) for graph in ways.graphs]
        (((1, 'mask'),), [4, 4, 3, 3])
    """
    parameters = inspect.signature(type(module).forward).parameters
    names = [name for name in asked_arguments(module) if parameters[name].default in (None, inspect.Parameter.empty)]
    if not names:
        return Ways(followed(module, optional=True))
    if len(names) > MOST_ASKED:
        raise CannotFollow(f"asks of more than {MOST_ASKED} arguments whether they are None")
    graphs: list[Graph] = []
    try:
        for way in range(2 ** len(names)):
            absent = frozenset(name for number, name in enumerate(names) if way >> number & 1)
            graphs += followed(module, absent, optional=True)
    except CannotFollow:
        return Ways(followed(module))  # whose other ways nobody knows: ``hidden_path`` says so
    order = [*parameters]
    return Ways(tuple(graphs), tuple((order.index(name) - 1, name) for name in names))


def _graph(module: nn.Module, absent: frozenset[str], *, training: bool) -> Graph:
    try:
        return _traced(module, _OwnForward(absent, ()), training=training)
    except CannotFollow:  # it may call `math.sqrt` with a size: to wrap all of `math` takes longer than to follow
        return _traced(module, _OwnForward(absent, (math,)), training=training)


def _traced(module: nn.Module, tracer: Tracer, *, training: bool) -> Graph:
    try:
        with _unchanged(module, training), draws_nothing():
            return tracer.trace(module)
    except TraceError as error:
        why = "depends on the data" if "control flow" in str(error) else f"does what torch.fx cannot follow ({error})"
        raise CannotFollow(why) from error
    except CannotFollow:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CannotFollow(f"cannot be traced ({type(error).__name__}: {first})") from error


@contextmanager
def draws_nothing() -> Iterator[None]:
    """The random state as it was afterwards; what a forward draws and decides by cannot be followed."""
    random = RandomState()
    before = random.bytes()
    try:
        yield
    finally:
        drawn = RandomState().bytes() != before
        random.restore()
    if drawn:
        raise CannotFollow("draws random numbers, which a trace does once for all calls")


@contextmanager
def _unchanged(module: nn.Module, training: bool) -> Iterator[None]:
    """Every attribute as it was afterwards; a forward that changes one cannot be rewritten."""
    # What torch.jit made keeps its attributes elsewhere, and is only called here.
    parts = [part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
    before = [(part, dict(part.__dict__), *_copies(part)) for part in parts]
    tensors = [(tensor, tensor.clone(), tensor._version) for part in parts for tensor in _plain_tensors(part)]
    changed = False
    try:
        for part in parts:
            part.training = training
        yield
    finally:
        for part, attributes, copies, empty in before:
            part.training = attributes["training"]
            changed |= _restored(part.__dict__, attributes)
            for held, items in copies:
                changed |= _restored(held, items)
            if any(empty):
                changed = True
                for held in empty:
                    held.clear()
        for tensor, value, version in tensors:
            if tensor._version != version:
                changed = True
                tensor.copy_(value)
    if changed:
        raise CannotFollow("changes attributes of the module")


def _plain_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Those among the attributes that are no buffers, which the forward would change in place in a trace too."""
    for value in module.__dict__.values():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, Tensor) and not each.is_inference() and not each.requires_grad:
                yield each


def _copies(module: nn.Module) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """The lists and dictionaries among the attributes: those with items and copies of them, and the empty ones."""
    held = [value for value in module.__dict__.values() if isinstance(value, list | dict)]
    full = [(each, dict(each) if isinstance(each, dict) else [*each]) for each in held if each]
    return full, [each for each in held if not each]


def _restored(value: Any, items: Any) -> bool:
    """Put these objects back into a list or dictionary; whether others were there, or elsewhere."""
    if isinstance(value, dict):
        if [*value] == [*items] and all(map(operator.is_, value.values(), items.values())):
            return False
        value.clear()
        value.update(items)
        return True
    if len(value) == len(items) and all(map(operator.is_, value, items)):
        return False
    value[:] = items
    return True
