"""Pick the implementation for a tensor, and be able to say why.

``NORMWISE_KERNEL=cpu``, ``aten`` or ``two_pass`` in the environment asks for one by name: it is then used for every
call, and a call that it cannot serve is an error, never a silent change to another. That is for PyTorch's tensors; on
JAX, another name than ``cpu`` leaves the call to ``keras.ops``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from normwise.errors import KernelUnavailable, UnknownName
from normwise.frameworks import installed_version
from normwise.installation import extra_command, how_to_build

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "NORMWISE_KERNEL"
BY_NAME = ("cpu", "aten", "two_pass")

# Fewer elements than this, and PyTorch's operator is done before the way to another one is gone. It needs more of them
# where the channels come last in memory, as its own code does best there.
SMALL = 2**17
SMALL_LAST = 2**19
# PyTorch's CPU operator keeps plain float32 sums where the channels come last in memory; they are off by up to
# n * 6e-8 * |mean| / std standard deviations. Up to here that is PyTorch's business, beyond it is ours.
FEW_VALUES = 256


@dataclass(frozen=True)
class Choice:
    """An implementation, by the module in this folder, and one clause that says why it."""

    name: str
    reason: str


@dataclass(frozen=True)
class Implementation:
    """One implementation, and whether it can run here."""

    name: str
    available: bool
    reason: str


MASKED = Choice("cpu", "there is a mask, which PyTorch's operator does not know")
MASKED_ELSEWHERE = Choice("two_pass", "there is a mask, which here only the elementary operations know")
TRANSFORMED = Choice("two_pass", "torch.func transforms the call, which elementary operations follow everywhere")
COMPILED = Choice("aten", "torch.compile replaces it by its own fused code")
OTHER_DEVICE = Choice("aten", "the tensor is not on the CPU, and PyTorch's operator serves every device")
TOO_SMALL = Choice("aten", "the tensor is small, and PyTorch's operator has the least overhead")
LARGE = Choice("cpu", "the compiled kernels read x once, exactly, and fuse what follows")
INEXACT = Choice(
    "cpu", "the channels come last in memory, where PyTorch's sums lose digits; the compiled kernels do not"
)
NOT_BUILT = Choice("aten", "the compiled kernels are not built, and PyTorch's operator agrees with the reference here")
NOT_BUILT_INEXACT = Choice(
    "two_pass",
    "the channels come last in memory, where PyTorch's sums lose digits, and the compiled kernels are not built",
)
STRANGE = Choice("aten", "the tensor is not a batch of floating-point features; PyTorch's operator says so")
FIXED = Choice("aten", "given statistics lose no digits, and the tensor is not one that the compiled kernels win on")


def asked_for() -> str | None:
    """The implementation that the environment asks for by name, or None.

    Raises:
        UnknownName: there is no implementation of that name.
        KernelUnavailable: it is not built.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    if name not in BY_NAME:
        raise UnknownName(f"kernel in {VARIABLE}", name, BY_NAME)
    if name == "cpu" and not built():
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for the compiled kernels, which are not built: unset {VARIABLE}, or {how_to_build()}"
        )
    return name


@cache
def built() -> bool:
    """Whether the compiled kernels were built with this installation."""
    return installed_version("torch") is not None and find_spec("normwise.kernels._torch_kernels") is not None


def built_for_jax() -> bool:
    """Whether the same kernels were built as custom calls of XLA."""
    return installed_version("jax") is not None and find_spec("normwise.kernels._jax_kernels") is not None


_ASKED = asked_for()  # read once: every call of every layer chooses
_BUILT = built()


def choose(
    x: Tensor, *, by_batch: bool = True, masked: bool = False, compiling: bool = False, transformed: bool = False
) -> Choice:
    """The implementation for normalizing this tensor.

    Args:
        x: (N, C, *spatial).
        by_batch: by its own moments, or else by given statistics.
        masked: whether some values do not count.
        compiling: whether ``torch.compile`` or ``torch.export`` is tracing.
        transformed: whether ``torch.func`` is transforming the call.

    Raises:
        KernelUnavailable: the one asked for by name cannot do it.
    """
    if _ASKED:
        return _asked(_ASKED, masked=masked, transformed=transformed, on_cpu=x.device.type == "cpu")
    if masked:
        plain = _BUILT and x.device.type == "cpu" and not compiling and not transformed and x.dtype.is_floating_point
        return MASKED if plain else MASKED_ELSEWHERE
    if compiling:
        return COMPILED
    if transformed:
        return TRANSFORMED
    if x.device.type != "cpu":
        return OTHER_DEVICE
    if x.dim() < 2 or not x.dtype.is_floating_point or x.dtype.itemsize == 1:
        return STRANGE
    channels = x.shape[1]
    if by_batch and channels > 1 and x.stride(1) == 1 and x.numel() > FEW_VALUES * channels:
        return INEXACT if _BUILT else NOT_BUILT_INEXACT
    if x.numel() < (SMALL_LAST if channels > 1 and x.stride(1) == 1 else SMALL):
        return TOO_SMALL
    if _BUILT:
        return LARGE
    return NOT_BUILT if by_batch else FIXED


def _asked(name: str, *, masked: bool, transformed: bool, on_cpu: bool) -> Choice:
    if masked and name == "aten":
        raise KernelUnavailable(
            f"{VARIABLE}=aten asks for PyTorch's operator, which does not know masks, and a mask was received: "
            f"unset {VARIABLE} or set it to two_pass."
        )
    if name == "cpu" and transformed:
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for the compiled kernels, which torch.func does not see through, and a call under "
            f"one of its transforms was received: unset {VARIABLE}."
        )
    if name == "cpu" and not on_cpu:
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for the CPU kernels, and a tensor on another device was received: unset {VARIABLE}."
        )
    return Choice(name, f"{VARIABLE} asks for it")


def implementations() -> list[Implementation]:
    """Every implementation, whether it can run here, and why.

    Example:
        >>> [kernel.name for kernel in implementations()]
        ['reference', 'cpu', 'aten', 'two_pass', 'jax']
    """
    torch, jax = installed_version("torch"), installed_version("jax")
    with_torch = f"runs on PyTorch {torch}" if torch else f"PyTorch is not installed ({extra_command('torch')})"
    if built():
        compiled = "compiled for this machine; used for tensors of some size, and where PyTorch's sums lose digits"
    else:
        compiled = f"not built; {how_to_build()}" if torch else with_torch
    if built_for_jax():
        on_jax = f"compiled for JAX {jax}: training with normwise.keras on the CPU"
    elif jax:
        on_jax = f"not built, XLA's own code does it; {how_to_build()}"
    else:
        on_jax = "JAX is not installed"
    return [
        Implementation("reference", True, "the formulas in NumPy float64 that the others are tested against"),
        Implementation("cpu", built(), compiled),
        Implementation(
            "aten", torch is not None, f"{with_torch}: PyTorch's own operator, for small tensors and other devices"
        ),
        Implementation("two_pass", torch is not None, f"{with_torch}: elementary operations, for masks and torch.func"),
        Implementation("jax", built_for_jax(), on_jax),
    ]
