"""Subclasses of PyTorch's batch norms: which compute no more than a batch norm and then an activation.

The rule is the forward itself. It is followed by ``torch.fx`` as an instance of its own class and as one of PyTorch's,
and the two graphs must be the same but for what stands behind the batch norm: identities and one activation.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Graph, Node, Proxy, Tracer
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.torch.layers.class_change import OURS
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.models.fusion.activation_calls import activation_at
from normwise.torch.models.fusion.patterns import hooked
from normwise.torch.models.fusion.questions import hidden_path, settings_read
from normwise.torch.models.fusion.settings import UNKEPT, Settings, as_kept
from normwise.torch.models.fusion.sources import CannotFollow
from normwise.torch.models.fusion.tracing import draws_nothing

RANKS: dict[type[nn.Module], tuple[int, ...]] = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
# What normwise's layers call their own: a subclass that has one of these names cannot be one of them as well.
OURS_ALONE = {
    name for name in (*dir(TrackedBatchNorm), *TrackedBatchNorm.__annotations__) if not hasattr(_BatchNorm, name)
}
NAMES = OURS_ALONE | {"running_count", "num_batches_skipped", "_follows_momentum", "_inside"}
# What normwise's layers follow whenever it changes.
FOLLOWED = {"affine", "eps", "momentum", "num_features", "track_running_stats", "training"}
SUPER = frozenset({"super"})
Traces = dict[tuple[object, ...], Graph]


@dataclass(frozen=True)
class Inside:
    """The computation of a subclass's own forward.

    Args:
        base: PyTorch's batch norm that it is one of.
        activation: what it does behind it, or None.
        called: the children that its forward calls, by name.
        settings: the plain values that its forward reads off it, beyond a batch norm's own.
    """

    base: type[nn.Module]
    activation: str | None
    called: tuple[tuple[str, nn.Module], ...] = ()
    settings: Settings = ()


def inside_of(norm: nn.Module, traces: Traces | None = None) -> Inside | str:
    """The computation of a batch norm of a user's own class, or why it may not be changed: a whole clause.

    Args:
        norm: the layer.
        traces: of layers that were asked about before, which this one may share; it gets those of this one.

    Example:
        >>> class Activated(nn.BatchNorm2d):
        ...     def forward(self, x):
        ...         return F.relu(super().forward(x))
        >>> inside_of(Activated(3)).activation, inside_of(nn.SyncBatchNorm(3))
        ('relu', 'it is a SyncBatchNorm, not exactly a BatchNorm1d, 2d or 3d')
    """
    kind = type(norm).__name__
    base = next((base for base in OURS if isinstance(norm, base)), None)
    if base is None or isinstance(norm, TrackedBatchNorm):
        return f"it is a {kind}, not exactly a BatchNorm1d, 2d or 3d"
    try:
        return _inside(norm, base, {} if traces is None else traces)
    except CannotFollow as why:
        return f"it is a {kind}, and its forward {why}"


def _inside(norm: nn.Module, base: type[nn.Module], traces: Traces) -> Inside:
    if type(norm).__call__ is not nn.Module.__call__:
        raise CannotFollow("is not all that a call does")
    own = [each for each in type(norm).__mro__ if each not in base.__mro__]
    if taken := sorted({name for each in own for name in vars(each)} & NAMES | vars(norm).keys() & NAMES):
        raise CannotFollow(f"may read {taken[0]}, a name that normwise's layers use too")
    if taken := sorted((norm._modules.keys() | norm._buffers.keys() | norm._parameters.keys()) & NAMES):
        raise CannotFollow(f"may read {taken[0]}, a name that normwise's layers use too")
    settings: dict[str, object] = {}
    for each in own:
        forward = vars(each).get("forward")
        if forward is None:
            continue
        if not isinstance(forward, types.FunctionType):
            raise CannotFollow("is no plain function")
        arguments = [*inspect.signature(forward).parameters.values()][1:]
        if len(arguments) != 1 or arguments[0].kind is not arguments[0].POSITIONAL_OR_KEYWORD:
            raise CannotFollow("takes more than its input")
        if (why := hidden_path(norm, forward, SUPER)) is not None:
            raise CannotFollow(why)
        settings.update(settings_read(norm, forward))
    key = _all_read(norm, settings)
    found = set()
    for rank in RANKS[base]:
        for training in (True, False):
            graph = None if key is None else traces.get((*key, rank, training))
            if graph is None:
                graph = _graph(norm, type(norm), rank, training)
            if key is not None:
                traces[(*key, rank, training)] = graph
            found.add(_behind(norm, base, graph, _plain_graph(norm, base, rank, training)))
    if len(found) > 1:
        raise CannotFollow("does not do the same in training as in inference, or for every shape")
    activation, names = found.pop()
    called = tuple((name, norm.get_submodule(name)) for name in names)
    return Inside(base, activation, called, tuple((name, settings[name]) for name in settings.keys() - FOLLOWED))


def _all_read(norm: nn.Module, settings: dict[str, object]) -> tuple[object, ...] | None:
    """All that a trace of a forward can depend on that ``hidden_path`` has nothing against; None where there is more.

    The values of tensors are none of it, nor is the number of channels where no source reads it.
    """
    values = {name: as_kept(value) for name, value in vars(norm).items() if name not in _OF_EVERY_MODULE}
    if "num_features" not in settings:
        values.pop("num_features", None)
    kept = (*values.items(), *settings.items())
    if hooked(norm) or any(value is UNKEPT for _, value in kept):
        return None
    tensors = (*norm._parameters.items(), *norm._buffers.items())
    children = tuple((name, type(child)) for name, child in norm._modules.items())
    return type(norm), kept, tuple((name, tensor is None) for name, tensor in tensors), children


_OF_EVERY_MODULE = vars(nn.Module()).keys() - {"forward"}


def _behind(norm: nn.Module, base: type[nn.Module], theirs: Graph, plain: Graph) -> tuple[str | None, tuple[str, ...]]:
    """The activation behind the batch norm, and the names of the children that are called."""
    steps, expected, modules = _steps(theirs), _steps(plain), dict(norm.named_modules())
    told = [_told(node) for node in expected]
    if [_told(node) for node in steps[: len(expected)]] != told:
        if (before := _in_front(steps, told)) is not None:
            raise CannotFollow(
                f"calls {_name(before, modules)} in front of the batch norm, which normwise's layers do not do"
            )
        raise CannotFollow(f"is not that of a {base.__name__} with an activation behind it")
    if sum(node.target is F.batch_norm for node in steps) > 1:
        raise CannotFollow("calls the batch norm more than once")
    last = steps[len(expected) - 1]
    activation: str | None = None
    names: list[str] = []
    for node in steps[len(expected) :]:
        if last not in node.all_input_nodes:
            raise CannotFollow(f"calls {_name(node, modules)} on something else than the output of the batch norm")
        if len(last.users) > 1:
            raise CannotFollow("uses the output of the batch norm in more than one place")
        if node.op == "call_module":
            names.append(str(node.target))
            child = modules[names[-1]]
            if hooked(child):
                raise CannotFollow(f"calls {names[-1]}, which has hooks")
            if type(child) is nn.Identity and len(node.args) == 1 and not node.kwargs:
                last = node
                continue
        found = activation_at(node, modules) if node.args[:1] == (last,) else None
        if found is None or activation is not None:
            raise CannotFollow(f"calls {_name(node, modules)} behind the batch norm, which normwise's layers do not do")
        activation, last = found, node
    (returned,) = theirs.output_node().args
    if returned is not last:
        raise CannotFollow("returns something else than the output of its last step")
    return activation, tuple(names)


class _Ranked(Proxy):
    """A value whose number of axes is known: an input's, which no step that is accepted changes."""

    def dim(self) -> int:
        return int(self.tracer.rank)  # type: ignore[attr-defined]  # ours

    ndim = property(dim)


