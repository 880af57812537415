"""The places where a model calls its layers, and the part of a layer's work that would have to be done around it."""

from __future__ import annotations

import ast
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from torch import nn
from torch.fx import Graph, GraphModule, Node

from normwise.torch.models.fusion.parts import Parts
from normwise.torch.models.fusion.patterns import hooked
from normwise.torch.models.fusion.questions import hidden_path
from normwise.torch.models.fusion.rewriting import fused_from
from normwise.torch.models.fusion.sources import CannotFollow, functions_of, only_called, own_attribute
from normwise.torch.models.fusion.tracing import followed


@dataclass(frozen=True)
class Place:
    """A place where a layer is called.

    Args:
        owner: the module whose forward calls it.
        norm: the name by which it does.
        calls: the calls in the graphs of the forward in training and in inference; empty for an ``nn.Sequential``.
    """

    owner: nn.Module
    norm: str
    calls: tuple[Node, ...] = ()


class Places:
    """A walk through the model along its calls.

    Args:
        model: it is left as it is.
        wanted: the layers that are looked for.
    """

    def __init__(self, model: nn.Module, wanted: set[nn.Module]) -> None:
        self.graphs: dict[nn.Module, tuple[Graph, Graph]] = {}
        self._wanted = wanted
        self._names = {module: name for name, module in model.named_modules()}
        self._found: dict[nn.Module, list[Place]] = {}
        self._unfollowed: dict[str, str] = {}
        self._with_more: dict[nn.Module, str] = {}
        self._slots = Counter(child for module in model.modules() for child in module._modules.values())
        self._parts = Parts()
        self.others = self._parts.others
        seen: set[nn.Module] = set()
        waiting = [model]
        while waiting:
            module = waiting.pop()
            if module not in seen and module not in wanted and not wanted.isdisjoint(module.modules()):
                seen.add(module)
                waiting += self._visit(module)

    def of(self, norm: nn.Module) -> list[Place] | str:
        """All places where the layer is called, or why they are not known."""
        name = self._names[norm]
        around = [owner for owner in self._unfollowed if not owner or name.startswith(f"{owner}.")]
        found = self._found.get(norm, [])
        if found:
            return found
        return self._unfollowed[max(around, key=len)] if around else "no forward calls it"

    def called_with_more(self, norm: nn.Module) -> str | None:
        """Why a layer is known to be called with more than its input by a forward that cannot be followed."""
        return self._with_more.get(norm)

    def cannot_rewrite(self, owner: nn.Module) -> str | None:
        """Why the forward of this module must not be rewritten; None if it may."""
        if isinstance(owner, GraphModule):
            return f"{self.title(owner)}, a torch.fx.GraphModule, has a forward that changes with its graph"
        why = hidden_path(owner, guarded=True)
        return None if why is None else f"{self.title(owner)} cannot be rewritten: its forward {why}"

    def title(self, module: nn.Module) -> str:
        """The name of the module in the reports."""
        return self._names[module] or f"the model ({type(module).__name__})"

    def is_free(self, module: nn.Module | None) -> bool:
        """True if another module may take the place of this one: an ``nn.Identity`` that stands in one place only."""
        return type(module) is nn.Identity and not hooked(module) and self._slots[module] == 1

    def _visit(self, module: nn.Module) -> list[nn.Module]:
        """Note what the module's own forward calls; the modules to be visited next."""
        forward, title = (fused_from(module) or type(module)).forward, self.title(module)
        if (who := self._parts.entered.get(id(module))) is not None:
            self._unfollowed[self._names[module]] = f"{title} is not only called: {who}"
            return self._parts.below(module)
        if forward is nn.Module.forward:  # a list or dictionary of modules: who holds it calls them one by one
            self._parts.note(module, title, followed=False)
            return self._parts.below(module)
        if id(module) in self._parts.apart:
            return [*module.children()]
        if forward is nn.Sequential.forward and "forward" not in vars(module):
            self._parts.note(module, title, followed=True)
            for name, child in module._modules.items():
                if child in self._wanted:
                    self._found.setdefault(child, []).append(Place(module, name))
            return [child for child in module._modules.values() if child is not None]
        try:
            graphs = followed(module)
        except CannotFollow as why:
            self._unfollowed[self._names[module]] = f"{title} cannot be followed: its forward {why}"
            self._note_calls_with_more(module)
            self._parts.note(module, title, followed=False)
            return self._parts.below(module, only_called(module))
        self._parts.note(module, title, followed=True)
        self.graphs[module] = graphs
        calls: dict[str, tuple[Node, ...]] = {}
        for graph in graphs:
            for node in graph.find_nodes(op="call_module"):
                calls[str(node.target)] = (*calls.get(str(node.target), ()), node)
        modules = dict(module.named_modules(remove_duplicate=False))
        for target, nodes in calls.items():
            if modules[target] in self._wanted:
                self._found.setdefault(modules[target], []).append(Place(module, target, nodes))
        return [modules[target] for target in calls]

    def _note_calls_with_more(self, owner: nn.Module) -> None:
        with suppress(CannotFollow):
            for node in (node for tree in functions_of(owner) for node in ast.walk(tree)):
                if isinstance(node, ast.Call) and len(node.args) + len(node.keywords) > 1:
                    child = owner._modules.get(own_attribute(node.func) or "")
                    if child in self._wanted:
                        self._with_more[child] = self._unfollowed[self._names[owner]]


def identities_behind(call: Node, modules: dict[str, nn.Module]) -> list[str]:
    """The names of the ``nn.Identity`` that the output of a call goes through and nothing else gets."""
    found: list[str] = []
    while len(call.users) == 1:
        (user,) = call.users
        if user.op != "call_module" or len(user.args) != 1 or type(modules[str(user.target)]) is not nn.Identity:
            break
        found.append(str(user.target))
        call = user
    return found
