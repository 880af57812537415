"""The gain of a training step from a process that keeps its memory: ``normwise.process_memory.keep()``.

    python -m benchmarks.process_memory [--quick]

ResNet-50 and MobileNetV2 with PyTorch's layers and after ``normwise.fuse``, with the memory kept and without, in turn
in one process; each time the first step after the change maps or frees, and the second is timed. Writes
``benchmarks/results/process_memory.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

import normwise
import normwise.process_memory  # the room, by its name
from benchmarks import report
from benchmarks.networks import NETWORKS, QUICK, Network
from benchmarks.spread import Spread, calmest, ratios
from benchmarks.steps import step
from benchmarks.timing import hand_over

RESULT = Path(__file__).with_name("results") / "process_memory.json"
AS_IT_IS, KEPT = "as it is", "kept"
Times = dict[str, list[float]]


def measure(call: Callable[[], object], pairs: int) -> tuple[Spread, Spread]:
    """Seconds without over seconds with the memory kept, and the same of page faults."""

    def attempt() -> tuple[Spread, Spread]:
        seconds: Times = {AS_IT_IS: [], KEPT: []}
        faults: Times = {AS_IT_IS: [], KEPT: []}
        for pair in range(pairs):
            for how in list(seconds)[:: 1 if pair % 2 else -1]:
                kept = normwise.process_memory.keep() if how == KEPT else None
                call()
                began, before = time.perf_counter(), _faults()
                call()
                seconds[how].append(time.perf_counter() - began)
                faults[how].append(1 + _faults() - before)
                if kept is not None:
                    kept.undo()
        return ratios(seconds[AS_IT_IS], seconds[KEPT]), ratios(faults[AS_IT_IS], faults[KEPT])

    return calmest(attempt, lambda found: found[0].width)


def _faults() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def calls(network: Network) -> dict[str, Callable[[], object]]:
    """A step of the network as it is written, and after one call of ``fuse``."""
    torch.manual_seed(0)
    inputs = torch.randn(network.batch, *network.sample)
    labels = torch.randint(0, 1000, (network.batch,))
    models: dict[str, nn.Module] = {"PyTorch's layers": network.build(), "fused": network.build()}
    normwise.fuse(models["fused"])
    return {name: step(model, inputs, labels) for name, model in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little images, 5 pairs, and nothing is written")
    options = parser.parse_args()
    machine, before = report.machine(), hand_over()
    rows = []
    for network in (QUICK if options.quick else NETWORKS)[:2]:
        for layers, call in calls(network).items():
            ratio, faults = measure(call, 5 if options.quick else 7)
            print(
                f"{network.name}, {layers:17} {ratio.said}; page faults {faults.median:.0f} times as many", flush=True
            )
            rows.append({"network": network.name, "layers": layers, "ratio": asdict(ratio), "faults": asdict(faults)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak of the process: {peak:.2f} GiB")
    if not options.quick:
        machine["hand-over before and after, ms"] = [round(before, 3), round(hand_over(), 3)]
        found = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "rows": rows}
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
