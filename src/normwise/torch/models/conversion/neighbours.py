"""The calls directly in front of a module and directly behind it, as far as forwards can be followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import NamedTuple

import torch
from torch import nn
from torch.fx import Graph, Node

from normwise.frameworks import with_article
from normwise.torch.models.fusion.parts import Parts
from normwise.torch.models.fusion.patterns import hooked
from normwise.torch.models.fusion.questions import hidden_path
from normwise.torch.models.fusion.sources import CannotFollow, adjacent, only_called
from normwise.torch.models.fusion.tracing import followed

Interesting = Callable[[nn.Module], bool]


@dataclass(eq=False)
class Step:
    """One thing that a forward does: the call of a module, or anything else.

    Args:
        what: for sentences: ``a ReLU``, ``the input``.
        module: what is called; None for anything else.
        name: of that in the model.
        owner: whose forward calls it.
        hidden: why the forward of the owner may do something else in another call, or None.
        chain: the sequence that calls it by its order, or None.
        arguments: how many it is called with.
        named: those of them that are given by name.
        sources: the steps whose results it takes; the first of them is its input.
        users: the steps that take its result.
    """

    what: str
    module: nn.Module | None = None
    name: str = ""
    owner: nn.Module | None = None
    hidden: str | None = None
    chain: nn.Module | None = None
    arguments: int = 1
    named: tuple[str, ...] = ()
    sources: list[Step] = field(default_factory=list)
    users: list[Step] = field(default_factory=list)

    def passes(self) -> bool:
        """True if its result is its input."""
        return isinstance(self.module, nn.Identity) and not hooked(self.module) and self.arguments == 1


class Place(NamedTuple):
    """The place of a call, as ``Step`` has it."""

    owner: nn.Module
    hidden: str | None = None
    chain: nn.Module | None = None


class Call(NamedTuple):
    """The arguments of a module's call, as ``Step`` has them."""

    arguments: int = 1
    named: tuple[str, ...] = ()


ONE_INPUT = Call()


