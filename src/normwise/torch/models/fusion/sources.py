"""The source of a forward and of what it calls, as syntax trees, and what these alone can tell."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
from collections.abc import Sequence
from typing import Any
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
        if (name := _other_name_for_self(function, tree, module, first=not found)) is not None:
            raise CannotFollow(
                f"calls the module {name!r}, and not self, in {function.__qualname__} (let it say self in all places)"
            )
        found.append((function, tree))
        calls = [node.func for node in nodes_of(tree) if isinstance(node, ast.Call)]
        waiting += [called_by(call, function, module) for call in calls]  # what is no function is passed over above
    return found


def called_by(node: ast.expr, function: types.FunctionType, module: nn.Module) -> Any:
    """The method or function that a call in a function names, if it is none of PyTorch's; what is none of them too."""
    name = own_attribute(node)
    if name is not None:
        return getattr(type(module), name, None)
    called = _named(node, function)
    called = getattr(called, "__func__", called)  # of a class method
    return None if (getattr(called, "__module__", None) or "torch").partition(".")[0] == "torch" else called


def _named(node: ast.expr, function: types.FunctionType) -> Any:
    """The value of a name in a function outside of it: a variable around it, a global one, or what these have."""
    match node:
        case ast.Name(id=name):
            inner = function.__code__.co_freevars
            if name in inner:
                cell = (function.__closure__ or ())[inner.index(name)]
                return cell.cell_contents if name != "__class__" else None
            return function.__globals__.get(name)
        case ast.Attribute(value=value, attr=name):
            owner = _named(value, function)
            return getattr(owner, name, None) if isinstance(owner, types.ModuleType | type) else None
    return None


def _other_name_for_self(function: types.FunctionType, tree: ast.AST, module: nn.Module, *, first: bool) -> str | None:
    """The name of a method for its module where that is not self, by which everything here finds what it reads."""
    match tree:
        case ast.Module(body=[ast.FunctionDef(args=ast.arguments(args=[ast.arg(arg=name), *_])), *_]):
            around = function.__qualname__.rpartition(".")[0]
            is_method = first or (around != "" and not around.endswith("<locals>"))
            if name == "self" or not is_method or _is_static(function, module):
                return None
            return name
    return None


def _is_static(function: types.FunctionType, module: nn.Module) -> bool:
    """True if no instance comes first among the arguments that a method is called with."""
    owner: Any = inspect.getmodule(function)
    for part in function.__qualname__.split(".")[:-1]:
        owner = getattr(owner, part, None)
    kinds = [*type(module).__mro__, *([owner] if isinstance(owner, type) else [])]
    kept = [each for kind in kinds for each in vars(kind).values() if isinstance(each, staticmethod | classmethod)]
    return any(each.__func__ is function for each in kept)


_trees: WeakKeyDictionary[types.FunctionType | type, ast.AST] = WeakKeyDictionary()


def class_tree(kind: type) -> ast.AST | None:
    """The source of a class; None where it cannot be read."""
    try:
        return _tree(kind)
    except CannotFollow:
        return None


def function_tree(function: types.FunctionType) -> ast.AST | None:
    """The source of a function; None where it cannot be read."""
    try:
        return _tree(function)
    except CannotFollow:
        return None


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
    try:
        nodes = [node for tree in functions_of(module) for node in nodes_of(tree)]
    except CannotFollow:
        return False
    return adjacent_in(nodes, first, second, alone=alone)


def adjacent_in(nodes: Sequence[ast.AST], first: str, second: str, *, alone: bool = False) -> bool:
    """The same for a source, given by all of its nodes."""

    def calls(node: ast.AST | None, child: str) -> bool:
        return (
            isinstance(node, ast.Call)
            and len(node.args) == 1
            and not (alone and node.keywords)
            and own_attribute(node.func) == child
        )

    if not _each_once(nodes, first, second):
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


def listed_together(nodes: Sequence[ast.AST], first: str, second: str) -> bool:
    """True if a method only puts two children into a list, one behind the other, of which it makes a sequence.

    ``layers = [self.conv, self.norm]; layers.extend(self.blocks); return nn.Sequential(*layers)``, as timm writes it.

    Args:
        nodes: all of the method's.
        first: the name of the child that comes first.
        second: that of the other.
    """
    if not _each_once(nodes, first, second):
        return False
    lists = {
        name
        for name, items in map(_listed, nodes)
        if (first, second) in itertools.pairwise(own_attribute(each) for each in items)
    }
    if len(lists) != 1:
        return False
    good = {
        id(used)
        for node in nodes
        if isinstance(node, ast.Call)
        for used in (
            node.func.value
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "extend")
            else None,
            *(each.value for each in node.args if isinstance(each, ast.Starred) and _makes_a_sequence(node)),
        )
    }
    reads = [
        node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in lists
    ]
    return all(id(node) in good for node in reads)


def _listed(node: ast.AST) -> tuple[str, list[ast.expr]]:
    """The name of a list and what a statement puts into it."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.List(elts=items)):
            return name, items
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.List(elts=items)):
            return name, items
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="extend"), args=[ast.List(elts=items)]):
            return name, items
    return "", []


def _makes_a_sequence(call: ast.Call) -> bool:
    return ast.unparse(call.func) in ("nn.Sequential", "torch.nn.Sequential", "Sequential")


def _each_once(nodes: Sequence[ast.AST], *children: str) -> bool:
    """True if a source names each of these children in one place."""
    mentions = [own_attribute(node) for node in nodes]
    return all(mentions.count(child) == 1 for child in children)
