"""The source of a forward and of what it calls, as syntax trees, and what these alone can tell."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
from weakref import WeakKeyDictionary

from torch import nn


class CannotFollow(Exception):
    """Why a forward cannot be followed: a clause without its subject."""


def functions_of(module: nn.Module, forward: types.FunctionType | None = None) -> list[ast.AST]:
    """The source of the module's forward and of what it calls by name, as trees.

    Args:
        module: whose methods are followed.
        forward: in the place of its class's, that of a class above.

    Raises:
        CannotFollow: where a source cannot be read or is wrapped in another.
    """
    return [tree for _, tree in sources_of(module, forward)]


def sources_of(
    module: nn.Module, forward: types.FunctionType | None = None
) -> list[tuple[types.FunctionType, ast.AST]]:
    """The same as ``functions_of``, with the functions; the forward is the first of them.

    Args:
        module: as there.
        forward: as there.

    Raises:
        CannotFollow: as there.
    """
    waiting: list[types.FunctionType] = [forward or type(module).forward]  # type: ignore[list-item]  # a function, on the class
    seen: set[types.FunctionType] = set()
    found: list[tuple[types.FunctionType, ast.AST]] = []
    while waiting:
        function = waiting.pop()
        if function in seen or not isinstance(function, types.FunctionType):
            continue
        seen.add(function)
        if hasattr(function, "__wrapped__"):
            raise CannotFollow(f"is decorated, or calls what is ({function.__qualname__})")
        tree = _tree(function)
        found.append((function, tree))
        for node in nodes_of(tree):
            if isinstance(node, ast.Call) and own_attribute(node.func) is not None:
                waiting.append(getattr(type(module), own_attribute(node.func) or "", None))  # type: ignore[arg-type]  # seen above
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = function.__globals__.get(node.func.id)
                if (getattr(called, "__module__", None) or "torch").partition(".")[0] != "torch":
                    waiting.append(called)  # type: ignore[arg-type]  # what is no function is passed over above
    return found


_trees: WeakKeyDictionary[types.FunctionType | type, ast.AST] = WeakKeyDictionary()
_nodes: WeakKeyDictionary[ast.AST, tuple[ast.AST, ...]] = WeakKeyDictionary()


def _tree(source: types.FunctionType | type) -> ast.AST:
    """The source of a function or a class, read once."""
    if source not in _trees:
        try:
            _trees[source] = ast.parse(textwrap.dedent(inspect.getsource(source)))
        except (OSError, TypeError, SyntaxError) as error:
            raise CannotFollow("has no source to be read") from error
    return _trees[source]


def nodes_of(tree: ast.AST) -> tuple[ast.AST, ...]:
    """The same as ``ast.walk``, gone through once: the layers of a model share their classes."""
    if tree not in _nodes:
        _nodes[tree] = tuple(ast.walk(tree))
    return _nodes[tree]


def own_attribute(node: ast.AST) -> str | None:
    """``name`` where the node is ``self.name``."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return None


def only_called(module: nn.Module) -> set[str]:
    """The children that the class's methods call and do nothing else with: not indexed, walked over or passed on."""
    calls, uses = [], []
    for base in type(module).__mro__:
        if base in nn.Module.__mro__:
            break
        try:
            tree = _tree(base)
        except CannotFollow:
            return set()
        for method in (node for node in nodes_of(tree) if isinstance(node, ast.FunctionDef)):
            if method.name != "__init__":
                calls += [own_attribute(node.func) for node in nodes_of(method) if isinstance(node, ast.Call)]
                uses += [own_attribute(node) for node in nodes_of(method)]
    return {name for name in filter(None, calls) if calls.count(name) == uses.count(name)}


def adjacent(module: nn.Module, first: str, second: str, *, alone: bool = False) -> bool:
    """True if the source shows one call of each of two children, the second's right around the first's or behind it.

    Whatever path a call takes, the two then go together.

    Args:
        module: whose source it is.
        first: the name of the child that is called first.
        second: that of the other.
        alone: whether nothing else may use the first's result, nor the calls have keywords: the second's result has to
            get the same name, or to be returned.
    """

    def calls(node: ast.AST | None, child: str) -> bool:
        return (
            isinstance(node, ast.Call)
            and len(node.args) == 1
            and not (alone and node.keywords)
            and own_attribute(node.func) == child
        )

    try:
        nodes = [node for tree in functions_of(module) for node in nodes_of(tree)]
    except CannotFollow:
        return False
    mentions = [own_attribute(node) for node in nodes]
    if mentions.count(first) != 1 or mentions.count(second) != 1:
        return False
    if any(calls(node, second) and calls(node.args[0], first) for node in nodes if isinstance(node, ast.Call)):
        return True
    bodies = (getattr(node, field, None) for node in nodes for field in ("body", "orelse"))
    for one, other in (pair for body in bodies if isinstance(body, list) for pair in itertools.pairwise(body)):
        if not isinstance(one, ast.Assign) or not isinstance(other, ast.Assign | ast.Return):
            continue
        if not (calls(one.value, first) and calls(other.value, second)):
            continue
        match one.targets, other.value:
            case [ast.Name(id=name)], ast.Call(args=[ast.Name(id=given)]) if given == name:
                if not alone or isinstance(other, ast.Return):
                    return True
                match other.targets:
                    case [ast.Name(id=again)] if again == name:
                        return True
    return False
