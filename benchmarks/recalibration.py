"""The price of statistics that are right: ``python -m benchmarks.recalibration``, or by ``make bench``.

``normwise.recalibrate`` on ResNet-50, whose 53 batch norms each wait for those before them, against
``torch.optim.swa_utils.update_bn``, which takes the statistics of each layer behind those of each batch. In turn, in
wall-clock time and in the time of the processor, which others on the machine disturb less. Layer by layer takes minutes
and is measured less often.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.networks import resnet
from benchmarks.spread import Spread, ratios, spread
from benchmarks.timing import hand_over
from normwise.torch.models.recalibration.recalibrate import recalibrate

BATCHES = 16
WITHIN = 1.5
"""The most times of ``update_bn``'s time that it may take."""
UPDATE_BN, IN_STEP, BY_LAYER = "update_bn", "in step", "layer by layer"


@dataclass(frozen=True)
class Recalibration:
    """Seconds of each way, and how many times ``update_bn``'s; the same in seconds of the processor."""

    setting: str
    seconds: dict[str, Spread]
    ratio: dict[str, Spread]
    processor_ratio: dict[str, Spread]
    passes: dict[str, int]


def measure(*, samples: int, side: int, rounds: int, rounds_by_layer: int) -> Recalibration:
    """All ways in turn, on the same network and batches.

    Args:
        samples: of a batch.
        side: of the images.
        rounds: of ``update_bn`` and in step.
        rounds_by_layer: those of them in which layer by layer takes part.
    """
    torch.manual_seed(0)
    model = resnet()
    batches = [torch.randn(samples, 3, side, side) for _ in range(BATCHES)]
    passes: dict[str, int] = {}

    def ours(name: str, memory: float | None) -> None:
        passes[name] = recalibrate(model, batches, memory=memory).passes

    calls: dict[str, Callable[[], None]] = {
        UPDATE_BN: lambda: torch.optim.swa_utils.update_bn(batches, model),
        IN_STEP: lambda: ours(IN_STEP, None),
        BY_LAYER: lambda: ours(BY_LAYER, 0),
    }
    wall: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    for name in (UPDATE_BN, IN_STEP):  # memory is mapped, code is there
        calls[name]()
    for number in range(rounds):
        names = [UPDATE_BN, IN_STEP] if number >= rounds_by_layer else [*calls]
        for name in names if number % 2 else names[::-1]:
            began = time.perf_counter(), time.process_time()
            calls[name]()
            wall[name].append(time.perf_counter() - began[0])
            processor[name].append(time.process_time() - began[1])
    return Recalibration(
        f"ResNet-50, {BATCHES} batches of {samples} images of {side} x {side}, {torch.get_num_threads()} threads",
        {name: spread(found) for name, found in wall.items() if found},
        _over_update_bn(wall),
        _over_update_bn(processor),
        passes,
    )


def _over_update_bn(times: dict[str, list[float]]) -> dict[str, Spread]:
    return {
        name: ratios(found, times[UPDATE_BN][: len(found)])
        for name, found in times.items()
        if found and name != UPDATE_BN
    }


def lines(found: Recalibration) -> list[str]:
    """The lines for a person to read."""
    said = [found.setting]
    for name, seconds in found.seconds.items():
        words = f"  {name:15} {seconds.median:7.2f} s [{seconds.low:.2f}, {seconds.high:.2f}], n = {seconds.pairs}"
        if name in found.ratio:
            ratio, processor = found.ratio[name], found.processor_ratio[name]
            words += f"; {ratio} times {UPDATE_BN}'s"
            words += f", {processor} in the processor's time"
        said.append(words)
    verdict = "met" if found.ratio[IN_STEP].median <= WITHIN else "missed"
    return [*said, f"  {IN_STEP}: at most {WITHIN} times {UPDATE_BN}'s time is {verdict}"]


def run(out: Path, *, quick: bool = False) -> None:
    """Measures on as many threads as PyTorch is set to, and writes.

    Args:
        out: the folder of the results.
        quick: a small number of rounds, and layer by layer not at all.
    """
    machine, before = report.machine(), hand_over()
    rounds, by_layer = (3, 0) if quick else (9, 2)
    found = measure(samples=8, side=64, rounds=rounds, rounds_by_layer=by_layer)
    print("\n".join(lines(found)), flush=True)
    machine["hand-over before and after, ms"] = [round(before, 3), round(hand_over(), 3)]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    path = out / "recalibration.json"
    path.write_text(json.dumps({"date": date, "machine": machine, **asdict(found)}, indent=1) + "\n", encoding="utf-8")
    print(f"Written: {path}")


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    run(Path(__file__).with_name("results"))
