"""Pick the implementation for group and layer norm, and be able to say why; instance norm is chosen as batch norm is.

Both take one set of moments for several channels, while scale and shift are each channel's own, which the compiled
kernels do not know: on a view they can take the moments, and a second pass has to scale and shift. PyTorch's operators
do it in one, so they are used wherever they are exact. ``NORMWISE_KERNEL`` asks for one by name, as for batch norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from normwise.errors import KernelUnavailable
from normwise.kernels import choose
from normwise.kernels.choose import VARIABLE, Choice

if TYPE_CHECKING:
    from torch import Tensor

MASKED = Choice("two_pass", "there is a mask, which differs from sample to sample, as only elementary operations know")
ONE_PASS = Choice("aten", "PyTorch's operator is exact here, and scales and shifts in the pass that normalizes")
CANCELS = Choice(
    "centred",
    "the channels come last in memory, where PyTorch takes E[x^2] - E[x]^2 for the variance; about a rough mean, which "
    "is subtracted first, nothing cancels",
)


def choose_group(x: Tensor, *, masked: bool, channels_last: bool) -> Choice:
    """The implementation of group norm for this tensor.

    Args:
        x: (N, C, *spatial).
        masked: whether some values do not count.
        channels_last: whether PyTorch's operator takes it for a tensor whose channels come last.

    Raises:
        KernelUnavailable: the one asked for by name cannot do it.
    """
    asked = _asked(x, masked=masked)
    if asked is not None:
        return asked
    if masked:
        return MASKED
    return CANCELS if channels_last and x.device.type == "cpu" else ONE_PASS


def choose_layer(x: Tensor, *, masked: bool) -> Choice:
    """The implementation of layer norm for this tensor.

    Args:
        x: any shape.
        masked: whether some values do not count.

    Raises:
        KernelUnavailable: the one asked for by name cannot do it.
    """
    asked = _asked(x, masked=masked)
    if asked is not None:
        return asked
    return MASKED if masked else ONE_PASS


def _asked(x: Tensor, *, masked: bool) -> Choice | None:
    """What the environment asks for, or None."""
    name = choose._ASKED
    if not name:
        return None
    if masked and name != "two_pass":
        raise KernelUnavailable(
            f"{VARIABLE}={name} asks for kernels that know no mask of a sample's own, and one was received: unset "
            f"{VARIABLE} or set it to two_pass."
        )
    if name == "cpu" and x.device.type != "cpu":
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for the CPU kernels, and a tensor on another device was received: unset {VARIABLE}."
        )
    return Choice(name, f"{VARIABLE} asks for it")
