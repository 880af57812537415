"""Batch norms before or behind an activation in a PyTorch model, and the moves to the other side of the activation.

Modules in an ``nn.Sequential`` change places; in a forward that torch.fx can follow, the two calls do. A batch norm
stays where it is, and the reason is told, where an addition, a reuse or a forward that cannot be followed stands
against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule, Node

from normwise.lab.comparison.arms import AS_BUILT
from normwise.lab.comparison.torch_layers import BatchNorm
from normwise.torch.models.fusion.activation_calls import FUNCTIONS, METHODS
from normwise.torch.models.fusion.questions import hidden_path
from normwise.torch.models.fusion.sources import CannotFollow
from normwise.torch.models.fusion.tracing import followed

# Value by value, and with nothing that is drawn or learned for each channel.
ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
    nn.Mish, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink,
)  # fmt: skip
NO_NEIGHBOUR = "no activation stands right beside it"


@dataclass(frozen=True)
class Place:
    """The place of a batch norm.

    Args:
        where: ``"before"`` or ``"after"`` the activation; None if that cannot be told or changed.
        why: it cannot.
        move: to the other side; the model must still have the modules' names that it had.
    """

    where: str | None
    why: str = ""
    move: Callable[[], None] | None = None


def places(model: nn.Module) -> dict[str, Place]:
    """Every batch norm's place, by its full name."""
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, list[Place]] = {name: [] for name, part in model.named_modules() if isinstance(part, BatchNorm)}
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) in seen or isinstance(module, BatchNorm):
            continue
        seen.add(id(module))
        if not any(isinstance(part, BatchNorm) for part in module.modules()):
            continue
        forward = type(module).forward
        if forward is nn.Sequential.forward and "forward" not in vars(module):
            in_order = _in_order(module)
        else:
            in_order = {}
            if forward is not nn.Module.forward:  # a list of modules has none: who holds it calls them
                try:
                    in_order = _in_graphs(module)
                except CannotFollow as why:
                    title = names[id(module)] or f"the model ({type(module).__name__})"
                    missed = Place(None, f"{title} cannot be followed: its forward {why}")
                    in_order = {name: missed for name, part in module.named_children() if isinstance(part, BatchNorm)}
        for name, place in in_order.items():
            found[names[id(module.get_submodule(name))]].append(place)
        waiting += module.children()
    return {name: _only(each) for name, each in found.items()}


def choices(found: dict[str, Place]) -> tuple[str, ...]:
    """The choices to compare: the model as it was built, and each side to which a batch norm can be moved."""
    sides = {"before": "after", "after": "before"}
    others = {sides[place.where] for place in found.values() if place.where is not None}
    return (AS_BUILT, *sorted(others))


def moves(model: nn.Module, where: str) -> list[Callable[[], None]]:
    """The functions that move a model's batch norms there, after other modules took the places of the batch norms."""
    if where == AS_BUILT:
        return []
    return [place.move for place in places(model).values() if place.move is not None and place.where != where]


def _only(found: list[Place]) -> Place:
    if len(found) == 1:
        return found[0]
    return Place(None, "it is called more than once" if found else "no forward that can be followed calls it")


def _in_order(sequence: nn.Module) -> dict[str, Place]:
    items = [(name, module) for name, module in sequence._modules.items() if type(module) is not nn.Identity]
    kinds = [isinstance(module, ACTIVATIONS) for _, module in items]
    found = {}
    for at, (name, module) in enumerate(items):
        if isinstance(module, BatchNorm):
            behind, ahead = at > 0 and kinds[at - 1], at + 1 < len(items) and kinds[at + 1]
            other = items[at - 1] if behind else items[at + 1] if ahead else None
            found[name] = _place(behind, ahead, None if other is None else partial(_swap, sequence, name, other[0]))
    return found


def _place(behind: bool, ahead: bool, move: Callable[[], None] | None) -> Place:
    if behind and ahead:
        return Place(None, "an activation stands on each side of it")
    return Place("after" if behind else "before", "", move) if behind or ahead else Place(None, NO_NEIGHBOUR)


def _swap(sequence: nn.Module, one: str, other: str) -> None:
    slots = sequence._modules
    slots[one], slots[other] = slots[other], slots[one]


def _in_graphs(owner: nn.Module) -> dict[str, Place]:
    graphs = followed(owner)
    hidden = hidden_path(owner)
    if hidden is not None:
        raise CannotFollow(hidden)
    found: dict[str, Place] = {}
    for target in dict.fromkeys(str(node.target) for graph in graphs for node in graph.find_nodes(op="call_module")):
        if not isinstance(owner.get_submodule(target), BatchNorm):
            continue
        calls = [[node for node in graph.find_nodes(op="call_module") if node.target == target] for graph in graphs]
        if [len(nodes) for nodes in calls] != [1, 1]:
            found[target] = Place(None, "it is called more than once")
            continue
        sides = {_sides(owner, nodes[0]) for nodes in calls}
        behind, ahead = sides.pop()
        same = Place(None, "something else stands beside it in training than in inference")
        found[target] = same if sides else _place(behind, ahead, partial(_exchange, owner, target, ahead, graphs))
    return found


def _sides(owner: nn.Module, norm: Node) -> tuple[bool, bool]:
    """True if an activation that only this call takes from stands in front of it, and True if one stands behind it."""
    source, users = norm.args[0], [*norm.users]
    if not isinstance(source, Node):
        return False, False
    behind = len(source.users) == 1 and _activates(owner, source) and _may_move(owner, source, source.args[0])
    ahead = len(users) == 1 and _activates(owner, users[0]) and _may_move(owner, users[0], source)
    return behind, ahead


def _may_move(owner: nn.Module, activation: Node, source: object) -> bool:
    """True if the activation does not work in place, or nothing else takes the tensor that it changes."""
    if not isinstance(source, Node):
        return False
    module = owner.get_submodule(str(activation.target)) if activation.op == "call_module" else None
    by_name = str(getattr(activation.target, "__name__", activation.target)).endswith("_")
    in_place = by_name or activation.kwargs.get("inplace", False) or getattr(module, "inplace", False)
    return len(source.users) == 1 or not in_place


def _activates(owner: nn.Module, node: Node) -> bool:
    if node.op == "call_module":
        return isinstance(owner.get_submodule(str(node.target)), ACTIVATIONS)
    names: dict[Any, str] = {"call_function": FUNCTIONS, "call_method": METHODS}.get(node.op, {})
    return node.target in names


def _exchange(owner: nn.Module, target: str, ahead: bool, graphs: tuple[Graph, Graph]) -> None:
    """Let the owner's forward do the two calls the other way round."""
    for graph in graphs:
        norm = next(node for node in graph.find_nodes(op="call_module") if node.target == target)
        first, second = (norm, next(iter(norm.users))) if ahead else (norm.args[0], norm)
        assert isinstance(first, Node)  # the place was found by it
        source = first.args[0]
        assert isinstance(source, Node)  # an activation and a batch norm have an input
        second.replace_all_uses_with(first)  # also in first's own place, which the next line gives its input back
        second.replace_input_with(first, source)
        first.replace_input_with(source, second)
        second.append(first)
    training, inference = (GraphModule(owner, graph) for graph in graphs)

    def forward(*given: Any, **named: Any) -> Any:
        return (training if owner.training else inference).forward(*given, **named)

    owner.forward = forward
