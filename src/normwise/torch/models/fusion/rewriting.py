"""Give a module a forward written anew: a class of the same name above its own, which pickles as its own."""

from __future__ import annotations

import copy
import itertools
import linecache
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

from torch import nn
from torch.fx import Graph, GraphModule

from normwise.torch.models.fusion.patterns import Pattern

Names = tuple[tuple[str, Any], ...]
Settings = tuple[tuple[str, object], ...]

_numbers = itertools.count()
_classes: WeakValueDictionary[tuple[object, ...], type[nn.Module]] = WeakValueDictionary()


def rewrite(graph: Graph, patterns: Iterable[Pattern]) -> None:
    """Let the batch norms of the graph do what follows them.

    Args:
        graph: changed in place.
        patterns: of its nodes, none of which stands in two patterns.
    """
    for pattern in patterns:
        norm, activate = pattern.norm, pattern.activate
        assert activate is not None  # only such patterns are handed over
        with graph.inserting_before(pattern.addition or norm):
            (source,) = norm.args
            arguments: tuple[Any, ...] = (source,)
            if pattern.residual is not None:  # what broadcasts in an addition does so here too
                arguments = (source, graph.call_method("expand_as", (pattern.residual, source)))
            last = graph.call_module(str(norm.target), arguments)
            for passed in pattern.passed:
                last = graph.call_module(str(passed.target), (last,))
        activate.replace_all_uses_with(last)
        gone = {activate, pattern.addition, *pattern.passed, norm}
        for node in [node for node in reversed(graph.nodes) if node in gone]:  # who uses a node goes before it
            graph.erase_node(node)
    for node in graph.nodes:
        node.type = None  # the annotations, which may be names that mean something elsewhere only
    graph.lint()


def class_with_forwards(
    module: nn.Module, graphs: tuple[Graph, Graph], settings: Settings, *, alone: bool = False
) -> type[nn.Module]:
    """The module's class with these forwards in training and in inference.

    Args:
        module: whose children the graphs call.
        graphs: for training and for inference.
        settings: what the graphs were traced for; a call with other values of the module's attributes is an error.
        alone: whether pickles of it are to be read where normwise is not, which they can be if both graphs read the
            same: as a ``torch.fx.GraphModule``.
    """
    codes = [graph.python_code("self") for graph in graphs]
    sources = tuple(dict.fromkeys(code.src for code in codes))
    names = {**codes[0].globals, **codes[1].globals}
    used = sorted(name for name in names if any(re.search(rf"\b{name}\b", source) for source in sources))
    made = _class(type(module), sources, tuple((name, names[name]) for name in used), settings, alone)
    if alone and len(sources) == 1 and "__deepcopy__" not in vars(made):
        made.__reduce_ex__ = _reduced_by(graphs[0])  # type: ignore[method-assign, assignment]  # a class of ours
        # Copies are of the class, only files are not.
        made.__deepcopy__ = _copied  # type: ignore[attr-defined]  # mypy knows only what the class statement says
        made.__copy__ = _twin  # type: ignore[attr-defined]  # as above
    return made


def stands_alone(kind: type[nn.Module]) -> bool:
    """Whether pickles of a class that ``class_with_forwards`` made are read without normwise."""
    return "__deepcopy__" in vars(kind)


def fused_from(module: nn.Module) -> type[nn.Module] | None:
    """The class that a module had before ``fuse`` gave it another forward; None where it did not."""
    return vars(type(module)).get("_fused_from")


def _reduced_by(graph: Graph) -> Callable[[nn.Module, int], tuple[Any, ...]]:
    graph._tracer_cls = None  # which is normwise's

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:  # noqa: ARG001  # pickle's signature
        function, (body, imports) = GraphModule(self, graph, type(self).__name__).__reduce__()
        body |= {name: value for name, value in self.__getstate__().items() if name not in ("_graph", "_code")}
        return function, (body, imports)

    return reduce


def _twin(self: nn.Module) -> nn.Module:
    twin = type(self).__new__(type(self))
    vars(twin).update(vars(self))
    return twin


def _copied(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    twin = memo[id(self)] = type(self).__new__(type(self))
    vars(twin).update(copy.deepcopy(vars(self), memo))
    return twin


def _class(
    base: type[nn.Module], sources: tuple[str, ...], names: Names, settings: Settings, alone: bool = False
) -> type[nn.Module]:
    """One class for all modules whose forwards read the same, so that ``torch.compile`` compiles them once."""
    key = (
        base,
        sources,
        tuple((name, value if isinstance(value, float) else id(value)) for name, value in names),
        settings,
        alone,
    )
    found = _classes.get(key)
    if found is not None:
        return found
    forwards = [_compiled(source, dict(names)) for source in sources]
    forward = forwards[0] if len(forwards) == 1 and not settings else _chosen(forwards, settings)

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:  # noqa: ARG001  # pickle's signature
        return _blank, (base, sources, _by_reference(names), settings, alone), self.__getstate__()

    body = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduce,
        "_in_inference": forwards[-1],  # for what follows it once more
        "forward": forward,
        **({} if alone else {"_fused_from": base}),
    }
    made: type[nn.Module] = type(base.__name__, (base,), body)
    _classes[key] = made
    return made


def _compiled(source: str, names: dict[str, Any]) -> Callable[..., Any]:
    """The function, whose lines tracebacks and debuggers can show."""
    file = f"<normwise.fuse {next(_numbers)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), names)
    forward: Callable[..., Any] = names["forward"]
    return forward


def _chosen(forwards: list[Callable[..., Any]], settings: Settings) -> Callable[..., Any]:
    """A forward that takes the one for the module's mode, and refuses settings that the graphs were not made for."""
    in_training, in_inference = forwards[0], forwards[-1]

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for name, value in settings:
            if getattr(self, name) != value:
                raise RuntimeError(
                    f"{name} of this {type(self).__name__} was {value!r} when the model was fused, received "
                    f"{getattr(self, name)!r}: set it before `fuse`, which wrote the forward for that value."
                )
        return in_training(self, *args, **kwargs) if self.training else in_inference(self, *args, **kwargs)

    return forward


def _by_reference(names: Names) -> Names:
    """Modules by their names, which is all that pickle can keep of them."""
    return tuple((name, _Module(value.__name__) if isinstance(value, ModuleType) else value) for name, value in names)


class _Module(str):
    """The name of a module."""

    __slots__ = ()


def _blank(
    base: type[nn.Module], sources: tuple[str, ...], names: Names, settings: Settings, alone: bool = False
) -> nn.Module:
    """A module without any state, for pickle and for deepcopy to fill."""
    values = tuple((name, import_module(value) if isinstance(value, _Module) else value) for name, value in names)
    made = _class(base, sources, values, settings, alone)
    return made.__new__(made)
