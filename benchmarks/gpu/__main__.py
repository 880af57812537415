"""``python -m benchmarks.gpu compile``, ``page`` or ``bench``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

REFUSAL = (
    "this measures on a GPU, and PyTorch finds none here: run it on a machine with one, with PyTorch's build for CUDA "
    "or ROCm."
)
RESULTS = Path(__file__).resolve().parent.parent / "results/gpu"


@click.group()
def main() -> None:
    """Facts about the Triton kernels that need no GPU, and measurements where there is one."""


@main.command("compile")
@click.option("--workers", default=1, show_default=True, help="Processes that compile at the same time.")
def compile_all(workers: int) -> None:
    """Compile the variants for every target, and keep the result and the page (many minutes, no GPU needed)."""
    from benchmarks.gpu import compiling, page

    found = compiling.compile_all(workers=workers)
    compiling.keep(found)
    print(f"{len(found['rows'])} variants for {len(found['targets'])} targets: {compiling.KEPT}")
    print(page.write())


@main.command("page")
def write_page() -> None:
    """Write docs/speed_on_gpus.md from what is kept."""
    from benchmarks.gpu import page

    print(page.write())


@main.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Folder of the results."
)
def bench(out: Path) -> None:
    """Check and time the kernels on this machine's GPU (under ten minutes)."""
    import torch

    if not torch.cuda.is_available():
        raise click.ClickException(REFUSAL)
    from benchmarks.gpu.bench import run  # with which Triton comes in

    print(run(out))


if __name__ == "__main__":
    sys.exit(main())
