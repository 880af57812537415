"""The price of statistics that are right: ``make bench ARGS="--part recalibration"``.

``normwise.recalibrate`` on ResNet-50, whose 53 batch norms each wait for those before them, against
``torch.optim.swa_utils.update_bn``, which takes the statistics of each layer behind those of each batch. In turn, in
wall-clock time and in the time of the processor, which others on the machine disturb less. Layer by layer takes minutes
and is measured less often.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks import parts
from benchmarks.kept import Conditions
from benchmarks.networks import resnet
from benchmarks.spread import TOO_BUSY, Spread, calmest, published, ratios, spread
from benchmarks.timing import in_turn_by_both_clocks
from normwise.torch.models.recalibration.recalibrate import recalibrate

BATCHES = 16
WITHIN = 1.5
"""The most times of ``update_bn``'s time that it may take."""
UPDATE_BN, IN_STEP, BY_LAYER = "update_bn", "in step", "layer by layer"


@dataclass(frozen=True)
class Recalibration:
    """Seconds of each way, and how many times ``update_bn``'s; the same in seconds of the processor.

    ``absent`` says of each ratio that may not be published why.
    """

    setting: str
    seconds: dict[str, Spread]
    ratio: dict[str, Spread]
    processor_ratio: dict[str, Spread]
    passes: dict[str, int]
    absent: dict[str, str] = field(default_factory=dict)


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
    for name in (UPDATE_BN, IN_STEP):  # memory is mapped, code is there
        calls[name]()
    seconds: dict[str, Spread] = {}
    ratio: dict[str, Spread] = {}
    processor_ratio: dict[str, Spread] = {}
    absent: dict[str, str] = {}
    for name, pairs in ((IN_STEP, rounds), (BY_LAYER, rounds_by_layer)):
        if pairs:
            taken, over, by_processor = _against_update_bn({each: calls[each] for each in (UPDATE_BN, name)}, pairs)
            seconds = taken | seconds  # update_bn's are those of the many rounds
            for kept, found, of in ((ratio, over, ""), (processor_ratio, by_processor, ", processor")):
                calm, busy = published({name: found})
                kept.update(calm)
                absent.update({f"{each}{of}": words for each, words in busy.items()})
    return Recalibration(
        f"ResNet-50, {BATCHES} batches of {samples} images of {side} x {side}, {torch.get_num_threads()} threads",
        {name: seconds[name] for name in calls if name in seconds},
        ratio,
        processor_ratio,
        passes,
        absent,
    )


def _against_update_bn(calls: dict[str, Callable[[], None]], rounds: int) -> tuple[dict[str, Spread], Spread, Spread]:
    """Seconds of both, and the ratio of the second to the first, on the wall and of the processor."""
    (name,) = calls.keys() - {UPDATE_BN}

    def attempt() -> tuple[dict[str, Spread], Spread, Spread]:
        wall, processor = in_turn_by_both_clocks(calls, rounds=rounds)
        taken = {each: spread(found) for each, found in wall.items()}
        return taken, ratios(wall[name], wall[UPDATE_BN]), ratios(processor[name], processor[UPDATE_BN])

    return calmest(attempt, lambda found: max(found[1].width, found[2].width))


def lines(found: Recalibration) -> list[str]:
    """The lines for a person to read."""
    said = [found.setting]
    for name, seconds in found.seconds.items():
        words = f"  {name:15} {seconds.median:7.2f} s [{seconds.low:.2f}, {seconds.high:.2f}], n = {seconds.pairs}"
        if name != UPDATE_BN:
            words += f"; times {UPDATE_BN}'s: {found.ratio.get(name) or found.absent[name]}"
            words += (
                f", in the processor's time: {found.processor_ratio.get(name) or found.absent[f'{name}, processor']}"
            )
        said.append(words)
    return [*said, f"  {IN_STEP}: at most {WITHIN} times {UPDATE_BN}'s time is {verdict(found)}"]


def verdict(found: Recalibration) -> str:
    """The word for the target: met or missed, if that is known."""
    if IN_STEP not in found.ratio:
        return f"not known, {TOO_BUSY}"
    return "met" if found.ratio[IN_STEP].median <= WITHIN else "missed"


def run(out: Path, *, quick: bool = False) -> None:
    """Measures on as many threads as PyTorch is set to, and writes.

    Args:
        out: the folder of the results.
        quick: a small number of rounds, layer by layer not at all, and nothing is written.
    """
    conditions = Conditions()
    rounds, by_layer = (3, 0) if quick else (9, 2)
    found = measure(samples=8, side=64, rounds=rounds, rounds_by_layer=by_layer)
    print("\n".join(lines(found)), flush=True)
    if not quick:
        path = out / "recalibration.json"
        path.write_text(json.dumps({**conditions.after(), **asdict(found)}, indent=1) + "\n", encoding="utf-8")
        print(f"Written: {path}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parts.parser(__doc__, threads=1).parse_args(arguments)
    torch.set_num_threads(options.threads)
    run(options.out, quick=options.quick)


if __name__ == "__main__":
    main()
