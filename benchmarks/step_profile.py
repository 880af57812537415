"""The parts of a training step's time, and the gain of layers that reaches it: ``python -m benchmarks.step_profile``.

For ResNet-50 and MobileNetV2, with PyTorch's layers and after ``normwise.fuse``, in both layouts, eager and in float32:

* the time of the step by kind of work, from PyTorch's profiler: convolutions, what belongs to batch norm (with the
  activation and the addition), the optimizer, everything else;
* counters of the process: page faults, time within the system, how often a thread had to wait;
* what the step takes with every batch norm and activation taken out: nothing that makes these faster can gain more;
* what the layers' own times, each measured alone on the shapes it has there, would let one expect.

Writes ``benchmarks/results/step_profile.json``.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import normwise
from benchmarks import report
from benchmarks.networks import NETWORKS, QUICK, Network, without_norms
from benchmarks.spread import ratios, spread
from benchmarks.steps import step
from benchmarks.timing import in_turn

RESULT = Path(__file__).with_name("results") / "step_profile.json"
PYTORCH, FUSED, BARE = "PyTorch's layers", "fused", "no norms, no activations"
CONVOLUTION, NORM, OPTIMIZER, REST = "convolutions", "batch norm, activation, addition", "optimizer", "everything else"
KINDS = {
    CONVOLUTION: ("conv", "addmm", "aten::mm"),
    NORM: ("batch_norm", "normwise::", "BatchNorm", "relu", "hardtanh", "threshold", "clamp", "aten::add"),
    OPTIMIZER: ("_foreach", "Optimizer"),
}


def kind_of(operator: str) -> str:
    """The kind of work that one of the profiler's names is.

    >>> kind_of("aten::mkldnn_convolution"), kind_of("aten::native_batch_norm"), kind_of("aten::max_pool2d")
    ('convolutions', 'batch norm, activation, addition', 'everything else')
    """
    return next((kind for kind, words in KINDS.items() if any(word in operator for word in words)), REST)


def by_kind(call: Callable[[], object], calls: int = 5) -> dict[str, float]:
    """Milliseconds of the calling thread in one call, by kind: of the calls the one in the middle."""
    found: list[Counter[str]] = []
    for _ in range(calls):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call()
        found.append(Counter(dict.fromkeys((*KINDS, REST), 0.0)))
        for event in profile.key_averages():
            found[-1][kind_of(event.key)] += event.self_cpu_time_total / 1e3
    return dict(sorted(found, key=lambda kinds: sum(kinds.values()))[len(found) // 2])


def counters(call: Callable[[], object], calls: int = 3) -> dict[str, float]:
    """The counts of one call: page faults, seconds in the system, waits of a thread for another one or for the disk."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(calls):
        call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    names = {"page faults": "ru_minflt", "system seconds": "ru_stime", "waits": "ru_nvcsw"}
    return {words: (getattr(after, name) - getattr(before, name)) / calls for words, name in names.items()}


def layers_alone(model: nn.Module, x: Tensor, *, pairs: int) -> dict[str, float]:
    """Seconds of all batch norms with the activation behind them, each alone on its own shape, forward and backward.

    An addition in front of the activation is left out on both sides.
    """
    shapes: Counter[tuple[int, ...]] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda _, args: shapes.update([tuple(args[0].shape)]))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    last = x.is_contiguous(memory_format=torch.channels_last)
    total: Counter[str] = Counter()
    for shape, count in shapes.items():
        given = torch.randn(shape).to(memory_format=torch.channels_last if last else torch.contiguous_format)
        dy = torch.randn_like(given)
        plain: nn.Module = nn.Sequential(nn.BatchNorm2d(shape[1]), nn.ReLU(inplace=True))
        fused = copy.deepcopy(plain)
        normwise.fuse(fused)
        calls = {PYTORCH: _forward_backward(plain, given, dy), FUSED: _forward_backward(fused, given, dy)}
        times, _ = in_turn(calls, rounds=pairs, seconds=3.0)
        total.update({name: count * statistics.median(found) for name, found in times.items()})
    return dict(total)


def _forward_backward(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    given = x.requires_grad_()
    return lambda: torch.autograd.grad(layer(given), [given, *layer.parameters()], dy)


def measured(network: Network, layout: str, *, rounds: int, pairs: int) -> dict[str, Any]:
    """Everything about one network in one layout."""
    form = torch.channels_last if layout == "last" else torch.contiguous_format
    torch.manual_seed(0)
    x = torch.randn(network.batch, *network.sample).to(memory_format=form)
    labels = torch.randint(0, 1000, (network.batch,))
    models: dict[str, nn.Module] = {name: network.build() for name in (PYTORCH, FUSED, BARE)}
    normwise.fuse(models[FUSED])
    without_norms(models[BARE])
    calls = {
        name: step(cast(nn.Module, cast(Any, model).to(memory_format=form)), x, labels)
        for name, model in models.items()
    }
    times, _ = in_turn(calls, rounds=rounds, seconds=180.0)
    alone = layers_alone(models[PYTORCH], x, pairs=pairs)
    whole = statistics.median(times[PYTORCH])
    return {
        "network": network.name,
        "layout": layout,
        "seconds": {name: str(spread(found)) for name, found in times.items()},
        "ratios": {name: str(ratios(times[PYTORCH], times[name])) for name in (FUSED, BARE)},
        "layers alone, seconds": alone,
        "ratio that these let expect": whole / (whole - alone[PYTORCH] + alone[FUSED]),
        "milliseconds by kind": {name: by_kind(call) for name, call in calls.items()},
        "counters": {name: counters(call) for name, call in calls.items()},
    }


def said(found: dict[str, Any]) -> Iterable[str]:
    """The lines that are printed of one network."""
    yield f"{found['network']}, channels {found['layout']}"
    for name, taken in found["seconds"].items():
        kinds = ", ".join(f"{kind} {value:.0f}" for kind, value in found["milliseconds by kind"][name].items())
        counted = ", ".join(f"{value:.4g} {what}" for what, value in found["counters"][name].items())
        ratio = found["ratios"].get(name, "")
        yield f"  {name}: {taken} s {ratio and f'({ratio} times as fast)'}\n    ms: {kinds}\n    {counted}"
    alone = found["layers alone, seconds"]
    yield (
        f"  the layers alone: {alone[PYTORCH]:.3f} s, fused {alone[FUSED]:.3f} s, which lets expect "
        f"{found['ratio that these let expect']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little images, few rounds, and nothing is written")
    options = parser.parse_args()
    rows = []
    for network in (QUICK if options.quick else NETWORKS)[:2]:
        for layout in ("first", "last"):
            rows.append(measured(network, layout, rounds=5 if options.quick else 9, pairs=5 if options.quick else 9))
            print("\n".join(said(rows[-1])), flush=True)
    if not options.quick:
        found = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": report.machine(), "rows": rows}
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
