"""The parts of a training step's time, and the gain of layers that reaches it: ``make bench ARGS="--part profile"``.

For ResNet-50 and MobileNetV2, with PyTorch's layers and after ``normwise.fuse``, in both layouts, in float32, eager and
under torch.compile:

* the time of the step by kind of work, from PyTorch's profiler: convolutions, what belongs to batch norm (with the
  activation and the addition), Inductor's kernels, the optimizer, everything else; and, from oneDNN's own report, how
  much of the convolutions' time goes into changes of layout;
* counters of the process: page faults, time within the system, how often a thread had to wait;
* what the step takes with every batch norm and activation taken out: nothing that makes these faster can gain more;
* what the layers' own times, each measured alone with the shape, activation and addition that it has there, would let
  one expect.

Writes ``benchmarks/results/step_profile.json``.
"""

from __future__ import annotations

import resource
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._inductor import config

import normwise
from benchmarks import onednn, parts
from benchmarks.kept import Conditions, keep
from benchmarks.networks import NETWORKS, QUICK, Network, without_norms
from benchmarks.spread import Spread, calmest, published, ratios, spread, widest
from benchmarks.steps import step
from benchmarks.timing import in_turn

PYTORCH, FUSED, BARE = "PyTorch's layers", "fused", "no norms, no activations"
CONVOLUTION, NORM, OPTIMIZER, REST = "convolutions", "batch norm, activation, addition", "optimizer", "everything else"
INDUCTOR, REORDER = "Inductor's kernels", "of the convolutions, changes of layout"
EAGER, COMPILED = "eager", "compiled"
KINDS = {
    INDUCTOR: ("cpp_fused",),  # first: their names have those of all operators in them
    CONVOLUTION: ("conv", "addmm", "aten::mm"),
    NORM: ("batch_norm", "normwise::", "BatchNorm", "relu", "hardtanh", "threshold", "clamp", "aten::add"),
    OPTIMIZER: ("_foreach", "Optimizer"),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


def kind_of(operator: str) -> str:
    """The kind of work that one of the profiler's names is.

    >>> kind_of("aten::mkldnn_convolution"), kind_of("aten::native_batch_norm"), kind_of("aten::max_pool2d")
    ('convolutions', 'batch norm, activation, addition', 'everything else')
    """
    return next((kind for kind, words in KINDS.items() if any(word in operator for word in words)), REST)


def by_kind(call: Callable[[], object], calls: int = 5) -> dict[str, float]:
    """Milliseconds of the calling thread in one call, by kind: of the calls the one in the middle.

    Changes of layout are oneDNN's own times, the median of three more calls, and are within those of the convolutions.
    """
    found: list[Counter[str]] = []
    for _ in range(calls):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call()
        found.append(Counter(dict.fromkeys((*KINDS, REST), 0.0)))
        for event in profile.events():
            found[-1][_kind_within(event)] += event.self_cpu_time_total / 1e3
    middle = sorted(found, key=lambda kinds: sum(kinds.values()))[len(found) // 2]
    reorders = [onednn.milliseconds(call).get("reorder", 0.0) for _ in range(3)]
    return {**middle, REORDER: statistics.median(reorders)}


def _kind_within(event: Any) -> str:
    """The kind of an event: what the optimizer calls is the optimizer's."""
    outer = event
    while outer is not None:
        if kind_of(outer.name) == OPTIMIZER:
            return OPTIMIZER
        outer = outer.cpu_parent
    return kind_of(event.name)


def counters(call: Callable[[], object], calls: int = 3) -> dict[str, float]:
    """The counts of one call: page faults, seconds in the system, waits of a thread for another one or for the disk."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(calls):
        call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    names = {"page faults": "ru_minflt", "system seconds": "ru_stime", "waits": "ru_nvcsw"}
    return {words: (getattr(after, name) - getattr(before, name)) / calls for words, name in names.items()}


class Plain(nn.Module):
    """Batch norm as PyTorch's users write it, with an addition and an activation behind it where there are any."""

    def __init__(self, channels: int, activation: str | None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.activation = None if activation is None else ACTIVATIONS[activation]()

    def forward(self, x: Tensor, *residual: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        for each in residual:
            y += each
        return y if self.activation is None else cast(Tensor, self.activation(y))


def layers_of(model: nn.Module, x: Tensor) -> Counter[tuple[tuple[int, ...], str | None, int]]:
    """The number of norms of a fused network, by shape, activation, and number of tensors that they add."""
    found: Counter[tuple[tuple[int, ...], str | None, int]] = Counter()

    def count(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[tuple(given[0].shape), cast(Any, layer).activation, len(given) - 1] += 1

    norms = [each for each in model.modules() if isinstance(each, normwise.torch.BatchNorm2d)]
    hooks = [each.register_forward_pre_hook(count) for each in norms]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def layers_alone(fused: nn.Module, x: Tensor, *, pairs: int) -> dict[str, Spread]:
    """Seconds of all norms, forward and backward, each alone on its shape with its activation and addition.

    Of every round the sum over all of them, with PyTorch's layers and with normwise's.
    """
    last = x.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if last else torch.contiguous_format
    totals: dict[str, list[float]] = {PYTORCH: [0.0] * pairs, FUSED: [0.0] * pairs}
    for (shape, activation, added), count in layers_of(fused, x).items():
        given = [torch.randn(shape).to(memory_format=form).requires_grad_() for _ in range(1 + added)]
        dy = torch.randn(shape).to(memory_format=form)
        sides: dict[str, nn.Module] = {
            PYTORCH: Plain(shape[1], activation),
            FUSED: normwise.torch.BatchNorm2d(shape[1], activation=cast(Any, activation)),
        }
        calls = {name: _forward_backward(side, given, dy) for name, side in sides.items()}
        times, _ = in_turn(calls, rounds=pairs, seconds=3.0)
        for name, found in times.items():
            totals[name] = [total + count * time for total, time in zip(totals[name], found, strict=False)]
    return {name: spread(found) for name, found in totals.items()} | {"ratio": ratios(totals[PYTORCH], totals[FUSED])}


def _forward_backward(layer: nn.Module, given: Sequence[Tensor], dy: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(layer(*given), [*given, *layer.parameters()], dy)


def models_of(network: Network) -> dict[str, nn.Module]:
    """The networks that are compared; nothing is compiled before its first step."""
    models: dict[str, nn.Module] = {name: network.build() for name in (PYTORCH, FUSED, BARE)}
    normwise.fuse(models[FUSED])
    without_norms(models[BARE])
    return models


def measured(network: Network, layout: str, mode: str, *, rounds: int, pairs: int) -> dict[str, Any]:
    """Everything about one network in one layout, eager or compiled."""
    form = torch.channels_last if layout == "last" else torch.contiguous_format
    torch.manual_seed(0)
    x = torch.randn(network.batch, *network.sample).to(memory_format=form)
    labels = torch.randint(0, 1000, (network.batch,))
    models = models_of(network)
    for model in models.values():
        cast(Any, model).to(memory_format=form)
    if mode == COMPILED:
        torch._dynamo.reset()
        run = {name: cast(nn.Module, torch.compile(model, dynamic=False)) for name, model in models.items()}
    else:
        run = models
    calls = {name: step(model, x, labels) for name, model in run.items()}
    with config.patch({"cpp.enable_kernel_profile": True}):  # else the profiler does not see Inductor's kernels
        for call in calls.values():
            call()

    def attempt() -> tuple[dict[str, list[float]], dict[str, Spread]]:
        times, _ = in_turn(calls, rounds=rounds, seconds=60.0)
        return times, {name: ratios(times[PYTORCH], times[name]) for name in (FUSED, BARE)}

    times, over = calmest(attempt, lambda found: widest(found[1]))
    calm, absent = published(over)
    found = {
        "network": network.name,
        "batch": network.batch,
        "layout": layout,
        "mode": mode,
        "seconds": {name: asdict(spread(each)) for name, each in times.items()},
        "ratios": {name: asdict(each) for name, each in calm.items()},
        "milliseconds by kind": {name: by_kind(call) for name, call in calls.items()},
        "counters": {name: counters(call) for name, call in calls.items()},
    }
    if mode == EAGER:
        alone = calmest(lambda: layers_alone(models[FUSED], x, pairs=pairs), lambda tried: tried["ratio"].width)
        found["layers alone"] = {name: asdict(each) for name, each in alone.items() if name != "ratio" or each.calm}
        whole = statistics.median(times[PYTORCH])
        expected = whole / (whole - alone[PYTORCH].median + alone[FUSED].median)
        if alone["ratio"].calm:
            found["ratio that these let expect"] = expected
        else:
            absent["ratio that these let expect"] = alone["ratio"].said
    return {**found, "absent": absent}


def said(found: Mapping[str, Any]) -> Iterable[str]:
    """The lines that are printed of one network."""
    yield f"{found['network']}, batch {found['batch']}, channels {found['layout']}, {found['mode']}"
    for name, taken in found["seconds"].items():
        kinds = ", ".join(f"{kind} {value:.0f}" for kind, value in found["milliseconds by kind"][name].items())
        counts = ", ".join(f"{value:.3g} {words}" for words, value in found["counters"][name].items())
        yield f"  {name:24s} {Spread(**taken)} s; ms: {kinds}; {counts}"
    for name, ratio in found["ratios"].items():
        yield f"  {name}: {Spread(**ratio)} times as fast"
    if found["mode"] == EAGER:
        alone = {name: Spread(**each) for name, each in found["layers alone"].items()}
        yield f"  layers alone, s: {alone[PYTORCH]}, fused {alone[FUSED]}"
    if "ratio that these let expect" in found:
        yield f"  which lets expect {found['ratio that these let expect']:.2f}"
    for name, words in found["absent"].items():
        yield f"  {name}: {words}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parts.parser(__doc__, threads=torch.get_num_threads())
    known = [network.name for network in NETWORKS[:2]]
    parser.add_argument("--network", choices=known, help="one of them only; what is kept of the other stays")
    parser.add_argument("--layout", choices=["first", "last"], help="one of them only; what is kept of the other stays")
    parser.add_argument("--mode", choices=[EAGER, COMPILED], help="one of them only; what is kept of the other stays")
    parser.add_argument("--batch", type=int, help="samples of a batch (default: the network's)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for network in (QUICK if options.quick else NETWORKS)[:2]:
        for layout in ("first", "last"):
            for mode in (EAGER, COMPILED):
                asked = (options.network, options.layout, options.mode)
                if any(
                    one not in (None, other) for one, other in zip(asked, (network.name, layout, mode), strict=True)
                ):
                    continue
                conditions = Conditions()
                chosen = replace(network, batch=options.batch or network.batch)
                rounds = 5 if options.quick else 9
                row = measured(chosen, layout, mode, rounds=rounds, pairs=rounds)
                print("\n".join(said(row)), flush=True)
                if not options.quick:
                    rows = [{**row, **conditions.after()}]
                    keep(options.out / "step_profile.json", rows, by=("network", "layout", "mode"))


if __name__ == "__main__":
    main()
