"""What the README shows runs, and prints what its comments say."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_room_has_an_example() -> None:
    """Layers (three), statistics, moments."""
    assert len(EXAMPLES) == 4


def test_examples_print_what_they_say() -> None:
    """Run one after the other, as a reader would; the comment behind a print says what it prints."""
    scope: dict[str, object] = {}
    for example in EXAMPLES:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(example, scope)
        promised = re.findall(r"^print\(.*\)\s+# (.*)$", example, re.MULTILINE)
        found = printed.getvalue().splitlines()
        assert len(found) == len(promised)
        for line, promise in zip(found, promised, strict=True):
            assert promise.startswith(line), f"the README promises {promise!r}, printed was {line!r}"


def test_links_lead_somewhere() -> None:
    """Every relative link and picture."""
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), f"the README links to {target}, which is not there"
