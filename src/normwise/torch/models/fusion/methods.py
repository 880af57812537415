"""The methods of modules, besides their forwards, that use a part: users call them too, and they have to stay right."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from normwise.torch.models.fusion.reading import Reading, Thing, items_of
from normwise.torch.models.fusion.sources import (
    adjacent_in,
    class_tree,
    function_tree,
    listed_together,
    nodes_of,
    own_attribute,
)

Method = ast.FunctionDef | ast.AsyncFunctionDef
ASKS = {
    "isinstance",
    "len",
    "hasattr",
    "getattr",
    "type",
    "print",
    "repr",
    "str",
    "id",
    "enumerate",
    "zip",
    "reversed",
}
# By which a method gets at all parts.
_ALL = {"_modules", "children", "named_children", "modules", "named_modules", "get_submodule", "__dict__"}
_LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.GeneratorExp)
# Functions that look at a module, or copy it, and call nothing.
_LOOK = {"setattr", "delattr", "deepcopy", "copy", "fuse_conv_bn_eval", "fuse_linear_bn_eval", "fuse_conv_bn_weights"}


@dataclass
class _Uses:
    """The parts that one method uses, by id.

    Args:
        calls: what it calls, while it runs.
        otherwise: what may be called later or by somebody else -> how.
        mentions: whatever it has in hand, but for what it asks of it is a number or a word.
        may_use_all: whether it has ways to other parts, of which its source does not say more.
    """

    calls: set[int] = field(default_factory=set)
    otherwise: dict[int, str] = field(default_factory=dict)
    mentions: set[int] = field(default_factory=set)
    may_use_all: bool = False

    @property
    def now_or_later(self) -> set[int]:
        """The parts that are called, now or later."""
        return self.calls | self.otherwise.keys()


class Methods:
    """The uses of parts in methods, each method read once: nothing of the model changes meanwhile."""

    def __init__(self) -> None:
        self._readings: dict[tuple[int, Method], Reading] = {}
        self._uses: dict[int, list[tuple[Method, _Uses]]] = {}

    def reading(self, owner: nn.Module, method: Method) -> Reading:
        """The things that the expressions in a method of a module stand for."""
        key = id(owner), method
        if key not in self._readings:
            self._readings[key] = Reading(owner, method)
        return self._readings[key]

    def calling(self, owner: nn.Module, part: nn.Module) -> set[str]:
        """The names of the methods of the module, besides its forward, that call one of its parts."""
        return {method.name for method, uses in self._of(owner) if id(part) in uses.now_or_later}

    def otherwise(self, owner: nn.Module, part: nn.Module) -> dict[str, str]:
        """Those of them whose calls nobody can tell from others' -> how they use the part."""
        uses = {method.name: uses.otherwise.get(id(part)) for method, uses in self._of(owner)}
        found = {name: how for name, how in uses.items() if how is not None}
        names = self.touching(owner, part)
        for name in _kept_methods(owner):
            function = vars(owner)[name].__func__
            if function.__name__ in names or getattr(type(owner), function.__name__, None) is not function:
                found[name] = "which the module keeps in an attribute"
        return found

    def touching(self, owner: nn.Module, part: nn.Module) -> set[str]:
        """The names of the methods that may use the part in any way, as far as they are plain functions of the class.

        More of them than ``calling`` says: for those that do not mind if they are among them.
        """
        found = self._without_source(owner)
        plain = _plain(owner)
        found |= {method.name for method, uses in self._of(owner) if uses.may_use_all or id(part) in uses.mentions}
        while True:
            more = {
                method.name
                for method, _ in self._of(owner)
                if method.name not in found and not found.isdisjoint(map(own_attribute, nodes_of(method)))
            }
            if not more:
                return found & plain
            found |= more

    def together(self, owner: nn.Module, first: str, second: str) -> bool:
        """True if every such method that calls one of two children calls the other right behind it.

        Args:
            owner: the module.
            first: the name of the child that is called first.
            second: that of the other.
        """
        parts = {id(owner.get_submodule(first)), id(owner.get_submodule(second))}
        if self._without_source(owner) or _kept_methods(owner):
            return False
        return all(
            adjacent_in(nodes_of(method), first, second, alone=True)
            for method, uses in self._of(owner)
            if parts & uses.now_or_later or (_gives_back(method) and (uses.may_use_all or parts & uses.mentions))
        )

    def apart(self, owner: nn.Module, parts: set[int], first: str, second: str) -> str | None:
        """The name of a method that uses one of two children without the other; None if there is none.

        What the forward calls is a part of the forward, and is left out.

        Args:
            owner: the module.
            parts: the ids of the children, and of what is inside of them that is asked about.
            first: the name of the child that is called first.
            second: that of the other.
        """
        by_forward = reached(methods_of(owner) or [])
        unknown = (self._without_source(owner) | _kept_methods(owner)) - by_forward
        for method, uses in self._of(owner):
            used = parts & uses.now_or_later
            seen = _gives_back(method, itself=False) and (uses.may_use_all or parts & uses.mentions)
            nodes = nodes_of(method)
            together = adjacent_in(nodes, first, second, alone=True) or listed_together(nodes, first, second)
            # One that folds them itself reads statistics, and says so where there are none any more.
            folds = not used and _reads_statistics(method) and (uses.may_use_all or parts <= uses.mentions)
            if method.name not in by_forward and (used or seen) and not (together or folds):
                unknown.add(method.name)
        return min(unknown, default=None)

    def _without_source(self, owner: nn.Module) -> set[str]:
        return _plain(owner) - {method.name for method, _ in self._of(owner)}

    def _of(self, owner: nn.Module) -> list[tuple[Method, _Uses]]:
        if id(owner) not in self._uses:
            methods = methods_of(owner) or []
            others = [method for method in methods if method.name != "forward"]
            self._uses[id(owner)] = [(method, self._uses_of(owner, method, methods)) for method in others]
        return self._uses[id(owner)]

    def _uses_of(self, owner: nn.Module, method: Method, methods: list[Method]) -> _Uses:
        found, reading = _Uses(), self.reading(owner, method)
        always = _as_a_whole(type(owner), method)
        nodes = nodes_of(method)
        later = {
            id(node) for inner in nodes if isinstance(inner, _LATER) and inner is not method for node in ast.walk(inner)
        }
        unused = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        looked_at = {id(node.value) for node in nodes if isinstance(node, ast.Attribute | ast.Subscript)}
        for node in nodes:
            if isinstance(node, ast.Call) and (id(node) in unused or _only_looks(node, methods)):
                looked_at |= {id(given) for given in node.args}
        read = {id(node.value): node.attr for node in nodes if isinstance(node, ast.Attribute)}
        for node in nodes:
            if isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", None), ast.Load):
                found.mentions |= {
                    id(thing.value)
                    for thing in reading.things(node)
                    if thing.path and not _is_setting(thing.value, read.get(id(node), ""))
                }
            if isinstance(node, ast.Attribute):
                found.may_use_all |= node.attr in _ALL
            elif isinstance(node, ast.Name) and node.id == "self":
                found.may_use_all |= id(node) not in looked_at
            if not isinstance(node, ast.Call):
                continue
            how = always or ("in a function inside of it, which may run later" if id(node) in later else None)
            for thing in called_in(node, reading):
                if thing.path:
                    if how is None:
                        found.calls.add(id(thing.value))
                    else:
                        found.otherwise[id(thing.value)] = how
            if id(node) not in unused and not _only_looks(node, methods):
                for given in _given(node):
                    for thing in reading.things(given):
                        if isinstance(thing.value, nn.Module) and thing.path:
                            found.otherwise.setdefault(id(thing.value), "which hands it on")
        return found


