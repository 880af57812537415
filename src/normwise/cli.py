"""The command line: parse, call, print. What takes time to import is imported by the command that needs it."""

from __future__ import annotations

import json
import os
import platform
import re
from typing import Any

import click
from click.core import ParameterSource

from normwise import __version__
from normwise.commands import streams
from normwise.commands.doctor import doctor, explain
from normwise.commands.lab import lab
from normwise.commands.layers import fold, swap
from normwise.commands.program import Program, help_alone
from normwise.commands.statistics import adapt, recalibrate
from normwise.commands.tune import tune
from normwise.commands.values import Name
from normwise.errors import MissingExtra, NormwiseError
from normwise.frameworks import installed_version

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_LIBRARIES = ("torch", "keras", "jax", "tensorflow", "numpy")


@click.group(cls=Program, invoke_without_command=True, epilog="Example: normwise doctor nets.py:net --data data.npz")
@click.version_option(__version__, prog_name="normwise", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Examine, repair and deploy models of PyTorch or Keras that have batch normalization.

    The commands doctor, recalibrate, adapt, fold and swap work on a model and data of yours. The command lab trains
    small networks and tests what is claimed about batch normalization. `normwise COMMAND --help` says what a command
    takes, what it writes, and where.
    """
    help_alone(ctx)


@main.command(epilog="Example: normwise info --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option(
    "--why",
    "shape",
    metavar="SHAPE",
    help="Name the kernel for a tensor of this shape, NxC or NxCxHxW, for example 32x64x56x56, and why normwise "
    "chooses it. Default: no shape",
)
@click.option(
    "--dtype",
    type=Name("dtype", lambda: _DTYPES),
    default="float32",
    show_default=True,
    help="With --why: the dtype of the tensor, float16, bfloat16, float32 or float64.",
)
@click.option("--channels-last", is_flag=True, help="With --why: the channels of the tensor come last in memory.")
@click.option("--inference", is_flag=True, help="With --why: the layer is in eval mode and uses running statistics.")
@click.option("--mask", is_flag=True, help="With --why: a mask leaves some values out of the statistics.")
@click.pass_context
def info(ctx: click.Context, /, as_json: bool, shape: str | None, **how: Any) -> None:
    """Show versions, this machine, and the kernels used here.

    With --why, show the kernel for one tensor instead.
    """
    if shape is not None:
        choice = _choice(shape, **how)
        if as_json:
            streams.print_json(json.dumps(choice))
        else:
            click.echo(f"{choice['kernel']}: {choice['reason']}.")
        return
    for name in how:
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(
                f"{option} describes the tensor of --why, which is missing: give --why SHAPE too, or leave out "
                f"{option}."
            )
    from normwise.lab.running import stamp

    facts: dict[str, Any] = {
        "normwise": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": stamp.cpu(),
        "cores": os.cpu_count(),
        "libraries": {name: installed_version(name) for name in _LIBRARIES},
        "kernels": _kernels(),
        "compiled": _compiled(),
    }
    if as_json:
        streams.print_json(json.dumps(facts, indent=2))
        return
    for name in ("normwise", "python", "system", "cpu", "cores"):
        click.echo(f"{name:<12} {facts[name]}")
    for name, found in facts["libraries"].items():
        click.echo(f"{name:<12} {found or 'not installed'}")
    click.echo("\nKernels")
    for kernel in facts["kernels"]:
        click.echo(f"  {kernel['name']:<12} {'active' if kernel['active'] else 'not active'}: {kernel['reason']}")
    if facts["compiled"]:
        pool = facts["compiled"]["pool"]
        click.echo(f"\nInstruction set of the compiled kernels: {facts['compiled']['instruction_set']}")
        click.echo(
            f"Memory pool for their large outputs: at most {pool['limit'] >> 20} MB kept, "
            f"{pool['kept'] >> 20} MB kept now (NORMWISE_POOL_MB sets the limit in MB; 0 switches the pool off)"
        )


def _kernels() -> list[dict[str, Any]]:
    from normwise.kernels import choose

    return [{"name": each.name, "active": each.available, "reason": each.reason} for each in choose.implementations()]


def _compiled() -> dict[str, Any] | None:
    from normwise.kernels import choose

    if not choose.built():
        return None
    from normwise.kernels import cpu

    return {"instruction_set": cpu.instruction_set(), "pool": cpu.pool()}


def _choice(shape: str, *, dtype: str, channels_last: bool, inference: bool, mask: bool) -> dict[str, str]:
    """The kernel for a tensor that is described in words."""
    if not re.fullmatch(r"0*[1-9]\d*(x0*[1-9]\d*)+", shape, re.ASCII | re.IGNORECASE):
        raise click.UsageError(
            f"SHAPE must be written NxC or NxCxHxW, received {shape!r}: give for example 32x64x56x56."
        )
    if installed_version("torch") is None:
        raise MissingExtra("torch", extra="torch")
    import torch

    from normwise.kernels.choose import choose
    from normwise.kernels.kernel import Call

    numbers = [int(size) for size in shape.lower().split("x")]
    there = [numbers[0], *numbers[2:], numbers[1]] if channels_last else numbers
    try:
        x = torch.empty(there, dtype=getattr(torch, dtype))
    except (RuntimeError, TypeError) as error:
        raise NormwiseError(
            f"this machine has no memory for a tensor of shape {shape}: give a smaller shape."
        ) from error
    x = x.movedim(-1, 1) if channels_last else x
    positions = torch.empty((1, *[1] * (x.dim() - 1)), dtype=torch.bool) if mask else None
    found = choose(Call(x, positions), by_batch=not inference)
    return {"kernel": found.name, "reason": found.reason}


for command in (lab, doctor, explain, recalibrate, adapt, fold, swap, tune):
    main.add_command(command)
