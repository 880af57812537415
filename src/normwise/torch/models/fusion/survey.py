"""The places where a model calls its batch norms, as far as its forwards can be followed, and what follows them."""

from __future__ import annotations

import inspect
import operator
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.torch.models.fusion.activation_calls import activation_of
from normwise.torch.models.fusion.order import moves, never_draws, runs_in_order
from normwise.torch.models.fusion.parts import Parts
from normwise.torch.models.fusion.patterns import Pattern, hooked, no_activation, what_follows
from normwise.torch.models.fusion.questions import hidden_path, settings_read
from normwise.torch.models.fusion.settings import Answer
from normwise.torch.models.fusion.sources import CannotFollow, adjacent, only_called
from normwise.torch.models.fusion.tracing import Ways, followed_ways

Slot = tuple[nn.Module, str]
# Who calls a module, by which name, and where in the order of an ``nn.Sequential``.
Place = tuple[nn.Module, str, int]


@dataclass(frozen=True)
class Site:
    """A place where a batch norm is called.

    Args:
        owner: the module whose forward calls it.
        norm: the name by which it does.
        activation: what follows, or None.
        what: the same with the addition, for the report.
        slot: for an ``nn.Sequential``, where the activation stands.
        patterns: for a graph, in training and in inference.
        why: why nothing follows that it could do.
        last: whether its output is the owner's.
        inner: where the activation follows a module around the batch norm: the modules on the way to it, each with the
            name by which it calls the next, from the inside out. Where there is an addition, they give the residual on.
        guarded: those of them whose output is the batch norm's for the settings that they have, where nothing else asks
            whether they still do; each with the name of the batch norm.
    """

    owner: nn.Module
    norm: str
    activation: str | None = None
    what: str = ""
    slot: Slot | None = None
    patterns: tuple[Pattern | None, ...] = (None, None)
    why: str = ""
    last: bool = False
    inner: tuple[tuple[nn.Module, str], ...] = ()
    guarded: tuple[tuple[nn.Module, str], ...] = ()

    @property
    def adds(self) -> bool:
        """True if there is an addition before the activation."""
        return self.what != self.activation

    @property
    def layer(self) -> str:
        """The name of the batch norm in the owner."""
        return path_of((*self.inner, (self.owner, self.norm)))


def path_of(calls: Sequence[tuple[nn.Module, str]]) -> str:
    """The name of a batch norm in the outermost of the modules around it, given from the inside out."""
    return ".".join(name for _, name in reversed(calls))


