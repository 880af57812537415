"""``normwise tune``: time the settings of the Triton kernels on this machine's GPU, and keep the fastest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from normwise.commands.program import Command
from normwise.commands.values import Name
from normwise.errors import MissingExtra, NormwiseError
from normwise.frameworks import installed_version
from normwise.kernels import choose_triton

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = ("float16", "bfloat16", "float32")
# ResNet-50's batch norms at batch 64, and the same in a transformer's or a mixer's shape.
SHAPES = (
    "64x64x112x112",
    "64x64x56x56",
    "64x256x56x56",
    "64x128x28x28",
    "64x512x28x28",
    "64x256x14x14",
    "64x1024x14x14",
    "64x512x7x7",
    "64x2048x7x7",
    "4096x1024",
)


@click.command(cls=Command, epilog="Example: normwise tune --dtype bfloat16 --channels-last 256x64x56x56")
@click.argument("shapes", nargs=-1, metavar="[SHAPE]...")
@click.option(
    "--dtype",
    type=Name("dtype", lambda: _DTYPES),
    default="float32",
    show_default=True,
    help="Dtype of the tensors: float16, bfloat16 or float32.",
)
@click.option("--channels-last", is_flag=True, help="Take tensors whose channels come last in memory.")
def tune(shapes: tuple[str, ...], dtype: str, channels_last: bool) -> None:
    """Find the fastest settings of the Triton kernels on this GPU.

    For a tensor of each SHAPE (NxC or NxCxHxW, for example 256x64x56x56), the command times the forward and the
    backward of batch norm with ReLU, with each setting of a short list. It writes the fastest settings to a file that
    later programs read on this machine. Without a SHAPE, it takes the shapes of the batch norms of ResNet-50.
    """
    for shape in shapes:
        if not re.fullmatch(r"0*[1-9]\d*(x0*[1-9]\d*)+", shape, re.ASCII | re.IGNORECASE):
            raise click.UsageError(
                f"SHAPE must be written NxC or NxCxHxW, received {shape!r}: give for example 32x64x56x56."
            )
    _check()
    from normwise.kernels.triton_gpu import tuning

    found = []
    for shape in shapes or SHAPES:
        found.append(_tuned(shape, dtype, channels_last=channels_last))
        click.echo(_line(found[-1]))
    click.echo(f"The settings: {tuning.keep(found)}")


def _check() -> None:
    """Refuse what cannot be tuned for.

    Raises:
        NormwiseError: there is no Triton, or no GPU.
    """
    if installed_version("torch") is None:
        raise MissingExtra("torch", extra="torch")
    if (lack := choose_triton.missing()) is not None:
        raise NormwiseError(f"`normwise tune` times the Triton kernels, and {lack}: install PyTorch for the GPU.")
    import torch

    if not torch.cuda.is_available():
        raise NormwiseError(
            "`normwise tune` times kernels on a GPU, and PyTorch finds no GPU here: run the command on a machine with "
            "a "
            "GPU and with PyTorch's build for CUDA or ROCm."
        )


def _tuned(shape: str, dtype: str, *, channels_last: bool) -> Any:
    import torch
    from triton.testing import do_bench

    from normwise.kernels.kernel import Call
    from normwise.kernels.triton_gpu import tuning
    from normwise.kernels.triton_gpu.launch import device_of
    from normwise.torch.steps.triton_operators import TritonGpu

    numbers = [int(size) for size in shape.lower().split("x")]
    there = [numbers[0], *numbers[2:], numbers[1]] if channels_last else numbers
    x: Tensor = torch.randn(there, dtype=getattr(torch, dtype), device="cuda")
    x = (x.movedim(-1, 1) if channels_last else x).requires_grad_()
    scale, shift = (torch.ones(numbers[1], device="cuda", requires_grad=True) for _ in range(2))
    dy = torch.randn_like(x)

    def step() -> object:
        y, _ = TritonGpu().forward_batch(Call(x, scale=scale, shift=shift, activation="relu"))
        return torch.autograd.grad(y, (x, scale, shift), dy)

    def clock(call: Any) -> float:
        return float(do_bench(call, warmup=10, rep=40, return_mode="median"))

    return tuning.tune(x, device_of(x.device), step, clock)


def _line(found: Any) -> str:
    """The settings that were chosen for one kind of tensor, in words."""
    chosen = ", ".join(f"{name} {value:g}" for name, value in found.settings._asdict().items())
    return f"{found.key}: {found.milliseconds:.3f} ms with {chosen}; {found.default:.3f} ms with the default"
