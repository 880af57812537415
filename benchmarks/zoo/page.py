"""What the zoo measured, as docs/zoo.md and as JSON; each is written at once or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
# What rounding may come to, relative to the largest value of an output, gradient or statistic.
CLOSE = {"float64": 1e-8, "float32": 1e-2}


def to_json(about: Mapping[str, Any], results: Results) -> str:
    """Everything that was measured."""
    return json.dumps({"format": 1, "about": about, "results": results}, indent=1) + "\n"


def page(about: Mapping[str, Any], results: Results, operations: Sequence[str]) -> str:
    """The page.

    Args:
        about: versions, processor, settings.
        results: by ``source/name``.
        operations: the names of the operations, in the order of their columns.
    """
    tried = {name: result for name, result in results.items() if "operations" in result}
    failed = {name: str(result["error"]) for name, result in results.items() if "error" in result}
    absent = {name: str(result["absent"]) for name, result in results.items() if "absent" in result}
    parts = [
        "# The zoo",
        "Written by `make zoo`: architectures of timm, torchvision and keras.applications with random weights, each in "
        "a process of its own, and what the operations on whole models did to them. " + _about(about),
        *_summary(tried),
    ]
    for operation in operations:
        rows = {name: result for name, result in tried.items() if operation in result["operations"]}
        if rows:
            parts += [f"## {operation}", _table(operation, rows)]
    reasons = _reasons(tried)
    if reasons:
        parts += ["## Why batch norms before an activation were not fused", reasons]
    for title, why in (("Not tried", absent), ("Failed", failed)):
        if why:
            parts += [f"## {title}", "\n".join(f"* `{name}`: {_cell(text)}" for name, text in why.items())]
    return "\n\n".join(parts) + "\n"


def _about(about: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in about.items()) + "."


def _summary(tried: Results) -> list[str]:
    rows = [result for result in tried.values() if "fuse" in result["operations"]]
    rows = [result for result in rows if "error" not in result["operations"]["fuse"]]
    if not rows:
        return []
    followed = sum(row["followed"] for row in rows)
    added = sum(row["followed_by_addition"] for row in rows)
    missed = Counter(_kind(what) for row in rows for what in row["operations"]["fuse"]["missed"].values())
    direct, sums = followed - missed["activation"], added - missed["addition"]
    return [
        f"`fuse` on {len(rows)} architectures with {sum(row['norms'] for row in rows)} batch norms: it fused "
        f"{direct} of the {followed} whose output goes into an activation and nowhere else "
        f"({_share(direct, followed)}), and {sums} of the {added} with an addition in between ({_share(sums, added)}). "
        "Which they are is seen in a "
        "forward pass and not asked of `fuse`."
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _kind(what: str) -> str:
    return "addition" if what.startswith("add, ") else "activation"


def _table(operation: str, rows: Results) -> str:
    fusing = operation == "fuse"
    reached = ["before an activation", "before an addition and one", "swapped", "left"] if fusing else ["report"]
    head = ["architecture", "side", "batch norms", *reached, "outputs", "seconds", "inference before, ms", "after, ms"]
    lines = [head, ["---"] * len(head)]
    for name, result in rows.items():
        found = result["operations"][operation]
        start = [f"`{name}`", str(result["size"]), str(result["norms"])]
        if "error" in found:
            lines.append([*start, *["–"] * (len(reached) - 1), _cell(found["error"]), "**failed**", "–", "–", "–"])
            continue
        words = _fused(result, found) if fusing else [_cell(found.get("said", ""))]
        times = [f"{found['seconds']:.2f}", f"{found['before_ms']:.1f}", f"{found['after_ms']:.1f}"]
        lines.append([*start, *words, outputs(found, result["dtype"]), *times])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fused(result: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    missed = Counter(map(_kind, found["missed"].values()))
    direct, added = result["followed"], result["followed_by_addition"]
    return [
        f"{direct - missed['activation']} of {direct}",
        f"{added - missed['addition']} of {added}",
        str(found["swapped"]),
        str(found["left"]),
    ]


def outputs(found: Mapping[str, Any], dtype: str) -> str:
    """Whether outputs, gradients and statistics are what they were, in training and in inference.

    Example:
        >>> outputs({"inference": 0.0, "training": 2e-15}, "float64"), outputs({"finite": True}, "float32")
        ('same: 2e-15', 'finite')
    """
    if "finite" in found:
        return "finite" if found["finite"] else "**not finite**"
    compared = {name: found[name] for name in ("inference", "training", "gradients", "statistics") if name in found}
    if words := [f"{name}: {value}" for name, value in compared.items() if isinstance(value, str)]:
        return f"**{_cell(words[0])}**"
    largest = max(compared.values())
    name = max(compared, key=lambda name: compared[name])
    return f"same: {largest:.0e}" if largest <= CLOSE[dtype] else f"**{name} differ: {largest:.0e}**"


def _reasons(tried: Results) -> str:
    found: Counter[str] = Counter()
    for name, result in tried.items():
        for what in result["operations"].get("fuse", {}).get("missed", {}).values():
            found[f"`{name}`: {_cell(what)}"] += 1
    return "\n".join(f"* {number} of {text}" for text, number in found.most_common(60))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
