"""Pick the implementation for a tensor, and be able to say why.

``NORMWISE_KERNEL=cpu``, ``aten``, ``two_pass`` or ``triton`` in the environment asks for one by name: it is then used
for every call, and a call that it cannot serve is an error, never a silent change to another
(``tests/kernels/test_asked_by_name.py``). That is for PyTorch's tensors; on JAX, another name than ``cpu`` leaves the
call to ``keras.ops``. ``triton`` is used only where it is asked for (``choose_triton.py``), and for batch and instance
norm only. Layers that whiten have one implementation, and ask for none; gradients of gradients are plain operations.
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
from normwise.kernels import choose_triton

if TYPE_CHECKING:
    from torch import Tensor

    from normwise.kernels.kernel import Call

VARIABLE = "NORMWISE_KERNEL"
BY_NAME = ("cpu", "aten", "two_pass", "triton")

# With fewer elements than this, PyTorch's operator takes less time than the way to another one. The number is larger
# where the channels come last in memory, because PyTorch's own code is at its best there.
SMALL = 2**17
SMALL_LAST = 2**19
# With fewer in a training step's graph, the code that Inductor makes takes less time than the compiled kernels
# (benchmarks/threshold_in_graphs.py).
SMALL_IN_GRAPH = 2**15
# PyTorch's CPU operator keeps plain float32 sums where the channels come last in memory; they are off by up to
# n * 6e-8 * |mean| / std standard deviations. Up to so many values this is accepted; above, it is not.
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


MASKED = Choice("cpu", "PyTorch's operator takes no mask")
MASKED_ELSEWHERE = Choice("two_pass", "of the kernels that can run here, only plain PyTorch operations take a mask")
WEIGHTED = Choice("two_pass", "only plain PyTorch operations take weights, or a mask for each channel")
TRANSFORMED = Choice(
    "two_pass", "torch.func transforms the call, and can transform plain PyTorch operations everywhere"
)
COMPILED = Choice("aten", "torch.compile replaces PyTorch's operator by fused code of its own")
COMPILED_LARGE = Choice(
    "cpu", "torch.compile calls the compiled kernels, which read x once; its own code reads it twice"
)
RECORDED = Choice("aten", "something records the call, and a recording with PyTorch's own operator runs everywhere")
RECORDED_INEXACT = Choice(
    "two_pass",
    "something records the call, and the channels come last in memory: there PyTorch's operator loses digits, and "
    "plain PyTorch operations do not",
)
OTHER_DEVICE = Choice("aten", "the tensor is not on the CPU, and PyTorch's operator works on every device")
TOO_SMALL = Choice("aten", "the tensor is small, and PyTorch's operator has the least overhead")
LARGE = Choice("cpu", "the compiled kernels read x once and apply the activation at the same time")
INEXACT = Choice(
    "cpu", "the channels come last in memory: there PyTorch's operator loses digits, and the compiled kernels do not"
)
NOT_BUILT = Choice("aten", "the compiled kernels are not built, and PyTorch's operator is accurate for this tensor")
NOT_BUILT_INEXACT = Choice(
    "two_pass",
    "the channels come last in memory, where PyTorch's operator loses digits, and the compiled kernels are not built",
)
STRANGE = Choice(
    "aten", "the tensor is no batch of floating-point features, and PyTorch's operator raises the error for it"
)
RUNNING = Choice("aten", "with running statistics, PyTorch's operator is accurate, and it is as fast for this tensor")


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
        raise UnknownName("kernel", name, BY_NAME, place=f"in {VARIABLE}")
    if name == "cpu" and not built():
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for the compiled kernels, which are not built: unset {VARIABLE}, or {how_to_build()}"
        )
    if name == "triton" and (lack := choose_triton.missing()) is not None:
        raise KernelUnavailable(f"{VARIABLE}=triton asks for the GPU kernels, and {lack}: unset {VARIABLE}.")
    return name


@cache
def built() -> bool:
    """True if the compiled kernels were built with this installation."""
    return installed_version("torch") is not None and find_spec("normwise.kernels._torch_kernels") is not None


def built_for_jax() -> bool:
    """True if the same kernels were built as custom calls of XLA."""
    return installed_version("jax") is not None and find_spec("normwise.kernels._jax_kernels") is not None


_ASKED = asked_for()  # read once: every call of every layer chooses
_BUILT = built()


def choose(
    call: Call,
    *,
    by_batch: bool = True,
    compiling: bool = False,
    recorded: bool = False,
    transformed: bool = False,
) -> Choice:
    """The implementation for a call.

    Args:
        call: whose x is (N, C, *spatial).
        by_batch: with batch statistics, or else with running ones.
        compiling: whether ``torch.compile`` records the call, or ``torch.export``.
        recorded: whether another recorder does (``kernels.recording``).
        transformed: whether ``torch.func`` is transforming the call.

    Raises:
        KernelUnavailable: the one asked for by name cannot do it.
    """
    x, weights = call.x, call.weights
    if _ASKED:
        return _asked(_ASKED, call, recorded=recorded, transformed=transformed)
    if weights is not None:
        if not _shared(weights):
            return WEIGHTED
        eager = not (compiling or recorded or transformed)
        plain = _BUILT and x.device.type == "cpu" and eager and x.dtype.is_floating_point
        return MASKED if plain else MASKED_ELSEWHERE
    if compiling:
        large = _BUILT and by_batch and _large_in_graph(x)
        return COMPILED_LARGE if large else COMPILED
    if transformed:
        return TRANSFORMED
    if not x.is_cpu:
        return OTHER_DEVICE
    dtype = x.dtype
    if x.dim() < 2 or not dtype.is_floating_point or dtype.itemsize == 1:
        return STRANGE
    channels, size = x.size(1), x.numel()
    last = channels > 1 and x.stride(1) == 1
    if by_batch and last and size > FEW_VALUES * channels:
        return RECORDED_INEXACT if recorded else INEXACT if _BUILT else NOT_BUILT_INEXACT
    if recorded:
        return RECORDED
    if size < (SMALL_LAST if last else SMALL):
        return TOO_SMALL
    if _BUILT:
        return LARGE
    return NOT_BUILT if by_batch else RUNNING


def _large_in_graph(x: Tensor) -> bool:
    """True if a graph of ``torch.compile`` is to call the compiled kernels; a size not known yet is small.

    What is exported holds PyTorch's operators only, which run where normwise is not installed. PyTorch 2.11 takes every
    graph for one that is exported, so that Inductor computes there.
    """
    from torch import compiler  # only where something compiles, PyTorch being there
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    from normwise.kernels.internals import number_of_transforms

    dtype = x.dtype
    plain = x.is_cpu and x.dim() > 1 and dtype.is_floating_point and dtype.itemsize > 1
    if not plain or compiler.is_exporting() or number_of_transforms():
        return False
    return guard_or_false(x.numel() >= SMALL_IN_GRAPH)


def _shared(weights: Tensor) -> bool:
    """True for a mask that all channels share, which the compiled kernels know."""
    return not weights.dtype.is_floating_point and weights.shape[1] == 1


def refuse_recorded(name: str) -> None:
    """The compiled kernels are in no recording, which is to run elsewhere.

    Raises:
        KernelUnavailable: they were asked for by name.
    """
    if name == "cpu":
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for the compiled kernels, which a recording cannot hold, and a call that is recorded "
            f"(torch.jit.trace, torch.onnx.export, make_fx) was received: unset {VARIABLE}."
        )


def refuse_transformed(name: str) -> None:
    """The compiled kernels are nothing that ``torch.func`` could transform.

    Raises:
        KernelUnavailable: they were asked for by name.
    """
    if name == "cpu":
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for the compiled kernels, which torch.func does not see through, and a call under "
            f"one of its transforms was received: unset {VARIABLE}."
        )


def _asked(name: str, call: Call, *, recorded: bool, transformed: bool) -> Choice:
    if name == "triton":
        why = choose_triton.refusal(call, recorded=recorded, transformed=transformed)
        if why is not None:
            raise KernelUnavailable(f"{VARIABLE}=triton {why}: unset {VARIABLE}.")
    weights, on_cpu = call.weights, call.x.device.type == "cpu"
    if weights is not None and name == "aten":
        raise KernelUnavailable(
            f"{VARIABLE}=aten asks for PyTorch's operator, which does not know masks, and a mask was received: "
            f"unset {VARIABLE} or set it to two_pass."
        )
    if recorded:
        refuse_recorded(name)
    if transformed:
        refuse_transformed(name)
    if name == "cpu" and not on_cpu:
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for the CPU kernels, and a tensor on another device was received: unset {VARIABLE}."
        )
    if name == "cpu" and weights is not None and not _shared(weights):
        raise KernelUnavailable(
            f"{VARIABLE}=cpu asks for kernels that know masks which all channels share, and sample weights or a mask "
            "for each channel (in instance norm, every mask is one) were received: "
            f"unset {VARIABLE} or set it to two_pass."
        )
    return Choice(name, f"{VARIABLE} asks for it")


def implementations() -> list[Implementation]:
    """Every implementation, whether it can run here, and why.

    Example:
        >>> [kernel.name for kernel in implementations()]
        ['reference', 'cpu', 'aten', 'two_pass', 'triton', 'jax']
    """
    torch, jax = installed_version("torch"), installed_version("jax")
    with_torch = f"runs on PyTorch {torch}" if torch else f"PyTorch is not installed ({extra_command('torch')})"
    if built():
        compiled = "compiled for this machine; used for large tensors, and where PyTorch's operator loses digits"
    else:
        compiled = f"not built; {how_to_build()}" if torch else with_torch
    if built_for_jax():
        on_jax = f"compiled for JAX {jax}; used for training with normwise.keras on the CPU"
    elif jax:
        on_jax = f"not built, so that XLA's own code is used; {how_to_build()}"
    else:
        on_jax = "JAX is not installed"
    return [
        Implementation("reference", True, "the formulas in NumPy float64; the other kernels are tested against them"),
        Implementation("cpu", built(), compiled),
        Implementation(
            "aten",
            torch is not None,
            f"{with_torch}; PyTorch's own operator, used for small tensors and on other devices",
        ),
        Implementation(
            "two_pass",
            torch is not None,
            f"{with_torch}; plain PyTorch operations, used for masks and under torch.func",
        ),
        Implementation("triton", *(choose_triton.state(asked=_ASKED == "triton") if torch else (False, with_torch))),
        Implementation("jax", built_for_jax(), on_jax),
    ]
