"""The recipe for an experiment, followed: does a shift of the input change what a batch norm puts out?"""

from __future__ import annotations

from pathlib import Path

from tests.docs.following import Copy

NAME = "does_a_shift_of_the_input_matter"
EXPERIMENT = '''"""Does a batch norm see a shift of its input?

Question:
    Does the output of a batch norm change when the same number is added to all of its input?

Claim:
    The mean is subtracted, so that it does not (Ioffe & Szegedy 2015, algorithm 1).

What would refute it:
    A change of more than rounding, 1e-9 in float64.

Settings:
    The pixels of 60 images, and the same with 1, 10 or 100 added to them; eps is 0.001.

Verdict:
    The identity counts as exact up to 1e-9.

References:
    - S. Ioffe and C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
      Shift, 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from normwise.kernels import reference
from normwise.lab.data.splits import digits
from normwise.lab.design import Grid, figure, line, panel
from normwise.lab.intervals import largest
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import DIGITS, Conclusion, Regime, Table
from normwise.lab.verdict import Exact, judge

SAYS = "Ioffe & Szegedy 2015, algorithm 1"
TOPIC = "what the layer is"
DATA = DIGITS
ARCHITECTURE = "one batch norm"
REGIME = Regime.OWN
TAKES_DATA = True


@dataclass(frozen=True)
class Settings:
    """The numbers that are added."""

    shifts: tuple[float, ...] = (1.0, 10.0, 100.0)
    eps: float = 1e-3


@dataclass(frozen=True)
class Trial:
    """One batch."""

    seed: int


GRID = Grid(Trial)
trials = GRID.trials


def run(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Normalize a batch, and the same with each number added."""
    x = digits(trial.seed).train.images[:60].double().flatten(1).numpy()
    plain, _ = reference.forward_batch(x, None, None, settings.eps)
    shifted = (reference.forward_batch(x + shift, None, None, settings.eps)[0] for shift in settings.shifts)
    return {"change": [float(abs(each - plain).max()) for each in shifted]}


def conclude(settings: Settings, outcomes: Outcomes) -> Conclusion:
    """Judge the identity."""
    found = outcomes.array("change")
    text = "A shift of the input does not change the output of a batch norm."
    rows = tuple((f"{shift:g}", f"{change:.1e}") for shift, change in zip(settings.shifts, found.max(axis=0)))
    panels = [panel("pixels", [line("largest change", settings.shifts, found)])]
    caption = "Line: mean over seeds."
    drawn = figure(
        "change_by_shift", "What a shift changes", panels, x_label="shift", y_label="change of the output",
        caption=caption,
    )  # fmt: skip
    return Conclusion(
        statements=(judge(text, largest(found.max(axis=1), "standard deviations"), Exact(1e-9)),),
        table=Table("Largest change of the output", ("shift", "change"), rows),
        figures=(drawn,),
        caveats=("In float32 a large shift leaves less of the pixels.",),
    )
'''
ITS_TEST = f'''"""A shift of the input, held to what it says."""

from normwise.lab.experiments import {NAME} as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(shifts=(1.0, 3.0))


def test_it_is_rounding(outcomes: Outcomes) -> None:
    assert 0 < outcomes.array("change").max() < 1e-11


def test_verdicts(conclusion: Conclusion) -> None:
    assert [each.verdict for each in conclusion.statements] == [Verdict.EXACT]
'''


def test_an_experiment(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "Add an experiment")
    copy.write(f"src/normwise/lab/experiments/{NAME}.py", EXPERIMENT)
    copy.write(f"tests/lab/experiments/test_{NAME}.py", ITS_TEST)
    exam = [f"tests/lab/experiments/test_{name}.py" for name in (NAME, "exam", "rules", "words")]
    formats = "tests/lab/data/formats/test_experiments.py"
    copy.check_tests(*exam, formats, only=f"{NAME} or about_no_images", at_least=20)
    assert NAME in copy.python("-m", "normwise", "lab", "list")
    page = copy.pages()[f"docs/experiments/{NAME}.md"]
    assert f"`normwise lab run {NAME}`" in page
