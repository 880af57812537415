"""The modules whose inside others use by themselves: what the forward of such a module says is not all that happens.

A forward that can be followed shows each of its calls. Of one that cannot, and of a module's other methods, which users
call, the source shows what they may call: ``self.encoder.conv1(x)`` calls a part of the encoder and not the encoder.
"""

from __future__ import annotations

import ast

from torch import Tensor, nn

from normwise.torch.models.fusion.loops import places_of, stops_of
from normwise.torch.models.fusion.methods import ASKS, Methods, called_in, methods_of, reached, slice_of
from normwise.torch.models.fusion.reading import CONTAINERS, Reading, Thing
from normwise.torch.models.fusion.sources import nodes_of

_TENSORS = {"parameters", "named_parameters", "buffers", "named_buffers", "state_dict", "modules", "named_modules"}


class Parts:
    """The facts about all modules that were noted.

    Attributes:
        entered: ids of modules that others use the inside of -> who does.
        apart: ids of the ``nn.Sequential`` whose items somebody calls one by one.
        tensors: ids of parameters and buffers that a forward that cannot be followed uses by itself.
        taken: ids of modules -> the ids of the children that one method of another module calls, and who that is.
        others: what the methods besides the forwards use.
    """

    def __init__(self) -> None:
        self.entered: dict[int, str] = {}
        self.apart: set[int] = set()
        self.tensors: set[int] = set()
        self.taken: dict[int, list[tuple[set[int], str]]] = {}
        self.others = Methods()

    def note(self, owner: nn.Module, title: str, *, followed: bool) -> None:
        """Note what the methods of a module use.

        Args:
            owner: the module.
            title: its name in sentences.
            followed: whether a trace shows what its forward does, so that only its other methods are looked at.
        """
        methods = methods_of(owner)
        if methods is None:
            if not followed:
                for child in owner.children():
                    self._enter(child, f"the source of {title}, which may use it, cannot be read")
            return
        by_forward = reached(methods)
        for method in methods:
            if followed and method.name == "forward":
                continue
            self._note(
                self.others.reading(owner, method),
                title,
                method.name,
                by_forward=method.name in by_forward and not followed,
            )

    def below(self, module: nn.Module, whole: set[str] | None = None) -> list[nn.Module]:
        """The modules to be looked at next below one whose own forward does not say what happens.

        Args:
            module: the module.
            whole: the names of the children that are only called.
        """
        found: list[nn.Module] = []
        for name, child in module.named_children():
            alone = isinstance(child, nn.Sequential) and (
                id(child) in self.apart or (whole is not None and name not in whole)
            )
            found += child.children() if alone else [child]
        return found

    def _note(self, reading: Reading, title: str, method: str, *, by_forward: bool) -> None:
        who = f"{title} calls what is inside of it" + ("" if by_forward else f", in its method {method}")
        called: dict[int, set[int]] = {}
        for node in nodes_of(reading.tree):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
                self._sliced(node.slice, reading.things(node.value), reading, who)
            if isinstance(node, ast.Call):
                things = called_in(node, reading)
                self._one_by_one(node, things, reading, who)
                for thing in things:
                    self._called(thing, who, by_forward=by_forward)
                    if thing.around and _slices_at_will(node):
                        self.taken.setdefault(id(thing.around[-1]), []).append(({id(thing.value)}, who))
                    elif thing.around:
                        called.setdefault(id(thing.around[-1]), set()).add(id(thing.value))
                if by_forward and not (isinstance(node.func, ast.Name) and node.func.id in ASKS):
                    self._handed_on(reading, node, title)
            elif by_forward and isinstance(node, ast.Attribute):
                for thing in reading.things(node):
                    if isinstance(thing.value, Tensor):
                        self.tensors.add(id(thing.value))
                        self._called(thing, f"{title} uses a tensor inside of it", by_forward=True)

        for sequence, items in called.items():
            self.taken.setdefault(sequence, []).append((items, who))

    def _called(self, thing: Thing, who: str, *, by_forward: bool) -> None:
        for module in thing.around:
            if isinstance(module, nn.Sequential):
                if by_forward:
                    self.apart.add(id(module))
            elif not isinstance(module, CONTAINERS):
                self.entered.setdefault(id(module), who)

    def _one_by_one(self, call: ast.Call, things: list[Thing], reading: Reading, who: str) -> None:
        """Note where a method may stop that calls one of several items of a sequence at a time."""
        if isinstance(call.func, ast.Subscript) and isinstance(call.func.slice, ast.Slice):
            return  # which is one call of them all
        sequences = {id(thing.around[-1]): thing.around[-1] for thing in things if thing.around}
        for number, sequence in sequences.items():
            items = [id(each) for each in sequence._modules.values()]
            if len({thing.path for thing in things if thing.around and thing.around[-1] is sequence}) > 1:
                stops = stops_of(call, reading)
                for stop in range(len(items)) if stops is None else stops:
                    self.taken.setdefault(number, []).append(({*items[: stop + 1]}, who))

    def _sliced(self, part: ast.Slice, things: list[Thing], reading: Reading, who: str) -> None:
        """Note the part of a sequence that a method takes, whatever it does with it."""
        known, ends = slice_of(part), None if part.lower or part.step else places_of(part.upper, reading)
        for thing in things:
            if isinstance(thing.value, nn.Sequential):
                items = [id(each) for each in thing.value._modules.values()]
                if known is not None:
                    parts = [items[known]]
                else:
                    parts = [[each] for each in items] if ends is None else [items[:end] for end in ends]
                self.taken.setdefault(id(thing.value), []).extend(({*each}, who) for each in parts)

    def taken_apart(self, sequence: nn.Module, first: nn.Module, second: nn.Module) -> str | None:
        """Who calls one of two items of a sequence in a method without the other; None if nobody does."""
        for items, who in self.taken.get(id(sequence), []):
            if (id(first) in items) != (id(second) in items):
                return who
        return None

    def _handed_on(self, reading: Reading, call: ast.Call, title: str) -> None:
        """Whoever gets a module, or all of its tensors, may use what is inside."""
        if isinstance(call.func, ast.Attribute) and call.func.attr in _TENSORS:
            for thing in reading.things(call.func.value):
                if isinstance(thing.value, nn.Module):
                    self.tensors |= {id(tensor) for tensor in (*thing.value.parameters(), *thing.value.buffers())}
        for given in (*call.args, *(each.value for each in call.keywords)):
            for thing in reading.things(given):
                if thing.path and isinstance(thing.value, nn.Module):
                    self._enter(thing.value, f"{title} hands it on to a function")

    def _enter(self, module: nn.Module, who: str) -> None:
        for part in module.modules():
            if part._modules:
                self.entered.setdefault(id(part), who)
                self.apart.add(id(part))


def _slices_at_will(call: ast.Call) -> bool:
    """True if a part of a sequence is called, and the source does not say which."""
    inner = call.func.slice if isinstance(call.func, ast.Subscript) else None
    return isinstance(inner, ast.Slice) and slice_of(inner) is None
