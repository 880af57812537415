"""The layer for Keras against Keras's own on all backends, each in a process of its own.

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

{machine}, {versions}, {date}.
The load before each backend, by this and other work: {loads}; hand-overs between threads before and after:
{hand_overs}. `make bench ARGS="--part keras"` writes this page, and
[the numbers](../benchmarks/results/keras.json) are kept.{notes}

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
        machine="; ".join(dict.fromkeys(f"{each['processor']}, {each['threads']} threads" for each in machines)),
        versions=", ".join([f"Keras {first['keras']}", *dict.fromkeys(each["backend"] for each in found.values())]),
        date=max(each["date"] for each in found.values())[:10],
        loads=between(loads),
        hand_overs=between(hand_overs, " ms"),
        notes="".join(f" {each['note']}" for each in found.values() if "note" in each),
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
            command += ["--xla"] if backend.endswith(XLA) else []
            environment = {**os.environ, "KERAS_BACKEND": backend.removesuffix(XLA)}
            subprocess.run(command, cwd=ROOT, env=environment, check=True)
            found[backend] = {**conditions.after(), **json.loads(rows.read_text("utf-8"))}
        if not options.quick:
            run = {"backends": found}
            path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
            if options.out.resolve() == RESULTS.resolve():
                PAGE.write_text(page(run), encoding="utf-8")


if __name__ == "__main__":
    main()
