"""The command line: parse, call, print. What takes time to import is imported by the command that needs it."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

import click

from normwise import __version__
from normwise.commands.lab import lab
from normwise.commands.program import Program, help_alone
from normwise.commands.statistics import adapt, recalibrate
from normwise.errors import MissingExtra, UnknownName
from normwise.frameworks import installed_version

_LIBRARIES = ("torch", "keras", "jax", "tensorflow", "numpy")


@click.group(cls=Program, invoke_without_command=True, epilog="Example: normwise lab run")
@click.version_option(__version__, prog_name="normwise", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Batch normalization: layers, statistics, and a lab that measures what is claimed about it."""
    help_alone(ctx)


@main.command(epilog="Example: normwise info --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--why", "shape", metavar="SHAPE", help="Say which kernel serves a tensor, for example 32x64x56x56.")
@click.option("--dtype", default="float32", show_default=True, help="Of that tensor.")
@click.option("--channels-last", is_flag=True, help="That tensor has its channels last in memory.")
@click.option("--inference", is_flag=True, help="It is normalized by given statistics.")
@click.option("--mask", is_flag=True, help="Some of it is masked.")
def info(as_json: bool, shape: str | None, **how: Any) -> None:
    """Show versions, the machine, and which kernels are active."""
    if shape is not None:
        choice = _choice(shape, **how)
        click.echo(json.dumps(choice) if as_json else f"{choice['kernel']}: {choice['reason']}.")
        return
    from normwise.lab import stamp

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
        click.echo(json.dumps(facts, indent=2))
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
            f"{pool['kept'] >> 20} MB kept now (NORMWISE_POOL_MB sets the limit; 0 switches it off)"
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
    if installed_version("torch") is None:
        raise MissingExtra("torch", extra="torch")
    import torch

    from normwise.kernels.choose import choose
    from normwise.kernels.kernel import Call

    sizes = shape.lower().split("x")
    if len(sizes) < 2 or not all(size.isdigit() for size in sizes):
        raise click.UsageError(f"a shape is written NxC or NxCxHxW, received {shape!r}: for example 32x64x56x56.")
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    known = {str(each).removeprefix("torch."): each for each in dtypes}
    if dtype not in known:
        raise UnknownName("dtype", dtype, known)
    numbers = [int(size) for size in sizes]
    x = torch.empty([numbers[0], *numbers[2:], numbers[1]], dtype=known[dtype]).movedim(-1, 1)
    x = x if channels_last else torch.empty(numbers, dtype=known[dtype])
    positions = torch.empty((1, *[1] * (x.dim() - 1)), dtype=torch.bool) if mask else None
    found = choose(Call(x, positions), by_batch=not inference)
    return {"kernel": found.name, "reason": found.reason}


for command in (lab, recalibrate, adapt):
    main.add_command(command)
