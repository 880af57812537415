"""Real processes that work together over loopback: how a test starts them, and how each of them begins and ends."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 240  # seconds; a shared machine may have other things to do


def outcomes(module: str, folder: Path, world: int, *more: str, codes: Sequence[int] | None = None) -> list[Any]:
    """Run a test module as so many processes, and give what each of them found, or None for one that ended early.

    Args:
        module: its name; it calls ``work`` when it is run.
        folder: an empty one.
        world: how many processes.
        more: further arguments for all of them.
        codes: with which exit codes they are to end; all 0 by default.
    """
    command = [sys.executable, "-m", module]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder), *more], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    try:
        errors = [process.communicate(timeout=LONGEST)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    ended = [process.returncode for process in processes]
    assert ended == list(codes or [0] * world), "\n".join(errors)
    found = [folder / f"{rank}.pt" for rank in range(world)]
    return [torch.load(path, weights_only=True) if path.exists() else None for path in found]


def work(find: Callable[[int, int], Any], *, timeout: float = LONGEST) -> None:
    """Be one of the processes: join the others, save what ``find(rank, world)`` gives, and end.

    Args:
        find: what to do.
        timeout: seconds that a process waits for the others.
    """
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # a file, not a port: nothing that could be taken
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=timeout),
    )
    torch.save(find(rank, world), f"{folder}/{rank}.pt")
    if timeout == LONGEST:
        distributed.barrier()
    # Not by the interpreter's own end: gloo's threads are now and then still running then, which aborts the process.
    os._exit(0)
