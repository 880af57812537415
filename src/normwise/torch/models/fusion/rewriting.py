"""Give a module a rewritten forward: a class of the same name above its own, which pickles as its own."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import linecache
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from normwise.torch.layers.left_away import LEFT, with_activation, without_activation
from normwise.torch.layers.replacement_guard import TAKEN_OVER
from normwise.torch.models.fusion.patterns import Pattern
from normwise.torch.models.fusion.settings import Settings, changed_setting

Names = tuple[tuple[str, Any], ...]
Asked = tuple[tuple[int, str], ...]


class Terms(NamedTuple):
    """The terms on which a class has other forwards than the module's own.

    Args:
        settings: what the forwards were traced for; a call with other values of the module's attributes is an error.
        alone: whether pickles of it are to be read where normwise is not, which they can be if the forwards for
            training and for inference read the same: as a ``torch.fx.GraphModule``.
        asked: as in ``normwise.torch.models.fusion.tracing.Ways``.
        fused: the layers, by their names in the module, whose activation the forwards leave to them.
        others: the methods that call the same layers. They do as before, by the layers' normalization alone; ``alone``,
            where the layers do no more than that, they are errors.
        taken_over: the activations, by their names in the module, of which the layers do a call at least.
    """

    settings: Settings = ()
    alone: bool = False
    asked: Asked = ()
    fused: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    taken_over: tuple[str, ...] = ()


_numbers = itertools.count()
_classes: WeakValueDictionary[tuple[object, ...], type[nn.Module]] = WeakValueDictionary()


def rewrite(graph: Graph, patterns: Iterable[Pattern]) -> None:
    """Let the batch norms of the graph do what follows them.

    Args:
        graph: changed in place.
        patterns: of its nodes, none of which stands in two patterns.
    """
    instead: dict[Node, Node] = {}
    for pattern in patterns:
        norm, activate = pattern.norm, pattern.activate
        assert activate is not None  # only such patterns are handed over
        residual = pattern.residual and instead.get(pattern.residual, pattern.residual)
        with graph.inserting_before(pattern.addition or norm):
            (source,) = norm.args
            arguments: tuple[Any, ...] = (source,)
            named: dict[str, Any] = {}
            if residual is not None and pattern.within:  # a module around the batch norm, which passes it on
                named = {"residual": residual}
            elif residual is not None:  # what broadcasts in an addition does so here too
                arguments = (source, graph.call_function(expanded, (residual, source)))
            last = graph.call_module(str(norm.target), arguments, named)
            for passed in pattern.passed:
                last = graph.call_module(str(passed.target), (last,))
        activate.replace_all_uses_with(last)
        instead[activate] = last  # which another pattern may have as its residual
        gone = {activate, pattern.addition, *pattern.passed, norm}
        for node in [node for node in reversed(graph.nodes) if node in gone]:  # who uses a node goes before it
            graph.erase_node(node)
    for node in graph.nodes:
        node.type = None  # the annotations, which may be names that mean something elsewhere only
    graph.lint()


def pass_on(graph: Graph, child: str, *, is_norm: bool) -> None:
    """Let the graph take a residual, or none, and give it to a child.

    Args:
        graph: changed in place; none of its arguments is called ``residual``.
        child: the name by which it calls the child.
        is_norm: whether that is the batch norm itself, which broadcasts nothing.
    """
    *_, last = graph.find_nodes(op="placeholder")
    with graph.inserting_after(last):
        residual = graph.placeholder("residual", default_value=None)
    (node,) = (node for node in graph.find_nodes(op="call_module") if node.target == child)
    if is_norm:
        (source,) = node.args
        with graph.inserting_before(node):
            node.args = (source, graph.call_function(expanded, (residual, source)))
    else:
        node.kwargs = {"residual": residual}
    graph.lint()


def expanded(residual: Tensor | None, source: Tensor) -> Tensor | None:
    """A residual in the shape that an addition to the output has; None where there is none.

    As a rule that is the shape of the batch norm's input; a larger one is left to the layer.
    """
    return None if residual is None else torch.broadcast_tensors(residual, source)[0]


def in_order(sequence: nn.Module, x: Any, residual: Tensor | None, child: str, is_norm: bool) -> Any:
    """The forward of an ``nn.Sequential`` that gives a residual to a child, behind which nothing happens.

    Raises:
        RuntimeError: something does happen behind it, or the child is gone.
    """
    names = [*sequence._modules]
    behind = [sequence._modules[name] for name in names[names.index(child) + 1 :]] if child in names else [sequence]
    if not all(module is None or isinstance(module, nn.Identity) for module in behind):
        raise RuntimeError(
            f"{child!r} was the last module of this {type(sequence).__name__} that does anything when the model was "
            "fused, and is not now: change the sequence before `fuse`, which moved an addition into that module."
        )
    for name, module in sequence._modules.items():
        if name == child and residual is not None:
            given = expanded(residual, x) if is_norm else residual
            x = module(x, residual=given)  # type: ignore[misc]  # it is a module
        elif module is not None:
            x = module(x)
    return x


def sequence_that_passes_on(sequence: nn.Module, child: str, *, is_norm: bool, layer: str) -> type[nn.Module]:
    """The class of an ``nn.Sequential`` that gives a residual to a child; see ``in_order``.

    Args:
        sequence: of a class with ``nn.Sequential``'s forward.
        child: the name of the child.
        is_norm: whether that is the batch norm itself.
        layer: the name of the batch norm.
    """
    source = (
        "def forward(self, input, residual=None):\n"
        f"    return in_order(self, input, residual, {child!r}, {is_norm})\n"
    )  # fmt: skip
    return _class(type(sequence), (source,), (("in_order", in_order),), Terms(fused=(layer,)))


def class_with_forwards(module: nn.Module, graphs: tuple[Graph, ...], terms: Terms) -> type[nn.Module]:
    """The module's class with these forwards in training and in inference.

    Args:
        module: whose children the graphs call.
        graphs: for training and for inference, in each of the ways that the terms ask for.
        terms: what they hold for.
    """
    codes = [graph.python_code("self") for graph in graphs]
    sources = tuple(code.src for code in codes)
    if not terms.asked:
        sources = tuple(dict.fromkeys(sources))
    names = {name: value for code in codes for name, value in code.globals.items()}
    used = sorted(name for name in names if any(re.search(rf"\b{name}\b", source) for source in sources))
    kept = tuple((name, names[name]) for name in used)
    made = _class(type(module), sources, kept, terms)
    if terms.alone and len(sources) == 1 and "__deepcopy__" not in vars(made):
        made.__reduce_ex__ = _reduced_by(graphs[0])  # type: ignore[method-assign, assignment]  # a class of ours
        # Copies are of the class, only files are not.
        made.__deepcopy__ = _copied  # type: ignore[attr-defined]  # mypy knows only what the class statement says
        made.__copy__ = _twin  # type: ignore[attr-defined]  # as above
    return made


def stands_alone(kind: type[nn.Module]) -> bool:
    """True if pickles of a class that ``class_with_forwards`` made can be read without normwise."""
    return "__deepcopy__" in vars(kind)


def fused_from(module: nn.Module) -> type[nn.Module] | None:
    """The class that a module had before ``fuse`` gave it another forward; None where it did not."""
    return vars(type(module)).get("_fused_from")


def layers_fused_in(module: nn.Module) -> list[nn.Module]:
    """The layers that do what the module's own forward did before ``fuse`` gave it another one."""
    return [module.get_submodule(name) for name in vars(type(module)).get("_fused_layers", ())]


