"""The measurements of the zoo, as docs/zoo.md and as JSON; each is written at once or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import markdown
from benchmarks.zoo import summary

Results = Mapping[str, Mapping[str, Any]]
FORMAT = 2
VISIBLE = 1e-3
"""The error of an output in float32 from which the page says what float32 itself comes to."""
COLUMNS = """The columns:

* **tried**: architectures that have a batch norm;
* **same**: everything that must stay the same did; **refused**: nothing could be done, and the operation said why;
  **differs** and **crashed**: defects of normwise, and none may be there;
* **layers**: the batch norms that the operation was done to, of all;
* **largest difference**: relative to the largest number of a tensor, in float64 where the model can be of float64;
* **time**: of an inference after the operation over before, without what the operation takes itself; for `recalibrate`
  its own time over that of `torch.optim.swa_utils.update_bn`. **of**: how many architectures were timed."""
COMPARED = """Each architecture has random weights and running statistics of data, and runs in a process of its own.
Before and after an operation these are compared: outputs in inference and in a training step, gradients, running
statistics, and the bytes of the `state_dict`; in float64 wherever a model can be of float64.

Times are of one thread and in float32: the processor's time, the median of the ratios of pairs that were measured in
turn. A ratio whose quartiles are further apart than a factor of 1.3, in a repetition too, is left out as too noisy."""


def to_json(about: Mapping[str, Any], surveyed: Mapping[str, Any], results: Results) -> str:
    """Everything that was measured."""
    kept = {"format": FORMAT, "about": about, "survey": surveyed, "results": results}
    return json.dumps(kept, indent=1, ensure_ascii=False) + "\n"


def page(
    about: Mapping[str, Any], surveyed: Mapping[str, Any], results: Results, operations: Mapping[str, Sequence[str]]
) -> str:
    """The page.

    Args:
        about: versions, processor, settings.
        surveyed: of each architecture, by ``source/name``, how many batch norms and parameters it has.
        results: by ``source/name``.
        operations: the framework -> the names of its operations, in the order of their columns.
    """
    tried = {name: result for name, result in results.items() if "operations" in result}
    wrong = wrong_of(results)
    parts = ["# The zoo", _opening(len(tried), len(wrong))]
    if wrong:
        parts += ["## What differs", _list(wrong)]
    of_each = {}
    for framework, names in operations.items():
        rows = {name: result for name, result in tried.items() if name.startswith("keras") == (framework == "Keras")}
        if names := [name for name in names if any(name in row["operations"] for row in rows.values())]:
            of_each[framework] = rows, names
            parts += [f"## {framework}: in short", summary.table(rows, names), *summary.sentences(rows)]
    parts += ["## How to read the tables", COLUMNS, "## How they were compared", COMPARED, _about(about)]
    parts += ["## What was left out", _list(summary.left_out(surveyed, results, about["listed"]))]
    for framework, (rows, names) in of_each.items():
        for name in names:
            if table := summary.reasons(rows, name):
                parts += [f"## {framework}, {name}: why layers stayed as they were", table]
    if multiplied := [line for name, result in tried.items() for line in _rounding(name, result)]:
        parts += ["## What rounding comes to", ROUNDING, _list(multiplied)]
    for framework, (rows, names) in of_each.items():
        parts += [f"## {framework}: every architecture", LEGEND, _table(rows, names)]
    parts.append(
        "Read next: [operations on whole models](doors/index.md), [speed](speed.md), [all layers](layers/index.md)."
    )
    return "\n\n".join(parts) + "\n"


ROUNDING = (
    "These models multiply the last digit of their input, so that the same numbers in another order differ visibly: "
    "behind the operation is the difference, and what the model itself makes of another rounding of its input."
)
LEGEND = (
    "Layers that the operation was done to, of those that there are, where everything that must be the same is; behind "
    "it, times after over before (for `recalibrate` ours over `update_bn`'s) with quartiles."
)


def _opening(tried: int, wrong: int) -> str:
    """The first paragraph: what was tried, and whether anything is not as it must be."""
    found = "nothing differed that must stay the same, and nothing crashed" if not wrong else f"{wrong} are wrong"
    return (
        "`make zoo` tries normwise's operations on whole models on the architectures of timm, torchvision and "
        f"keras.applications, and writes this page. It tried {tried}: {found}."
    )


def wrong_of(results: Results) -> list[str]:
    """Everything that is not as it must be: differences, crashes, processes that ended."""
    lines = [f"{name}: {result['error']}" for name, result in results.items() if "error" in result]
    return lines + [line for name, result in results.items() for line in _wrong(name, result)]


def _wrong(name: str, result: Mapping[str, Any]) -> list[str]:
    lines = []
    for operation, found in result.get("operations", {}).items():
        if "error" in found:
            lines.append(f"`{name}`, {operation}: it crashed: {_cell(found['error'])}")
        lines += [f"`{name}`, {operation}: {_cell(words)}" for words in found.get("wrong", ())]
    return lines


def _rounding(name: str, result: Mapping[str, Any]) -> list[str]:
    found = result.get("operations", {}).items()
    lines = [f"`{name}`, {operation}: {each['rounding']}" for operation, each in found if each.get("rounding")]
    for operation, each in found:
        own = each.get("float32_error_unfolded")
        if own is not None and each["output_error"] > VISIBLE and not isinstance(own, str):
            lines.append(
                f"`{name}`, {operation}: outputs in float32 by {each['output_error']:.0e}, and by {own:.0e} between "
                "float32 and float64 without it"
            )
    return lines


def _about(about: Mapping[str, Any]) -> str:
    return _list(f"{name}: {value}" for name, value in about.items() if name != "listed")


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _table(rows: Results, operations: Sequence[str]) -> str:
    lines = []
    for name, result in rows.items():
        cells = [_operation(result["operations"].get(operation)) for operation in operations]
        lines.append([f"`{name}`", str(result["size"]), str(result["norms"]), *cells])
    return markdown.table(["architecture", "side", "norms", *operations], lines)


def _operation(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    if "error" in found:
        return "**crashed**"
    if "refused" in found:
        return "refused"
    count = f"{found['done']}/{found['of']}"
    words = [f"**{count}, differs**" if found["wrong"] else count]
    return "; ".join([*words, *map(_time, found.get("times", {}).values())])


def _time(time: Mapping[str, Any]) -> str:
    return "too noisy" if time["noisy"] else f"{time['ratio']:.2f} ({time['low']:.2f}–{time['high']:.2f})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
