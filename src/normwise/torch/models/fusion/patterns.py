"""The patterns that ``fuse`` looks for: activations, and the addition before them, that a batch norm can do itself."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from normwise.torch.models.fusion.activation_calls import activation_at, why_no_activation

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def hooked(module: nn.Module) -> bool:
    """True if the module has a hook."""
    return any(getattr(module, hooks, None) for hooks in HOOKS)


@dataclass(frozen=True)
class Pattern:
    """A batch norm in a graph and what follows it; without ``activation``, nothing that it could do itself, and why."""

    norm: Node
    passed: tuple[Node, ...] = ()
    addition: Node | None = None
    residual: Node | None = None
    activate: Node | None = None
    activation: str | None = None
    why: str = ""
    last: bool = False  # whether its output is the graph's
    within: bool = False  # whether the node is a module around the batch norm

    def __str__(self) -> str:
        return f"add, {self.activation}" if self.addition is not None else f"{self.activation}"

    def same(self, other: Pattern) -> bool:
        """True if the batch norm does the same for both, in two graphs; one of them may have no addition."""
        ours = (self.activation, self.activation_target, self.last)
        return ours == (other.activation, other.activation_target, other.last)

    @property
    def activation_target(self) -> str | None:
        """The name of the activation's module, where it is one."""
        return str(self.activate.target) if self.activate is not None and self.activate.op == "call_module" else None


def what_follows(norm: Node, modules: dict[str, nn.Module]) -> Pattern | str:
    """The pattern that starts at a call of a batch norm, or why it must not be touched.

    Args:
        norm: the call.
        modules: by the names that the graph calls them.
    """
    if len(norm.args) != 1 or norm.kwargs:
        return "it is called with more than its input"
    last, passed = _pass(norm, modules)
    users = [*last.users]
    if len(users) != 1:
        of_interest = any(activation_at(user, modules) or _other(user, last) is not None for user in users)
        often = "its output is used in more than one place" if users else "its output is not used"
        return often if of_interest else Pattern(norm, why=often)
    addition, residual = None, None
    if (other := _other(users[0], last)) is not None:
        addition, residual = users[0], other
        last, after = _pass(addition, modules)
        passed += after
        users = [*last.users]
    if len(users) != 1:
        return Pattern(norm, why="the sum that its output goes into is used in more than one place")
    if (activation := activation_at(users[0], modules)) is None:
        return Pattern(
            norm, why=_why_not(users[0], modules, addition), last=users[0].op == "output" and addition is None
        )
    activate = users[0]
    if activate.op == "call_module" and hooked(modules[str(activate.target)]):
        return f"the activation behind it, {activate.target}, has hooks"
    if addition is not None and _may_change_between(norm, addition, modules):
        return "something between it and the addition may change its input in place"
    return Pattern(norm, passed, addition, residual, activate, activation)


def _why_not(user: Node, modules: dict[str, nn.Module], addition: Node | None) -> str:
    """Why what uses the output, or the sum with it, is nothing that the layers do."""
    if user.op == "output":
        return "its output is returned" if addition is None else "the sum that its output goes into is returned"
    if user.op == "call_module":
        return no_activation(modules[str(user.target)], behind="it" if addition is None else "the addition behind it")
    name = str(user.target) if user.op == "call_method" else getattr(user.target, "__name__", str(user.target))
    behind = "it" if addition is None else "the addition behind it"
    return f"what follows {behind}, {name}, is {why_no_activation(user.target)}"


def no_activation(module: nn.Module, behind: str = "it") -> str:
    """The reason in the report for a module that follows a batch norm and is no activation.

    Example:
        >>> no_activation(nn.PReLU())
        "what follows it, PReLU, is an activation with a learned slope, which normwise's layers do not take"
    """
    return f"what follows {behind}, {type(module).__name__}, is {why_no_activation(module)}"


def _pass(node: Node, modules: dict[str, nn.Module]) -> tuple[Node, tuple[Node, ...]]:
    """Go through ``nn.Identity``: the last node, and those that were passed."""
    passed: tuple[Node, ...] = ()
    while len(node.users) == 1:
        (user,) = node.users
        if user.op != "call_module" or type(modules[str(user.target)]) is not nn.Identity or user.kwargs:
            break
        if hooked(modules[str(user.target)]):
            break
        node, passed = user, (*passed, user)
    return node, passed


def _other(node: Node, one: Node) -> Node | None:
    """The other operand, where this node adds ``one`` and another value; None where it does not."""
    functions, methods = (operator.add, operator.iadd, torch.add), ("add", "add_")
    added = (node.op == "call_function" and node.target in functions) or (
        node.op == "call_method" and node.target in methods
    )
    alpha = node.kwargs.get("alpha", 1)
    if not added or len(node.args) != 2 or node.kwargs.keys() - {"alpha"} or not isinstance(alpha, int) or alpha != 1:
        return None
    left, right = node.args
    if not isinstance(left, Node) or not isinstance(right, Node) or left is right:
        return None
    # What is added to in place is changed, which only the output of the batch norm may be: nobody else sees it.
    if right is one and node.target in (operator.iadd, "add_"):
        return None
    other = right if left is one else left
    # A parameter or a buffer is there to be broadcast; the layers add a tensor of the same shape.
    return None if other.op == "get_attr" else other


def _may_change_between(norm: Node, addition: Node, modules: dict[str, nn.Module]) -> bool:
    """True if the input of the batch norm may change before the addition, where it will be read."""
    (source,) = norm.args
    if not isinstance(source, Node):
        return True
    fresh = source.op == "call_module" and isinstance(modules[str(source.target)], nn.modules.conv._ConvNd | nn.Linear)
    if fresh and len(source.users) == 1:
        return False
    node = norm.next
    while node is not addition:
        if _in_place(node, modules):
            return True
        node = node.next
    return False


def _in_place(node: Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return any(getattr(part, "inplace", False) for part in modules[str(node.target)].modules())
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    by_name = (name.endswith("_") and not name.endswith("__")) or (node.target is not None and name in IN_PLACE)
    return by_name or node.kwargs.get("inplace", False) is not False or "out" in node.kwargs


IN_PLACE = {"iadd", "isub", "imul", "itruediv", "setitem", "ipow", "ifloordiv", "imatmul"}
