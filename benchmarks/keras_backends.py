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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import markdown, parts
from benchmarks.kept import HAND_OVER, RESULTS, Conditions
from benchmarks.spread import TOO_BUSY, WIDEST, Spread, geometric_mean

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/speed_with_keras.md"
XLA = "_xla"
STEP = "training step"
"""The first words in the names of rows of training steps."""
BACKENDS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow", f"tensorflow{XLA}": "TensorFlow with XLA"}

PAGE_TEXT = """# Speed with Keras

How much faster Keras is on the CPU with `normwise.keras.BatchNormalization` and the ReLU inside it, in the place of
`keras.layers.BatchNormalization` and a ReLU layer behind it. Numbers are Keras's time divided by normwise's: above 1
normwise is faster.

## Whole training steps

{steps}

A step is `train_on_batch` of six blocks of convolution, batch norm and ReLU, with 32 channels each, on 32 images of
32 x 32. A row "no norms" shows what there is to gain: it is Keras's step over a step without norms, with the ReLU
layers alone. (On PyTorch a step of normwise's can be faster than that, because its ReLU is no pass of its own.)

* On JAX, XLA's convolutions take nearly all of a step with 3 x 3 convolutions, so that no norm of any kind could make
  it faster by more than some per cent. With 1 x 1 convolutions, which are a ninth of the work, about half of what there
  is to gain arrives.
* TensorFlow has two columns because `fit` uses XLA only on other devices than the CPU, unless `compile` is called with
  `jit_compile=True`.

## Single layers

Forward and backward with batch statistics, in float32, channels last, compiled as `fit` compiles it. The mean is
geometric, weighted by how many layers of each shape a ResNet-50 has.

{layers}

Where the difference comes from, and where there is none:

* On TensorFlow without XLA, normwise calls TensorFlow's own batch normalization, which Keras does not. It subtracts a
  number near their mean from the values first, so that no digits are lost. Below 100 000 elements it uses fewer
  operations than Keras.
* Under XLA most of the time of a layer goes into sums of products, which XLA computes channel by channel in strides.
  normwise stores the products first, so that XLA's kernel for sums can read them.
* At 256 x 256 with XLA there is no gain: XLA splits five such arrays of normwise's and four of Keras's between threads,
  and handing them over costs more than the work.

## How it was measured

Each number is the median of {pairs} pairs, measured in turn; in brackets are the smallest and the largest. A ratio
whose quartiles are further apart than a factor of {widest} in three attempts is not published. It was measured on
{machine}, {versions}, {date}.
The load before each backend, by this and other work, was {loads}; hand-overs between threads took
{hand_overs} before and after.

{notes}`make bench ARGS="--part keras"` measures all of this again and writes this page;
[the numbers](../benchmarks/results/keras.json) are kept.

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
    means = {"mean over ResNet-50's layers": [mean(each["rows"]) for each in found.values()]}
    rows = {
        row["name"]: [cell(each["rows"][n]) for each in found.values()]
        for n, row in enumerate(next(iter(found.values()))["rows"])
    }
    steps = {name.removeprefix(f"{STEP}, "): cells for name, cells in rows.items() if name.startswith(STEP)}
    layers = means | {name: cells for name, cells in rows.items() if not name.startswith(STEP)}
    columns = [BACKENDS[name] for name in found]

    def shown(head: str, cells: Mapping[str, Sequence[str]]) -> str:
        return markdown.table([head, *columns], [[name, *each] for name, each in cells.items()])

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
        notes="".join(f"{each['note']}\n\n" for each in found.values() if "note" in each),
        steps=shown(f"a {STEP} with", steps),
        layers=shown("a layer, batch x height x width x channels", layers),
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
