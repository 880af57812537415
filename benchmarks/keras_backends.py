"""The layer for Keras against Keras's own on all backends, each in a process of its own.

    python -m benchmarks.keras_backends [--quick]

Writes ``benchmarks/results/keras.json`` and ``docs/speed_with_keras.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.spread import TOO_BUSY, WIDEST, Spread, geometric_mean

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/keras.json"
PAGE = ROOT / "docs/speed_with_keras.md"
XLA = "_xla"
BACKENDS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow", f"tensorflow{XLA}": "TensorFlow with XLA"}

PAGE_TEXT = """# Speed with Keras

The time of `keras.layers.BatchNormalization` and a ReLU layer over that of `normwise.keras.BatchNormalization` with the
ReLU inside: forward and backward with batch statistics, float32, batch 8, channels last, compiled as `fit` compiles it.
On TensorFlow `fit` uses XLA only where there is another device than the CPU, or where `compile(jit_compile=True)` asks
for it: hence two columns. Above 1 normwise is faster. Medians of {pairs} pairs in turn, in brackets the smallest and
the largest; a ratio whose quartiles are further apart than a factor of {widest} in three attempts is not published. The
mean is geometric, weighted by how many such layers a ResNet-50 has.

A training step is `train_on_batch` of six blocks of convolution, batch norm and ReLU, 32 channels each, on 32 images of
32 x 32. Its row "no norms" is Keras's step over the same step without the norms, with the ReLU layers alone: about what
a norm that takes no time would come to. (On PyTorch a ReLU layer is a pass of its own, which the ReLU inside saves, so
that our step can come above that row.) On JAX that row is within some per cent of 1 with 3 x 3 convolutions, because
XLA's convolutions take nearly all of the time: the layers' gain is there, and small beside them. The aim of 1.1 is out
of reach in that network, with any layer. With 1 x 1 convolutions a ninth of the work stands between the same norms, and
about half of what there is to gain arrives. What would gain more on JAX is not in a norm: faster convolutions, or one
that sums its own output for the norm behind it.

On TensorFlow without XLA the layer calls TensorFlow's own batch normalization, which Keras does not, on values less a
number near their mean, so that no digits are lost; tensors of fewer than 100 000 elements take fewer operations than
Keras's. Under XLA the cost of either layer lay in sums of products, which XLA computes channel by channel in strides;
normwise's products are stored first, and XLA's kernel for sums reads them. At 256 x 256 XLA splits five such arrays of
normwise's and four of Keras's between threads, and handing over costs more than the work: no gain there.

{machine}, {versions}, {date}, a load of {load:.1f} by this and other work.
`python -m benchmarks.keras_backends` writes this page, and [the numbers](../benchmarks/results/keras.json) are kept.

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
    return PAGE_TEXT.format(
        pairs=first["pairs"],
        widest=WIDEST,
        machine=run["machine"],
        versions=", ".join([f"Keras {first['keras']}", *dict.fromkeys(each["backend"] for each in found.values())]),
        date=run["date"],
        load=run["load"],
        table="\n".join(lines),
    )


def main() -> None:
    from normwise.lab.running.stamp import cpu

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 pairs each instead of 21")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for backend in BACKENDS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "rows.json")
            command = [sys.executable, "-m", "benchmarks.keras_layer", "--json", str(path)]
            command += ["--quick"] if options.quick else []
            command += ["--xla"] if backend.endswith(XLA) else []
            subprocess.run(
                command, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend.removesuffix(XLA)}, check=True
            )
            found[backend] = json.loads(path.read_text("utf-8"))
    run = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cpu()}, {len(os.sched_getaffinity(0))} threads",
        "load": os.getloadavg()[0],
        "backends": found,
    }
    RESULTS.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(run), encoding="utf-8")


if __name__ == "__main__":
    main()
