"""The calls that the Triton kernels serve, and the sentence for others; off unless the environment asks for them.

They are held to the reference under Triton's interpreter and compiled for GPUs that are not here. No GPU has timed
them, so nothing is given to them by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from normwise.kernels.triton_gpu.presence import INTERPRETED, importable

if TYPE_CHECKING:
    from torch import Tensor

    from normwise.kernels.kernel import Call

MISSING = "Triton is not installed; it comes with PyTorch's builds for CUDA and ROCm"
OFF = "nobody has timed them on a GPU yet; set NORMWISE_KERNEL=triton to use them in the place of PyTorch's operator"
ON = "NORMWISE_KERNEL=triton asks for them; tested in Triton's interpreter, not timed on a GPU yet"


def missing() -> str | None:
    """The reason why the kernels cannot be asked for by name: the middle of a sentence, or None."""
    return None if importable() else MISSING


def state(*, asked: bool) -> tuple[bool, str]:
    """True if the kernels are in use, and the reason, for ``normwise info``."""
    if not importable():
        return False, MISSING
    return asked, ON if asked else OFF


def refusal(call: Call, *, recorded: bool, transformed: bool) -> str | None:
    """Why they do not serve a call: the middle of a sentence, or None where they do."""
    x = call.x
    if recorded:
        return (
            "asks for the GPU kernels, which a recording cannot hold, and a call that is recorded (torch.jit.trace, "
            "torch.onnx.export, make_fx) was received"
        )
    if transformed:
        return (
            "asks for the GPU kernels, which torch.func does not see through, and a call under one of its transforms "
            "was received"
        )
    if x.device.type != "cuda" and not (x.is_cpu and INTERPRETED):
        return f"asks for the GPU kernels, and a tensor on the device {x.device} was received"
    if not _narrow(x):
        return f"asks for kernels of float32, bfloat16 and float16, and a tensor of {x.dtype} was received"
    if call.weights is not None and call.weights.dtype.is_floating_point:
        return "asks for kernels that know masks, and sample weights were received"
    return None


def _narrow(x: Tensor) -> bool:
    return x.dtype.is_floating_point and x.dtype.itemsize in (2, 4)
