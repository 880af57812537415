"""The gain and the cost of ``normwise.save_memory`` in whole networks: ``make bench ARGS="--part save_memory"``.

For each of torchvision's networks: the bytes that autograd keeps between forward and backward, the peak of a process
that does nothing else, and the time of a training step, for PyTorch's own layers, for the network after
``normwise.fuse``, for that one with ``save_memory``, and for PyTorch's layers with each block in
``torch.utils.checkpoint``. ``compiled_memory.py`` measures torch.compile's partitioner. (In-Place ABN, which keeps as
much as ``save_memory``, is not among them: it is installed by a CUDA build of its own, has no kernels for the CPU, and
makes another network, whose ReLU is leaky.)
"""

from __future__ import annotations

import copy
import multiprocessing
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import normwise
from benchmarks import parts
from benchmarks.kept import Conditions, keep
from benchmarks.spread import Spread, calmest, published, ratios, spread, widest
from benchmarks.timing import in_turn_by_both_clocks
from benchmarks.zoo.architectures import Architecture, build
from normwise.torch.models.memory.bytes_kept import bytes_kept

TARGETS = {"mobilenet_v2": 0.45, "densenet121": 0.6, "vgg16_bn": 0.6, "resnet50": 0.75, "efficientnet_b0": 0.5}
"""The share of the bytes of PyTorch's layers that each network may take at most."""
SLOWER = 1.15
"""The most times of the fused network's step that it may take."""
PLAIN, FUSED, SAVED, CHECKPOINTED = "PyTorch", "fused", "save_memory", "checkpoint"
VARIANTS = (PLAIN, FUSED, SAVED, CHECKPOINTED)
BLOCKS = ("InvertedResidual", "_DenseLayer", "Bottleneck", "MBConv")


@dataclass(frozen=True)
class Row:
    """One network: bytes and peaks by variant, and steps against the fused one's, in wall-clock and processor time.

    ``absent`` says of each ratio that may not be published why.
    """

    network: str
    setting: str
    bytes_kept: dict[str, int]
    ratio_of_bytes: float
    target: float
    peak: dict[str, int]
    seconds: dict[str, Spread]
    step: dict[str, Spread]
    processor_step: dict[str, Spread]
    same_gradients: bool
    saved: str
    absent: dict[str, str]


class Segment(nn.Sequential):
    """Some layers in a row, run again in the backward."""

    def forward(self, x: Tensor) -> Any:
        return checkpoint(super().forward, x, use_reentrant=False)


