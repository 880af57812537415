"""The bytes that torch.compile's partitioner keeps, beside those of ``normwise.save_memory``, and the steps' times.

    make bench ARGS="--part compiled_memory"

Of PyTorch's layers and of the fused network, compiled as by default, and with ``activation_memory_budget = 0.5``, by
which the partitioner may compute more in the backward again. The compilations take minutes. Writes
``benchmarks/results/compiled_memory.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._functorch import config

from benchmarks import parts
from benchmarks.kept import Conditions, keep
from benchmarks.save_memory import FUSED, PLAIN, SAVED, data, network, step, timed, variant
from benchmarks.spread import Spread, published
from normwise.torch.models.memory.bytes_kept import bytes_kept

BUDGET = 0.5
COMPILED, WITHIN_BUDGET = "compiled", f"compiled, budget {BUDGET}"
FUSED_COMPILED, FUSED_WITHIN_BUDGET = f"fused, {COMPILED}", f"fused, {WITHIN_BUDGET}"
FROM = {COMPILED: PLAIN, WITHIN_BUDGET: PLAIN, FUSED_COMPILED: FUSED, FUSED_WITHIN_BUDGET: FUSED}
EAGER = (PLAIN, FUSED, SAVED)
NETWORKS = ("mobilenet_v2", "resnet50")


@dataclass(frozen=True)
class Row:
    """One network: bytes by variant, the same over PyTorch's in eager mode, and steps over the fused one's in it.

    ``absent`` says of each ratio of times that may not be published why.
    """

    network: str
    setting: str
    bytes_kept: dict[str, int]
    ratio_of_bytes: dict[str, float]
    step: dict[str, Spread]
    absent: dict[str, str]


def compiled(model: nn.Module, budget: float) -> nn.Module:
    """The network, compiled by a backend of its own, which holds the budget: else two copies would share their code."""

    from torch._inductor.compile_fx import compile_fx  # warns of what PyTorch itself gives up

    def within_budget(graph: Any, inputs: Any) -> Any:
        with config.patch(activation_memory_budget=budget):
            return compile_fx(graph, inputs)

    return cast(nn.Module, torch.compile(model, dynamic=False, backend=within_budget))


def measure(name: str, *, samples: int, side: int, rounds: int) -> Row:
    """One network.

    Args:
        name: torchvision's.
        samples: of a batch.
        side: of the images.
        rounds: steps of every variant, in turn; 0: bytes only.
    """
    plain = network(name)
    images, labels = data(samples, side)
    models = {treated: variant(treated, plain) for treated in EAGER}
    for made, of in FROM.items():
        budget = BUDGET if made in (WITHIN_BUDGET, FUSED_WITHIN_BUDGET) else 1.0
        models[made] = compiled(variant(of, plain), budget)
    # A first step compiles: what it saves may be another thing.
    steps = {treated: step(model, images, labels) for treated, model in models.items()}
    for first in steps.values():
        first()
    kept = {treated: bytes_kept(model, _forward(model, images)) for treated, model in models.items()}
    step_ratios: dict[str, Spread] = {}
    absent: dict[str, str] = {}
    if rounds:
        step_ratios, absent = published(timed(steps, rounds=rounds)[1])
    setting = f"batch {samples}, {side}x{side}, {torch.get_num_threads()} threads"
    return Row(name, setting, kept, {each: kept[each] / kept[PLAIN] for each in kept}, step_ratios, absent)


def _forward(model: nn.Module, images: Tensor) -> Callable[[], Any]:
    return lambda: model(images)


def told(row: Row) -> str:
    """A row in words."""
    lines = [f"{row.network}, {row.setting}"]
    for treated, of in row.ratio_of_bytes.items():
        words = row.step.get(treated) or row.absent.get(treated, "not timed")
        lines.append(f"  {treated:27s} bytes {of:.2f}, step {words} of fused")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parts.parser(__doc__, threads=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15, help="steps of each, 0: bytes only (default: 15)")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="torchvision's names (default: two)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for name in options.networks[: 1 if options.quick else None]:
        if options.quick:
            print(told(measure(name, samples=2, side=64, rounds=0)), flush=True)
            continue
        conditions = Conditions()
        row = measure(name, samples=8, side=160, rounds=options.rounds)
        print(told(row), flush=True)
        keep(options.out / "compiled_memory.json", [{**asdict(row), **conditions.after()}], by=("network",))


if __name__ == "__main__":
    main()