def layers_left_to_methods(model: nn.Module) -> set[nn.Module]:
    """The layers of the model whose activation some method of a module around them does itself, as before ``fuse``."""
    owners = [module for module in model.modules() if vars(type(module)).get("_left_to_methods")]
    return {layer for owner in owners for layer in layers_fused_in(owner)}


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


def _class(base: type[nn.Module], sources: tuple[str, ...], names: Names, terms: Terms) -> type[nn.Module]:
    """One class for all modules whose forwards read the same, so that ``torch.compile`` compiles them once."""
    key = (
        base,
        sources,
        tuple((name, value if isinstance(value, float) else id(value)) for name, value in names),
        terms,
    )
    found = _classes.get(key)
    if found is not None:
        return found
    compiled = {source: _compiled(source, dict(names)) for source in dict.fromkeys(sources)}
    forwards = [compiled[source] for source in sources]
    forward = forwards[0] if len(forwards) == 1 and not terms.settings else _chosen(forwards, terms)
    if terms.others and not terms.alone:
        forward = _with_activation(forward, terms.fused)

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:  # noqa: ARG001  # pickle's signature
        return _blank, (base, sources, _by_reference(names), *terms), self.__getstate__()

    refers = {"_fused_from": base, "_fused_layers": terms.fused, "_left_to_methods": bool(terms.others)}
    body = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduce,
        "_in_inference": forwards[1 if terms.asked else -1],  # for what follows it once more
        "_asks": bool(terms.asked),
        "forward": forward,
        TAKEN_OVER: terms.taken_over,
        **({} if terms.alone else refers),
        **{
            name: _refusing(name, base) if terms.alone else _as_before(name, base, terms.fused) for name in terms.others
        },
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


