"""The generator of the pages: what becomes of a docstring, and that no stale page goes unnoticed."""

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

from docs import command_page
from normwise.lab.results import Conclusion, Estimate, Result, Statement, Table, Verdict
from normwise.lab.running.store import keep

EXPERIMENT = '''"""Does it help?

Question:
    Does it help at all?

What would refute it:
    No difference:

    none at all.

Note: this is text.
"""
'''
ESTIMATOR = r'''"""A file."""

class Nearest:
    r"""Keeps the last one.

    .. math:: \mu = m,
        v = 1

    That is all of ``mean`` and :math:`v`.

    Args:
        weight_of_new (float): how much of the new one.

    Assumes:
        Nothing.

    Example:
        >>> import math
        >>> for each in (1, 2):  # doctest: +SKIP
        ...     math.sqrt(each)
        1.0
        >>> 1 + 1
        2

        Text after.
    """
'''


def load() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "docs/generate.py"
    spec = importlib.util.spec_from_file_location("docs_generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with one experiment and one estimator, and the files beside them that are not members."""
    for folder, name, text in (
        ("lab/experiments", "does_it_help", EXPERIMENT),
        ("estimators", "nearest", ESTIMATOR),
        ("estimators", "estimator", '"""The frame."""\n'),
        ("estimators", "__init__", '"""The room."""\n'),
    ):
        (tmp_path / "src/normwise" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "src/normwise" / folder / f"{name}.py").write_text(text)
    return tmp_path


def test_an_experiments_page_is_its_modules_docstring(clone: Path) -> None:
    page = generate.pages(clone)[Path("docs/experiments/does_it_help.md")]
    assert page == (
        "<!-- Generated from src/normwise/lab/experiments/does_it_help.py by `make docs`; edit it there. -->\n\n"
        "# Does it help?\n\n`normwise lab run does_it_help`\n\nDoes it help?\n\n"
        "## Question\n\nDoes it help at all?\n\n## What would refute it\n\nNo difference:\n\nnone at all.\n\n"
        "Note: this is text.\n\n"
        "Read next: [all experiments](../experiments/index.md), [all claims](../claims.md), "
        "[the guided tour](../learn/index.md).\n"
    )


def test_an_estimators_page_is_its_classs_docstring(clone: Path) -> None:
    page = generate.pages(clone)[Path("docs/estimators/nearest.md")]
    assert page == (
        "<!-- Generated from src/normwise/estimators/nearest.py by `make docs`; edit it there. -->\n\n"
        "# Nearest\n\n`normwise.estimators.Nearest`\n\nKeeps the last one.\n\n"
        "$$\n\\mu = m,\nv = 1\n$$\n\nThat is all of `mean` and $v$.\n\n"
        "## Args\n\n- `weight_of_new`: how much of the new one.\n\n## Assumes\n\nNothing.\n\n"
        "## Example\n\n```python\nimport math\n\nfor each in (1, 2):\n    math.sqrt(each)\n# 1.0\n\n"
        "1 + 1\n# 2\n```\n\nText after.\n\n"
        "Read next: [all estimators](../estimators/index.md), [layers](../layers/index.md), "
        "[operations on whole models](../doors/index.md).\n"
    )


def test_only_members_have_pages(clone: Path) -> None:
    names = {path.as_posix() for path in generate.pages(clone)}
    assert names == {
        f"docs/{page}.md"
        for page in ("experiments/does_it_help", "experiments/index", "estimators/nearest", "estimators/index")
    }
    index = generate.pages(clone)[Path("docs/estimators/index.md")]
    assert "# Estimators of running statistics\n\nAn estimator combines " in index
    assert "\n\n- [Nearest](nearest.md): Keeps the last one.\n\nRead next: " in index


def test_an_empty_family_has_no_pages(tmp_path: Path) -> None:
    assert generate.pages(tmp_path) == {}


def test_a_source_without_a_docstring_is_refused(clone: Path) -> None:
    source = clone / "src/normwise/lab/experiments/silent.py"
    source.write_text("x = 1\n")
    with pytest.raises(SystemExit) as error:
        generate.pages(clone)
    assert str(error.value) == f"{source} has no docstring to make its page from."


def test_an_estimators_file_defines_one_class(clone: Path) -> None:
    source = clone / "src/normwise/estimators/two.py"
    source.write_text('class A:\n    """A."""\nclass B:\n    """B."""\n')
    with pytest.raises(SystemExit) as error:
        generate.pages(clone)
    assert str(error.value) == f"{source} must define one public class, the estimator, and defines 2."


def test_check_names_missing_stale_and_left_over_pages(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone / "docs/estimators").mkdir(parents=True)
    (clone / "docs/estimators/nearest.md").write_text("old")
    (clone / "docs/estimators/gone.md").write_text("gone")
    assert generate.main(clone, check=True) == 1
    assert capsys.readouterr().out == (
        "docs/experiments/does_it_help.md is missing; run `make docs`.\n"
        "docs/experiments/index.md is missing; run `make docs`.\n"
        "docs/estimators/nearest.md is stale; run `make docs`.\n"
        "docs/estimators/index.md is missing; run `make docs`.\n"
        "docs/estimators/gone.md has no source any more; run `make docs`.\n"
    )
    assert (clone / "docs/estimators/nearest.md").read_text() == "old"


def test_writing_makes_the_check_pass(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone / "docs/estimators").mkdir(parents=True)
    (clone / "docs/estimators/gone.md").write_text("gone")
    assert generate.main(clone, check=False) == 0
    assert not (clone / "docs/estimators/gone.md").exists()
    assert generate.main(clone, check=True) == 0
    assert capsys.readouterr().out.endswith("The 4 generated pages are current.\n")


def test_every_subcommand_is_on_the_command_lines_page() -> None:
    @click.group()
    def main() -> None:
        """The whole."""

    @main.group()
    def part() -> None:
        """A part."""

    @part.command()
    def deed() -> None:
        """A deed."""

    page = "".join(command_page.sections(main, "normwise", None))
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## normwise",
        "## normwise part",
        "## normwise part deed",
    ]
    assert "Usage: normwise part deed [OPTIONS]" in page


