"""Checks that an operation can work on a model; every operation on a whole model makes them before anything else.

A batch norm is found as a module. Where torch.jit, torch.export or ``make_fx`` has made code of a model, its batch
norms are instructions in that code: no hook sees their calls, and nothing that takes a module's place is called.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from normwise.errors import UnsuitableModel
from normwise.frameworks import framework_of, instead_of, refusal, with_article
from normwise.recalibration.asked import check_forward_fn
from normwise.torch.models.feeding import unwrapped
from normwise.torch.models.transaction import sharded_parts

# As classes are called, in the code that torch.jit made of them, and as PyTorch's operations are.
BATCH_NORMS = re.compile(r"(Batch|Iterative)\w*Norm(\d+d)?$|BatchRenorm\dd$|batch_norm")
ALL_NORMS = re.compile(r"(Norm|Renorm)(alization)?(\d+d\w{0,2})?$|_norm")


def check_model(model: Any, *, called: str, code: bool = False) -> None:
    """Refuse what is no PyTorch model, and models whose layers the operation called so cannot reach.

    Args:
        model: what the operation was given.
        called: the name of the operation.
        code: whether the operation can do with what torch.jit and torch.export make of a model.

    Raises:
        UnsuitableModel: the message says what was received, and what to pass instead.
    """
    if framework_of(model) == "keras":
        raise UnsuitableModel(
            f"{called} needs a PyTorch model (torch.nn.Module), received a Keras model ({type(model).__name__}): "
            f"{instead_of(called)}."
        )
    if not isinstance(model, nn.Module):
        raise UnsuitableModel(refusal(called, "a torch.nn.Module", model))
    how = None if code else _compiled_by(unwrapped(model))
    if how is not None:
        raise UnsuitableModel(f"{called} needs a model whose layers run in Python, received {how}.")


def check_reach(model: nn.Module, *, called: str, kinds: re.Pattern[str] = BATCH_NORMS) -> None:
    """Refuse a model with normalization in code, for operations that would silently be wrong about it.

    Args:
        model: already seen by ``check_model``.
        called: the name of the operation.
        kinds: which names of classes and operations count.

    Raises:
        UnsuitableModel: the message names the first place.
    """
    for name, why in out_of_reach(model, kinds).items():
        check_model(model, called=called)
        raise UnsuitableModel(
            f"{called} needs a model whose normalization layers run in Python, received one with {name!r}, and {why}: "
            "pass the model as it was before that."
        )


def check_runnable(model: nn.Module, forward_fn: object, *, called: str) -> None:
    """Refuse a model that cannot be run in inference mode.

    Args:
        model: already seen by ``check_model``.
        forward_fn: how a batch enters the model, or None where its forward takes it.
        called: the name of the operation.

    Raises:
        UnsuitableModel: it has no forward, or a part that torch.export made.
        NormwiseError: a ``forward_fn`` that is no function.
    """
    check_forward_fn(forward_fn)
    inner = unwrapped(model)
    if forward_fn is None and not has_forward(inner):
        kind = type(inner).__name__
        raise UnsuitableModel(
            f"{called} needs a model with a forward, received {with_article(kind)}, which has none: pass forward_fn, a "
            "function of the model and a batch, too."
        )
    for name, module in model.named_modules():
        if _is_exported(module):
            raise UnsuitableModel(
                f"{called} needs a model that can be put into inference mode, received one with {name!r}, whose mode "
                "torch.export has fixed: pass the model with that part as it was before the export."
            )


def out_of_reach(model: nn.Module, kinds: re.Pattern[str] = BATCH_NORMS) -> dict[str, str]:
    """The places of normalization that is code and no module, with the reason.

    Args:
        model: any module.
        kinds: which names of classes and operations count.
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            if kinds.search(module.original_name) or (kinds is ALL_NORMS and hasattr(module, "running_mean")):
                found[name] = "it is in a ScriptModule, whose layers do not run in Python"
        elif isinstance(module, GraphModule):
            maker = "torch.export made" if _is_exported(module) else "torch.fx made"
            for node in graph_norms(module, kinds):
                place = f"{name}.{node.name}" if name else node.name
                found[place] = f"it is an operation in a graph that {maker}, and no layer"
    return found


def graph_norms(module: GraphModule, kinds: re.Pattern[str] = BATCH_NORMS) -> list[Node]:
    """The operations in a graph that normalize."""
    return [
        node
        for node in module.graph.nodes
        if node.op == "call_function" and kinds.search(getattr(node.target, "__name__", "").partition(".")[0])
    ]


def graph_statistics(module: GraphModule) -> list[torch.Tensor]:
    """The tensors that normalizing operations in a graph take from the module itself."""
    found = []
    for node in graph_norms(module, ALL_NORMS):
        for each in node.all_input_nodes:
            if each.op == "get_attr":
                place, _, name = str(each.target).rpartition(".")
                tensor = getattr(module.get_submodule(place), name)
                if isinstance(tensor, torch.Tensor) and not isinstance(tensor, nn.Parameter):
                    found.append(tensor)
    return found


def why_fixed(model: nn.Module, *, replaced: bool = True) -> dict[int, str]:
    """Ids of the modules that must stay as they are because of what is around them, with the reason.

    Sharding (``fully_shard``) goes on with the very modules that it was given, and ``AveragedModel`` takes its buffers
    in order from those of another model.

    Args:
        model: any module.
        replaced: whether other modules would take their places, and not only their classes change.
    """
    found: dict[int, str] = {}
    sharded = {*sharded_parts(model)}
    for module in model.modules():
        why, inside = "", False
        if module in sharded:
            why, inside = "fully_shard has sharded it: do this to the model before that", replaced
        elif isinstance(module, torch.optim.swa_utils.AveragedModel):
            why, inside = "AveragedModel takes its buffers from another model, in order: do this to both before", True
        for inner in module.modules() if inside else (module,):
            if why:
                found.setdefault(id(inner), why)
    return found


def has_forward(module: nn.Module) -> bool:
    """True if the module can be called; those that only hold the tensors of a graph cannot."""
    return type(module).forward is not nn.Module.forward


def _compiled_by(model: nn.Module) -> str | None:
    """A description of a model that was made code, and what to pass instead; None for any other model."""
    if isinstance(model, torch.jit.ScriptModule):
        return (
            f"a ScriptModule (a {model.original_name}, compiled by torch.jit): pass the model that it was made of, and "
            "trace or script it again afterwards"
        )
    if _is_exported(model):
        return (
            "the module of an exported program (by torch.export): pass the model that was exported, and export it "
            "again afterwards"
        )
    return None


def _is_exported(module: nn.Module) -> bool:
    # What ``ExportedProgram.module()`` gives has a train and an eval of its own, which raise.
    return isinstance(module, GraphModule) and "eval" in vars(module)