def _chosen(forwards: list[Callable[..., Any]], terms: Terms) -> Callable[..., Any]:
    """A forward that takes the one for the mode and the arguments, and refuses settings that none was made for."""
    settings, asked = terms.settings, terms.asked

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if settings and (changed := changed_setting(self, settings)) is not None:
            raise RuntimeError(f"{changed}: set it before `fuse`, which wrote the forward for that value.")
        way = 0
        for number, (place, name) in enumerate(asked):
            if (args[place] if place < len(args) else kwargs.get(name)) is None:
                way |= 1 << number
        in_training, in_inference = (forwards[2 * way], forwards[2 * way + 1]) if asked else (forwards[0], forwards[-1])
        return in_training(self, *args, **kwargs) if self.training else in_inference(self, *args, **kwargs)

    return forward


def _refusing(name: str, base: type[nn.Module]) -> Any:
    """A method, or a property where it is one, that says why it is no more."""

    def refuse(self: nn.Module, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"{name} of this {type(self).__name__} calls layers that do less since `swap`, and would return something "
            "else than before: call the module itself, or swap after the last call."
        )

    read = isinstance(inspect.getattr_static(base, name), property | functools.cached_property)
    return property(refuse) if read else refuse


def _with_activation(forward: Callable[..., Any], fused: tuple[str, ...]) -> Callable[..., Any]:
    """The forward, which one of the other methods may call: the layers do all that it left to them."""

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if LEFT.layers:
            layers = [part for layer in fused for part in self.get_submodule(layer).modules()]
            return with_activation(layers, forward, self, *args, **kwargs)
        return forward(self, *args, **kwargs)

    return run


def _as_before(name: str, base: type[nn.Module], fused: tuple[str, ...]) -> Callable[..., Any]:
    """A method of the class, in which the layers leave their activation to it."""
    method: Callable[..., Any] = getattr(base, name)

    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # What stands there by now may have the layers inside of it: one for each domain, for example.
        layers = [part for layer in fused for part in self.get_submodule(layer).modules()]
        return without_activation(layers, method, self, *args, **kwargs)

    return run


def _by_reference(names: Names) -> Names:
    """Modules by their names, which is all that pickle can keep of them."""
    return tuple((name, _Module(value.__name__) if isinstance(value, ModuleType) else value) for name, value in names)


class _Module(str):
    """The name of a module."""

    __slots__ = ()


def _blank(base: type[nn.Module], sources: tuple[str, ...], names: Names, *terms: Any) -> nn.Module:
    """A module without any state, for pickle and for deepcopy to fill."""
    values = tuple((name, import_module(value) if isinstance(value, _Module) else value) for name, value in names)
    made = _class(base, sources, values, Terms(*terms))
    return made.__new__(made)