def test_the_claims_have_a_page_where_results_are_kept(clone: Path) -> None:
    assert Path("docs/claims.md") not in generate.pages(clone)
    folder = clone / generate.KEPT
    folder.mkdir(parents=True)
    statement = Statement("It helps.", Estimate(2.0, 1.5, 2.5, 3, "points"), "above 1", Verdict.REPRODUCED)
    result = Result(
        experiment="does_it_help",
        question="Does it?",
        claim="It does.",
        refuted_by="Nothing.",
        settings={},
        seeds=(0, 1, 2),
        conclusion=Conclusion((statement,), Table("", (), ()), ()),
        stamp={"date": "2026-11-21", "device": "X", "system": "Y", "seconds": 60},
        command="normwise lab run does_it_help",
        topic="placement",
    )
    keep([result], folder)
    page = generate.pages(clone)[Path("docs/claims.md")]
    assert page.startswith(
        "<!-- Generated from the results in benchmarks/results/claims/, which `normwise lab run --keep"
    )
    edition = "· no verdict: of the first edition, to be measured again"
    assert f"| It helps. |  | scikit-learn's digits, 8 x 8, or data of its own | {edition} | 2.0 points" in page
    link = "\n## Verdicts\n\n[What was measured, and the verdicts](../claims.md#does-it-help)\n"
    assert link in generate.pages(clone)[Path("docs/experiments/does_it_help.md")]
    assert "\n### [Does it help?](experiments/does_it_help.md)\n" in page
    (clone / "src/normwise/lab/experiments/is_it_new.py").write_text(EXPERIMENT)
    not_yet = "\n## Verdicts\n\nNo results of this experiment are kept in the repository yet.\n"
    assert not_yet in generate.pages(clone)[Path("docs/experiments/is_it_new.md")]
