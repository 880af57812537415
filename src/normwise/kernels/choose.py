"""Pick the implementation for a tensor, and be able to say why.

``NORMWISE_KERNEL=aten`` or ``two_pass`` in the environment asks for one by name: it is then used for every call, and a
call that it cannot serve is an error, never a silent change to another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normwise.errors import KernelUnavailable, UnknownName
from normwise.frameworks import installed_version

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "NORMWISE_KERNEL"
BY_NAME = ("aten", "two_pass")

# Up to here PyTorch's float32 running sums cost less than 2e-4 of a standard deviation even at |mean|/std = 300.
FEW_VALUES = 1024


@dataclass(frozen=True)
class Choice:
    """An implementation and the reason for it.

    Args:
        name: the module in this folder.
        reason: one clause, for ``normwise info``.
        verify: the outcome has to be examined, and the exact kernel used where it turns out not to be accurate.
    """

    name: str
    reason: str
    verify: bool = False


@dataclass(frozen=True)
class Implementation:
    """One implementation, and whether it can run here."""

    name: str
    available: bool
    reason: str


ASKED_ATEN = Choice("aten", f"{VARIABLE} asks for it")
ASKED_TWO_PASS = Choice("two_pass", f"{VARIABLE} asks for it")
MASKED = Choice("two_pass", "there is a mask, which PyTorch's operator does not know")
COMPILED = Choice("aten", "torch.compile fuses it and takes its statistics exactly")
OTHER_DEVICE = Choice("aten", "the tensor is not on the CPU, and PyTorch's operator serves every device")
CHANNELS_LAST = Choice(
    "aten",
    "many values per channel with the channels last in memory, where PyTorch's statistics can be wrong: they are "
    "verified, and two_pass is used where they are",
    verify=True,
)
ACCURATE = Choice("aten", "PyTorch's operator agrees with the reference for this layout")


def asked_for() -> str | None:
    """The implementation that the environment asks for by name, or None.

    Raises:
        UnknownName: there is no implementation of that name.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    if name not in BY_NAME:
        raise UnknownName(f"kernel in {VARIABLE}", name, BY_NAME)
    return name


_ASKED = os.environ.get(VARIABLE) and asked_for()  # read once: the choice is made for every call of every layer


def choose(x: Tensor, *, masked: bool = False, compiling: bool = False) -> Choice:
    """The implementation for normalizing this tensor by its own moments.

    Args:
        x: (N, C, *spatial).
        masked: whether some values do not count.
        compiling: whether ``torch.compile`` or ``torch.export`` is tracing.

    Raises:
        KernelUnavailable: the one asked for by name cannot do it.
    """
    if _ASKED == "two_pass":
        return ASKED_TWO_PASS
    if masked:
        if _ASKED == "aten":
            raise KernelUnavailable(
                f"{VARIABLE}=aten asks for PyTorch's operator, which does not know masks, and a mask was received: "
                f"unset {VARIABLE} or set it to two_pass."
            )
        return MASKED
    if _ASKED == "aten":
        return ASKED_ATEN
    if compiling:
        return COMPILED
    if x.device.type != "cpu":
        return OTHER_DEVICE
    if x.dim() >= 2 and x.stride(1) == 1 and x.shape[1] > 1 and x.numel() > FEW_VALUES * x.shape[1]:
        return CHANNELS_LAST
    return ACCURATE


def implementations() -> list[Implementation]:
    """Every implementation, whether it can run here, and why.

    Example:
        >>> [kernel.name for kernel in implementations()]
        ['reference', 'aten', 'two_pass']
    """
    torch = installed_version("torch")
    with_torch = f"runs on PyTorch {torch}" if torch else "PyTorch is not installed (pip install 'normwise[torch]')"
    uses = {
        "aten": "PyTorch's own operator, for every call that it serves accurately",
        "two_pass": "elementary operations, for masks and where PyTorch's statistics are not accurate",
    }
    return [
        Implementation("reference", True, "the formulas in NumPy float64 that the others are tested against"),
        *(Implementation(name, torch is not None, f"{with_torch}: {uses[name]}") for name in BY_NAME),
    ]
