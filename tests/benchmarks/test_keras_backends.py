"""The page of the three backends: what was too noisy stands there without a number, in no mean."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from benchmarks.kept import HAND_OVER
from benchmarks.keras_backends import page
from benchmarks.spread import spread


def row(name: str, count: int, *ratios: float) -> dict[str, Any]:
    return {"name": name, "count": count, "ratio": asdict(spread(ratios)), "milliseconds": 1.0}


def test_a_page_has_a_column_for_each_backend_and_no_number_that_means_nothing() -> None:
    calm = [
        row("8x7x7x512", 1, 2.0, 2.0),
        row("8x7x7x2048", 3, 2.0, 2.0),
        row("training step, 3 x 3 convolutions", 0, 1.1, 1.2),
    ]
    busy = [
        row("8x7x7x512", 1, 4.0, 4.0),
        row("8x7x7x2048", 3, 1.0, 9.0),
        row("training step, 3 x 3 convolutions", 0, 0.1, 7.0),
    ]

    def conditions(load: float, *hand_overs: float) -> dict[str, Any]:
        machine = {"processor": "chip", "threads": 2, "load before": load, HAND_OVER: [*hand_overs]}
        return {"date": "2030-01-01T00:00:00", "machine": machine, "keras": "3", "pairs": 2}

    backends = {
        "jax": {"backend": "jax 1", "rows": busy, **conditions(0.5, 0.02, 0.03)},
        "torch": {"backend": "torch 2", "rows": calm, **conditions(1.25, 0.02, 4.0)},
    }
    text = page({"backends": backends})
    steps, layers = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert steps.splitlines()[2:] == ["| 3 x 3 convolutions | 1.15 [1.10, 1.20] | machine too busy |"]
    assert layers.splitlines()[0].endswith(" | PyTorch | JAX |")
    assert layers.splitlines()[2:] == [
        "| mean over ResNet-50's layers | 2.00 | 4.00, 1 of 2 shapes |",
        "| 8x7x7x512 | 2.00 [2.00, 2.00] | 4.00 [4.00, 4.00] |",
        "| 8x7x7x2048 | 2.00 [2.00, 2.00] | machine too busy |",
    ]
    said = text.replace("\n", " ")
    assert "chip, 2 threads, Keras 3, torch 2, jax 1, 2030-01-01." in said
    assert "The load before each backend, by this and other work, was 0.5 to 1.25;" in said
    assert "hand-overs between threads took 0.02 to 4 ms before and after." in said
