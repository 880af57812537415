"""Work in processes of their own, which have what takes long to import from the start."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

_PRELOADED = ["benchmarks.zoo.preloaded"]
_WAIT = 10
"""The factor on its seconds that a process may take on the wall clock, for other work on the machine."""
_STARTING = threading.Lock()
"""One at a time: a process takes the environment, and with it Keras's backend, from this one."""


def apart(work: Callable[[dict[str, Any]], dict[str, Any]], task: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The result of ``work`` in a process of its own, or ``error``: why nothing came back.

    Args:
        work: a function of a module; what it returns goes through JSON.
        task: its argument; with ``backend``, Keras's one, set before Keras is imported.
        seconds: of the processor; after them the process is killed, and after ten times as many on the wall clock.
    """
    if "backend" in task:
        context: Any = multiprocessing.get_context("spawn")
    else:
        context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            context.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        answer, errors = Path(folder) / "answer", Path(folder) / "errors"
        process = context.Process(target=_child, args=(work, task, seconds, answer, errors), daemon=True)
        with _STARTING:
            if "backend" in task:
                os.environ["KERAS_BACKEND"] = task["backend"]
            process.start()
        process.join(_WAIT * seconds)
        if process.is_alive():
            process.kill()
            process.join()
            return {"error": f"it took more than {_WAIT * seconds:.0f} seconds on the wall clock"}
        if answer.exists():
            found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
            return found
        if sys.platform != "win32" and process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
            return {"error": f"it took more than {seconds:.0f} seconds of the processor, or more memory than there is"}
        said = errors.read_text("utf-8", "replace").strip().splitlines() if errors.exists() else []
        return {"error": (said or [f"its process ended with {process.exitcode}"])[-1][:300]}


def _child(
    work: Callable[[dict[str, Any]], dict[str, Any]], task: dict[str, Any], seconds: float, answer: Path, errors: Path
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (ceil(seconds), ceil(seconds)))
    with errors.open("w") as stream:
        os.dup2(stream.fileno(), 2)
    found = work(task)
    unfinished = answer.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found), "utf-8")
    unfinished.replace(answer)


def _end_with_parent() -> None:
    """A command that was killed leaves no work behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
