"""Recipes that make the output of a batch norm again from its input, with the statistics that the forward used.

The kernel that made it runs once more, now with running statistics, which is one elementwise pass:

* the compiled kernels take the mean and variance that they handed to their backward, in float64;
* PyTorch's operator takes statistics that come to the factor that it had. In inference it multiplies the scale by
  1 / sqrt(var + eps), in training by what it has for that; so with variance 1, eps 0 and the product for its scale it
  goes on from there as it did.

Both give the same bits by construction. That is not taken on trust: the first output of each kind in a process is
made again on the spot and compared, and where a bit differs, outputs of this kind are kept.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.kernels import cpu
from normwise.kernels.internals import below_autograd, storage_number
from normwise.kernels.torch_activations import activate
from normwise.torch.layers.left_away import activation_now
from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.models.memory.packing import (
    Known,
    Note,
    Packed,
    Recipe,
    first_known,
    known_of,
    plain,
    write_on_node,
)
from normwise.torch.steps import operators
from normwise.torch.steps.operators import CompiledBatchNorm, Saved

LINKS = 1
"""The number of outputs with a residual that are made again from one another in a row; the one behind them is kept."""

FEWEST_BYTES = 2**12
"""Outputs of fewer bytes are kept: what stands for one takes as much."""

_ATEN = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0", "MiopenBatchNormBackward0")
_PROVED: dict[tuple[Any, ...], bool] = {}

# Why an output is kept.
NO_GRADIENT = "no gradient goes through it"
SMALL = f"its output has fewer than {FEWEST_BYTES} bytes"
OTHER_HOOKS = "other hooks keep what it saves, those of torch.utils.checkpoint for example"
OTHER_STEPS = "its output comes neither from the compiled kernels nor from PyTorch's operator alone"
UNKNOWN_RESIDUAL = "nothing else keeps what is added to it"
CUT = "it is added to an output that is made again itself, and the row of these ends here"
NOT_PROVED = "the kernel does not give the same bits from the statistics that it used"
MADE = "made again from its input"
MADE_WITH_RESIDUAL = "made again from its input and what is added"


class Compiled(NamedTuple):
    """The arguments of the compiled kernels beside x and the residual."""

    mask: Tensor | None
    scale: Tensor | None
    shift: Tensor | None
    mean: Tensor
    var: Tensor
    eps: float
    activation: int
    save_bits: bool

    def run(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The output that it was."""
        mask, scale, shift, mean, var, eps, number, save_bits = self
        with below_autograd():
            y: Tensor = operators.forward_operator(
                x, residual, mask, scale, shift, mean, var, eps, number, save_bits, 0
            )[0]
        return y

    def kind(self) -> tuple[Any, ...]:
        """The settings that decide on the instructions that run."""
        return self.activation, self.save_bits, self.mask is None


