"""Training steps of whole networks: PyTorch's layers against one call of ``normwise.fuse``, eager and compiled."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import normwise
from benchmarks.networks import Network, without_norms
from benchmarks.spread import TOO_BUSY, Spread, calmest, ratios, spread, widest
from benchmarks.timing import in_turn

EAGER, FUSED, COMPILED, BOTH = "PyTorch", "fused", "compiled", "fused and compiled"
BARE, BARE_COMPILED = "no norms", "no norms, compiled"
# With depthwise convolutions Inductor leaves layouts as they are unless it is told not to: see docs/speed.md.
LAYOUTS, BOTH_LAYOUTS = "compiled, layouts forced", "fused and compiled, layouts forced"
FORCED = {"force_layout_optimization": True}
COMPILED_FROM = {COMPILED: EAGER, BOTH: FUSED, BARE_COMPILED: BARE}
FORCED_FROM = {LAYOUTS: EAGER, BOTH_LAYOUTS: FUSED}
# What is asked of each, and of what: its time is under the other's. Without norms: the most that can be asked.
AGAINST = {
    FUSED: EAGER,
    BARE: EAGER,
    BOTH: COMPILED,
    BARE_COMPILED: COMPILED,
    LAYOUTS: COMPILED,
    BOTH_LAYOUTS: LAYOUTS,
}
WORDS = {"float32": "float32", "bfloat16": "bfloat16 autocast"}
ROUNDING = {"float32": 2e-2, "bfloat16": 0.15}  # of the size of all gradients, what 50 layers make of it


@dataclass(frozen=True)
class Setting:
    """A network, how it lies in memory, and what it computes in."""

    network: Network
    layout: str
    dtype: str

    @property
    def name(self) -> str:
        sample = "x".join(map(str, self.network.sample))
        channels = f", channels {self.layout}" if len(self.network.sample) == 3 else ""
        return f"{self.network.name}, batch {self.network.batch} of {sample}{channels}, {WORDS[self.dtype]}"


@dataclass(frozen=True)
class Step:
    """A training step in one setting; ``skipped`` says why there are no numbers, ``done`` what was fused.

    Args:
        setting: in words.
        seconds: by how it is run.
        ratios: by how it is run, the time of what it stands ``AGAINST`` over its own.
        skipped: why there are no numbers, or empty.
        done: what ``fuse`` said.
    """

    setting: str
    seconds: dict[str, Spread] = field(default_factory=dict)
    ratios: dict[str, Spread] = field(default_factory=dict)
    skipped: str = ""
    done: str = ""


def settings(networks: Sequence[Network], layouts: Sequence[str], dtypes: Sequence[str]) -> Iterator[Setting]:
    """The settings that there are of each network: sound and rows of features have one layout."""
    for network in networks:
        for layout in layouts if len(network.sample) == 3 else layouts[:1]:
            for dtype in dtypes:
                if dtype in WORDS:
                    yield Setting(network, layout, dtype)


def measure(setting: Setting, *, compiled: bool, rounds: int, seconds: float) -> Step:
    """All in turn, from the same weights and on the same batch; nothing is timed where they do not agree.

    Args:
        setting: what.
        compiled: under ``torch.compile`` too, which takes minutes to compile.
        rounds: at most.
        seconds: after them no new round begins.
    """
    torch.manual_seed(0)
    form = torch.channels_last if setting.layout == "last" else torch.contiguous_format
    inputs = torch.randn(setting.network.batch, *setting.network.sample)
    model: nn.Module = setting.network.build()
    if inputs.dim() == 4:
        inputs, model = inputs.to(memory_format=form), cast(nn.Module, cast(Any, model).to(memory_format=form))
    labels = torch.randint(0, 1000, (setting.network.batch,))
    twin = copy.deepcopy(model)
    done = str(normwise.fuse(twin)).partition("\n")[0]
    models: dict[str, nn.Module] = {EAGER: model, FUSED: twin, BARE: without_norms(copy.deepcopy(model))}
    if compiled:
        torch._dynamo.reset()
        models |= {name: _compiled(models[of]) for name, of in COMPILED_FROM.items()}
        if _depthwise(model):
            models |= {name: _compiled(models[of], **FORCED) for name, of in FORCED_FROM.items()}
    calls = {name: step(each, inputs, labels, dtype=setting.dtype) for name, each in models.items()}
    alike = {name: call for name, call in calls.items() if name not in (BARE, BARE_COMPILED)}
    wrong = _disagreement(alike, models, ROUNDING[setting.dtype])
    if wrong:
        return Step(setting.name, skipped=f"REFUSED: {wrong}", done=done)

    def attempt() -> tuple[dict[str, Spread], dict[str, Spread]]:
        times, _ = in_turn(calls, rounds=rounds, seconds=seconds)
        over = {name: ratios(times[other], times[name]) for name, other in AGAINST.items() if name in times}
        return {name: spread(found) for name, found in times.items()}, over

    taken, over = calmest(attempt, lambda found: widest(found[1]))
    noisy = [f"{name} {ratio.lower:.2f} to {ratio.upper:.2f}" for name, ratio in over.items() if not ratio.calm]
    if noisy:
        return Step(setting.name, skipped=f"{TOO_BUSY}: the quartiles were {', '.join(noisy)}", done=done)
    return Step(setting.name, taken, over, done=done)


def _compiled(model: nn.Module, **options: bool) -> nn.Module:
    return cast(nn.Module, torch.compile(copy.deepcopy(model), dynamic=False, options=dict(options) or None))


def _depthwise(model: nn.Module) -> bool:
    return any(isinstance(each, nn.Conv2d) and each.groups > 1 for each in model.modules())


def step(model: nn.Module, inputs: Tensor, labels: Tensor, *, dtype: str = "float32") -> Callable[[], Tensor]:
    """A whole training step: forward, backward, plain SGD with momentum. It gives the loss."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else nullcontext():
            loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def _disagreement(calls: dict[str, Callable[[], Tensor]], models: dict[str, nn.Module], within: float) -> str:
    """The disagreement of the first steps beyond what so many layers make of rounding, in words; empty without one."""
    found = {name: (float(call()), _size_of_gradients(models[name])) for name, call in calls.items()}
    for name, each in found.items():
        apart = max(abs(mine / theirs - 1) for mine, theirs in zip(each, found[EAGER], strict=True))
        if not apart <= within:
            return f"loss and gradients of {name} are {apart:.2g} apart from PyTorch's"
    return ""


def _size_of_gradients(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
