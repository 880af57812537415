"""The forward hooks by which ``save_memory`` sees the layers of a Keras model; imported on the torch backend only.

There a layer is a ``torch.nn.Module``, and Keras calls it as one, with its inputs in the layer's dtype already.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import torch
from torch import Tensor

from normwise.keras.layers.batch_normalization import BatchNormalization
from normwise.keras.models.feeding import as_this_backends, inputs_of, number_of_inputs
from normwise.keras.models.transaction import unchanged
from normwise.keras.steps.activate import name_in_kernels
from normwise.keras.steps.torch_kernels import channels_second
from normwise.torch.models.memory import packing, recipes, rows
from normwise.torch.models.memory.bytes_kept import bytes_kept
from normwise.torch.models.memory.save_memory import WATCHED, SaveMemoryReport, divided, remove_hooks

KERAS_OWN = "it is Keras's own layer: normwise.convert_from_keras makes it normwise's"
_RANKS = ("1D", "2D", "3D")
_NAMES = (
    *(f"{kind}{rank}" for kind in ("Conv", "SeparableConv", "DepthwiseConv") for rank in _RANKS),
    *(f"Conv{rank}Transpose" for rank in _RANKS),
    *(f"{kind}Pooling{rank}" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for rank in _RANKS),
    *(f"ZeroPadding{rank}" for rank in _RANKS),
    *("Dense", "EinsumDense", "Activation", "ReLU", "LeakyReLU", "Flatten", "Reshape", "Permute"),
)
FOLLOWED = frozenset(getattr(keras.layers, name) for name in _NAMES if hasattr(keras.layers, name))
"""Keras's own layers that take one tensor, change none in place, and pad with nothing but zeros."""


def watched(model: Any, norms: dict[str, Any], example: Any) -> SaveMemoryReport:
    """Let a model save memory from now on.

    Args:
        model: built.
        norms: its batch norms by their paths.
        example: a batch, or None.
    """
    undo = partial(_remove, model)
    undo()
    ours = {name: norm for name, norm in norms.items() if isinstance(norm, BatchNormalization)}
    kept = {name: _why_kept(norm) for name, norm in norms.items() if name not in ours}
    _add(model, ours.values())
    if example is None:
        return SaveMemoryReport(dict.fromkeys(ours, WATCHED), kept, _undo=undo)
    try:
        before, after, verdicts = _measured(model, example)
    except BaseException:
        undo()
        raise
    saved, others = divided(ours, verdicts)
    return SaveMemoryReport(saved, kept | others, before, after, _undo=undo)


def _why_kept(norm: Any) -> str:
    if type(norm) is keras.layers.BatchNormalization:
        return KERAS_OWN
    return f"{type(norm).__name__} is a class of its own, which may do something else"


def _enter(model: Any, _: object) -> None:
    packing.enter(model)


def _leave(model: Any, *_: object) -> None:
    packing.leave(model)


def _before(_: Any, __: object) -> None:
    region = packing.running()
    if region is not None:
        region.begin_layer()


def _after(layer: Any, given: tuple[Any, ...], named: dict[str, Any], y: Any) -> None:
    region = packing.running()
    if region is not None:
        x = given[0] if given else named.get("inputs")
        region.end_layer(layer, lambda frame: _look(region, layer, x, named.get("residual"), y, frame))


def _look(region: packing.Region, layer: Any, x: Any, residual: Any, y: Any, frame: list[packing.Packed]) -> str:
    """Write down how the output is made again as the kernel made it, and as the layer gave it."""
    of_kernel = y if not isinstance(y, Tensor) or y._base is None else y._base
    beside = None
    if residual is not None:
        if not isinstance(residual, Tensor) or not isinstance(x, Tensor) or residual.dtype is not x.dtype:
            return recipes.OTHER_STEPS
        beside = channels_second(x, residual, layer._channels)[1]
    verdict = recipes.look(_told(layer), of_kernel, beside, frame)
    made = verdict in (recipes.MADE, recipes.MADE_WITH_RESIDUAL)
    if verdict in (recipes.CUT, recipes.UNKNOWN_RESIDUAL):
        # A convolution would keep its copy, of which the batch norm that this is added to knows nothing.
        region.hold(of_kernel, y)
    elif not made or of_kernel is y:
        return verdict
    known = packing.known_of(of_kernel)
    written = known is not None and rows.write(y, packing.write_on_node(y), of_kernel, known)
    return verdict if written or not made else recipes.OTHER_STEPS


def _told(layer: Any) -> recipes.Told:
    cls = type(layer)
    plain = cls.call is BatchNormalization.call and cls._scale_and_shift is BatchNormalization._scale_and_shift
    shift = layer.beta.value if layer.center else None
    return recipes.Told(name_in_kernels(layer.activation), shift, plain and "call" not in vars(layer))


def _begin(layer: Any, given: tuple[Any, ...]) -> None:
    region = packing.running()
    if region is not None:
        follow = len(given) == 1 and "call" not in vars(layer) and _is_keras_own(getattr(layer, "activation", None))
        region.begin_following(rows.finder(given[0]) if follow else None)


def _is_keras_own(activation: Any) -> bool:
    return activation is None or str(getattr(activation, "__module__", "")).startswith("keras.")


def _end(_: Any, __: object, y: Any) -> None:
    region = packing.running()
    if region is not None:
        region.end_following(y)


def _add(model: Any, norms: Any) -> None:
    model.register_forward_pre_hook(_enter, prepend=True)
    for norm in norms:
        norm.register_forward_pre_hook(_before)
        norm.register_forward_hook(_after, prepend=True, with_kwargs=True, always_call=True)
    for layer in model._flatten_layers():
        if type(layer) in FOLLOWED:
            layer.register_forward_pre_hook(_begin)
            layer.register_forward_hook(_end, prepend=True, always_call=True)
    model.register_forward_hook(_leave, always_call=True)


def _remove(model: Any) -> None:
    remove_hooks(model._flatten_layers(), (_enter, _before, _after, _begin, _end, _leave))


def _measured(model: Any, example: Any) -> tuple[int, int, dict[int, str]]:
    """Bytes that autograd keeps before and after, and what became of each batch norm."""
    verdicts: dict[int, str] = {}
    batch = inputs_of(model, as_this_backends(example))

    def forward() -> Any:
        several = isinstance(batch, list) and not getattr(model, "inputs", None) and number_of_inputs(model) > 1
        named = {"training": True} if model._call_has_training_arg else {}
        return model(*batch, **named) if several else model(batch, **named)

    with unchanged(model), torch.enable_grad(), packing.switched_off():
        before = bytes_kept(model, forward)
    with unchanged(model), torch.enable_grad(), packing.telling(verdicts):
        after = bytes_kept(model, forward)
    return before, after, verdicts
