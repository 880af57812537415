"""The modules and values that the expressions in a method stand for, as far as its source alone can tell."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from normwise.torch.models.fusion.sources import nodes_of

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
ROUNDS = 100
"""The times that a method is read, at most: a name may stand for what another one stands for, and so on."""
_PARTS = {"children", "named_children", "values", "items"}
_ALL = {"modules", "named_modules"}
_PASS_ON = {"enumerate", "zip", "reversed", "list", "tuple", "iter", "sorted"}


class Thing(NamedTuple):
    """A module of a model, or a value that one of them has.

    Args:
        path: its name, from the module whose method it is; empty for that itself.
        value: what it is.
        around: the modules on the way to it, that one left out.
    """

    path: str
    value: Any
    around: tuple[nn.Module, ...] = ()


class Reading:
    """The things that the expressions in a method stand for.

    Whatever a name stands for in one place, it is taken to stand for everywhere in the method.

    Args:
        module: whose method it is.
        tree: its source.
    """

    def __init__(self, module: nn.Module, tree: ast.AST) -> None:
        self.tree = tree
        itself = "self"
        if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef) and tree.args.args:
            itself = tree.args.args[0].arg
        self._names: dict[str, dict[int, Thing]] = {itself: {id(module): Thing("", module)}}
        for _ in range(ROUNDS):
            if not self._bind_names():
                break

    def things(self, node: ast.expr) -> list[Thing]:
        """The things that an expression may stand for; empty where it is nothing of the module."""
        match node:
            case ast.Name(id=name):
                return [*self._names.get(name, {}).values()]
            case ast.Attribute(value=about, attr=name):
                return [found for thing in self.things(about) if (found := _attribute(thing, name)) is not None]
            case ast.Call(func=ast.Name(id="getattr"), args=[about, ast.Constant(value=str(name)), *_]):
                return [part for thing in self.things(about) if (part := _attribute(thing, name)) is not None]
            case ast.Call(func=ast.Attribute(value=about, attr="get_submodule"), args=[ast.Constant(value=str(path))]):
                things = self.things(about)
                for step in path.split("."):
                    things = [part for thing in things if (part := _attribute(thing, step)) is not None]
                return things
            case ast.Subscript(value=ast.Attribute(value=about, attr="_modules"), slice=ast.Constant(value=str(name))):
                return [found for thing in self.things(about) if (found := _attribute(thing, name)) is not None]
            case ast.Call(func=ast.Name(id="list" | "tuple"), args=[about]):  # as what it is made of
                match about:
                    case ast.Call(func=ast.Attribute(value=inner, attr=name), args=[]) if name in _PARTS:
                        return self.things(inner)
                return self.things(about)
            case ast.Call(func=ast.Name(id="getattr"), args=[about, *_]):
                return [part for thing in self.things(about) for part in _parts(thing)]
            case ast.Subscript(value=about):
                return [part for thing in self.things(about) for part in items_of(thing, node.slice)]
            case ast.IfExp(body=one, orelse=other):
                return [*self.things(one), *self.things(other)]
            case ast.BoolOp(values=values):
                return [thing for value in values for thing in self.things(value)]
            case ast.NamedExpr(value=value):
                return self.things(value)
        return []

    def each_of(self, node: ast.expr) -> list[Thing]:
        """The things that the items of an expression may stand for, in a loop over it."""
        match node:
            case ast.Call(func=ast.Name(id=name), args=args) if name in _PASS_ON:
                return [thing for arg in args for thing in self.each_of(arg)]
            case ast.Call(func=ast.Attribute(value=about, attr=name)) if name in _PARTS:
                return [part for thing in self.things(about) for part in _parts(thing)]
            case ast.Call(func=ast.Attribute(value=about, attr=name)) if name in _ALL:
                return [part for thing in self.things(about) for part in _all_parts(thing)]
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [thing for item in items for thing in self.things(item)]
        return [part for thing in self.things(node) for part in items_of(thing)]

    def _bind_names(self) -> bool:
        """Note what names stand for; whether that was news."""
        news = False
        for node in nodes_of(self.tree):
            match node:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        news |= self._bind(target, self.things(value))
                        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                            for one, other in zip(target.elts, value.elts, strict=False):
                                news |= self._bind(one, self.things(other))
                        elif isinstance(target, ast.Tuple):
                            news |= self._bind(target, self.each_of(value))
                case (
                    ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value)
                ):
                    news |= self._bind(target, self.things(value))
                case ast.For(target=target, iter=items) | ast.comprehension(target=target, iter=items):
                    news |= self._bind(target, self.each_of(items))
        return news

    def _bind(self, target: ast.expr, things: Iterable[Thing]) -> bool:
        names = [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]
        if not isinstance(target, ast.Name | ast.Tuple | ast.List):
            return False
        news = False
        for name in names:
            known = self._names.setdefault(name, {})
            for thing in things:
                # A property may give another object each time, of the same path.
                if any(thing.path == each.path for each in known.values()):
                    continue
                if _has_parts(thing.value) and id(thing.value) not in known:
                    known[id(thing.value)] = thing
                    news = True
        return news


def _has_parts(value: Any) -> bool:
    """True if a value has attributes that matter: a module, or an object that a module keeps its settings in."""
    if isinstance(value, nn.Module):
        return True
    return hasattr(value, "__dict__") and not isinstance(value, Tensor | type) and not callable(value)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _inner(thing: Thing) -> tuple[nn.Module, ...]:
    is_part = isinstance(thing.value, nn.Module) and thing.path
    return (*thing.around, thing.value) if is_part else thing.around


def _attribute(thing: Thing, name: str) -> Thing | None:
    if not _has_parts(thing.value):
        return None
    try:
        return Thing(_join(thing.path, name), getattr(thing.value, name), _inner(thing))
    except Exception:  # a property of the user's may do anything
        return None


def _parts(thing: Thing) -> Iterator[Thing]:
    if isinstance(thing.value, nn.Module):
        for name, child in thing.value._modules.items():
            if child is not None:
                yield Thing(_join(thing.path, name), child, _inner(thing))


def _all_parts(thing: Thing) -> Iterator[Thing]:
    yield thing
    for part in _parts(thing):
        yield from _all_parts(part)


def items_of(thing: Thing, place: ast.expr | None = None) -> list[Thing]:
    """The items of a container of modules, or the one in this place; of a slice, the container itself."""
    if isinstance(place, ast.Slice):
        return [thing]
    if isinstance(thing.value, list | tuple):  # no children, but perhaps modules that are
        return [Thing(f"{thing.path}[{n}]", each, thing.around) for n, each in enumerate(thing.value)]
    if isinstance(thing.value, dict):
        return [Thing(f"{thing.path}[{key!r}]", each, thing.around) for key, each in thing.value.items()]
    found = [*_parts(thing)]
    match place:
        case ast.Constant(value=str(key)) if isinstance(thing.value, CONTAINERS):
            return [each for each in found if each.path.rpartition(".")[2] == key]
        case ast.Constant(value=int(number)) if isinstance(thing.value, CONTAINERS):
            return found[number : number + 1]
    return found
