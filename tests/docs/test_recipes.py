"""The recipes: what they name is there, each is followed or says why not, and following one takes its steps only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.following import PAGE, ROOT, Copy, is_meant, steps_of

# What stands for another name in a recipe, and what a recipe writes.
FREE = re.compile(r"[<>{}$ *=\[\]]|^report/")
# The first words of a heading -> the file of the test that follows the recipe.
FOLLOWED = {
    "Add an estimator": "test_recipe_of_an_estimator.py",
    "Add an experiment": "test_recipe_of_an_experiment.py",
    "Add a check of the doctor": "test_recipe_of_a_check.py",
    "Add an activation": "test_recipe_of_an_activation.py",
    "Add a layer": "test_recipe_of_a_layer.py",
    "Add an operation on a whole model": "test_recipe_of_a_door.py",
    "Measure the claims on other images": "test_recipe_of_other_images.py",
    "Add a page to the guided tour": "test_recipe_of_a_tour_page.py",
}


def test_every_recipe_is_followed() -> None:
    headings = [heading.partition(":")[0] for heading in re.findall(r"^## (.*)", PAGE, re.MULTILINE)]
    assert headings == [*FOLLOWED]
    for heading, name in FOLLOWED.items():
        assert f'"{heading}"' in Path(__file__).with_name(name).read_text("utf-8")


def test_every_file_that_a_recipe_names_is_there() -> None:
    named = {name for name in re.findall(r"`([\w./<>*-]+/[\w./<>*-]*|[\w/]+\.py)`", PAGE) if not FREE.search(name)}
    assert len(named) > 15
    there = [path for top in ("src", "tests", "docs", "benchmarks", ".ci") for path in (ROOT / top).rglob("*")]
    ends = {"/" + path.relative_to(ROOT).as_posix() for path in there}
    gone = [name for name in named if not any(end.endswith("/" + name.rstrip("/")) for end in ends)]
    assert sorted(gone) == []


MADE_UP = """## Add a pear: two files

1. `fruit/new_<name>.py`: a pear, which `fruit/stone.py` calls.
2. `fruit/plum.py` or `fruit/other/`: its line. More in `fruit/apple.py`.

## Add a plum

1. `fruit/cherry.py` has it.
"""


def test_a_step_is_about_the_files_that_it_begins_with() -> None:
    assert steps_of("Add a pear", MADE_UP) == [["fruit/new_<name>.py"], ["fruit/plum.py", "fruit/other/"]]
    assert steps_of("Add a plum", MADE_UP) == [["fruit/cherry.py"]]


@pytest.mark.parametrize(
    ("path", "named", "meant"),
    [
        ("src/fruit/pear.py", "fruit/<name>.py", True),
        ("src/fruit/pear.py", "fruit/plum.py", False),
        ("src/fruit/test_pear.py", "fruit/test_<the_pear>.py", True),
        ("src/fruit/a/b.py", "fruit/", True),
        ("src/fruit/a/b.py", "fruit/<name>.py", False),
        ("src/my_fruit/pear.py", "fruit/pear.py", False),
    ],
)
def test_which_file_a_name_means(path: str, named: str, meant: bool) -> None:
    assert is_meant(path, named) is meant


def test_a_recipe_that_forgets_a_file_and_a_step_that_nobody_takes_are_noticed(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "Add a pear", steps=steps_of("Add a pear", MADE_UP))
    with pytest.raises(AssertionError, match=r"^no step of the recipe begins with src/fruit/apple\.py"):
        copy.write("src/fruit/apple.py", "")
    copy.write("src/fruit/new_pear.py", "")
    with pytest.raises(AssertionError, match=r"^steps of the recipe that nobody took: .*plum\.py"):
        copy.check_tests("tests/docs", only="pear", at_least=1)
    copy.write("src/fruit/other/pears.txt", "")
    copy.check_every_step_is_taken()