class Neighbours:
    """A walk through the model along its calls.

    Args:
        model: to be surveyed; it is left as it is.
        interesting: which modules are asked about later; forwards without any inside are not followed.
    """

    def __init__(self, model: nn.Module, interesting: Interesting) -> None:
        self._model, self._interesting = model, interesting
        self._names = {id(module): name for name, module in model.named_modules()}
        self.calls: Counter[int] = Counter()
        self._steps: dict[int, Step] = {}
        self._unfollowed: dict[str, str] = {}
        self.used_tensors: set[int] = set()
        self._parts = Parts()
        seen: set[int] = set()
        waiting = [model]
        if interesting(model):
            self.calls[id(model)] += 1
            self._steps[id(model)] = Step("the model", model, "")
        while waiting:
            module = waiting.pop()
            if id(module) not in seen and not interesting(module) and any(map(interesting, module.modules())):
                seen.add(id(module))
                waiting += self._visit(module)

    def step(self, module: nn.Module) -> Step | str:
        """The one call of the module, or why there is none or not one."""
        if self.calls[id(module)] > 1:
            return "it is called more than once"
        if id(module) in self._steps:
            return self._steps[id(module)]
        name = self._names[id(module)]
        around = [owner for owner in self._unfollowed if not owner or name.startswith(f"{owner}.")]
        return self._unfollowed[max(around, key=len)] if around else "no forward calls it"

    def apart(self, first: Step, second: Step) -> str | None:
        """Who calls one of two layers without the other, in a method besides the forwards; None if nobody does."""
        one, other = first.name.split("."), second.name.split(".")
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
        around = self._model.get_submodule(".".join(one[:shared]))
        parts = set[int]()
        for names in (one, other):
            way = [around.get_submodule(".".join(names[shared:end])) for end in range(shared + 1, len(names) + 1)]
            parts |= {id(module) for module in way}
            for (inside, child), name in zip(pairwise(way), names[shared + 1 :], strict=True):
                if (who := self._uses_alone(inside, child, name)) is not None:
                    return who
        pair = [around.get_submodule(names[shared]) for names in (one, other)]
        if isinstance(around, nn.Sequential) and (who := self._parts.taken_apart(around, *pair)) is not None:
            return f"{self.title(around)} is not only called: {who}"
        method = self._parts.others.apart(around, parts, one[shared], other[shared])
        if method is None:
            return None
        title = self.title(around)
        return f"{title} uses it, or the batch norm, in its method {method} too, which may be called by itself"

    def _uses_alone(self, inside: nn.Module, child: nn.Module, name: str) -> str | None:
        """Who uses a child of a module that has one of the two layers, in a method; None if nobody does."""
        for items, who in self._parts.taken.get(id(inside), []):
            if id(child) in items:
                return who
        method = self._parts.others.apart(inside, {id(child)}, name, name)
        return None if method is None else f"{self.title(inside)} uses it in its method {method} too"

    def title(self, module: nn.Module) -> str:
        """The name of a module in sentences."""
        return self._names[id(module)] or f"the model ({type(module).__name__})"

    def _visit(self, module: nn.Module) -> list[nn.Module]:
        """Note what the module's own forward calls; the modules to be visited next."""
        title = self.title(module)
        if (who := self._parts.entered.get(id(module))) is not None:
            self._unfollowed[self._names[id(module)]] = f"{title} is not only called: {who}"
            return self._parts.below(module)
        if type(module).forward is nn.Module.forward:  # a list of modules or the like: who holds it calls them
            self._parts.note(module, title, followed=False)
            return self._parts.below(module)
        if id(module) in self._parts.apart:
            return [*module.children()]
        if _in_order(module):
            inner: list[nn.Module] = []
            self._parts.note(module, title, followed=True)
            self._chain(module, Step(f"the input of {self.title(module)}"), Place(module), inner)
            return inner
        try:
            graph = _graph_of(module)
        except CannotFollow as why:
            # A forward that ``fuse`` wrote for several ways is not followed in all of them; the user's own may be.
            hint = "; fuse wrote it: fold before fuse, or normwise.swap(model) before fold" * hasattr(
                type(module), FUSED
            )
            return self._visit_source(module, f"{why}{hint}")
        self._parts.note(module, title, followed=True)
        return self._visit_graph(module, graph)

    def _visit_source(self, module: nn.Module, why: str) -> list[nn.Module]:
        """Link calls that the source shows in pairs, where a forward cannot be followed; return what is inside."""
        self._unfollowed[self._names[id(module)]] = f"{self.title(module)} cannot be followed: its forward {why}"
        self._parts.note(module, self.title(module), followed=False)
        self.used_tensors |= self._parts.tensors
        children = dict(module.named_children())
        for second, norm in children.items():
            for first, layer in children.items():
                if self._interesting(norm) and layer is not norm and adjacent(module, first, second, alone=True):
                    before = self._call(layer, Step("what comes before it"), Place(module))
                    after = self._call(norm, before, Place(module))
                    link(after, Step("what comes behind it"))
        return self._parts.below(module, only_called(module))

    def _visit_graph(self, owner: nn.Module, graph: Graph) -> list[nn.Module]:
        modules = dict(owner.named_modules(remove_duplicate=False))
        tensors = {**dict(owner.named_parameters(remove_duplicate=False)), **dict(owner.named_buffers())}
        fused = hasattr(type(owner), FUSED)
        hidden = None if fused else hidden_path(owner)
        if hidden is not None:
            hidden = f"the forward of {self.title(owner)} {hidden}"
        place = Place(owner, hidden)
        found: list[nn.Module] = []
        steps: dict[Node, Step] = {}
        for node in graph.nodes:
            sources = [steps[each] for each in node.all_input_nodes]
            if node.op == "call_module":
                module = modules[str(node.target)]
                first = node.args[0] if node.args and isinstance(node.args[0], Node) else None
                before = steps[first] if first is not None else Step("nothing")
                called = Call(len(node.args) + len(node.kwargs), tuple(node.kwargs))
                if _in_order(module) and not hooked(module) and called == ONE_INPUT:
                    steps[node] = self._chain(module, before, place, found)
                    continue
                steps[node] = self._call(module, before, place, called)
                found.append(module)
                sources = [each for each in sources if each is not before]
            else:
                if node.op == "get_attr" and str(node.target) in tensors:
                    self.used_tensors.add(id(tensors[str(node.target)]))
                steps[node] = Step(_described(node, self.title(owner)))
                sources = [] if _of_shapes(node) else sources
                if node.target is torch.broadcast_tensors:  # which `fuse` writes; of the other it takes the shape only
                    sources = sources[:1]
            for other in sources:
                link(other, steps[node])
        return found

    def _chain(self, sequence: nn.Module, before: Step, place: Place, found: list[nn.Module]) -> Step:
        """The calls of a sequence; the last one."""
        self.calls[id(sequence)] += 1
        place = place if place.chain is not None else place._replace(chain=sequence)
        for module in sequence._modules.values():
            if module is None:
                continue
            if _in_order(module) and not hooked(module):
                before = self._chain(module, before, place, found)
            else:
                before = self._call(module, before, place)
                found.append(module)
        return before

    def _call(self, module: nn.Module, before: Step, place: Place, called: Call = ONE_INPUT) -> Step:
        self.calls[id(module)] += 1
        step = Step(with_article(type(module).__name__), module, self._names[id(module)], *place, *called)
        self._steps[id(module)] = step
        link(before, step)
        return step


def link(before: Step, after: Step) -> None:
    """Note that one step takes the result of another."""
    before.users.append(after)
    after.sources.append(before)


FUSED = "_in_inference"
ASKS = "_asks"


def _graph_of(module: nn.Module) -> Graph:
    """The forward in inference; that of a module that ``fuse`` rewrote is the one that it wrote."""
    if not hasattr(type(module), FUSED):
        return followed(module)[1]
    kind = type(module)
    plain = type(kind.__name__, (kind,), {"forward": getattr(kind, FUSED)})
    module.__class__ = plain
    try:
        # A residual is only given on; where it asks for other arguments, it has ways that are not followed here.
        return followed(module, optional=not getattr(kind, ASKS))[1]
    finally:
        module.__class__ = kind


def _of_shapes(node: Node) -> bool:
    """True if the node asks for the shape of a tensor or the like, and not for its values."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel", "get_device")
    return node.target is getattr and node.args[1] in ("shape", "dtype", "device", "ndim")


def _in_order(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward and "forward" not in module.__dict__


def _described(node: Node, owner: str) -> str:
    if node.op == "placeholder":
        return f"the input of {owner}"
    if node.op == "output":
        return f"the end of {owner}"
    if node.op == "get_attr":
        return f"the tensor {node.target}"
    return f"the function {getattr(node.target, '__name__', node.target)}"
