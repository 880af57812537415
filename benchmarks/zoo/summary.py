"""The zoo in short: per operation how many were tried and what came of them, and reasons as counts."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import markdown

Results = Mapping[str, Mapping[str, Any]]
STATUSES = ("same", "refused", "differs", "crashed")
BEYOND = 10
"""The factor on the rounding of the model itself above which an error is more than rounding."""
MOST = 25
"""The number of reasons of an operation that are printed, those of most layers first."""


def status(found: Mapping[str, Any]) -> str:
    """The status of one operation on one architecture: one of ``STATUSES``."""
    if "error" in found:
        return "crashed"
    if found.get("wrong"):
        return "differs"
    return "refused" if "refused" in found or (not found["done"] and found["of"]) else "same"


def table(rows: Results, operations: Sequence[str]) -> str:
    """A line for each operation."""
    head = ["operation", "tried", *STATUSES, "layers", "largest difference", "time, after over before", "of"]
    lines = []
    for operation in operations:
        found = [row["operations"][operation] for row in rows.values() if operation in row["operations"]]
        counted = Counter(status(each) for each in found)
        done, of = (sum(each.get(which, 0) for each in found) for which in ("done", "of"))
        share = f"{done} of {of} ({100 * done / of:.1f} %)" if of else "0"
        counts = [str(len(found)), *[str(counted[each]) for each in STATUSES]]
        lines.append([operation, *counts, share, _largest(found), *_time(found)])
    return markdown.table(head, lines)


def sentences(rows: Results) -> list[str]:
    """Sentences about what the table does not say."""
    found = [row for row in rows.values() if row.get("followed") is not None]
    found = [row for row in found if "missed" in row["operations"].get("fuse", {})]
    said = []
    if found:
        fuses = [row["operations"]["fuse"] for row in found]
        direct, added = (sum(row[what] for row in found) for what in ("followed", "followed_by_addition"))
        reached = direct - sum(each["missed"] for each in fuses)
        reached_added = added - sum(each["missed_by_addition"] for each in fuses)
        said.append(
            f"`fuse` on {len(found)} architectures with {sum(row['norms'] for row in found)} batch norms: it fused "
            f"{reached} of the {direct} whose output goes into an activation and nowhere else "
            f"({_share(reached, direct)}), and {reached_added} of the {added} with an addition in between "
            f"({_share(reached_added, added)}). Which they are is seen in a forward pass and not asked of `fuse`."
        )
    folds = [row["operations"]["fold"] for row in rows.values() if row["operations"].get("fold", {}).get("done")]
    if errors := [each["output_error"] for each in folds]:
        said.append(
            f"`fold` in float32: the largest relative error of an output on data is {statistics.median(errors):.0e} in "
            f"the median of {len(errors)} architectures, {max(errors):.0e} at most." + _unfolded(folds)
        )
    steps = [row["operations"].get("recalibrate", {}) for row in rows.values()]
    if any("in_step" in each for each in steps):
        ours = [each for each in steps if "in_step" in each]
        said.append(
            f"`recalibrate` took all batches in step on {sum(each['in_step'] for each in ours)} of {len(ours)}. "
            f"On {sum(each['twice'] > 0 for each in ours)} a batch norm is called more than once, and its statistics, "
            "which are of all calls, are not compared with the reference, which knows the first."
        )
    return said


def _unfolded(folds: Sequence[Mapping[str, Any]]) -> str:
    """The error of float32 alone, in words, which bounds what folding can be asked for."""
    both = [(each["output_error"], own) for each in folds if (own := each.get("float32_error_unfolded")) is not None]
    both = [(folded, own) for folded, own in both if not isinstance(own, str)]
    if not both:
        return ""
    own_errors = [own for _, own in both]
    more = sum(folded > BEYOND * own for folded, own in both)
    return (
        f" Without folding, the model in float32 is {statistics.median(own_errors):.0e} off itself in float64 in the "
        f"median, {max(own_errors):.0e} at most; the error of folding is more than {BEYOND} times that in {more}."
    )


def reasons(rows: Results, operation: str) -> str:
    """The numbers of layers and of architectures that stayed as they were, by reason; empty where none did."""
    layers: Counter[str] = Counter()
    where: dict[str, list[str]] = {}
    for name, row in rows.items():
        found = row["operations"].get(operation, {})
        for why, number in {
            **found.get("reasons", {}),
            **({found["refused"]: 0} if "refused" in found else {}),
        }.items():
            layers[why] += number
            where.setdefault(why, []).append(name)
    if not layers:
        return ""
    head = ["layers", "architectures", "why", "for example"]
    lines = [
        [str(number), str(len(where[why])), why.replace("|", "\\|"), f"`{where[why][0]}`"]
        for why, number in layers.most_common(MOST)
    ]
    rest = layers.most_common()[MOST:]
    more = f"\n\n{sum(number for _, number in rest)} layers more for {len(rest)} other reasons." if rest else ""
    return markdown.table(head, lines) + more


def left_out(surveyed: Mapping[str, Any], results: Results, listed: int) -> list[str]:
    """The architectures that were not tried, by the bound or reason."""
    lines: Counter[str] = Counter()
    example: dict[str, str] = {}
    for name in sorted({*surveyed, *results}):
        result, known = results.get(name), surveyed.get(name, {})
        if result is not None and "operations" in result:
            continue
        why = (result or {}).get("error") or (result or {}).get("absent") or known.get("absent") or "not reached yet"
        lines[why] += 1
        example[why] = min(name, example.get(why, name))
    tried, seen = sum("operations" in result for result in results.values()), len({*surveyed, *results})
    first = f"{tried} architectures of the {max(listed, seen)} that were asked for were tried."
    if listed > seen:
        lines["not reached yet"] += listed - seen
        example.setdefault("not reached yet", "and so on")
    return [first, *[f"{number}: {why} (`{example[why]}`)" for why, number in lines.most_common(MOST)]]


def _largest(found: Sequence[Mapping[str, Any]]) -> str:
    values = [
        value
        for each in found
        if not each.get("wrong") and not each.get("rounding")
        for value in each.get("compared", {}).values()
        if not isinstance(value, str)
    ]
    return f"{max(values):.0e}" if values else "–"


def _time(found: Sequence[Mapping[str, Any]]) -> list[str]:
    times = [time for each in found for time in each.get("times", {}).values()]
    good = [time["ratio"] for time in times if not time["noisy"]]
    if len(good) < 4:
        return ["–", str(len(good))]
    low, middle, high = statistics.quantiles(good, n=4)
    mean = math.exp(statistics.fmean(map(math.log, good)))
    words = f"{mean:.2f} (median {middle:.2f}, quartiles {low:.2f} to {high:.2f})"
    return [words, f"{len(good)}, {len(times) - len(good)} too noisy"]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"
