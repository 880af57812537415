"""The modules whose inside others use by themselves: what the forward of such a module says is not all that happens.

A forward that can be followed shows each of its calls. Of one that cannot, and of a module's other methods, which users
call, the source shows what they may call: ``self.encoder.conv1(x)`` calls a part of the encoder and not the encoder.
"""

from __future__ import annotations

import ast

from torch import Tensor, nn

from normwise.torch.models.fusion.reading import CONTAINERS, Reading, Thing
from normwise.torch.models.fusion.sources import class_tree, nodes_of, own_attribute

Method = ast.FunctionDef
_ASKS = {
    "isinstance",
    "len",
    "hasattr",
    "getattr",
    "type",
    "print",
    "repr",
    "str",
    "id",
    "enumerate",
    "zip",
    "reversed",
}
_TENSORS = {"parameters", "named_parameters", "buffers", "named_buffers", "state_dict", "modules", "named_modules"}


class Parts:
    """Everything that is known of modules that others use in parts.

    Attributes:
        entered: ids of modules that others use the inside of -> who does.
        apart: ids of the ``nn.Sequential`` whose items somebody calls one by one.
        tensors: ids of parameters and buffers that a forward that cannot be followed uses by itself.
    """

    def __init__(self) -> None:
        self.entered: dict[int, str] = {}
        self.apart: set[int] = set()
        self.tensors: set[int] = set()

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
        reached = _reached(methods)
        for method in methods:
            if followed and method.name == "forward":
                continue
            self._note(Reading(owner, method), title, method.name, by_forward=method.name in reached and not followed)

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
        for node in nodes_of(reading.tree):
            if isinstance(node, ast.Call):
                for thing in reading.things(node.func):
                    if isinstance(thing.value, nn.Module):
                        self._called(thing, who, by_forward=by_forward)
                if by_forward and not (isinstance(node.func, ast.Name) and node.func.id in _ASKS):
                    self._handed_on(reading, node, title)
            elif by_forward and isinstance(node, ast.Attribute):
                for thing in reading.things(node):
                    if isinstance(thing.value, Tensor):
                        self.tensors.add(id(thing.value))
                        self._called(thing, f"{title} uses a tensor inside of it", by_forward=True)

    def _called(self, thing: Thing, who: str, *, by_forward: bool) -> None:
        for module in thing.around:
            if isinstance(module, nn.Sequential):
                if by_forward:
                    self.apart.add(id(module))
            elif not isinstance(module, CONTAINERS):
                self.entered.setdefault(id(module), who)

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


def methods_of(module: nn.Module) -> list[Method] | None:
    """The methods of the module's class, inherited ones too, but for its ``__init__``; None without a source."""
    found: list[Method] = []
    for base in type(module).__mro__:
        if base in nn.Module.__mro__ or base.__module__.startswith("torch."):
            break
        tree = class_tree(base)
        if tree is None:
            return None
        found += [node for node in nodes_of(tree) if isinstance(node, ast.FunctionDef) and node.name != "__init__"]
    return found


def other_methods_calling(owner: nn.Module, wanted: nn.Module) -> set[str]:
    """The names of the methods of a module, besides its forward, that call one of its parts.

    Args:
        owner: the module.
        wanted: the part.
    """
    found = set[str]()
    for method in methods_of(owner) or ():
        if method.name != "forward":
            reading = Reading(owner, method)
            calls = [node for node in nodes_of(method) if isinstance(node, ast.Call)]
            if any(thing.value is wanted for call in calls for thing in reading.things(call.func)):
                found.add(method.name)
    return found


def calls_forward(owner: nn.Module, method: str) -> bool:
    """True if a method of the module calls its forward, or something that does."""
    methods = methods_of(owner) or []
    reached = _reached(methods, method)
    for each in (each for each in methods if each.name in reached):
        itself = each.args.args[0].arg if each.args.args else ""
        for node in nodes_of(each):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == itself:
                return True
    return "forward" in reached


def _reached(methods: list[Method], first: str = "forward") -> set[str]:
    """The names of the methods that one of them calls, or that these call, and its own."""
    reached, waiting = set[str](), [first]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            for method in methods:
                if method.name == name:
                    calls = [node.func for node in nodes_of(method) if isinstance(node, ast.Call)]
                    waiting += filter(None, map(own_attribute, calls))
    return reached
