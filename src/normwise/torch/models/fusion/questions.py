"""The questions of a forward that a trace answers once for all calls, and those whose answers can be guarded."""

from __future__ import annotations

import ast
import builtins
import types
from collections.abc import Collection
from typing import Any

from torch import nn

from normwise.torch.models.fusion.reading import Reading
from normwise.torch.models.fusion.settings import UNKEPT, Answer, Settings, as_kept, attribute_of, setting_now
from normwise.torch.models.fusion.sources import CannotFollow, called_by, nodes_of, own_attribute, sources_of

QUESTIONS = {"isinstance", "type", "hasattr", "callable", "issubclass", "print", "super"}
STATE = {"is_grad_enabled", "is_autocast_enabled", "is_inference_mode_enabled"}
OUTSIDE = {"random", "np", "numpy", "time", "os", "logging", "warnings"}


def hidden_path(
    module: nn.Module,
    forward: types.FunctionType | None = None,
    allowed: frozenset[str] = frozenset(),
    *,
    guarded: bool = False,
    asked: Collection[str] = (),
) -> str | None:
    """A clause on what a trace of the module's forward misses, so that it may not stand for all calls; None if nothing.

    Args:
        module: as in ``functions_of``.
        forward: as in ``functions_of``.
        allowed: functions that a trace answers for all calls here.
        guarded: whether every call will ask the questions of ``settings_read`` again, so that these are allowed.
        asked: arguments of the forward for which there is a trace with None and one with another value.
    """
    try:
        sources = sources_of(module, forward)
    except CannotFollow as reason:
        return str(reason)
    for number, (function, tree) in enumerate(sources):
        if (why := _read_elsewhere(function, tree, module)) is not None:
            return why
        for node in nodes_of(tree):
            found = _hidden_in(node, allowed)
            if found is None and isinstance(node, ast.Compare):
                found = _asks_what(node, tree, guarded, asked if number == 0 else ())
            if found is None or (guarded and isinstance(node, ast.Call) and _answers(node, tree, function, module)):
                continue
            return found
    return None


def _hidden_in(node: ast.AST, allowed: frozenset[str]) -> str | None:
    match node:
        case ast.With() | ast.Try() | ast.Global() | ast.Nonlocal() | ast.Match():
            return f"has a `{type(node).__name__.lower()}` statement, which a trace does not see"
        case ast.Call(func=ast.Name(id=name)) if name in QUESTIONS - allowed:
            return f"calls `{name}`, which a trace answers once"
        case ast.Attribute(attr=name) if name in STATE:
            return f"calls `{name}`, which a trace answers once"
        case ast.Attribute(attr="__dict__"):
            return "reads `__dict__`, which a trace does once"
        case ast.Name(id=name) if name in OUTSIDE:
            return f"uses `{name}`, which a trace does not see"
    return None


