"""The layer for Keras against Keras's own on all three backends, each in a process of its own.

    make bench ARGS="--part keras"

Writes ``benchmarks/results/keras.json`` and ``docs/speed_with_keras.md``.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import parts
from benchmarks.kept import HAND_OVER, RESULTS, Conditions
from benchmarks.spread import TOO_BUSY, WIDEST, Spread, geometric_mean

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/speed_with_keras.md"
BACKENDS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}

PAGE_TEXT = """# Speed with Keras

The time of `keras.layers.BatchNormalization` and a ReLU layer over that of `normwise.keras.BatchNormalization` with the
ReLU inside: forward and backward with batch statistics, float32, batch 8, channels last, compiled as `fit` compiles it
on JAX and TensorFlow. Above 1 normwise is faster. Medians of {pairs} pairs in turn, in brackets the smallest and the
largest; a ratio whose quartiles are further apart than a factor of {widest} in three attempts is not published. The
mean is geometric, weighted by how many such layers a ResNet-50 has. The training step is `train_on_batch` of six blocks
of convolution, batch norm and ReLU on 32 images of 32 x 32.

{machine}, {versions}, {date}.
The load before each backend, by this and other work: {loads}; hand-overs between threads before and after:
{hand_overs}. `make bench ARGS="--part keras"` writes this page, and
[the numbers](../benchmarks/results/keras.json) are kept.

{table}

Read next: [coming from Keras](coming_from_keras.md), [layers for Keras](keras_layers/index.md), [speed](speed.md).
"""


def spread_of(row: dict[str, Any]) -> Spread:
    return Spread(**row["ratio"])


def cell(row: dict[str, Any]) -> str:
    ratio = spread_of(row)
    return str(ratio) if ratio.calm else TOO_BUSY


def mean(rows: list[dict[str, Any]]) -> str:
    """The mean ratio over the calm layers of a ResNet-50, and how many of them were calm."""
    of = [row for row in rows if row["count"]]
    calm = [(spread_of(row).median, row["count"]) for row in of if spread_of(row).calm]
    value = geometric_mean(calm)
    if math.isnan(value):
        return TOO_BUSY
    return f"{value:.2f}" if len(calm) == len(of) else f"{value:.2f}, {len(calm)} of {len(of)} shapes"


def page(run: dict[str, Any]) -> str:
    found = {name: run["backends"][name] for name in BACKENDS if name in run["backends"]}
    names = [row["name"] for row in next(iter(found.values()))["rows"]]
    lines = [f"| | {' | '.join(BACKENDS[name] for name in found)} |", "|---" * (len(found) + 1) + "|"]
    lines.append(f"| mean over ResNet-50's layers | {' | '.join(mean(each['rows']) for each in found.values())} |")
    for n, name in enumerate(names):
        lines.append(f"| {name} | {' | '.join(cell(each['rows'][n]) for each in found.values())} |")
    first = next(iter(found.values()))
    machines = [each["machine"] for each in found.values()]
    loads = [machine["load before"] for machine in machines if "load before" in machine]
    hand_overs = [each for machine in machines for each in machine.get(HAND_OVER, [])]
    return PAGE_TEXT.format(
        pairs=first["pairs"],
        widest=WIDEST,
        machine=f"{machines[0]['processor']}, {machines[0]['threads']} threads",
        versions=", ".join([f"Keras {first['keras']}", *(each["backend"] for each in found.values())]),
        date=max(each["date"] for each in found.values())[:10],
        loads=between(loads),
        hand_overs=between(hand_overs, " ms"),
        table="\n".join(lines),
    )


def between(values: Sequence[float], unit: str = "") -> str:
    """The smallest and the largest, in words; an earlier result may have none.

    >>> between([2.0, 0.5, 1.0], " ms"), between([0.5]), between([])
    ('0.5 to 2 ms', '0.5', 'not recorded')
    """
    if not values:
        return "not recorded"
    return " to ".join(dict.fromkeys(f"{end:.3g}" for end in (min(values), max(values)))) + unit


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parts.parser(__doc__)
    parser.add_argument("--backend", choices=BACKENDS, help="one of them only; what is kept of the others stays")
    options = parser.parse_args(arguments)
    path = options.out / "keras.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))["backends"] if path.exists() else {}
    for backend in [options.backend] if options.backend else BACKENDS:
        conditions = Conditions()
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder, "rows.json")
            command = [sys.executable, "-m", "benchmarks.keras_layer", "--json", str(rows)]
            command += ["--quick"] if options.quick else []
            subprocess.run(command, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend}, check=True)
            found[backend] = {**conditions.after(), **json.loads(rows.read_text("utf-8"))}
        if not options.quick:
            run = {"backends": found}
            path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
            if options.out.resolve() == RESULTS.resolve():
                PAGE.write_text(page(run), encoding="utf-8")


if __name__ == "__main__":
    main()
