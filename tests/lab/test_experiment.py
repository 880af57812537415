"""Finding experiments, and reading what they say of themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normwise.errors import MissingExtra, NormwiseError, UnknownName
from normwise.installation import extra_command
from normwise.lab import describe, names
from normwise.lab.experiment import FOLDER, HEADINGS, load, measures_time, settings_of
from normwise.lab.results import TOPICS

Make = Callable[..., Path]
TESTS = Path(__file__).parent / "experiments"


def test_the_experiments_are_the_files_of_the_folder(make: Make) -> None:
    folder = make("is_it_so")
    make("does_it_end")
    (folder / "__init__.py").touch()
    (folder / "notes.txt").touch()
    assert names(folder) == ["does_it_end", "is_it_so"]


def test_the_first_three_experiments_are_found() -> None:
    assert {
        "does_it_train_faster",
        "does_it_allow_higher_learning_rates",
        "does_it_cure_vanishing_gradients",
    } <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_experiment_describes_itself_and_has_its_test(name: str) -> None:
    found = describe(name)
    assert found.question.endswith("?")
    assert found.summary.endswith(("?", "."))
    assert found.references
    assert all(re.search(r"\d{4}", reference) for reference in found.references)
    assert (TESTS / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", names())
def test_every_experiment_keeps_the_contract(name: str) -> None:
    experiment = load(name)
    assert experiment.SAYS
    assert experiment.TOPIC in TOPICS
    for quick, full in ((False, False), (True, False), (False, True)):
        settings = settings_of(experiment, quick=quick, full=full)
        assert isinstance(settings, experiment.Settings)
        trials = experiment.trials(settings, range(3))
        assert len(set(trials)) == len(trials)
        assert {trial.seed for trial in trials} == {0, 1, 2}


@pytest.mark.parametrize("name", names())
def test_an_experiment_that_takes_times_says_so(name: str) -> None:
    experiment = load(name)
    clocks = {"normwise.lab.training.timing", "time"}
    used = modules_of(experiment)
    for module in used.copy():
        if module.startswith("normwise.lab"):
            used |= modules_of(sys.modules[module])
    assert measures_time(experiment) is bool(clocks & used)


def modules_of(module: object) -> set[str]:
    """The modules that the names of a module come from, or are."""
    return {str(getattr(value, "__module__", getattr(value, "__name__", ""))) for value in vars(module).values()}


def test_sections_are_read_with_lines_joined_and_references_apart(make: Make) -> None:
    found = describe("does_it_end", make())
    assert found.summary == "A made-up experiment."
    assert found.question == "Does it end?"
    assert found.refuted_by == "Another number."
    assert found.references == ("A. Author, A Title, 2015.", "B. Author, Another.")


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_missing_section_is_named(make: Make, docstring: str, heading: str) -> None:
    folder = make(docstring=docstring.replace(f"{heading}:", "Remarks"))
    message = f"the docstring of experiment 'does_it_end' lacks '{heading}:': write each as a heading with text."
    with pytest.raises(NormwiseError, match=f"^{re.escape(message)}$"):
        describe("does_it_end", folder)


def test_no_docstring_lacks_everything(make: Make) -> None:
    with pytest.raises(NormwiseError, match="lacks 'Question:', 'Claim:'"):
        describe("does_it_end", make(docstring=""))


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'does_it_train_faster'"):
        describe("does_it_train_fast")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normwise.lab.experiment.LIBRARIES", ("no_such_library",))
    with pytest.raises(MissingExtra) as error:
        load(names()[0])
    assert str(error.value) == f"no_such_library is not installed; install it with: {extra_command('lab')}"


def test_listing_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from normwise import lab; [lab.describe(name) for name in lab.names()];"
        "print([name for name in ('torch', 'numpy', 'sklearn', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_folder_is_the_packages_own() -> None:
    assert FOLDER.name == "experiments"
    assert FOLDER.is_dir()