def _read_elsewhere(function: types.FunctionType, tree: ast.AST, module: nn.Module) -> str | None:
    """Why the settings of the module or of its parts may be read where nobody looks for that, or None."""
    reading = Reading(module, tree)
    seen = set[int]()  # the places of ``self`` that are looked at
    for node in nodes_of(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self") as place):
                seen.add(id(place))
            case ast.For(iter=ast.Name(id="self") as place) | ast.comprehension(iter=ast.Name(id="self") as place):
                seen.add(id(place))  # its children, one by one
            case ast.Call(func=ast.Name(id=name), args=args) if name in QUESTIONS | {"getattr"}:
                seen.update(map(id, args))
            case ast.Call(func=ast.Name() | ast.Attribute() as named, args=[ast.Name(id="self") as place, *_]):
                called = called_by(named, function, module) or vars(module).get(own_attribute(named) or "")
                if isinstance(called, types.FunctionType) and not _asks_for_settings(called, module):
                    seen.add(id(place))
        match node:
            case ast.Call(func=ast.Attribute(value=about, attr=name)):
                for thing in reading.things(about):
                    method = getattr(type(thing.value), name, None)
                    theirs = (getattr(method, "__module__", None) or "torch").partition(".")[0] == "torch"
                    if thing.path and isinstance(method, types.FunctionType) and not theirs:
                        return f"calls `{name}` of {thing.path}, in which settings may be read"
    for node in nodes_of(tree):
        if isinstance(node, ast.Name) and node.id == "self" and id(node) not in seen:
            return "hands `self` on, so that its settings may be read elsewhere"
    return None


def _asks_for_settings(called: types.FunctionType, module: nn.Module) -> bool:
    """True if a function that gets the module may read a setting of it that is not known to be read."""
    if called.__code__.co_varnames[:1] == ("self",):  # what it reads is found there
        return False
    return any(as_kept(getattr(module, name, None)) not in (UNKEPT, None) for name in called.__code__.co_names)


def _asks_what(node: ast.Compare, tree: ast.AST, guarded: bool, asked: Collection[str]) -> str | None:
    """Why this comparison may be answered otherwise in another call."""
    if not any(isinstance(each, ast.Is | ast.IsNot) for each in node.ops):
        return None
    for value in (node.left, *node.comparators):
        root = value
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        if isinstance(value, ast.Constant) or (root is not value and isinstance(root, ast.Name) and root.id == "self"):
            continue
        if isinstance(value, ast.Name) and (value.id in asked or (guarded and _of_state(value.id, tree))):
            continue
        return f"asks what `{ast.unparse(value)}` is, which a trace answers once"
    return None


def _stores(name: str, tree: ast.AST) -> list[ast.Name]:
    return [
        node for node in nodes_of(tree) if isinstance(node, ast.Name) and node.id == name and _is_store(node)
    ]  # fmt: skip


def _is_store(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _values_of(name: str, tree: ast.AST) -> list[ast.expr] | None:
    """The values that a function assigns to a name; None where the name gets its value in other ways too."""
    found = [
        node.value
        for node in nodes_of(tree)
        if isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == name
    ]
    return found if len(found) == len(_stores(name, tree)) else None


def _arguments(tree: ast.AST) -> list[str]:
    """Of the function and of all inside of it."""
    return [node.arg for node in nodes_of(tree) if isinstance(node, ast.arg)]


def _of_state(name: str, tree: ast.AST) -> bool:
    """True if the name stands for an attribute of the module or a constant, whenever it is read."""
    values = _values_of(name, tree)
    return (
        bool(values)
        and name not in _arguments(tree)
        and all(
            isinstance(value, ast.Constant) or own_attribute(value) is not None or _got(value) is not None
            for value in values or ()
        )
    )


def _got(node: ast.AST) -> str | None:
    """``name`` where the node is ``getattr(self, "name")`` or ``getattr(self, "name", constant)``."""
    match node:
        case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id="self"), ast.Constant(value=str(name)), *rest]):
            return name if not node.keywords and all(isinstance(each, ast.Constant) for each in rest) else None
    return None


def asked_arguments(module: nn.Module) -> tuple[str, ...]:
    """The arguments that the forward compares with None, before anything else can stand under their name.

    Example:
        >>> import torch
        >>> asked_arguments(torch.nn.Identity())
        ()
    """
    try:
        ((_, tree), *_) = sources_of(module)
    except CannotFollow:
        return ()
    body = getattr(tree, "body", [])
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        return ()
    names = [each.arg for each in body[0].args.args[1:]]
    every = _arguments(tree)
    return tuple(name for name in names if every.count(name) == 1 and _asked_first(name, tree))


def _asked_first(name: str, tree: ast.AST) -> bool:
    questions = [node for node in nodes_of(tree) if isinstance(node, ast.Compare) and _asks_none(node, name)]
    if not questions:
        return False
    values = _values_of(name, tree)
    if values is None:
        return False
    if all(_never_none(value) for value in values):
        return True
    inside = {
        id(node)
        for loop in nodes_of(tree)
        if isinstance(loop, ast.For | ast.While | ast.comprehension | ast.Lambda)
        for node in ast.walk(loop)
    }
    first = min((node.lineno, node.col_offset) for node in _stores(name, tree))
    return all((node.lineno, node.col_offset) < first and id(node) not in inside for node in questions)


