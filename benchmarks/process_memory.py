"""The gain of a training step from a process that keeps its memory: ``normwise.process_memory.keep()``.

    make bench ARGS="--part process_memory"

ResNet-50 and MobileNetV2 with PyTorch's layers and after ``normwise.fuse``, with the memory kept and without, in turn
in one process; each time the first step after the change maps or frees, and the second is timed. Writes
``benchmarks/results/process_memory.json``.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

import normwise
import normwise.process_memory  # the room, by its name
from benchmarks import parts
from benchmarks.kept import Conditions, keep
from benchmarks.networks import NETWORKS, QUICK, Network
from benchmarks.spread import Spread, calmest, published, ratios
from benchmarks.steps import step

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


def row(network: str, layers: str, ratio: Spread, faults: Spread) -> dict[str, Any]:
    """The row that is kept: no ratio that may not be published, and then why."""
    calm, absent = published({"ratio": ratio})
    kept = {"ratio": asdict(ratio) if calm else None, "absent": absent.get("ratio", "")}
    # Page faults are counted, and differ from step to step on a calm machine too: theirs are no times.
    return {"network": network, "layers": layers, **kept, "faults": asdict(faults)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parts.parser(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--network", help="one of them only, by its name; what is kept of the other stays")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for network in (QUICK if options.quick else NETWORKS)[:2]:
        if options.network not in (None, network.name):
            continue
        for layers, call in calls(network).items():
            conditions = Conditions()
            ratio, faults = measure(call, 5 if options.quick else 7)
            counted = f"{faults.median:.1f} [{faults.low:.1f}, {faults.high:.1f}] times as many page faults"
            print(f"{network.name}, {layers:17} {ratio.said}; {counted}", flush=True)
            if not options.quick:
                rows = [{**row(network.name, layers, ratio, faults), **conditions.after()}]
                keep(options.out / "process_memory.json", rows, by=("network", "layers"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak of the process: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