class Aten(NamedTuple):
    """The arguments of PyTorch's operator beside x, in inference mode."""

    scale: Tensor | None
    shift: Tensor | None
    mean: Tensor
    var: Tensor
    eps: float

    def run(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The output that it was, before the addition, which stands behind it."""
        assert residual is None
        y: Tensor = torch.native_batch_norm(x, self.scale, self.shift, self.mean, self.var, False, 0.0, self.eps)[0]
        return y

    def kind(self) -> tuple[Any, ...]:
        """The settings that decide on the instructions that run."""
        return self.mean.dtype, self.scale is None, self.shift is None, self.eps > 0


class Steps(NamedTuple):
    """The kernel, and what PyTorch does behind it."""

    kernel: Compiled | Aten
    adds_behind: bool  # the residual
    activation: str | None

    def run(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """All of it, without autocast, which had no part in the forward or its steps would be others."""
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            y = self.kernel.run(x, None if self.adds_behind else residual)
            return activate(y, self.activation, residual if self.adds_behind else None)


class Again(NamedTuple):
    """A recipe: the steps, and what they begin with."""

    steps: Steps
    x: Packed
    residual: Packed | Recipe | None

    def make(self) -> Tensor:
        """The output, bit for bit, by the steps from what they begin with; called without gradients."""
        x, residual = self.x.take(), self.residual
        if residual is None:
            return self.steps.run(x, None)
        return self.steps.run(x, residual.take() if isinstance(residual, Packed) else residual.make())


class AgainNote(NamedTuple):
    """A note: the same, where what is large is known weakly."""

    steps: Steps
    x: ReferenceType[Packed]
    residual: Known | ReferenceType[Packed] | None

    def recipe(self) -> Recipe | None:
        """A recipe, which holds what the note knows weakly; None where that is gone."""
        x, residual = self.x(), None
        if isinstance(self.residual, Known):
            saved = self.residual.saved()
            note = self.residual.note
            residual = saved if saved is not None else None if note is None else note.recipe()
        elif self.residual is not None:
            residual = self.residual()
        if x is None or (residual is None and self.residual is not None):
            return None
        for each in (x, residual):
            if isinstance(each, Packed):
                each.uses += 1  # counts where it is made again itself
        return Again(self.steps, x, residual)


class Told(NamedTuple):
    """The facts about a layer that the graph of its output does not tell.

    Attributes:
        activation: by its name; PyTorch may have done it behind the kernel.
        shift: the layer's, or None.
        plain: whether the layer gave this shift to the kernel as it is.
    """

    activation: str | None
    shift: Tensor | None
    plain: bool


def told(layer: _BatchNorm) -> Told:
    """The facts about a PyTorch layer."""
    activation = activation_now(layer) if isinstance(layer, TrackedBatchNorm) else None
    return Told(activation, layer.bias, type(layer).forward in _PLAIN_FORWARDS)


def look(layer: Told, y: Any, residual: Any, frame: list[Packed]) -> str:
    """Write on the node of an output how it is made again, and do so with what its own nodes save of it.

    Args:
        layer: whose output.
        y: the output, as the kernel or the activation made it.
        residual: what was added, in the layout that the kernel was given, or None.
        frame: what was saved in the call.

    Returns:
        what becomes of it, or why it is kept.
    """
    if not isinstance(y, Tensor) or y.grad_fn is None or not plain(y):
        return NO_GRADIENT
    if not frame:
        return OTHER_HOOKS
    if y.nbytes < FEWEST_BYTES:
        return SMALL
    found = _steps(layer, y, residual)
    if found is None:
        return OTHER_STEPS
    steps, x = found
    packed = next((each for each in frame if _is(each.tensor, x)), None)
    if packed is None:
        return OTHER_HOOKS
    added, links = None, 0
    if residual is not None:
        added, links = _known_residual(residual)
        if added is None:
            return UNKNOWN_RESIDUAL
        if links > LINKS:
            return CUT
    if not _proved(steps, x, residual, y):
        return NOT_PROVED
    note = AgainNote(steps, ref(packed), added)
    _settle(y, note, links, frame)
    return MADE if residual is None else MADE_WITH_RESIDUAL


def _is(kept: Tensor | None, x: Tensor) -> bool:
    """True if two living tensors are the same one."""
    return kept is not None and _start(kept) == _start(x) and kept.shape == x.shape and kept.dtype is x.dtype


def _start(tensor: Tensor) -> tuple[int, int | torch.SymInt]:
    """The place of its first value: the storage, and the offset there."""
    return storage_number(tensor), tensor.storage_offset()


def _known_residual(residual: Tensor) -> tuple[Known | ReferenceType[Packed] | None, int]:
    """The source of the residual in the backward, if there is one, and how many residuals stand in a row then."""
    base = residual._base  # ``fuse`` broadcasts residual and x, which is the same tensor as a rule
    if base is not None and base.shape == residual.shape and base.stride() == residual.stride():
        residual = base if _start(base) == _start(residual) else residual
    known = known_of(residual)
    if known is None:
        return None, 0
    if known.note is not None:
        return known, known.links + 1
    packed = known.saved()
    return (None, 0) if packed is None else (ref(packed), 1)


def _settle(y: Tensor, note: AgainNote, links: int, frame: list[Packed]) -> None:
    """Write it down, and drop what is saved of the output already, before and behind the activation."""
    known = write_on_node(y)
    known.note, known.links = note, links
    saved = known.saved()
    if saved is not None and saved in frame and saved.recipe is None:
        _drop(saved, note)
    if note.steps.activation is None:
        return
    before: Any = y.grad_fn
    before = before.next_functions[0][0]  # makes what goes into the activation
    known_before = None if before is None else first_known(before)
    saved = None if known_before is None else known_before.saved()
    if saved is not None and saved in frame and saved.recipe is None:
        _drop(saved, note._replace(steps=note.steps._replace(activation=None)))


def _drop(saved: Packed, note: Note) -> None:
    recipe = note.recipe()
    if recipe is not None:
        saved.drop(recipe)


def _steps(layer: Told, y: Tensor, residual: Any) -> tuple[Steps, Tensor] | None:
    """The steps that made the output, and the kernel's x, read from the graph; None for steps of another kind."""
    activation = layer.activation
    node: Any = y.grad_fn
    if node.name() == _COMPILED:
        compiled = _compiled(node, residual, None)
        return None if compiled is None else (Steps(compiled[0], False, None), compiled[1])
    behind = None
    if activation is not None:
        behind, node = activation, node.next_functions[0][0]
    if node is not None and node.name() == _COMPILED and behind is not None:
        compiled = _compiled(node, residual, behind)
        return None if compiled is None else (Steps(compiled[0], False, behind), compiled[1])
    if not layer.plain:
        return None  # what it gives to the operator for its shift is known of these
    if residual is not None:
        if node is None or node.name() != "AddBackward0":
            return None
        node = node.next_functions[0][0]
    if node is None or node.name() not in _ATEN:
        return None
    return Steps(_aten(node, layer.shift), residual is not None, behind), node._saved_input


_COMPILED = "CompiledBatchNormBackward"
_VIEWS = ("ViewBackward0", "PermuteBackward0")
_PLAIN_FORWARDS = (TrackedBatchNorm.forward, _BatchNorm.forward)


def _compiled(node: Any, residual: Any, behind: str | None) -> tuple[Compiled, Tensor] | None:
    """The arguments that the compiled kernels were given, and their x."""
    if node._forward_cls is not CompiledBatchNorm or node.groups:
        return None
    if behind is not None and node.activation != cpu.ACTIVATIONS[None]:
        return None
    x, _, mask, scale, shift, mean, var, _ = Saved(*node.saved_tensors)
    edges = node.next_functions  # one for each tensor that the operator was given: x, the residual, and so on
    others = sum(each is not None for each in (mask, scale, shift)) + (0 if node.by_batch else 2)
    if len(edges) != 1 + (residual is not None) + others:
        return None
    if residual is not None and residual.grad_fn is not None and not _same_node(edges[1][0], residual.grad_fn):
        return None
    return Compiled(mask, _own(scale), _own(shift), mean, var, node.eps, node.activation, node.uses_bitmask), x


def _same_node(one: Any, other: Any) -> bool:
    """True if two nodes are the same, or make the same view, by two calls, of what one node made."""
    if one is None or one is other or one.name() != other.name() or one.name() not in _VIEWS:
        return one is other
    return bool(one.next_functions == other.next_functions)


def _own(parameter: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
    """A copy, because parameters may be away when it is needed: ``fully_shard`` frees them behind each forward."""
    return None if parameter is None else parameter.detach().to(dtype or parameter.dtype, copy=True)


def _aten(node: Any, shift: Tensor | None) -> Aten:
    """The arguments that PyTorch's operator is to be given."""
    scale: Tensor | None = node._saved_weight
    eps: float = node._saved_eps if hasattr(node, "_saved_eps") else node._saved_epsilon
    if not node._saved_training:
        mean, var = _own(node._saved_running_mean), _own(node._saved_running_var)
        assert mean is not None
        assert var is not None
        return Aten(_own(scale), _own(shift, mean.dtype), mean, var, eps)
    mean, inverse = node._saved_result1, node._saved_result2
    with torch.no_grad():
        factor = inverse if scale is None else inverse * scale.to(inverse.dtype)
    return Aten(factor, _own(shift, mean.dtype), mean, torch.ones_like(mean), 0.0)


def _proved(steps: Steps, x: Tensor, residual: Tensor | None, y: Tensor) -> bool:
    """True if outputs of this kind come out the same, bit for bit; checked once for each kind.

    On the meta device there are no bits, and sizes alone are asked for.
    """
    if x.is_meta:
        return True
    kind = (
        type(steps.kernel),
        *steps.kernel.kind(),
        steps.adds_behind,
        steps.activation,
        residual is None,
        x.device,
        x.dtype,
        x.dim(),
        x.is_contiguous(),
        None if x.is_cpu else x.shape,
    )
    known = _PROVED.get(kind)
    if known is None:
        with torch.no_grad():
            known = same_bits(steps.run(x.detach(), None if residual is None else residual.detach()), y.detach())
        if known or bool(y.isfinite().all()):
            _PROVED[kind] = known
    return known


def same_bits(one: Tensor, other: Tensor) -> bool:
    """True if two tensors are the same to the last bit, in the same order in memory.

    Example:
        >>> same_bits(torch.zeros(1), -torch.zeros(1))
        False
    """
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return (
        one.dtype is other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
        and torch.equal(one.view(whole), other.view(whole))
    )