def _asks_none(node: ast.Compare, name: str) -> bool:
    match node:
        case ast.Compare(left=ast.Name(id=found), ops=[ast.Is() | ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return found == name
    return False


def _never_none(value: ast.expr) -> bool:
    displayed = isinstance(value, ast.List | ast.Tuple | ast.Dict | ast.Set | ast.ListComp | ast.JoinedStr)
    return displayed or (isinstance(value, ast.Constant) and value.value is not None)


def _answers(call: ast.Call, tree: ast.AST, function: types.FunctionType, module: nn.Module) -> dict[str, Answer]:
    """The answers to a question that is about attributes of the module; empty where it is about anything else."""
    if call.keywords:
        return {}
    match call:
        case ast.Call(func=ast.Name(id="hasattr"), args=[ast.Name(id="self"), ast.Constant(value=str(name))]):
            return {name: Answer(None, hasattr(module, name))}
        case ast.Call(func=ast.Name(id="isinstance"), args=[about, classes]):
            kinds = _classes(classes, tree, function)
            names = _names_of(about, tree, module)
            if kinds is None or not names:
                return {}
            return {name: Answer(kinds, isinstance(attribute_of(module, name), kinds)) for name in names}
    return {}


def _names_of(about: ast.expr, tree: ast.AST, module: nn.Module) -> list[str]:
    """The attributes that an expression may stand for: of the module, or the items of a list of modules of its."""
    name = own_attribute(about)
    if name is not None:
        return [name] if hasattr(module, name) else []
    if not isinstance(about, ast.Name) or about.id in _arguments(tree):
        return []
    found: list[str] = []
    number = 0
    for node in nodes_of(tree):
        if not isinstance(node, ast.For | ast.comprehension):
            continue
        match node.target, node.iter:
            case ast.Name(id=item), ast.Attribute() as items:
                pass
            case (
                ast.Tuple(elts=[ast.Name(), ast.Name(id=item)]),
                ast.Call(func=ast.Name(id="enumerate"), args=[ast.Attribute() as items], keywords=[]),
            ):
                pass
            case _:
                continue
        among = getattr(module, own_attribute(items) or "", None)
        if item == about.id and isinstance(among, nn.ModuleList | nn.Sequential):
            number += 1
            found += [f"{own_attribute(items)}.{child}" for child in among._modules]
    return found if number == len(_stores(about.id, tree)) else []


def _classes(node: ast.expr, tree: ast.AST, function: types.FunctionType) -> tuple[type, ...] | None:
    """The classes that an expression of global names stands for."""
    if isinstance(node, ast.Tuple):
        parts = [_classes(each, tree, function) for each in node.elts]
        return None if None in parts else tuple(kind for part in parts for kind in part or ())
    value = _value(node, tree, function)
    return (value,) if isinstance(value, type) else None


def _value(node: ast.expr, tree: ast.AST, function: types.FunctionType) -> Any:
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, tree, function), node.attr, None)
    if not isinstance(node, ast.Name) or _stores(node.id, tree) or node.id in _arguments(tree):
        return None
    return function.__globals__.get(node.id, getattr(builtins, node.id, None))


def settings_read(
    module: nn.Module, forward: types.FunctionType | None = None, *, guarded: bool = False
) -> Settings:  # fmt: skip
    """The values that the forward reads off the module and its parts: what a trace was made for, as long as they stay.

    Args:
        module: as in ``functions_of``.
        forward: as in ``functions_of``.
        guarded: whether answers are among them, each as an ``Answer``.
    """
    found: dict[str, object] = {}
    asked: list[tuple[str, object]] = []
    for function, tree in sources_of(module, forward):
        reading = Reading(module, tree)
        for node in nodes_of(tree):
            if isinstance(node, ast.Attribute | ast.Call):
                for thing in reading.things(node):
                    if thing.path.rpartition(".")[2] != "training" and (kept := as_kept(thing.value)) is not UNKEPT:
                        found[thing.path] = kept
            if guarded and (name := _got(node)) is not None and not hasattr(module, name):
                asked.append((name, Answer(None, False)))
            if guarded and isinstance(node, ast.Call):
                asked += _answers(node, tree, function, module).items()
    found = {path: value for path, value in found.items() if setting_now(module, path) == value}
    return tuple(dict.fromkeys([*sorted(found.items()), *asked]))
