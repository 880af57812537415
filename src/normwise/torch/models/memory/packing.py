"""The tensors that autograd saves inside a forward: kept as they are, or as recipes by which they are made again.

An output is known by the autograd node that made it, and never by its address, which the next tensor may have: the
node lives as long as anything that derives from its output. What is written on a node refers to saved tensors weakly,
because a node outlives what it saved; a backward frees the one and not the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.autograd import graph
from torch.nn import Parameter

from normwise.kernels.internals import (
    innermost_transform,
    listening_modes,
    queue_callback,
    running_backward,
    saved_tensors_allowed,
    saved_tensors_hooks,
)
from normwise.kernels.recording import recording

_KEY = "normwise: how this output is saved"


class Recipe(Protocol):
    """All that it takes to make a tensor again, held for as long as the tensor would have been."""

    def make(self) -> Tensor:
        """The tensor, bit for bit; called without gradients."""


class Note(Protocol):
    """A note on how an output could be made again, on the output's node, which holds nothing large for it."""

    def recipe(self) -> Recipe | None:
        """A recipe; None where what it takes is gone."""


class Hooks(NamedTuple):
    """The hooks of others, through which what is kept goes."""

    pack: Callable[[Tensor], Any]
    unpack: Callable[[Any], Tensor]


class Packed:
    """One tensor that autograd saves, however many nodes save it."""

    __slots__ = ("__weakref__", "_hooks", "_made", "_served", "_tensor", "_version", "recipe", "uses", "value")

    def __init__(self, tensor: Tensor) -> None:
        # A tensor with a graph would hold the node that holds it.
        self._tensor: Tensor | None = tensor if tensor.grad_fn is None else tensor.detach()
        self._version = -1 if tensor.is_inference() else tensor._version
        self._hooks: Hooks | None = None
        self._made: Tensor | None = None
        self._served = 0
        self.recipe: Recipe | None = None
        self.uses = 0
        self.value: Any = None

    @property
    def tensor(self) -> Tensor | None:
        """The tensor that is kept; None where it is made again, or where others keep it."""
        return self._tensor if self.recipe is None else None

    def settle(self, hooks: Hooks | None) -> None:
        """Hand the tensor to others, who keep it from now on, if there are others and it is kept at all."""
        if hooks is not None and self.recipe is None and self._hooks is None and self._tensor is not None:
            self.value = hooks.pack(self._tensor)
            self._hooks, self._tensor = hooks, None

    def drop(self, recipe: Recipe) -> None:
        """Keep the recipe in the place of the tensor; only what says whether the tensor was changed remains of it."""
        kept = self._tensor
        assert kept is not None
        kept.data = kept.new_empty(0)  # it is a tensor beside the one that was saved, and its version stays that one's
        self.recipe = recipe

    def take(self) -> Tensor:
        """The tensor for one of its uses.

        Raises:
            RuntimeError: it was changed in place since it was saved, as PyTorch says it.
        """
        kept, recipe = self._tensor, self.recipe
        if self._hooks is not None:
            return self._hooks.unpack(self.value)
        assert kept is not None
        if self._version >= 0 and kept._version != self._version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"{'the output of a batch norm' if recipe else [*kept.shape]} is at version {kept._version}; expected "
                f"version {self._version} instead. Hint: enable anomaly detection to find the operation that failed to "
                "compute its gradient, with torch.autograd.set_detect_anomaly(True)."
            )
        if recipe is None:
            return kept
        made = self._made
        if made is None:
            with torch.no_grad():
                made = recipe.make()
        self._served += 1
        if self._served % max(self.uses, 1) == 0:
            self._made = None
        elif self._made is None and running_backward() != -1:
            self._made = made  # for those of its uses that come behind, in this backward
            this = ref(self)
            queue_callback(lambda: _forget(this))
        return made


def _forget(packed: ReferenceType[Packed]) -> None:
    found = packed()
    if found is not None:
        found._made, found._served = None, 0


def unpack(packed: Packed) -> Tensor:
    """The tensor that autograd asks for in its backward."""
    return packed.take()


class Known:
    """The facts about a node's output: as which tensor it came, how it could be made again, and how it is saved."""

    __slots__ = ("_address", "_shape", "_version", "links", "note", "packed")

    def __init__(self, tensor: Tensor) -> None:
        self._address, self._version, self._shape = tensor.data_ptr(), tensor._version, tensor.shape
        self.note: Note | None = None
        self.links = 0
        self.packed: ReferenceType[Packed] | None = None

    def fits(self, tensor: Tensor) -> bool:
        """True if the tensor, which has this node, was not changed in place and has the memory that it had."""
        return tensor._version == self._version and tensor.data_ptr() == self._address and tensor.shape == self._shape

    def saved(self) -> Packed | None:
        """The form in which it is saved now, by whatever node saves it; None where none does."""
        return None if self.packed is None else self.packed()


def known_of(tensor: Tensor) -> Known | None:
    """The facts that were written on the node of a tensor, if they are still true of it; else None."""
    node: Any = tensor.grad_fn
    if node is None or not plain(tensor):
        return None
    known: Known | None = node.metadata.get((_KEY, tensor.output_nr))
    return known if known is not None and known.fits(tensor) else None


def first_known(node: Any) -> Known | None:
    """The facts that were written on a node about its first output, or None."""
    known: Known | None = node.metadata.get((_KEY, 0))
    return known