class Survey:
    """A walk through the model along its calls.

    Args:
        model: to be surveyed; it is left as it is.
        refused: ids of the batch norms that stay as they are.
    """

    def __init__(self, model: nn.Module, refused: dict[int, str]) -> None:
        self.ways: dict[int, Ways] = {}
        self._model, self._refused = model, refused
        self._names = {id(module): name for name, module in model.named_modules()}
        self._sites: dict[int, list[Site | str]] = {}
        self._unfollowed: dict[str, str] = {}
        self._calls: Counter[int] = Counter()
        self._places: dict[int, list[Place]] = {}
        self._slots: dict[int, list[Slot]] = {}
        for parent in model.modules():
            for child, module in parent._modules.items():
                self._slots.setdefault(id(module), []).append((parent, child))
        if isinstance(model, _BatchNorm):
            self._sites[id(model)] = [Site(model, "", why="it is the model itself")]
        self._hidden: dict[int, str | None] = {}
        self._taken: dict[int, list[set[Node]]] = {}
        self._asked_about: set[int] = set()
        self._parts = Parts()
        seen: set[int] = set()
        waiting = [model]
        while waiting:
            module = waiting.pop()
            if id(module) not in seen and any(isinstance(part, _BatchNorm) for part in module.modules()):
                seen.add(id(module))
                waiting += [] if isinstance(module, _BatchNorm) else self._visit(module)

    def verdict(self, norm: nn.Module) -> Site | str:
        """The one place where the batch norm is called, or why there is none that could be changed."""
        sites = self._sites.get(id(norm), [])
        if len(sites) == 1:
            site = sites[0]
            return self._above(site) if isinstance(site, Site) and site.last else site
        if sites:
            return "it is called more than once"
        name = self._names[id(norm)]
        around = [owner for owner in self._unfollowed if not owner or name.startswith(f"{owner}.")]
        return self._unfollowed[max(around, key=len)] if around else "no forward calls it"

    def _above(self, site: Site) -> Site:
        """The site with what follows the module whose output is the batch norm's, in the forward of its caller."""
        at = site
        inner: list[tuple[nn.Module, str]] = []
        while at.last:
            owner, title = at.owner, self._title(at.owner)
            places = self._places.get(id(owner), [])
            if not places:
                why = "is not seen to be called by another module"
            elif hooked(owner):
                why = "has hooks"
            elif len(places) > 1 or self._calls[id(owner)] != 1:
                why = "is called more than once"
            elif places[0][0] is self._model and sum(isinstance(part, _BatchNorm) for part in owner.modules()) > 1:
                why = "is a part of the model that may be called by itself"
            elif not runs_in_order(owner) and self._hidden_path(owner) is not None:
                why = f"has a forward that {self._hidden_path(owner)}"
            else:
                inner.append((owner, at.norm))
                found = self._site_of(places[0])
                if isinstance(found, str):
                    return replace(site, why=f"its output is that of {title}, and there {found}")
                if found.activation is not None and not found.adds:
                    return replace(found, inner=tuple(inner), guarded=self._guarded(inner))
                if found.activation is not None:
                    if (hindrance := self._cannot_pass_on(inner, found)) is None:
                        return self._through(found, inner)
                    added = f"an addition in the forward of {self._title(found.owner)} comes before the activation"
                    found = replace(found, activation=None, why=f"{added}, and {hindrance}", last=False)
                at = found
                continue
            return replace(site, why=f"its output is that of {title}, which {why}")
        return replace(site, why=f"its output is that of {self._title(site.owner)}, and there {at.why}")

    def _guarded(self, inner: list[tuple[nn.Module, str]]) -> tuple[tuple[nn.Module, str], ...]:
        return tuple(
            (owner, path_of(inner[: number + 1]))
            for number, (owner, _) in enumerate(inner)
            if not runs_in_order(owner) and settings_read(owner, guarded=True)
        )

    def _cannot_pass_on(self, inner: list[tuple[nn.Module, str]], found: Site) -> str | None:
        """Why a residual cannot go through these modules to the batch norm inside; None if it can."""
        for owner, _ in inner:
            if not runs_in_order(owner):
                if (why := self.cannot_rewrite(owner)) is not None:
                    return why
                if "residual" in inspect.signature(type(owner).forward).parameters:
                    return f"the forward of {self._title(owner)} has an argument residual of its own"
        (outermost, _) = inner[-1]
        for pattern in found.patterns:
            if pattern is not None and pattern.addition is not None and moves(pattern):
                if any(getattr(part, "inplace", False) for part in outermost.modules()):
                    return f"{self._title(outermost)}, which would run later, may change its input in place"
                if not never_draws(outermost, self.ways):
                    return f"{self._title(outermost)}, which would run later, may draw random numbers"
        return None

    def _through(self, found: Site, inner: list[tuple[nn.Module, str]]) -> Site:
        """The same site, at which a module around the batch norm stands; nobody else does its addition any more."""
        for number, pattern in enumerate(found.patterns):
            if pattern is not None and pattern.addition is not None:
                self._taken[id(found.owner)][number].add(pattern.addition)
        patterns = tuple(None if each is None else replace(each, within=True) for each in found.patterns)
        return replace(found, patterns=patterns, inner=tuple(inner))

    def slot_of(self, site: Site) -> Slot | None:
        """The place of the activation's module, if an ``nn.Identity`` may take it: nobody else uses the module."""
        others = self._parts.others
        if site.slot is not None:
            apart = self._taken_apart(site)
            return site.slot if apart is None and others.together(site.owner, site.norm, site.slot[1]) else None
        pattern = next(pattern for pattern in site.patterns if pattern is not None)
        if pattern.activation_target is None or site.adds:
            return None
        module = site.owner.get_submodule(pattern.activation_target)
        if len(self._slots[id(module)]) != 1 or self._calls[id(module)] != 1:
            return None
        if not others.together(site.owner, site.norm, pattern.activation_target):
            return None  # which would do too much, or too little
        if id(module) in self._asked_about:
            return None  # the class of what stands there decides over the way that a forward takes
        if self._hidden_path(site.owner) and not adjacent(site.owner, site.norm, pattern.activation_target):
            return None
        return self._slots[id(module)][0]

    def why_not(self, site: Site, slot: Slot | None) -> str | None:
        """Why the activation behind the batch norm may not be its own; None if it may.

        Args:
            site: the place.
            slot: what ``slot_of`` says of it.
        """
        others = self._parts.others
        for owner, norm in site.inner:
            if names := others.calling(owner, owner.get_submodule(norm)):
                return f"{self._title(owner)} calls it in its method {min(names)} too, without what follows"
        if slot is not None:
            return None
        layer = site.owner.get_submodule(site.norm)
        for method, how in others.otherwise(site.owner, layer).items():
            return f"{self._title(site.owner)} uses it in its method {method} too, {how}"
        for method in self.other_methods(site) if site.inner else ():
            return f"{self._title(site.owner)} calls it in its method {method} too, which may be called by itself"
        if site.slot is not None and (who := self._taken_apart(site)) is not None:
            return f"{self._title(site.owner)} is not only called: {who}"
        if site.slot is not None:
            return f"{self._title(site.owner)} calls it or what is behind it in another method too"
        return self.cannot_rewrite(site.owner)

    def _taken_apart(self, site: Site) -> str | None:
        if site.slot is None:
            return None
        norm, behind = (site.owner._modules[name] for name in (site.norm, site.slot[1]))
        return None if norm is None or behind is None else self._parts.taken_apart(site.owner, norm, behind)

    def methods_too(self, site: Site) -> set[str]:
        """The methods in which the batch norm has to do what it did before."""
        return self._parts.others.touching(site.owner, site.owner.get_submodule(site.norm))

    def other_methods(self, site: Site) -> set[str]:
        """The methods of the module, besides its forward, that call the batch norm, or what is around it."""
        return self._parts.others.calling(site.owner, site.owner.get_submodule(site.norm))

    def cannot_rewrite(self, owner: nn.Module) -> str | None:
        """Why the forward of this module must not be rewritten; None if it may."""
        if isinstance(owner, GraphModule):
            return f"{self._title(owner)}, a torch.fx.GraphModule, has a forward that changes with its graph"
        why = self._hidden_path(owner)
        return None if why is None else f"{self._title(owner)} cannot be rewritten: its forward {why}"

    def _hidden_path(self, owner: nn.Module) -> str | None:
        if id(owner) not in self._hidden:
            ways = self.ways.get(id(owner))
            asked = [] if ways is None else [name for _, name in ways.asked]
            self._hidden[id(owner)] = hidden_path(owner, guarded=True, asked=asked)
        return self._hidden[id(owner)]

    def _title(self, module: nn.Module) -> str:
        return self._names[id(module)] or f"the model ({type(module).__name__})"

    def _visit(self, module: nn.Module) -> list[nn.Module]:
        """Note what the module's own forward calls; the modules to be visited next."""
        forward, title = type(module).forward, self._title(module)
        if (who := self._parts.entered.get(id(module))) is not None:
            self._unfollowed[self._names[id(module)]] = f"{title} is not only called: {who}"
            return self._parts.below(module)
        if forward is nn.Module.forward:  # a list or dictionary of modules: who holds it calls them one by one
            self._parts.note(module, title, followed=False)
            return self._parts.below(module)
        if id(module) in self._parts.apart:
            return [*module.children()]
        if forward is nn.Sequential.forward and "forward" not in module.__dict__:
            self._parts.note(module, title, followed=True)
            return self._visit_in_order(module)
        try:
            ways = followed_ways(module)
        except CannotFollow as why:
            self._unfollowed[self._names[id(module)]] = f"{title} cannot be followed: its forward {why}"
            self._parts.note(module, title, followed=False)
            return self._parts.below(module, only_called(module))
        self._parts.note(module, title, followed=True)
        self.ways[id(module)] = ways
        self._taken[id(module)] = [set() for _ in ways.graphs]
        with suppress(CannotFollow):
            asked = [
                name for name, value in settings_read(module, guarded=True) if isinstance(value, Answer) and value.kinds
            ]
            self._asked_about |= {id(operator.attrgetter(name)(module)) for name in asked}
        return self._visit_graphs(module, ways.graphs)

    def _visit_in_order(self, sequence: nn.Module) -> list[nn.Module]:
        items = [*sequence._modules.items()]
        for place, (name, module) in enumerate(items):
            self._calls[id(module)] += 1
            self._places.setdefault(id(module), []).append((sequence, name, place))
            if isinstance(module, _BatchNorm) and id(module) not in self._refused:
                self._sites.setdefault(id(module), []).append(_site_in_order(sequence, name, place))
        return [module for _, module in items if module is not None]

    def _site_of(self, place: Place) -> Site | str:
        """The site with what follows a module where it is called, or why it must not be touched."""
        owner, target, number = place
        if id(owner) not in self.ways:
            return _site_in_order(owner, target, number)
        nodes = [
            next((node for node in graph.find_nodes(op="call_module") if node.target == target), None)
            for graph in self.ways[id(owner)].graphs
        ]
        return self._site(owner, target, nodes, dict(owner.named_modules(remove_duplicate=False)), claims=False)

    def _visit_graphs(self, owner: nn.Module, graphs: tuple[Graph, ...]) -> list[nn.Module]:
        modules = dict(owner.named_modules(remove_duplicate=False))
        calls: list[dict[str, list[Node]]] = [{} for _ in graphs]
        for found, graph in zip(calls, graphs, strict=True):
            for node in graph.find_nodes(op="call_module"):
                found.setdefault(str(node.target), []).append(node)
        most: Counter[str] = Counter()
        for found in calls:
            most |= Counter({target: len(nodes) for target, nodes in found.items()})
        for target, count in most.items():
            self._calls[id(modules[target])] += count
            self._places.setdefault(id(modules[target]), []).append((owner, target, 0))
        for target, count in most.items():
            norm = modules[target]
            if isinstance(norm, _BatchNorm) and id(norm) not in self._refused:
                nodes = [found.get(target, [None])[0] for found in calls]
                site = self._site(owner, target, nodes, modules) if count == 1 else "it is called more than once"
                self._sites.setdefault(id(norm), []).append(site)
        return [modules[target] for target in most]

    def _site(
        self,
        owner: nn.Module,
        target: str,
        nodes: list[Node | None],
        modules: dict[str, nn.Module],
        *,
        claims: bool = True,
    ) -> Site | str:
        taken = self._taken[id(owner)]
        found = [None if node is None else what_follows(node, modules) for node in nodes]
        for number, pattern in enumerate(found):  # of two batch norms that are added, the first takes the addition
            if isinstance(pattern, Pattern) and pattern.addition is not None and pattern.addition in taken[number]:
                found[number] = Pattern(pattern.norm, why="another batch norm does the addition behind it")
        there = [pattern for pattern in found if pattern is not None]
        if isinstance(there[0], str):
            return there[0]
        if any(isinstance(pattern, str) or not pattern.same(there[0]) for pattern in there):
            ways = self.ways[id(owner)].asked
            named = " and ".join(name for _, name in ways)
            return "something else follows it in training than in inference" + f", or with {named} than without" * bool(
                ways
            )
        patterns = tuple(pattern for pattern in found if not isinstance(pattern, str))
        for number, pattern in enumerate(patterns):
            if claims and pattern is not None and pattern.addition is not None:
                taken[number].add(pattern.addition)
        if there[0].activation is None:
            return Site(owner, target, why=there[0].why, last=there[0].last)
        adding = next(
            (pattern for pattern in patterns if pattern is not None and pattern.addition is not None), there[0]
        )
        return Site(owner, target, there[0].activation, str(adding), None, patterns)


def _site_in_order(sequence: nn.Module, name: str, place: int) -> Site | str:
    """The site with what follows a module of an ``nn.Sequential``, or why it must not be touched."""
    behind = [*sequence._modules.items()][place + 1 :]
    after = next(((child, item) for child, item in behind if not _passes(item)), None)
    if after is None or after[1] is None:
        return Site(sequence, name, why="its output is returned", last=True)
    activation = activation_of(after[1])
    if activation is None:
        return Site(sequence, name, why=no_activation(after[1]))
    if hooked(after[1]):
        return f"the activation behind it, {after[0]}, has hooks"
    return Site(sequence, name, activation, activation, (sequence, after[0]))


def _passes(module: nn.Module | None) -> bool:
    return module is None or (type(module) is nn.Identity and not hooked(module))
