"""Notes on tensors that a row of operations made of an output: views of it, copies, and activations of it.

A layer does not save the output itself where it first lays it out in another way, or where the activation is a layer of
its own. The row is read from the graph between the two tensors, with all that it takes to do it once more.

The graph does not show what changes a tensor in place without gradients, nor with what a tensor is padded. So a row is
asked for only within one call of a layer that is known to change nothing so, and to pad with zeros; before and behind
the call, ``Known`` says whether the tensor is as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.torch.models.memory import recipes
from normwise.torch.models.memory.packing import Finder, Known, Packed, Recipe, known_of

LONGEST = 8
"""The number of operations that a row may have."""

Shape = tuple[int, ...]
_PROVED: dict[tuple[Any, ...], bool] = {}

_VIEWS = ("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0")
_MOVING = (*_VIEWS, "PermuteBackward0", "TransposeBackward0")

# Of each activation's node: the operation, and the attributes that have its arguments.
_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "ReluBackward0": (torch.relu, ()),
    "HardtanhBackward0": (F.hardtanh, ("_saved_min_val", "_saved_max_val")),
    "SiluBackward0": (F.silu, ()),
    "GeluBackward0": (lambda x, approximate: F.gelu(x, approximate=approximate), ("_saved_approximate",)),
    "SigmoidBackward0": (torch.sigmoid, ()),
    "TanhBackward0": (torch.tanh, ()),
    "LeakyReluBackward0": (F.leaky_relu, ("_saved_negative_slope",)),
    "HardswishBackward0": (F.hardswish, ()),
    "MishBackward0": (F.mish, ()),
}


class Operation(NamedTuple):
    """One operation with its arguments, and the name of its node."""

    name: str
    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]


class Layout(NamedTuple):
    """The sizes and strides that a tensor has."""

    shape: torch.Size
    stride: Shape

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor, copied where it does not lie so."""
        if tensor.stride() == self.stride:
            return tensor
        return torch.empty_strided(self.shape, self.stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


class Row(NamedTuple):
    """A recipe: what the row begins with, and its operations."""

    source: Packed | Recipe
    operations: tuple[Operation, ...]
    layout: Layout

    def make(self) -> Tensor:
        """The tensor, bit for bit; called without gradients."""
        source = self.source
        return run(source.take() if isinstance(source, Packed) else source.make(), self.operations, self.layout)


class RowNote(NamedTuple):
    """A note: the same, where what is known of the source is written on its node."""

    source: Known
    operations: tuple[Operation, ...]
    layout: Layout

    def recipe(self) -> Recipe | None:
        """A recipe; None where what it takes is gone."""
        source: Packed | Recipe | None = self.source.saved()
        if isinstance(source, Packed):
            source.uses += 1
        elif self.source.note is not None:
            source = self.source.note.recipe()
        return None if source is None else Row(source, self.operations, self.layout)


def run(source: Tensor, operations: tuple[Operation, ...], layout: Layout) -> Tensor:
    """Do the operations, without autocast, which had no part in them or the row would have its nodes."""
    with nullcontext() if source.is_meta else torch.autocast(source.device.type, enabled=False):
        for operation in operations:
            source = operation.function(source, *operation.arguments)
        return layout.of(source)


def finder(source: Any) -> Finder | None:
    """A function that writes down how what is made of a tensor is made again; None where the tensor would be gone then.

    Args:
        source: what comes into a layer: an output that is made again itself, or a tensor that something else keeps.
    """
    known = known_of(source) if isinstance(source, Tensor) else None
    if known is None or (known.note is None and known.saved() is None):
        return None

    def find(tensor: Tensor, found: Known) -> None:
        write(tensor, found, source, known)

    return find


def write(tensor: Tensor, found: Known, source: Tensor, known: Known) -> bool:
    """Write down how a tensor is made again, if a row of operations made it of the source; False if not.

    Args:
        tensor: any one that has a node.
        found: what is known of it.
        source: as in ``finder``.
        known: what is known of that.
    """
    large = tensor.nbytes >= recipes.FEWEST_BYTES
    # The source is looked at again: a hook of somebody else stands between the look before and the layer.
    operations = read(tensor, source) if large and known.fits(source) else None
    if operations is None:
        return False
    note = RowNote(known, operations, Layout(tensor.shape, tensor.stride()))
    if not _proved(note, source, tensor):
        return False
    found.note, found.links = note, known.links
    return True


def read(tensor: Tensor, source: Tensor) -> tuple[Operation, ...] | None:
    """The operations that made one tensor of another, copies left out; None where there are others between the two."""
    shape, found = tuple(tensor.shape), list[Operation]()
    node: Any = tensor.grad_fn
    number = tensor.output_nr
    for _ in range(LONGEST):
        if node is source.grad_fn:
            return tuple(reversed(found)) if number == source.output_nr else None
        step = None if node is None else _read(node, shape)
        if step is None:
            return None
        operation, shape = step
        if operation is not None:
            found.append(operation)
        node, number = node.next_functions[0]
    return None


def _read(node: Any, shape: Shape) -> tuple[Operation | None, Shape] | None:
    """The operation of a node whose output has a shape, and the shape of its input; None of others."""
    name = node.name()
    if name == "CloneBackward0":
        return None, shape
    if name in _VIEWS:
        return Operation(name, torch.reshape, (shape,)), tuple(node._saved_self_sym_sizes)
    if name == "PermuteBackward0":
        axes = tuple(_signed(axis) % len(shape) for axis in node._saved_dims)
        return Operation(name, torch.permute, (axes,)), tuple(shape[axes.index(axis)] for axis in range(len(axes)))
    if name == "TransposeBackward0":
        one, other = (_signed(axis) % len(shape) for axis in (node._saved_dim0, node._saved_dim1))
        before = list(shape)
        before[one], before[other] = shape[other], shape[one]
        return Operation(name, torch.transpose, (one, other)), tuple(before)
    if name == "ConstantPadNdBackward0":
        padding = tuple(_signed(each) for each in node._saved_pad)
        before = list(shape)
        for place in range(0, len(padding), 2):
            before[-1 - place // 2] -= padding[place] + padding[place + 1]
        return Operation(name, F.pad, (padding,)), tuple(before)
    if name in _ACTIVATIONS:
        function, attributes = _ACTIVATIONS[name]
        return Operation(name, function, tuple(getattr(node, each) for each in attributes)), shape
    return None


def _signed(number: int) -> int:
    """A number that may be below 0, as an axis counted from the last one is, which nodes have without a sign."""
    return number - 2**64 if number >= 2**63 else number


def _proved(note: RowNote, source: Tensor, tensor: Tensor) -> bool:
    """True if rows of this kind give the same bits; checked once for each kind where numbers are computed in it."""
    computed = [each for each in note.operations if each.name not in _MOVING]
    if source.is_meta or not computed:
        return True
    kind = (
        *((each.name, each.arguments if each in computed else None) for each in note.operations),
        tensor.device,
        tensor.dtype,
        tensor.is_contiguous(),
        source.is_contiguous(),
        tensor.dim(),
        None if tensor.is_cpu else tensor.shape,
    )
    known = _PROVED.get(kind)
    if known is None:
        with torch.no_grad():
            again = run(source.detach(), note.operations, note.layout)
        known = recipes.same_bits(again, tensor.detach())
        if known or bool(tensor.isfinite().all()):
            _PROVED[kind] = known
    return known
