"""The last lines of a measurement on a GPU: means over ResNet-50's layers, against the targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu import steps_on_gpus
from benchmarks.spread import geometric_mean

COPY, EAGER, NATIVE, OURS = "copy", "eager, cuDNN", "eager, native", "triton"
COMPILED, MOST = "torch.compile", "torch.compile, max-autotune-no-cudagraphs"
PEERS = (EAGER, NATIVE, COMPILED, MOST)
# At least so many times as fast as a peer; the peers that are not named have no target.
TARGETS = {
    "float32, channels first, relu": {EAGER: 2.6, COMPILED: 1.4},
    "float32, channels first, add, relu": {EAGER: 2.3, COMPILED: 1.3},
    "bfloat16, channels last, relu": {EAGER: 2.2, COMPILED: 1.15},
    "bfloat16, channels last, add, relu": {EAGER: 1.8, COMPILED: 1.1},
}
FLOOR, FROM = 0.85, 50e6  # of a measured copy's bandwidth, for tensors of so many bytes
LINES = 10


def summary(found: dict[str, Any]) -> list[str]:
    """Lines of a results file's numbers, nine at most: a line for the file is to follow."""
    layers, steps = found["layers"], found["steps"]
    lines = [_setting(setting, layers) for setting in TARGETS]
    lines.append(_floor(layers))
    lines += steps_on_gpus.summary(steps)
    refused = [row["case"] for row in layers if "refused" in row] + [row["step"] for row in steps if "refused" in row]
    if refused:
        lines.append(f"REFUSED: {_few(refused)}")
    if found["left out"]:
        lines.append(f"The time was up before: {_few(found['left out'])}")
    return lines


def _setting(setting: str, layers: Sequence[dict[str, Any]]) -> str:
    """The geometric mean of the ratios of a setting, a layer counting as often as ResNet-50 has it."""
    rows = [row for row in layers if row["setting"] == setting and "ratios" in row]
    said = []
    for peer in PEERS:
        mean = geometric_mean((row["ratios"][peer]["median"], row["count"]) for row in rows if peer in row["ratios"])
        if mean == mean:
            said.append(f"{mean:.2f} times {peer}{_held(mean, TARGETS[setting].get(peer))}")
    return f"{setting}, {len(rows)} shapes: {', '.join(said) or 'not measured'}"


def _floor(layers: Sequence[dict[str, Any]]) -> str:
    large = [row for row in layers if "of the floor" in row and row["bytes"] >= FROM]
    if not large:
        return "of the floor of large tensors: not measured"
    worst = min(large, key=lambda row: row["of the floor"])
    share = worst["of the floor"]
    return f"of the floor of {len(large)} large tensors at least {share:.0%} ({worst['case']}){_held(share, FLOOR)}"


def _held(value: float, target: float | None) -> str:
    if target is None:
        return ""
    return f" (target {target:g}: {'met' if value >= target else 'MISSED'})"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return "; ".join(names[:3]) + more
