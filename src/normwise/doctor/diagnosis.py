"""The result of an examination: findings, checks that could not be carried out, and the facts behind them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from html import escape
from importlib import import_module
from typing import Any

from normwise.doctor.finding import Finding, Severity, Skipped
from normwise.doctor.json_schema import VERSION
from normwise.facts import ModelFacts
from normwise.recalibration.report import finite


@dataclass(frozen=True)
class Diagnosis:
    """The result of ``examine``.

    Args:
        findings: the most expensive first; empty for a healthy model.
        skipped: checks that could not be carried out, with the reason.
        checked: the names of all that were.
        facts: what was observed.
    """

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    checked: tuple[str, ...]
    facts: ModelFacts

    @property
    def healthy(self) -> bool:
        """True where a check was carried out and there is neither an error nor a warning."""
        return not self.idle and all(finding.severity is Severity.NOTE for finding in self.findings)

    @property
    def idle(self) -> bool:
        """True where every check was skipped, so that nothing is known about the model."""
        return not self.findings and {*self.checked} <= self._left_out

    @property
    def carried_out(self) -> int:
        """The number of checks that were carried out, in part or whole."""
        return len({*self.checked} - self._left_out)

    @property
    def _left_out(self) -> set[str]:
        return {each.check for each in self.skipped if not each.part}

    @property
    def not_measured(self) -> dict[str, str]:
        """The facts that could not be measured -> why, each reason once and none that a skipped check has."""
        said = {each.reason for each in self.skipped}
        found: dict[str, str] = {}
        for what, why in self.facts.missing.items():
            if why not in said:
                found[what] = why
                said.add(why)
        return found

    @property
    def unused(self) -> dict[str, str]:
        """Those of them that were given and not called -> why."""
        return {what: why for what, why in self.not_measured.items() if what in ("loss", "metric")}

    @property
    def sick(self) -> bool:
        """True where there is an error."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    def verdict(self) -> str:
        """One line."""
        norms, samples = len(self.facts.layers), self.facts.samples
        none, some = "no batch norm that runs as a layer", f"{samples} sample{'s' * (samples != 1)}"
        seen = f"{f'{norms} normalization layer' + 's' * (norms > 1) if norms else none}, {some}"
        if not norms and not self.findings and not self.facts.gradients and self.facts.source is None:
            return f"nothing to examine: the model has {none} ({some})"
        if self.idle:
            return f"nothing checked: every check was skipped ({seen})"
        counts = [(severity, sum(finding.severity is severity for finding in self.findings)) for severity in Severity]
        words = ", ".join(f"{number} {severity}{'s' * (number != 1)}" for severity, number in counts if number)
        return f"{words or 'healthy: nothing found'} ({seen})"

    def __str__(self) -> str:
        lines = [self.verdict()]
        for finding in self.findings:
            lines.append(f"  {finding.severity:<8} {finding.headline}")
            lines.append(f"           {finding.message}")
            lines += [f"           {name}: {number}" for name, number in finding.evidence.items()]
            if finding.cost is not None:
                lines.append(f"           cost: {finding.cost}")
            if finding.remedy:
                begin = (
                    "\n" if "\n" in finding.remedy else " "
                )  # several lines begin at the left: an indent is no Python
                lines.append(f"           remedy:{begin}{finding.remedy}")
        lines += [f"  skipped  {each.what}: {each.reason}" for each in self.skipped]
        lines += [f"  unused   {what}: {why}" for what, why in self.unused.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """The counts: the fields hold every number that was measured."""
        return f"<Diagnosis: {self.verdict()}, {len(self.skipped)} skipped>"

    def _repr_html_(self) -> str:
        """The HTML that a notebook shows."""
        return f'<pre style="white-space: pre-wrap">{escape(str(self))}</pre>'

    def to_html(self, title: str = "the model") -> str:
        """The diagnosis as a self-contained page.

        Raises:
            MissingExtra: jinja2 is not installed.
        """
        page = import_module("normwise.report.diagnosis_page")  # above this room, and needed only when it is asked for
        html: str = page.render(self, title=title)
        return html

    def to_json(self) -> str:
        """The findings as JSON; what is no finite number is null there.

        Its keys, and what may change between releases: docs/diagnosis_json.md.
        """
        found: dict[str, Any] = {
            "schema": VERSION,
            "verdict": self.verdict(),
            "healthy": self.healthy,
            "findings": [asdict(finding) for finding in self.findings],
            "skipped": [asdict(each) for each in self.skipped],
            "not_measured": self.not_measured,
            "checked": list(self.checked),
            "layers": [layer.name for layer in self.facts.layers],
            "batches": self.facts.batches,
            "samples": self.facts.samples,
        }
        return json.dumps(_plain(finite(found)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(finite(item)) for item in value]
    return value
