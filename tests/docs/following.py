"""A copy of the package in which a recipe of docs/recipes.md is followed, by its numbered steps.

A step begins with the file that it is about, or with several of which one is taken. Only those files can be written
here, and no exam is held before every step is taken. So a recipe that forgets a file fails, and so does a test that
forgets a step.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/recipes.md").read_text("utf-8")
STEP = re.compile(r"^\d+\. (.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`([\w.<>-]+/[\w./<>-]*)`")


def steps_of(title: str, page: str = PAGE) -> list[list[str]]:
    """The files and folders that each step of a recipe begins with, as the recipe writes them."""
    (text,) = re.findall(
        rf"^## {re.escape(title)}\b[^\n]*\n(.*?)(?=^## |^Read next|\Z)", page, re.MULTILINE | re.DOTALL
    )
    return [NAMED.findall(re.split(r"[.:;]\s", step)[0]) for step in STEP.findall(text)]


def is_meant(path: str, named: str) -> bool:
    """True if a file is the one that a recipe names, lies in the folder, or has the name with words of its own."""
    pattern = re.sub(r"<\w+>", r"\\w+", named.replace(".", r"\."))
    return re.search(rf"(^|/){pattern}{'.+' if named.endswith('/') else ''}$", path) is not None


class Copy:
    """The package and its tests in a folder of their own, while one recipe is followed there.

    Args:
        folder: an empty one.
        title: the first words of the recipe's heading.
        compiled: whether the copy has the compiled kernels, which know what they were built from.
        more: folders that the recipe needs besides.
        steps: those of the recipe, if it is not on the page.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        *,
        compiled: bool = True,
        more: tuple[str, ...] = (),
        steps: list[list[str]] | None = None,
    ) -> None:
        self.folder = folder
        self._steps = steps_of(title) if steps is None else steps
        self._taken: set[int] = set()
        for part in ("src/normwise", "tests", *more):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        (folder / "docs").mkdir(exist_ok=True)
        for file in (ROOT / "conftest.py", ROOT / "pyproject.toml", *(ROOT / "docs").glob("*.py")):
            shutil.copy(file, folder / file.relative_to(ROOT))
        for library in (ROOT / "src/normwise/kernels").glob("*.so") if compiled else ():
            (folder / library.relative_to(ROOT)).symlink_to(library)

    def _take(self, path: str) -> Path:
        places = [place for place, names in enumerate(self._steps) if any(is_meant(path, each) for each in names)]
        assert places, f"no step of the recipe begins with {path}"
        self._taken |= {*places}
        return self.folder / path

    def write(self, path: str, text: str) -> None:
        """Write a new file that the recipe asks for."""
        place = self._take(path)
        assert not place.exists(), f"{path} is there already"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")

    def change(self, path: str, before: str, after: str) -> None:
        """Put other words in the place of some that are there once, in a file that the recipe names."""
        place = self._take(path)
        text = place.read_text("utf-8")
        assert text.count(before) == 1, f"{path} has {before!r} {text.count(before)} times"
        place.write_text(text.replace(before, after), "utf-8")

    def check_every_step_is_taken(self) -> None:
        """Hold the test to the recipe: a step that was left out may have been needed."""
        left = [names for place, names in enumerate(self._steps) if place not in self._taken]
        assert self._steps, "the recipe has no steps"
        assert left == [], f"steps of the recipe that nobody took: {left}"

    def python(self, *command: str, **environment: str) -> str:
        """The output of Python in the copy, which must end well."""
        ours = os.environ | {"PYTHONPATH": f"{self.folder / 'src'}{os.pathsep}{self.folder}", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=ours | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    def check_tests(self, *tests: str, only: str, at_least: int, **environment: str) -> None:
        """Hold the copy to the package's own tests, as far as they are about what is new.

        Args:
            *tests: files of tests.
            only: the words that pytest chooses by.
            at_least: how many tests there must be.
            **environment: of the process.
        """
        self.check_every_step_is_taken()
        chosen = ("-q", "-k", only, "-p", "no:cacheprovider", "-p", "no:xdist")
        said = self.python("-m", "pytest", *chosen, *tests, **environment)
        passed = re.search(r"(\d+) passed", said)
        assert passed is not None, said
        assert int(passed[1]) >= at_least, said

    def pages(self) -> dict[str, str]:
        """The pages that ``make docs`` writes in the copy, but for those that the code of the lab makes."""
        from docs import generate

        return {path.as_posix(): text for path, text in generate.pages(self.folder).items()}
