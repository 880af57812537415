"""Pick the implementation for group and layer norm, and be able to say why; instance norm is chosen as batch norm is.

The compiled kernels know channels that share their statistics, which is group norm where the channels come first. Scale
and shift of single elements, layer norm's, they do not: on a view they can take the moments, and a second pass has to
scale and shift. PyTorch's operators do it in one, so they are used for the rest, wherever they are exact.
``NORMWISE_KERNEL`` asks for one by name, as for batch norm; ``triton`` names kernels of batch norm, and changes nothing
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from normwise.errors import KernelUnavailable
from normwise.kernels import choose
from normwise.kernels.choose import VARIABLE, Choice

if TYPE_CHECKING:
    from torch import Tensor

MASKED = Choice(
    "two_pass", "there is a mask, which differs from sample to sample: only plain PyTorch operations know it"
)
ONE_PASS = Choice("aten", "PyTorch's operator is exact here, and scales and shifts in the pass that normalizes")
FUSED = Choice("cpu", "the compiled kernels read x once, exactly, and fuse what follows")
CANCELS = Choice(
    "centred",
    "the channels come last in memory, where PyTorch takes E[x^2] - E[x]^2 for the variance; about a rough mean, which "
    "is subtracted first, nothing cancels",
)


# With shorter runs of a channel than this, PyTorch's operator is faster: 7x7 in 0.7 times the time, 16x16 in 1.1.
LONG = 256


def choose_group(
    x: Tensor,
    *,
    masked: bool,
    channels_last: bool,
    compiling: bool = False,
    recorded: bool = False,
    transformed: bool = False,
) -> Choice:
    """The implementation of group norm for this tensor.

    Args:
        x: (N, C, *spatial).
        masked: whether some values do not count.
        channels_last: whether PyTorch's operator takes it for a tensor whose channels come last.
        compiling: whether ``torch.compile`` or ``torch.export`` records the call.
        recorded: whether another recorder does (``kernels.recording``).
        transformed: whether ``torch.func`` is transforming the call.

    Raises:
        KernelUnavailable: the one asked for by name cannot do it.
    """
    asked = _asked(x, masked=masked, recorded=recorded, transformed=transformed)
    if asked is not None:
        return asked
    if masked:
        return MASKED
    eager = not (compiling or recorded or transformed)
    if choose._BUILT and eager and x.device.type == "cpu" and _large(x):
        return FUSED
    return CANCELS if channels_last and x.device.type == "cpu" else ONE_PASS


def _large(x: Tensor) -> bool:
    """True if the compiled kernels take the tensor as it lies in memory, and are faster."""
    if x.dim() < 2 or not x.is_floating_point() or x.dtype.itemsize == 1 or not x.is_contiguous():
        return False
    return x.numel() >= max(choose.SMALL, LONG * x.shape[0] * x.shape[1])


def choose_layer(x: Tensor, *, masked: bool, recorded: bool = False, transformed: bool = False) -> Choice:
    """The implementation of layer norm for this tensor.

    Args:
        x: any shape.
        masked: whether some values do not count.
        recorded: whether a recorder other than the compiler is at work (``kernels.recording``).
        transformed: whether ``torch.func`` is transforming the call.

    Raises:
        KernelUnavailable: the one asked for by name cannot do it.
    """
    asked = _asked(x, masked=masked, recorded=recorded, transformed=transformed)
    if asked is not None:
        return asked
    if masked:
        return MASKED
    return choose.TRANSFORMED if transformed else ONE_PASS


def _asked(x: Tensor, *, masked: bool, recorded: bool, transformed: bool) -> Choice | None:
    """The implementation that the environment asks for, or None."""
    name = choose._ASKED
    if not name or name == "triton":
        return None
    if masked and name != "two_pass":
        raise KernelUnavailable(
            f"{VARIABLE}={name} asks for kernels that know no mask of a sample's own, and one was received: unset "
            f"{VARIABLE} or set it to two_pass."
        )
    if recorded:
        choose.refuse_recorded(name)
    if transformed:
        choose.refuse_transformed(name)
    if name == "cpu" and x.device.type != "cpu":
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for the CPU kernels, and a tensor on another device was received: unset {VARIABLE}."
        )
    return Choice(name, f"{VARIABLE} asks for it")