def checkpointed(model: nn.Module) -> nn.Module:
    """A copy with each block in a checkpoint; of a network without blocks, what lies between two poolings."""
    twin = copy.deepcopy(model)
    blocks = [module for module in twin.modules() if type(module).__name__ in BLOCKS]
    for block in blocks:
        block.forward = again(block.forward)
    if not blocks:
        layers: list[nn.Module] = [*twin.features]  # type: ignore[misc]  # a Sequential
        ends = [number + 1 for number, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        twin.features = nn.Sequential(
            *(
                Segment(*layers[begin:end])
                for begin, end in zip([0, *ends], [*ends, len(layers)], strict=True)
                if begin < end
            )
        )
    return twin


def again(forward: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same forward, run again in the backward, of what it was given: DenseNet's list grows after the call."""

    def run(given: Any) -> Any:
        return checkpoint(forward, [*given] if isinstance(given, list) else given, use_reentrant=False)

    return run


def variant(name: str, model: nn.Module) -> nn.Module:
    """A copy of the network, treated so."""
    if name == CHECKPOINTED:
        return checkpointed(model)
    twin = copy.deepcopy(model)
    if name in (FUSED, SAVED):
        normwise.fuse(twin)
    if name == SAVED:
        normwise.save_memory(twin)
    return twin


def network(name: str) -> nn.Module:
    """A network with random weights, in training mode."""
    torch.manual_seed(0)
    return build(Architecture("torchvision", name, name)).train()


def step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A training step with plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


def data(samples: int, side: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(samples, 3, side, side), torch.randint(0, 1000, (samples,))


def peak_of(name: str, treated: str, samples: int, side: int, answer: Any) -> None:
    """The peak of this process, which is there for nothing else, by two training steps, above what it had before."""
    images, labels = data(samples, side)
    run = step(variant(treated, network(name)), images, labels)
    before = resident()
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")  # the peak begins here
    for _ in range(2):
        run()
    answer.put(peak() - before)


def resident() -> int:
    """Bytes that this process has in memory."""
    return _status("VmRSS")


def peak() -> int:
    """The most that it had since the peak was cleared."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def peaks(name: str, samples: int, side: int) -> dict[str, int]:
    """The peak of each variant in a fresh process."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for treated in VARIANTS:
        answer = context.Queue()
        process = context.Process(target=peak_of, args=(name, treated, samples, side, answer))
        process.start()
        found[treated] = answer.get(timeout=600)
        process.join()
    return found


def same_gradients(fused: nn.Module, saved: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """True if a step from the same weights and random numbers gives the same bits."""
    found = []
    for model in (copy.deepcopy(fused), copy.deepcopy(saved)):
        torch.manual_seed(2)
        F.cross_entropy(model(images), labels).backward()
        found.append([*model.parameters(), *model.buffers()])
    return all(
        torch.equal(one if one.grad is None else one.grad, other if other.grad is None else other.grad)
        for one, other in zip(*found, strict=True)
    )


def measure(name: str, *, samples: int, side: int, rounds: int, with_peaks: bool = True) -> Row:
    """One network.

    Args:
        name: torchvision's.
        samples: of a batch.
        side: of the images.
        rounds: steps of every variant, in turn.
        with_peaks: whether to measure the peaks, which takes a process for each variant.
    """
    plain = network(name)
    images, labels = data(samples, side)
    models = {treated: variant(treated, plain) for treated in VARIANTS}
    # First: a forward draws random numbers, and other layers to drop leave other running statistics behind.
    same = same_gradients(models[FUSED], models[SAVED], images, labels)
    kept = {treated: bytes_kept(model, partial(model, images)) for treated, model in models.items()}
    report = normwise.save_memory(copy.deepcopy(models[FUSED]), images)
    calls = {treated: step(model, images, labels) for treated, model in models.items()}
    for call in calls.values():
        call()
    seconds, found, by_processor = timed(calls, rounds=rounds)
    over, absent = published(found)
    over_by_processor, busy = published(by_processor)
    return Row(
        name,
        f"batch {samples}, {side}x{side}, {torch.get_num_threads()} threads",
        kept,
        kept[SAVED] / kept[PLAIN],
        TARGETS.get(name, 1.0),
        peaks(name, samples, side) if with_peaks else {},
        seconds,
        over,
        over_by_processor,
        same,
        str(report).partition("\n")[0],
        absent | {f"{treated}, processor": words for treated, words in busy.items()},
    )


def timed(calls: Mapping[str, Callable[[], object]], *, rounds: int) -> tuple[dict[str, Spread], ...]:
    """Seconds, and the ratios to the fused one's, on the wall and of the processor, in the calmest of some attempts."""

    def attempt() -> tuple[dict[str, Spread], ...]:
        wall, processor = in_turn_by_both_clocks(calls, rounds=rounds)
        over = ({name: ratios(found[name], found[FUSED]) for name in calls} for found in (wall, processor))
        return {name: spread(found) for name, found in wall.items()}, *over

    return calmest(attempt, lambda found: max(widest(found[1]), widest(found[2])))


def told(row: Row) -> str:
    """A row in words."""
    lines = [f"{row.network}, {row.setting}: {row.saved}"]
    for treated in VARIANTS:
        of = row.bytes_kept[treated] / row.bytes_kept[PLAIN]
        peak_ratio = f", peak {row.peak[treated] / row.peak[PLAIN]:.2f}" if row.peak else ""
        wall = row.step.get(treated) or row.absent[treated]
        processor = row.processor_step.get(treated) or row.absent[f"{treated}, processor"]
        lines.append(f"  {treated:12s} bytes {of:.2f}{peak_ratio}, step {wall} of fused, processor {processor}")
    lines += [f"  MISSED: {miss}" for miss in missed(row)]
    return "\n".join(lines)


def missed(row: Row) -> list[str]:
    """The results that fall short of the targets."""
    found = [] if row.same_gradients else ["the gradients are not the same"]
    if row.ratio_of_bytes > row.target:
        found.append(f"bytes {row.ratio_of_bytes:.2f}, wanted {row.target}")
    if SAVED not in row.step:
        found.append(f"step, wanted {SLOWER}: {row.absent[SAVED]}")
    elif row.step[SAVED].median > SLOWER:
        found.append(f"step {row.step[SAVED].median:.2f}, wanted {SLOWER}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parts.parser(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--samples", type=int, default=8, help="of a batch (default: 8)")
    parser.add_argument("--side", type=int, default=160, help="of the images (default: 160)")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each (default: 15)")
    parser.add_argument("--networks", nargs="+", help="torchvision's names (default: five)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    short = False
    for name in chosen.networks or list(TARGETS)[: 1 if chosen.quick else None]:
        if chosen.quick:
            print(told(measure(name, samples=2, side=64, rounds=5, with_peaks=False)), flush=True)
            continue
        conditions = Conditions()
        row = measure(name, samples=chosen.samples, side=chosen.side, rounds=chosen.rounds)
        print(told(row), flush=True)
        keep(chosen.out / "save_memory.json", [{**asdict(row), **conditions.after()}], by=("network",))
        short |= bool(missed(row))
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