def called_in(call: ast.Call, reading: Reading) -> list[Thing]:
    """The modules that a call may call; of a slice of a sequence, those of its items that may be in it."""
    func = call.func
    if isinstance(func, ast.Attribute) and func.attr in ("forward", "__call__"):
        func = func.value
    things = reading.things(func)
    if isinstance(func, ast.Subscript) and isinstance(func.slice, ast.Slice):
        taken = slice_of(func.slice)
        things = [item for thing in things for item in items_of(thing)[taken or slice(None)]]
    return [thing for thing in things if isinstance(thing.value, nn.Module)]


def slice_of(node: ast.Slice) -> slice | None:
    """The slice, where its source is all of it; else None."""
    try:
        return slice(
            *(None if each is None else ast.literal_eval(each) for each in (node.lower, node.upper, node.step))
        )
    except ValueError:
        return None


def _plain(owner: nn.Module) -> set[str]:
    """The names of the functions in the module's class, but for its forward and what Python calls."""
    kinds = [kind for kind in type(owner).__mro__ if kind not in nn.Module.__mro__ and not _is_torchs(kind)]
    return {
        name
        for kind in kinds
        if "_in_inference" not in vars(kind)  # a class that `fuse` made has nothing else
        for name, value in vars(kind).items()
        if isinstance(value, types.FunctionType) and name != "forward" and not name.startswith("__")
    }


