"""The activation and the addition of a layer back into the model around it, where PyTorch's own layer has no place."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.fx import Node

from normwise.torch.layers.replacement_guard import STOOD_HERE
from normwise.torch.models.conversion.swap_modes import dropout_as_modules
from normwise.torch.models.conversion.swap_places import Place, Places, identities_behind
from normwise.torch.models.fusion.activation_calls import module_of
from normwise.torch.models.fusion.patterns import Pattern, what_follows
from normwise.torch.models.fusion.questions import settings_read
from normwise.torch.models.fusion.rewriting import (
    Terms,
    class_with_forwards,
    fused_from,
    layers_fused_in,
    stands_alone,
)
from normwise.torch.models.fusion.sources import CannotFollow
from normwise.torch.models.fusion.subclass_change import inside_kept
from normwise.torch.models.fusion.tracing import followed_ways


@dataclass
class Plan:
    """The changes around the layers that are needed before they can become PyTorch's.

    Args:
        words: for each layer, what happens around it.
        refused: the layers for which nothing can be done, with the reason.
        steps: what puts activations into their places.
        rewritten: the modules whose forward has to be rewritten, with what has to be added after each call: whether
            by a module of this name.
        others: the methods of these that call such a layer too, and would do without what is added.
    """

    words: dict[nn.Module, str] = field(default_factory=dict)
    refused: dict[nn.Module, str] = field(default_factory=dict)
    steps: list[Callable[[], None]] = field(default_factory=list)
    rewritten: dict[nn.Module, list[tuple[Node, str | None]]] = field(default_factory=dict)
    others: dict[nn.Module, set[str]] = field(default_factory=dict)


def restore_forwards(model: nn.Module, wanted: set[nn.Module]) -> tuple[list[nn.Module], dict[nn.Module, str]]:
    """Give the modules that ``fuse`` has rewritten their own forward back, where all its layers are wanted.

    Returns:
        the layers that such a forward does the activation of again, and those that stay fused, with the reason.
    """
    names = {module: name for name, module in model.named_modules()}
    inside: dict[nn.Module, set[nn.Module]] = {}
    whys: dict[nn.Module, str] = {}
    again: set[nn.Module] = set()
    for owner in model.modules():
        base, now = fused_from(owner), type(owner)
        if base is None:
            continue
        try:
            layers = layers_fused_in(owner)
        except AttributeError:  # a child is not there any more
            layers = []
        inside[owner] = {*layers} or {*owner.modules()} & wanted
        owner.__class__ = base
        try:
            if not layers:
                raise CannotFollow("calls other modules")
            again |= _done_in(owner, now)
        except CannotFollow as reason:
            whys[owner] = f"the forward of {names[owner]!r} has changed: it {reason}"
        finally:
            owner.__class__ = now
    free: list[nn.Module] = []
    refused: dict[nn.Module, str] = {}
    for group in _with_layers_in_common(inside):
        layers_of_group = [module for module in names if any(module in inside[owner] for owner in group)]
        missing = [norm for norm in layers_of_group if norm not in wanted]
        why = f"one forward was written for it and for {names[missing[0]]!r}: name both" if missing else ""
        why = next((whys[owner] for owner in group if owner in whys), why)
        if why:
            refused |= {norm: why for norm in layers_of_group if norm in wanted}
            continue
        free += [norm for norm in layers_of_group if norm in again]
        for owner in group:
            owner.__class__ = fused_from(owner) or type(owner)
    return free, refused


def _with_layers_in_common(inside: dict[nn.Module, set[nn.Module]]) -> list[list[nn.Module]]:
    """The modules in groups: forwards that give a residual on to one another were written for each other."""
    groups: list[list[nn.Module]] = []
    for owner, layers in inside.items():
        mine = [group for group in groups if any(inside[each] & layers for each in group)]
        groups = [group for group in groups if group not in mine] + [
            [*(each for group in mine for each in group), owner]
        ]
    return groups


def _done_in(owner: nn.Module, fused: type[nn.Module]) -> set[nn.Module]:
    """The layers whose activation the module's own forward does too; the others' output is the module's.

    Raises:
        CannotFollow: it does something else behind one of them than that does now.
    """
    modules = dict(owner.named_modules(remove_duplicate=False))
    found: set[nn.Module] = set()
    if type(owner).forward is nn.Sequential.forward:
        return found
    for name in vars(fused)["_fused_layers"]:
        patterns = [
            what_follows(node, modules)
            for graph in followed_ways(owner).graphs
            for node in graph.find_nodes(op="call_module")
            if name == node.target or name.startswith(f"{node.target}.")
        ]
        activation = getattr(modules[name], "activation", None)
        does = [
            isinstance(each, Pattern) and activation is not None and each.activation == activation for each in patterns
        ]
        passes = [isinstance(each, Pattern) and each.last for each in patterns]
        if not patterns or not (all(does) or all(passes)):
            raise CannotFollow(f"does something else behind {name}")
        if all(does):
            found.add(modules[name])
    return found


def plan(places: Places, norms: Iterable[nn.Module], done: list[nn.Module]) -> Plan:
    """The changes that are needed around these layers.

    Args:
        places: where they are called.
        norms: layers of normwise that PyTorch has a counterpart of.
        done: the layers whose activation the forward around them does again.
    """
    made = Plan()
    for norm in norms:
        activation = _to_be_placed(norm)
        if norm in done:
            made.words[norm] = f"{activation} is done by the model's own forward again"
            continue
        found = places.of(norm)
        if isinstance(found, str):
            if activation is not None:
                made.refused[norm] = (
                    f"its activation {activation} needs a place behind it, and {found}: build the model with the "
                    "activation behind the layer"
                )
            elif (more := places.called_with_more(norm)) is not None:
                made.refused[norm] = (
                    f"it is called with more than its input, which torch.nn's layer does not take, and {more}: write "
                    "the addition behind the layer"
                )
            continue
        for_it = Plan()
        try:
            words = [_at(place, norm, activation, places, for_it) for place in found]
        except CannotFollow as why:
            made.refused[norm] = str(why)
            continue
        made.words[norm] = "; ".join(dict.fromkeys(filter(None, words)))
        made.steps += for_it.steps
        for owner, calls in for_it.rewritten.items():
            made.rewritten.setdefault(owner, []).extend(calls)
            made.others.setdefault(owner, set()).update(for_it.others[owner])
    return made


def _to_be_placed(norm: nn.Module) -> str | None:
    """The activation that the layer does now, and will not do as PyTorch's or as its own class's."""
    inside = inside_kept(norm)
    activation: str | None = getattr(norm, "activation", None)
    return None if inside is not None and inside.activation is not None else activation


def _at(place: Place, norm: nn.Module, activation: str | None, places: Places, made: Plan) -> str:
    """Plan one place; what happens there, in words.

    Raises:
        CannotFollow: the layer has to stay as it is, with the reason.
    """
    if not place.calls:
        return "" if activation is None else _in_order(place, norm, activation, places, made)
    more = [_takes_more(node) for node in place.calls]
    adds = any(_residual(node) is not None for node in place.calls)
    if activation is None and not any(more):
        return ""
    if not any(more) and (slot := _identity_behind(place, places)) is not None:
        return _filled(place.owner, slot, norm, str(activation), made)
    why = places.cannot_rewrite(place.owner)
    if why is not None:
        raise CannotFollow(f"{_work(activation, adds)} would have to stand behind it, and {why}")
    name = None
    if activation is not None:
        name = _free_name(place.owner, place.norm.replace(".", "_"))
        made.steps.append(lambda: place.owner.add_module(name, _module(activation, norm)))
    made.rewritten.setdefault(place.owner, []).extend((node, name) for node in place.calls)
    others = made.others.setdefault(place.owner, set())
    others |= places.others.calling(place.owner, norm)
    words = f"{_work(activation, adds)} behind it in the forward of {places.title(place.owner)}"
    words += f", as {name}" * (name is not None)
    return words + f", and not in its method {', '.join(sorted(others))}, which is an error now" * bool(others)


def _in_order(place: Place, norm: nn.Module, activation: str, places: Places, made: Plan) -> str:
    """Plan an activation in a sequence: in the place of the ``nn.Identity`` behind the layer, or as one more module."""
    names = [*place.owner._modules]
    passed = []
    for name in names[names.index(place.norm) + 1 :]:
        module = place.owner._modules[name]
        if module is not None and type(module) is not nn.Identity:
            break
        passed += [name] * places.is_free(module)
    slot = _marked_first(place.owner, passed)[0] if passed else None
    if slot is not None and places.others.together(place.owner, place.norm, slot):
        return _filled(place.owner, slot, norm, activation, made)
    if others := places.others.calling(place.owner, norm):
        title = places.title(place.owner)
        raise CannotFollow(f"{activation} would have to stand behind it in the method {min(others)} of {title} too")
    key = _free_name(place.owner, place.norm)

    def insert() -> None:
        items = [*place.owner._modules.items()]
        place.owner._modules.clear()
        for name, module in items:
            place.owner._modules[name] = module
            if name == place.norm:
                place.owner._modules[key] = _module(activation, norm)

    made.steps.append(insert)
    return f"{activation} behind it, as {key}"


def _filled(owner: nn.Module, slot: str, norm: nn.Module, activation: str, made: Plan) -> str:
    parent, _, child = slot.rpartition(".")
    around = owner.get_submodule(parent)
    identity = around._modules[child]
    (stood_here,) = vars(identity).get(STOOD_HERE, (None,))
    module = _module(activation, norm) if stood_here is None else stood_here

    def fill() -> None:
        module.train(identity.training)  # type: ignore[union-attr]  # it is a module
        around._modules[child] = module

    made.steps.append(fill)
    return f"{activation} behind it, {'again ' * (stood_here is not None)}as {slot}"


def _marked_first(owner: nn.Module, names: list[str]) -> list[str]:
    """Those that stand where ``fuse`` has found an activation before others."""
    return sorted(names, key=lambda name: STOOD_HERE not in vars(owner.get_submodule(name)))


def _identity_behind(place: Place, places: Places) -> str | None:
    """The name of an ``nn.Identity`` that follows every call of the layer, and is called nowhere else."""
    modules = dict(place.owner.named_modules(remove_duplicate=False))
    chains = [identities_behind(node, modules) for node in place.calls]
    calls = Counter(
        str(node.target) for graph in places.graphs[place.owner] for node in graph.find_nodes(op="call_module")
    )
    for name in _marked_first(place.owner, chains[0]):
        always = all(name in chain for chain in chains) and calls[name] == len(chains)
        together = places.others.together(place.owner, place.norm, name)
        if always and together and places.is_free(modules[name]):
            return name
    return None


def _takes_more(node: Node) -> bool:
    """True if the layer is called with an argument for the residual, even where that is None.

    Raises:
        CannotFollow: with something else.
    """
    other = {*node.kwargs} - {"input", "residual"}
    if other or len(node.args) > 2 or (not node.args and "input" not in node.kwargs):
        used = ", ".join(sorted(other)) or "more than its input"
        raise CannotFollow(f"it is called with {used}, which torch.nn's layer does not take")
    return len(node.args) == 2 or "residual" in node.kwargs


def _residual(node: Node) -> Any:
    """The residual that a call gives the layer to add, or None."""
    return node.args[1] if len(node.args) == 2 else node.kwargs.get("residual")


def _work(activation: str | None, adds: bool) -> str:
    return " and ".join(["the addition"] * adds + [activation] * (activation is not None))  # type: ignore[list-item]  # a str then


def _module(activation: str, norm: nn.Module) -> nn.Module:
    return module_of(activation).train(norm.training)


def _free_name(owner: nn.Module, norm: str) -> str:
    name = f"{norm}_activation"
    while hasattr(owner, name) or name in owner._modules:
        name += "_"
    return name


def carry_out(made: Plan, places: Places) -> set[nn.Module]:
    """Do what was planned.

    Returns:
        the layers in modules whose forward is not the same in training and in inference, so that a file of the whole
        model needs normwise.
    """
    for step in made.steps:
        step()
    bound: set[nn.Module] = set()
    for owner, calls in made.rewritten.items():
        for node, name in calls:
            _work_behind(node, name)
        graphs = places.graphs[owner]
        dropout_as_modules(owner, graphs)
        for graph in graphs:
            for node in graph.nodes:
                node.type = None  # the annotations, which may be names that mean something elsewhere only
            graph.lint()
        settings, others = settings_read(owner, guarded=True), tuple(sorted(made.others[owner]))
        owner.__class__ = class_with_forwards(owner, graphs, Terms(settings, alone=True, others=others))
        if not stands_alone(type(owner)):
            bound |= {owner.get_submodule(str(node.target)) for node, _ in calls}
    return bound


def _work_behind(node: Node, activation: str | None) -> None:
    """Let the graph do what the layer has done behind its own output."""
    residual = _residual(node)
    node.args, node.kwargs = ((node.args[0] if node.args else node.kwargs["input"]),), {}
    if residual is None and activation is None:
        return
    users, last = [*node.users], node
    with node.graph.inserting_after(node):
        if residual is not None:
            last = node.graph.call_function(operator.add, (node, residual))
    if activation is not None:
        with node.graph.inserting_after(last):
            last = node.graph.call_module(activation, (last,))
    for user in users:
        user.replace_input_with(node, last)
