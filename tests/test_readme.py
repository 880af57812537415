"""What the README shows runs, and prints what its comments say."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_room_has_an_example() -> None:
    """Layers with fusion, what the compiled kernels correct, the doctor."""
    assert len(EXAMPLES) == 3


def test_examples_print_what_they_say() -> None:
    """Each runs when it is pasted alone; the comment behind a print says what it prints."""
    for example in EXAMPLES:
        scope: dict[str, object] = {}
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


def test_numbers_of_speed_stand_in_the_results_that_are_kept() -> None:
    """Whole steps and single layers: each link's file holds what is said in front of it."""
    speed = README.partition("## Speed")[2]
    files = re.findall(r"\[result\]\((benchmarks/results/[^)]+)\)", speed)
    steps, layers = (json.loads((ROOT / name).read_text("utf-8")) for name in files)
    for step in steps["steps"]:
        ratio = step["ratio"]
        median, spread = f"{ratio['median']:.2f}", f"[{ratio['low']:.2f}, {ratio['high']:.2f}]"
        assert re.search(
            rf"{median}( as fast| times as fast| with channels \w+)* {re.escape(spread)}", " ".join(speed.split())
        )
    means = {
        (each["layout"], each["phase"]): each["value"]
        for each in layers["means"]
        if (each["operation"], each["dtype"], each["peer"]) == ("bn+relu", "float32", "PyTorch eager")
    }
    for layout, words in (
        ("first", "are {} times as fast as PyTorch 2.13's forward and {} times with the backward"),
        ("last", "{} and {} times where the channels come last"),
    ):
        said = words.format(*(f"{means[layout, phase]:.1f}" for phase in ("forward", "forward+backward")))
        assert said in " ".join(speed.split())


def test_the_page_of_speed_has_the_whole_steps_that_are_kept() -> None:
    page = (ROOT / "docs/speed.md").read_text("utf-8")
    (name,) = re.findall(r"\(\.\./(benchmarks/results/[^)]*steps\.json)\)", page)
    ratios = [step["ratio"] for step in json.loads((ROOT / name).read_text("utf-8"))["steps"]]
    cells = [f"{each['median']:.2f} [{each['low']:.2f}, {each['high']:.2f}]" for each in ratios]
    assert f"| channels first | {cells[0]} | {cells[1]} |\n| channels last | {cells[2]} | {cells[3]} |" in page
    assert page.index("## A whole training step") < page.index("## Single layers")
