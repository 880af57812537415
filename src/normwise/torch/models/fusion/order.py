"""The order in which the parts of a module run, and whether one of them may run later."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.torch.models.fusion.patterns import Pattern
from normwise.torch.models.fusion.sources import CannotFollow
from normwise.torch.models.fusion.tracing import Ways, followed_ways


def runs_in_order(module: nn.Module) -> bool:
    """True if the module calls its children one behind the other, and does nothing else."""
    return type(module).forward is nn.Sequential.forward and type(module).__call__ is nn.Module.__call__


def moves(pattern: Pattern) -> bool:
    """True if anything happens between the call and the addition, where the call will stand."""
    node, passed = pattern.norm.next, {*pattern.passed}
    while node in passed:
        node = node.next
    return node is not pattern.addition


# Of PyTorch's, those that draw in training.
_DRAW = ("dropout", "rrelu", "rnn", "transformer", "activation.multihead", "fractional")


def never_draws(module: nn.Module, ways: Mapping[int, Ways]) -> bool:
    """True if no part of the module can draw random numbers, by its class or because it only calls its children.

    Args:
        module: a part of a model.
        ways: the forwards that were followed already, by the ids of the modules.
    """
    for part in module.modules():
        theirs = type(part).__module__.startswith("torch.nn.modules")
        name = f"{type(part).__module__}.{type(part).__name__}".lower().replace("_", "")
        if isinstance(part, _BatchNorm) or (theirs and not any(word in name for word in _DRAW)):
            continue
        if not _calls_children_only(part, ways):
            return False
    return True


def _calls_children_only(module: nn.Module, ways: Mapping[int, Ways]) -> bool:
    """True if the module's forward does nothing but call its children."""
    if runs_in_order(module):
        return True
    try:
        graphs = (ways.get(id(module)) or followed_ways(module)).graphs
    except CannotFollow:
        return False
    return all(
        node.op in ("placeholder", "call_module", "output", "get_attr") for graph in graphs for node in graph.nodes
    )