class _OfOneLayer(Tracer):
    """Follows one layer's forward; parameters and buffers are read by name, children are single calls."""

    def __init__(self, rank: int) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]  # a tuple of any length
        self.rank = rank
        self.proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  # torch's signature
        return True

    def proxy(self, node: Node) -> Proxy:
        return _Ranked(node, self)


def _graph(norm: nn.Module, kind: type[nn.Module], rank: int, training: bool) -> Graph:
    """The forward that the layer would have as one of this class; it is traced on a twin, which shares its tensors."""
    twin = kind.__new__(kind)
    before = {name: dict(value) if isinstance(value, dict) else value for name, value in vars(norm).items()}
    twin.__dict__.update({name: dict(value) if isinstance(value, dict) else value for name, value in before.items()})
    twin.__dict__["training"] = before["training"] = training
    try:
        with draws_nothing():
            graph = _OfOneLayer(rank).trace(twin)
    except CannotFollow:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CannotFollow(f"cannot be traced ({type(error).__name__}: {first})") from error
    for node in graph.nodes:
        if node.op == "call_function" and not node.args and "input" in node.kwargs and node.target is not F.batch_norm:
            node.args, node.kwargs = (node.kwargs["input"],), {k: v for k, v in node.kwargs.items() if k != "input"}
    after = vars(twin)
    if after.keys() != before.keys() or any(_differ(after[name], value) for name, value in before.items()):
        raise CannotFollow("changes attributes of the layer")
    return graph


def _plain_graph(norm: nn.Module, base: type[nn.Module], rank: int, training: bool) -> Graph:
    """The same of PyTorch's own class, kept: its forward reads nothing but what stands in the key."""
    settings = (norm.eps, norm.momentum, norm.track_running_stats)
    kinds = tuple((name in norm._parameters, name in norm._buffers, getattr(norm, name) is None) for name in _READ)
    key = (base, rank, training, settings, kinds)
    if key not in _plain_graphs:
        _plain_graphs[key] = _graph(norm, base, rank, training)
    return _plain_graphs[key]


_READ = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_plain_graphs: dict[tuple[object, ...], Graph] = {}


def _differ(after: Any, before: Any) -> bool:
    if isinstance(before, dict) and isinstance(after, dict):
        return [(name, id(item)) for name, item in after.items()] != [(name, id(item)) for name, item in before.items()]
    return after is not before


def _steps(graph: Graph) -> list[Node]:
    """The steps of a graph, in order, without the reading of tensors."""
    return [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]


def _told(node: Node) -> tuple[object, ...]:
    """The step in words that two graphs can share."""
    arguments: dict[str, Any] = {str(number): value for number, value in enumerate(node.args)} | dict(node.kwargs)
    if node.target is F.batch_norm:
        bound = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
    return node.op, node.target, {name: _value(value) for name, value in arguments.items()}


def _value(value: Any) -> object:
    if not isinstance(value, Node):
        return value
    if value.op in ("placeholder", "get_attr"):
        return value.op, "" if value.op == "placeholder" else value.target
    return "step", _steps(value.graph).index(value)


def _in_front(steps: list[Node], told: list[tuple[object, ...]]) -> Node | None:
    """The first step before the first batch norm that does not belong to that batch norm, or None."""
    for place, node in enumerate(steps):
        if node.target is F.batch_norm:
            return next((each for each in steps[:place] if _told(each) not in told), None)
    return None


def _name(node: Node, modules: Mapping[str, nn.Module]) -> str:
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