def _kept_methods(owner: nn.Module) -> set[str]:
    """The attributes of the module itself that are methods of its."""
    return {
        name
        for name, value in vars(owner).items()
        if isinstance(value, types.MethodType) and value.__self__ is owner and name != "forward"
    }


def _is_setting(part: object, name: str) -> bool:
    """True if an attribute of a part is a number, a word or several of them, from which no output is computed."""
    value = vars(part).get(name) if isinstance(part, nn.Module) else None
    return isinstance(value, bool | int | float | str | tuple)


def _reads_statistics(method: Method) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "running_var" for node in nodes_of(method))


def _gives_back(method: Method, *, itself: bool = True) -> bool:
    """True if a method has a result; ``itself`` says whether its module counts as one."""
    return any(
        isinstance(node, ast.Yield | ast.YieldFrom)
        or (
            isinstance(node, ast.Return)
            and node.value is not None
            and not isinstance(node.value, ast.Constant)
            and (itself or not (isinstance(node.value, ast.Name) and node.value.id == "self"))
        )
        for node in nodes_of(method)
    )


def _is_torchs(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def _as_a_whole(kind: type[nn.Module], method: Method) -> str | None:
    """Why the calls in a method may happen when it has returned, or without an instance in front; None if neither."""
    if isinstance(method, ast.AsyncFunctionDef):
        return "which is asynchronous"
    inner = {
        id(node)
        for each in nodes_of(method)
        if isinstance(each, _LATER) and each is not method
        for node in ast.walk(each)
    }
    if any(isinstance(node, ast.Yield | ast.YieldFrom) and id(node) not in inner for node in nodes_of(method)):
        return "which is a generator"
    if not isinstance(inspect.getattr_static(kind, method.name, None), types.FunctionType):
        return "which is no plain method"
    return None


def _only_looks(call: ast.Call, methods: list[Method]) -> bool:
    """True if the function that is called does not call what it is given, as far as its name or source tells."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in ASKS | _LOOK:
            return True
    own = own_attribute(call.func)
    called = [method for method in methods if method.name == own]
    arguments = {each.arg for method in called for each in ast.walk(method.args) if isinstance(each, ast.arg)}
    calls = [node.func for method in called for node in nodes_of(method) if isinstance(node, ast.Call)]
    return bool(called) and not any(isinstance(each, ast.Name) and each.id in arguments for each in calls)


def _given(call: ast.Call) -> Iterator[ast.expr]:
    """The values that a call hands on, in lists too."""
    waiting: list[ast.expr] = [*call.args, *(each.value for each in call.keywords)]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.List(elts=items) | ast.Tuple(elts=items):
                waiting += items
            case ast.Starred(value=value):
                waiting.append(value)
            case _:
                yield node


def methods_of(module: nn.Module) -> list[Method] | None:
    """The methods of the module's class, inherited ones too, but for its ``__init__``; None without a source."""
    kind = type(module)
    if kind not in _methods:
        _methods[kind] = _in_source(kind)
    return _methods[kind]


_methods: WeakKeyDictionary[type, list[Method] | None] = WeakKeyDictionary()


def _in_source(kind: type) -> list[Method] | None:
    found: list[Method] = []
    for base in kind.__mro__:
        if base in nn.Module.__mro__ or base.__module__.startswith("torch."):
            break
        tree = class_tree(base)
        waiting: list[ast.AST] | None = _functions_in(base) if tree is None else [tree]
        if waiting is None:
            return None
        while waiting:
            node = waiting.pop()
            if not isinstance(node, Method):
                waiting += ast.iter_child_nodes(node)  # a class may define methods in an `if`
            elif node.name != "__init__":
                found.append(node)
    return found


def _functions_in(kind: type) -> list[ast.AST] | None:
    """The sources of the functions of a class that has none itself; None where one of them has none either."""
    found: list[ast.AST] = []
    for value in vars(kind).values():
        function = getattr(value, "fget", None) or getattr(value, "__func__", None) or getattr(value, "func", value)
        if isinstance(function, types.FunctionType):
            tree = function_tree(function)
            if tree is None:
                return None
            found.append(tree)
    return found


def reached(methods: list[Method], first: str = "forward") -> set[str]:
    """The names of the methods that one of them calls, or that these call, and its own."""
    names, waiting = set[str](), [first]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            for method in methods:
                if method.name == name:
                    calls = [node.func for node in nodes_of(method) if isinstance(node, ast.Call)]
                    waiting += filter(None, map(own_attribute, calls))
    return names
