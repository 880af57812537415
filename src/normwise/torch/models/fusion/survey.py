"""Where the batch norms of a model are called, as far as its forwards can be followed, and what follows them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.torch.models.fusion.activation_calls import activation_of
from normwise.torch.models.fusion.patterns import Pattern, hooked, no_activation, what_follows
from normwise.torch.models.fusion.rewriting import Settings
from normwise.torch.models.fusion.tracing import (
    CannotFollow,
    adjacent,
    followed,
    hidden_path,
    only_called,
    settings_read,
)

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
    """

    owner: nn.Module
    norm: str
    activation: str | None = None
    what: str = ""
    slot: Slot | None = None
    patterns: tuple[Pattern | None, ...] = (None, None)
    why: str = ""
    last: bool = False


class Survey:
    """A walk through the model along its calls.

    Args:
        model: to be surveyed; it is left as it is.
        refused: ids of the batch norms that stay as they are.
    """

    def __init__(self, model: nn.Module, refused: dict[int, str]) -> None:
        self.graphs: dict[int, tuple[Graph, Graph]] = {}
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
        """What follows the module whose output is that of the batch norm, in the forward that calls the module."""
        at = site
        while at.last:
            owner, title = at.owner, self._title(at.owner)
            places = self._places.get(id(owner), [])
            in_order = type(owner).forward is nn.Sequential.forward
            if not places:
                why = "is not seen to be called by another module"
            elif hooked(owner):
                why = "has hooks"
            elif len(places) > 1 or self._calls[id(owner)] != 1:
                why = "is called more than once"
            elif places[0][0] is self._model and sum(isinstance(part, _BatchNorm) for part in owner.modules()) > 1:
                why = "is a part of the model that may be called by itself"
            elif not in_order and self._hidden_path(owner) is not None:
                why = f"has a forward that {self._hidden_path(owner)}"
            else:
                found = self._site_of(places[0])
                if isinstance(found, str):
                    return replace(site, why=f"its output is that of {title}, and there {found}")
                if found.activation is not None and found.what == found.activation:
                    return found
                added = f"an addition in the forward of {self._title(found.owner)} comes before the activation"
                at = found if found.activation is None else replace(found, why=added, last=False)
                continue
            return replace(site, why=f"its output is that of {title}, which {why}")
        return replace(site, why=f"its output is that of {self._title(site.owner)}, and there {at.why}")

    def slot_of(self, site: Site) -> Slot | None:
        """The place of the activation's module, if an ``nn.Identity`` may take it: nobody else uses the module."""
        if site.slot is not None:
            return site.slot
        pattern = next(pattern for pattern in site.patterns if pattern is not None)
        if pattern.activation_target is None or pattern.addition is not None:
            return None
        module = site.owner.get_submodule(pattern.activation_target)
        if len(self._slots[id(module)]) != 1 or self._calls[id(module)] != 1:
            return None
        if self._hidden_path(site.owner) and not adjacent(site.owner, site.norm, pattern.activation_target):
            return None
        return self._slots[id(module)][0]

    def cannot_rewrite(self, owner: nn.Module) -> str | None:
        """Why the forward of this module must not be written anew; None if it may."""
        if isinstance(owner, GraphModule):
            return f"{self._title(owner)}, a torch.fx.GraphModule, has a forward that changes with its graph"
        why = self._hidden_path(owner)
        return None if why is None else f"{self._title(owner)} cannot be written anew: its forward {why}"

    def settings_of(self, owner: nn.Module) -> Settings:
        """The plain values that the forward of this module was followed with."""
        return settings_read(owner)

    def _hidden_path(self, owner: nn.Module) -> str | None:
        if id(owner) not in self._hidden:
            self._hidden[id(owner)] = hidden_path(owner)
        return self._hidden[id(owner)]

    def _title(self, module: nn.Module) -> str:
        return self._names[id(module)] or f"the model ({type(module).__name__})"

    def _visit(self, module: nn.Module) -> list[nn.Module]:
        """Note what the module's own forward calls; the modules to be visited next."""
        forward = type(module).forward
        if forward is nn.Module.forward:  # a list or dictionary of modules: who holds it calls them one by one
            return [*module.children()]
        if forward is nn.Sequential.forward and "forward" not in module.__dict__:
            return self._visit_in_order(module)
        try:
            graphs = followed(module)
        except CannotFollow as why:
            self._unfollowed[self._names[id(module)]] = f"{self._title(module)} cannot be followed: its forward {why}"
            called = only_called(module)
            found: list[nn.Module] = []
            for name, child in module.named_children():
                in_order = isinstance(child, nn.Sequential) and name not in called
                found += child.children() if in_order else [child]
            return found
        self.graphs[id(module)] = graphs
        return self._visit_graphs(module, graphs)

    def _visit_in_order(self, sequence: nn.Module) -> list[nn.Module]:
        items = [*sequence._modules.items()]
        for place, (name, module) in enumerate(items):
            self._calls[id(module)] += 1
            self._places.setdefault(id(module), []).append((sequence, name, place))
            if isinstance(module, _BatchNorm) and id(module) not in self._refused:
                self._sites.setdefault(id(module), []).append(_site_in_order(sequence, name, place))
        return [module for _, module in items if module is not None]

    def _site_of(self, place: Place) -> Site | str:
        """What follows a module where it is called."""
        owner, target, number = place
        if id(owner) not in self.graphs:
            return _site_in_order(owner, target, number)
        nodes = [
            next((node for node in graph.find_nodes(op="call_module") if node.target == target), None)
            for graph in self.graphs[id(owner)]
        ]
        return self._site(owner, target, nodes, dict(owner.named_modules(remove_duplicate=False)), [set(), set()])

    def _visit_graphs(self, owner: nn.Module, graphs: tuple[Graph, Graph]) -> list[nn.Module]:
        modules = dict(owner.named_modules(remove_duplicate=False))
        calls: list[dict[str, list[Node]]] = [{}, {}]
        for number, graph in enumerate(graphs):
            for node in graph.find_nodes(op="call_module"):
                calls[number].setdefault(str(node.target), []).append(node)
        counts = [Counter({target: len(nodes) for target, nodes in found.items()}) for found in calls]
        most = counts[0] | counts[1]
        for target, count in most.items():
            self._calls[id(modules[target])] += count
            self._places.setdefault(id(modules[target]), []).append((owner, target, 0))
        taken: list[set[Node]] = [set(), set()]
        for target, count in most.items():
            norm = modules[target]
            if isinstance(norm, _BatchNorm) and id(norm) not in self._refused:
                nodes = [found.get(target, [None])[0] for found in calls]
                site = self._site(owner, target, nodes, modules, taken) if count == 1 else "it is called more than once"
                self._sites.setdefault(id(norm), []).append(site)
        return [modules[target] for target in most]

    def _site(
        self,
        owner: nn.Module,
        target: str,
        nodes: list[Node | None],
        modules: dict[str, nn.Module],
        taken: list[set[Node]],
    ) -> Site | str:
        found = [None if node is None else what_follows(node, modules) for node in nodes]
        for number, pattern in enumerate(found):  # of two batch norms that are added, the first takes the addition
            if isinstance(pattern, Pattern) and pattern.addition is not None and pattern.addition in taken[number]:
                found[number] = Pattern(pattern.norm, why="another batch norm does the addition behind it")
        there = [pattern for pattern in found if pattern is not None]
        if isinstance(there[0], str):
            return there[0]
        if any(isinstance(pattern, str) or not pattern.same(there[0]) for pattern in there):
            return "something else follows it in training than in inference"
        patterns = tuple(pattern for pattern in found if not isinstance(pattern, str))
        for number, pattern in enumerate(patterns):
            if pattern is not None and pattern.addition is not None:
                taken[number].add(pattern.addition)
        if there[0].activation is None:
            return Site(owner, target, why=there[0].why, last=there[0].last)
        return Site(owner, target, there[0].activation, str(there[0]), None, patterns)


def _site_in_order(sequence: nn.Module, name: str, place: int) -> Site | str:
    """What follows a module of an ``nn.Sequential``."""
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
