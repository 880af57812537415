"""Batch norm + ReLU for Keras on JAX, forward and backward: the compiled kernels against XLA's code.

    python -m benchmarks.keras_on_jax [--pairs 7] [--batch 32]

Three layers take turns, each compiled by ``jax.jit``: Keras's own, ours on ``keras.ops``, which XLA compiles, and ours
on the kernels. Writes ``benchmarks/results/keras_on_jax.json`` and ``docs/speed_of_keras_on_jax.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/keras_on_jax.json"
PAGE = ROOT / "docs/speed_of_keras_on_jax.md"
# ResNet-50's batch norms on images of 224: channels, height, and how many there are.
RESNET = [
    (64, 112, 1),
    (64, 56, 6),
    (256, 56, 4),
    (128, 56, 1),
    (128, 28, 7),
    (512, 28, 5),
    (256, 28, 1),
    (256, 14, 11),
]
RESNET += [(1024, 14, 7), (512, 14, 1), (512, 7, 5), (2048, 7, 4)]
SMALL = [(32, 64), (64, 128), (256, 256), (128, 2048), (3136, 256), (4, 10, 10, 8)]
KINDS = {"inside": "the ReLU inside our layer", "behind": "a ReLU layer behind ours too"}
# glibc's: no block is given back, so that outputs have memory that was touched before.
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**34), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
MEMORY: dict[str, dict[str, str]] = {"fresh": {}, "kept": KEPT}

INTRODUCTION = """
# The compiled kernels on JAX

Batch normalization and ReLU, forward and backward with batch statistics, in one `jax.jit`: the time of Keras's own
layer, and of `normwise.keras.BatchNormalization` on `keras.ops` as XLA compiles it, over that of the same layer on the
compiled kernels. Above 1 the kernels are faster. Medians of {pairs} pairs, in parentheses the smallest and the largest;
means are geometric, weighted by how many such layers a ResNet-50 has.

float32, {machine}, {versions}, {date}.
The machine had a load of {load} by other work and this, which the spreads show.

XLA takes fresh memory from the system for a large output, and gives it back: then all of them wait for the system to
clear it. The second table is without that, by glibc's settings.

`python -m benchmarks.keras_on_jax` writes this page. `NORMWISE_KERNEL=two_pass` in the environment switches the kernels
off. Inference is left to XLA, whose code joins what stands next to the layer: tried before, the kernels were 0.89 to
1.22 times as fast there in 8 of 10 shapes and layouts; the other two (0.65 and 3.39) spread over a factor of four and
more.
"""


def measure(pairs: int, batch: int) -> Iterator[dict[str, Any]]:
    """A row per kind, layout and shape, in this process."""
    from benchmarks.keras_layer import layer_pass, seconds

    resnet = [((batch, height, height, channels), count) for channels, height, count in RESNET]
    for kind in KINDS:
        for layout in ("last", "first"):
            for shape, count in [*resnet, *((shape, 0) for shape in SMALL)]:
                if layout == "first":
                    if len(shape) == 2:
                        continue
                    shape = (shape[0], shape[-1], *shape[1:-1])
                how: dict[str, Any] = {"axis": 1 if layout == "first" else -1, "fused": kind == "inside"}
                calls: dict[str, Callable[[], Any]] = {
                    "keras": layer_pass(shape, ours=False, **how),
                    "xla": layer_pass(shape, ours=True, **how),
                    "kernels": layer_pass(shape, ours=True, **how),
                }
                for name, call in calls.items():  # the first call compiles
                    os.environ["NORMWISE_KERNEL"] = "two_pass" if name == "xla" else ""
                    seconds(call, 2)
                repeats = max(1, round(4e-3 / seconds(calls["kernels"], 1)))
                times: dict[str, list[float]] = {name: [] for name in calls}
                for pair in range(pairs):
                    for name in list(calls)[:: 1 if pair % 2 else -1]:
                        times[name].append(1e3 * seconds(calls[name], repeats))
                yield {"kind": kind, "layout": layout, "shape": shape, "count": count, "milliseconds": times}


def ratios(row: dict[str, Any], theirs: str) -> list[float]:
    times = row["milliseconds"]
    return [a / b for a, b in zip(times[theirs], times["kernels"], strict=True)]


def mean(rows: list[dict[str, Any]], theirs: str) -> float:
    """Geometric, weighted by how many such layers a ResNet-50 has."""
    logs = [(row["count"], math.log(statistics.median(ratios(row, theirs)))) for row in rows]
    return math.exp(sum(count * log for count, log in logs) / sum(count for count, _ in logs))


def said(row: dict[str, Any], theirs: str) -> str:
    found = ratios(row, theirs)
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def page(run: dict[str, Any]) -> str:
    lines = [INTRODUCTION.format(**run).strip()]
    for memory, title in (("fresh", "Memory as XLA takes it"), ("kept", "Memory kept between calls")):
        rows = [row for row in run["rows"] if row["memory"] == memory]
        lines += ["", f"## {title}", "", "| | channels | Keras's layer | ours by XLA |", "|---|---|---|---|"]
        for kind, words in KINDS.items():
            for layout in ("last", "first"):
                some = [row for row in rows if (row["kind"], row["layout"]) == (kind, layout) and row["count"]]
                lines.append(f"| mean, {words} | {layout} | {mean(some, 'keras'):.2f} | {mean(some, 'xla'):.2f} |")
        for row in rows:
            of, name = "x".join(map(str, row["shape"])), KINDS[row["kind"]]
            milliseconds = statistics.median(row["milliseconds"]["kernels"])
            where = f"{of}, {name}, {milliseconds:.3g} ms"
            lines.append(f"| {where} | {row['layout']} | {said(row, 'keras')} | {said(row, 'xla')} |")
    return "\n".join(lines) + "\n"


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    """A process for each treatment of memory, which has to be told to glibc before it starts."""
    import jax
    import keras

    from normwise.lab.running.stamp import cpu

    rows, load = [], []
    for memory, settings in MEMORY.items():
        command = [sys.executable, "-m", "benchmarks.keras_on_jax", "--alone"]
        command += ["--pairs", str(options.pairs), "--batch", str(options.batch)]
        environment = {**os.environ, "KERAS_BACKEND": "jax", **settings}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for text in process.stdout:
                row = {"memory": memory, **json.loads(text)}
                rows.append(row)
                load.append(os.getloadavg()[0])
                print(f"{memory} {row['kind']:7} {row['layout']:5} {row['shape']!s:22} {said(row, 'keras')}, ", end="")
                print(f"against XLA {said(row, 'xla')}", flush=True)
        if process.returncode:
            raise SystemExit(process.returncode)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{cpu()}, {len(os.sched_getaffinity(0))} threads",
        "versions": f"JAX {jax.__version__}, Keras {keras.__version__}",
        "load": f"{min(load):.1f} to {max(load):.1f}",
        "pairs": options.pairs,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--alone", action="store_true", help="measure in this process and print the rows as JSON")
    options = parser.parse_args()
    if options.alone:
        for row in measure(options.pairs, options.batch):
            print(json.dumps(row), flush=True)
        return
    os.environ.setdefault("KERAS_BACKEND", "jax")
    run = run_all(options)
    RESULTS.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(run), encoding="utf-8")


if __name__ == "__main__":
    main()
