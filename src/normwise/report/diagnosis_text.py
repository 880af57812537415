"""A diagnosis as text for a terminal of any width."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.finding import Finding, Severity
from normwise.report.wording import printable

COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}


def show(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print the verdict, each finding with its numbers and remedy, and what could not be checked.

    Args:
        diagnosis: the result of ``examine``.
        console: where to; standard output by default.
    """
    console = console or Console(highlight=False)
    console.print(Text(printable(diagnosis.verdict()), style="bold"))
    for finding in diagnosis.findings:
        console.print()
        console.print(_headline(finding))
        lines = [printable(finding.message)]
        lines += [f"{name}: {number}" for name, number in finding.evidence.items()]
        if finding.cost is not None:
            lines.append(f"cost: {finding.cost}")
        console.print(Padding(Text("\n".join(lines)), (0, 0, 0, 2)))
        if finding.remedy:
            lines = [printable(line) for line in finding.remedy.splitlines()]
            code = f" {lines[0]}" if len(lines) == 1 else "\n".join(["", *lines])  # from the left, or it has an indent
            console.print(Text.assemble(("  remedy:", "bold"), code), soft_wrap=True)  # wrapped it could not be pasted
    left = [f"not checked: {each.what}, because {each.reason}" for each in diagnosis.skipped]
    left += [f"not measured: {what}, because {why}" for what, why in diagnosis.unused.items()]
    if left:
        console.print()
        for line in left:
            console.print(Text(printable(line), style="dim"))


def _headline(finding: Finding) -> Text:
    head = Text(str(finding.severity), style=COLOURS[finding.severity])
    head.append(f" {finding.check}", style="bold")
    head.append(printable(finding.headline.removeprefix(finding.check)), style="not bold")
    return head
