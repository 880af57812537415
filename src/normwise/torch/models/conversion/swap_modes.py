"""One forward for training and inference where the two differ by dropout only, which modules do by their own mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Graph, Node
from torch.nn import functional as F

DROPOUTS: dict[Any, Callable[..., nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def dropout_as_modules(owner: nn.Module, graphs: tuple[Graph, Graph]) -> None:
    """Let modules do every dropout of a forward that is there in training and not in inference.

    Args:
        owner: gets the modules, which have no tensors.
        graphs: of its forward in training and in inference; changed in place.
    """
    if len({graph.python_code("self").src for graph in graphs}) == 1:
        return
    in_training, in_inference = ([node for node in graph.nodes if _is_dropout(node)] for graph in graphs)
    if len(in_training) != len(in_inference):
        return
    for one, other in zip(in_training, in_inference, strict=True):
        (x, settings), (y, settings_then) = _settings(one), _settings(other)
        modes = (settings.pop("training", False), settings_then.pop("training", False))
        if one.target is not other.target or modes != (True, False) or settings != settings_then:
            continue
        if any(isinstance(value, Node) for value in settings.values()):
            continue
        name = "dropout"
        while hasattr(owner, name):
            name += "_"
        owner.add_module(name, DROPOUTS[one.target](**settings).train(owner.training))
        for node, source in ((one, x), (other, y)):
            with node.graph.inserting_before(node):
                node.replace_all_uses_with(node.graph.call_module(name, (source,)))
            node.graph.erase_node(node)


def _is_dropout(node: Node) -> bool:
    return node.op == "call_function" and node.target in DROPOUTS


def _settings(node: Node) -> tuple[Any, dict[str, Any]]:
    """The input of a dropout, and its other arguments by their names."""
    given = {**dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)), **node.kwargs}
    if "training" not in given:
        given["training"] = node.target not in (F.alpha_dropout, F.feature_alpha_dropout)  # their defaults
    return given.pop("input"), given
