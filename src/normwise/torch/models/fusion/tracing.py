"""Follow a module's own forward, its children being single calls; and say where one trace may not stand for all."""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import textwrap
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Tracer
from torch.fx.proxy import TraceError

PLAIN = (bool, int, float, str, type(None))


class CannotFollow(Exception):
    """Why a forward cannot be followed: a clause without its subject."""


class _OwnForward(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  # torch's signature
        return True


def followed(module: nn.Module) -> tuple[Graph, Graph]:
    """The module's forward in training and in inference; the module is left as it was.

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
    if any(a.kind is not a.POSITIONAL_OR_KEYWORD or a.default is not a.empty for a in arguments):
        raise CannotFollow("takes optional arguments")
    return _graph(module, training=True), _graph(module, training=False)


def _graph(module: nn.Module, *, training: bool) -> Graph:
    try:
        with _unchanged(module, training):
            return _OwnForward().trace(module)
    except TraceError as error:
        why = "depends on the data" if "control flow" in str(error) else f"does what torch.fx cannot follow ({error})"
        raise CannotFollow(why) from error
    except CannotFollow:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CannotFollow(f"cannot be traced ({type(error).__name__}: {first})") from error


@contextmanager
def _unchanged(module: nn.Module, training: bool) -> Iterator[None]:
    """Every attribute as it was afterwards; a forward that changes one cannot be written anew."""
    # What torch.jit made keeps its attributes elsewhere, and is only called here.
    parts = [part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
    before = [(part, dict(part.__dict__), _copies(part)) for part in parts]
    changed = False
    try:
        for part in parts:
            part.training = training
        yield
    finally:
        for part, attributes, copies in before:
            part.training = attributes["training"]
            changed |= _ids(part.__dict__) != _ids(attributes)
            part.__dict__.clear()
            part.__dict__.update(attributes)
            for name, items in copies.items():
                changed |= _ids(attributes[name]) != _ids(items)
                _fill(attributes[name], items)
    if changed:
        raise CannotFollow("changes attributes of the module")


def _copies(module: nn.Module) -> dict[str, Any]:
    """The lists and dictionaries among the attributes, copied."""
    return {name: copy.copy(value) for name, value in module.__dict__.items() if isinstance(value, list | dict)}


def _ids(value: list[Any] | dict[Any, Any]) -> list[object]:
    """Which objects are in there, and where."""
    return [(name, id(item)) for name, item in value.items()] if isinstance(value, dict) else [*map(id, value)]


def _fill(value: list[Any] | dict[Any, Any], items: Any) -> None:
    """Put the items back where they were."""
    value.clear()
    if isinstance(value, dict):
        value.update(items)
    else:
        value.extend(items)


def functions_of(module: nn.Module, forward: types.FunctionType | None = None) -> list[ast.AST]:
    """The source of the module's forward and of what it calls by name, as trees.

    Args:
        module: whose methods are followed.
        forward: in the place of its class's, that of a class above.

    Raises:
        CannotFollow: where a source cannot be read or is wrapped in another.
    """
    waiting: list[types.FunctionType] = [forward or type(module).forward]  # type: ignore[list-item]  # a function, on the class
    seen: set[types.FunctionType] = set()
    trees: list[ast.AST] = []
    while waiting:
        function = waiting.pop()
        if function in seen or not isinstance(function, types.FunctionType):
            continue
        seen.add(function)
        if hasattr(function, "__wrapped__"):
            raise CannotFollow(f"is decorated, or calls what is ({function.__qualname__})")
        tree = _tree(function)
        trees.append(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and own_attribute(node.func) is not None:
                waiting.append(getattr(type(module), own_attribute(node.func) or "", None))  # type: ignore[arg-type]  # seen above
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = function.__globals__.get(node.func.id)
                if (getattr(called, "__module__", None) or "torch").partition(".")[0] != "torch":
                    waiting.append(called)  # type: ignore[arg-type]  # what is no function is passed over above
    return trees


_trees: WeakKeyDictionary[types.FunctionType, ast.AST] = WeakKeyDictionary()


def _tree(function: types.FunctionType) -> ast.AST:
    """The source of a function, read once."""
    if function not in _trees:
        try:
            _trees[function] = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError) as error:
            raise CannotFollow("has no source to be read") from error
    return _trees[function]


def own_attribute(node: ast.AST) -> str | None:
    """``name`` where the node is ``self.name``."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return None


QUESTIONS = {"isinstance", "type", "hasattr", "callable", "issubclass", "print", "super"}
STATE = {"is_grad_enabled", "is_autocast_enabled", "is_inference_mode_enabled"}
OUTSIDE = {"random", "np", "numpy", "time", "os", "logging", "warnings"}


def hidden_path(
    module: nn.Module, forward: types.FunctionType | None = None, allowed: frozenset[str] = frozenset()
) -> str | None:
    """What in the module's forward a trace does not see, so that it may not stand for every call; None if nothing.

    Args:
        module: as in ``functions_of``.
        forward: as in ``functions_of``.
        allowed: functions that a trace answers for all calls here.
    """
    try:
        trees = functions_of(module, forward)
    except CannotFollow as why:
        return str(why)
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.With() | ast.Try() | ast.Global():
                return f"has a `{type(node).__name__.lower()}` statement, which a trace does not see"
            case ast.Compare(left=ast.Name(id=name), ops=[ast.Is() | ast.IsNot(), *_]):
                return f"asks what `{name}` is, which a trace answers once"
            case ast.Call(func=ast.Name(id=name)) if name in QUESTIONS - allowed:
                return f"calls `{name}`, which a trace answers once"
            case ast.Attribute(attr=name) if name in STATE:
                return f"calls `{name}`, which a trace answers once"
            case ast.Name(id=name) if name in OUTSIDE:
                return f"uses `{name}`, which a trace does not see"
    return None


def settings_read(module: nn.Module, forward: types.FunctionType | None = None) -> tuple[tuple[str, object], ...]:
    """The plain values that the forward reads off the module: what a trace was made for, as long as they stay."""
    names = {own_attribute(node) for tree in functions_of(module, forward) for node in ast.walk(tree)} - {
        None,
        "training",
    }
    values = [(name, getattr(module, name)) for name in sorted(filter(None, names)) if hasattr(module, name)]
    return tuple((name, value) for name, value in values if isinstance(value, PLAIN))


def only_called(module: nn.Module) -> set[str]:
    """The children that the class's methods call and do nothing else with: not indexed, walked over or passed on."""
    calls, uses = [], []
    for base in type(module).__mro__:
        if base in nn.Module.__mro__:
            break
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            return set()
        for method in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            if method.name != "__init__":
                calls += [own_attribute(node.func) for node in ast.walk(method) if isinstance(node, ast.Call)]
                uses += [own_attribute(node) for node in ast.walk(method)]
    return {name for name in filter(None, calls) if calls.count(name) == uses.count(name)}


def adjacent(module: nn.Module, norm: str, activation: str) -> bool:
    """Whether the source itself shows one call of the batch norm, with the activation's right around it or behind it.

    Whatever path a call takes, the two then go together.
    """
    try:
        nodes = [node for tree in functions_of(module) for node in ast.walk(tree)]
    except CannotFollow:
        return False
    mentions = [own_attribute(node) for node in nodes]
    if mentions.count(norm) != 1 or mentions.count(activation) != 1:
        return False
    if any(_calls(node, activation) and _calls(node.args[0], norm) for node in nodes if isinstance(node, ast.Call)):
        return True
    bodies = (getattr(node, field, None) for node in nodes for field in ("body", "orelse"))
    for first, second in (pair for body in bodies if isinstance(body, list) for pair in itertools.pairwise(body)):
        if not isinstance(first, ast.Assign) or not isinstance(second, ast.Assign | ast.Return):
            continue
        if not (_calls(first.value, norm) and second.value is not None and _calls(second.value, activation)):
            continue
        match first.targets, second.value:
            case [ast.Name(id=name)], ast.Call(args=[ast.Name(id=given)]) if given == name:
                return True
    return False


def _calls(node: ast.AST, child: str) -> bool:
    return isinstance(node, ast.Call) and len(node.args) == 1 and own_attribute(node.func) == child