def write_on_node(tensor: Tensor) -> Known:
    """Return the facts on the node of a tensor; write them there first where there are none that are true of it."""
    known = known_of(tensor)
    if known is None:
        known = Known(tensor)
        node: Any = tensor.grad_fn
        node.metadata[(_KEY, tensor.output_nr)] = known
    return known


def plain(tensor: Tensor) -> bool:
    """True if a tensor has memory of its own that says all that it is."""
    return type(tensor) in (Tensor, Parameter) and tensor.layout is torch.strided and not tensor.is_inference()


Finder = Callable[[Tensor, Known], None]


class Region:
    """One forward of a model, within which what autograd saves comes here.

    Attributes:
        hooks: of others, around it.
        frames: for each batch norm that is running, what was saved in it.
        finders: for each layer that is running and is known to change nothing in place, what writes down how a tensor
            that it made could be made again; or None.
        verdicts: by the id of a batch norm, what became of its output; None where nobody asks.
    """

    def __init__(self, hooks: Hooks | None, verdicts: dict[int, str] | None) -> None:
        self.hooks, self.verdicts = hooks, verdicts
        self.frames: list[list[Packed]] = []
        self.finders: list[Finder | None] = []
        self._context = graph.saved_tensors_hooks(self.pack, unpack)

    def begin(self) -> None:
        """Save from now on."""
        self._context.__enter__()

    def end(self) -> None:
        """Save no more."""
        self._context.__exit__()

    def pack(self, tensor: Tensor) -> Packed:
        """The form in which a tensor is saved when a node asks to save it."""
        packed = self._packed(tensor)
        packed.uses += 1
        return packed

    def begin_layer(self) -> None:
        """A batch norm begins."""
        self.frames.append([])

    def end_layer(self, layer: object, look: Callable[[list[Packed]], str]) -> None:
        """A batch norm ends: look at its output, and hand what was saved in it to the layer or the hooks around.

        Args:
            layer: the batch norm.
            look: says what becomes of the output, given what was saved.
        """
        if not self.frames:
            return
        frame = self.frames.pop()
        try:
            verdict = look(frame)
            if self.verdicts is not None:
                self.verdicts[id(layer)] = verdict
        finally:
            for packed in frame:
                if self.frames:
                    self.frames[-1].append(packed)
                else:
                    packed.settle(self.hooks)

    def hold(self, tensor: Tensor, holder: Any) -> None:
        """Keep a tensor for as long as an object lives, and on if one that is made again is made of it."""
        holder._normwise_holds = self._packed(tensor)

    def begin_following(self, finder: Finder | None) -> None:
        """A layer begins that is known to change nothing in place, with what finds notes for what it makes."""
        self.finders.append(finder)

    def end_following(self, y: Any) -> None:
        """Such a layer ends, with its output."""
        if not self.finders:
            return
        if self.finders[-1] is not None and isinstance(y, Tensor) and y.grad_fn is not None and plain(y):
            self._find(y, write_on_node(y))
        self.finders.pop()

    def _find(self, tensor: Tensor, known: Known) -> None:
        if known.note is None and self.finders and self.finders[-1] is not None:
            self.finders[-1](tensor, known)

    def _packed(self, tensor: Tensor) -> Packed:
        known = None
        if tensor.grad_fn is not None and plain(tensor):
            known = write_on_node(tensor)
            packed = known.saved()
            if packed is not None:
                return packed
        packed = Packed(tensor)
        if known is not None:
            known.packed = ref(packed)
            self._find(tensor, known)
            recipe = None if known.note is None else known.note.recipe()
            if recipe is not None:
                packed.drop(recipe)
        if self.frames:
            self.frames[-1].append(packed)
        else:
            packed.settle(self.hooks)
        return packed


class _Running(threading.local):
    """The region that this thread is in, and whether it may be in one at all."""

    region: Region | None = None
    owner: int | None = None
    off: bool = False
    verdicts: dict[int, str] | None = None


_running = _Running()


def running() -> Region | None:
    """The region of this thread; None outside of one, and where something records or transforms what runs."""
    return None if torch.compiler.is_compiling() else _running.region


@contextmanager
def switched_off() -> Iterator[None]:
    """Let this thread have no regions in the block."""
    _running.off = True
    try:
        yield
    finally:
        _running.off = False


@contextmanager
def telling(verdicts: dict[int, str]) -> Iterator[None]:
    """Let the regions of this thread write down in the block what becomes of each batch norm's output."""
    _running.verdicts = verdicts
    try:
        yield
    finally:
        _running.verdicts = None


def enter(owner: object) -> None:
    """Begin the region of a model, unless there is one or there can be none."""
    if torch.compiler.is_compiling() or _running.region is not None or _running.off:
        return
    if not torch.is_grad_enabled() or not saved_tensors_allowed():
        return
    if recording() or innermost_transform() is not None or listening_modes() > 0:
        return
    others = saved_tensors_hooks(False)
    # What torch.utils.checkpoint runs again keeps nothing, and counts what it is given to save.
    if others is not None and getattr(others[0], "__module__", None) == "torch.utils.checkpoint":
        return
    region = Region(None if others is None else Hooks(*others), _running.verdicts)
    region.begin()
    _running.region, _running.owner = region, id(owner)


def leave(owner: object) -> None:
    """End the region that this model began."""
    if torch.compiler.is_compiling():
        return
    region = _running.region
    if region is not None and _running.owner == id(owner):
        _running.region = _running.owner = None
        region.end()
