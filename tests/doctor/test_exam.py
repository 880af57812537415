"""Every check, found by listing: its page, its limits, and its own examples."""

import ast
import re
from pathlib import Path

import pytest

import normwise.doctor.check
from normwise.doctor.check import chosen, left, load, names, run
from normwise.doctor.finding import Finding, Severity
from normwise.errors import UnknownName

HEADINGS = ["What it finds:", "Why it is bad:", "How it is measured:", "What to do:", "References:"]
EVERY = names()


def test_there_are_as_many_checks_as_were_asked_for() -> None:
    assert len(EVERY) >= 29


@pytest.mark.parametrize("name", EVERY)
def test_a_check_finds_its_own_sick_example_and_nothing_else(name: str) -> None:
    (found,), _ = run(EVERY, load(name).sick())
    assert isinstance(found, Finding)
    assert found.check == name
    assert found.severity in Severity
    assert found.message.endswith(".")
    assert found.evidence
    assert found.layers or name == "differing_derived_model"


@pytest.mark.parametrize("name", EVERY)
def test_the_healthy_example_has_no_finding_of_any_check(name: str) -> None:
    assert run(EVERY, load(name).healthy())[0] == []


@pytest.mark.parametrize("name", EVERY)
def test_a_page_has_every_heading_in_order_with_something_below(name: str) -> None:
    page = load(name).__doc__
    assert re.findall(r"^[A-Z][a-z ]+:$", page, flags=re.MULTILINE) == HEADINGS
    assert all(re.search(rf"^{heading}\n    \S", page, flags=re.MULTILINE) for heading in HEADINGS)


@pytest.mark.parametrize("name", EVERY)
def test_each_number_that_has_a_limit_has_one_of_the_limits_of_the_check(name: str) -> None:
    check = load(name)
    limits = {number.limit for finding in run([name], check.sick())[0] for number in finding.evidence.values()}
    assert limits - {None}
    assert limits - {None} <= {limit for limit, _, _ in check.LIMITS.values()}
    assert all(unit and source for _, unit, source in check.LIMITS.values())


@pytest.mark.parametrize("name", EVERY)
def test_the_remedy_is_python_or_a_comment_on_what_is_left_to_the_user(name: str) -> None:
    (found,), _ = run([name], load(name).sick())
    assert ast.parse(found.remedy).body or (found.remedy.startswith("# ") and left(name))
    assert re.search(r"\{\w*\}", found.remedy) is None  # nothing is left to be filled in


@pytest.mark.parametrize("name", EVERY)
def test_what_a_check_hides_exists(name: str) -> None:
    assert {*load(name).HIDES} <= {*EVERY} - {name}


@pytest.mark.parametrize("name", EVERY)
def test_a_check_reads_facts_and_no_framework(name: str) -> None:
    source = (Path(normwise.doctor.check.__file__).parent / "checks" / f"{name}.py").read_text("utf-8")
    tree = ast.parse(source)
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    allowed = {"__future__", "collections", "dataclasses", "math", "numpy"}
    own = {module for module in imported if str(module).startswith("normwise")}
    assert {str(module).split(".")[0] for module in imported - own} <= allowed
    assert all(
        re.match(r"normwise\.(doctor\.(?!checks)|facts|moments)", str(module)) for module in {*own} - {"normwise.facts"}
    )


def test_one_name_may_be_given_as_a_string() -> None:
    assert chosen("wrong_axis", ()) == ["wrong_axis"]
    assert "wrong_axis" not in chosen(None, "wrong_axis")
    with pytest.raises(UnknownName, match="did you mean 'wrong_axis'"):
        chosen(("wrong_axes",), ())
