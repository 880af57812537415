"""The repository as a newcomer finds it: what stands in it, what stays out, and what the package asks for."""

import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, entry_points, metadata, requires
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import normwise

ROOT = Path(__file__).resolve().parent.parent
BASE_DEPENDENCIES = {"numpy", "click", "rich"}
# Written so that this file does not find itself.
MACHINE_PATHS = re.compile("|".join(rf"(?<![\w.])/{folder}/" for folder in ("root", "home", "work", "Users", "tmp")))


def tracked_names() -> list[str]:
    """The paths that git holds or would hold, links too; skips the test where the sources did not come by git."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing tells the project's files from others")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listing.split("\0") if name]


def tracked_files() -> list[Path]:
    """The files among them."""
    return [path for name in tracked_names() if (path := ROOT / name).is_file()]


def test_no_file_names_a_path_of_one_machine() -> None:
    files = tracked_files()
    assert files
    found = {
        str(path.relative_to(ROOT)): hits
        for path in files
        if (hits := MACHINE_PATHS.findall(path.read_bytes().decode("utf-8", errors="ignore")))
    }
    assert found == {}


def test_nothing_is_tracked_that_is_generated_on_the_machine() -> None:
    names = {part for name in tracked_names() for part in Path(name).parts}
    assert names & {"__pycache__", ".venv", "build", "dist", ".mypy_cache", ".ruff_cache"} == set()


def test_set_up_leaves_the_environment_of_another_clone_alone(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").symlink_to("theirs")
    command = ["make", "-C", str(ROOT), "setup", f"VENV={tmp_path / 'ours'}", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "is a link to the environment of another clone" in done.stderr
    assert list((tmp_path / "theirs").iterdir()) == []


def test_no_merge_was_left_half_done() -> None:
    marks = re.compile(r"^(<<<<<<<|>>>>>>>) ", re.MULTILINE)
    for path in tracked_files():
        if path.suffix in (".md", ".py", ".toml", ".txt", ".h", ".cpp", ".yml", ".css", ".html"):
            assert not marks.search(path.read_text("utf-8")), path


@pytest.mark.parametrize(("page", "limit"), [("README.md", 150), ("CONTRIBUTING.md", 100)])
def test_a_page_that_everybody_reads_stays_short(page: str, limit: int) -> None:
    assert len((ROOT / page).read_text("utf-8").splitlines()) < limit


def test_the_base_install_asks_for_a_few_small_packages_only() -> None:
    base = {re.split(r"[^\w-]", line)[0] for line in requires("normwise") or [] if "extra ==" not in line}
    assert base == BASE_DEPENDENCIES


def test_the_extras_are_the_documented_ones() -> None:
    assert set(metadata("normwise").get_all("Provides-Extra") or []) == {
        "torch",
        "keras",
        "lightning",
        "lab",
        "dask",
        "all",
        "dev",
    }


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="normwise")
    assert command.value == "normwise.__main__:main"


def test_the_version_stands_in_one_place() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["version"]
    assert normwise.__version__ == declared
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [declared]


def test_before_a_commit_runs_what_make_check_runs_but_the_types() -> None:
    hooks = re.findall(r"entry: \.venv/bin/(.+)", (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    target = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert target
    # Those of ruff look at the files of the commit, and the format is corrected.
    checks = [re.sub(r"( --check)? \.$", "", line) for line in re.findall(r"\$\(BIN\)/(.+)", target[1])]
    assert [each.removesuffix(" --force-exclude") for each in hooks] == [each for each in checks if each != "mypy"]


SECTIONS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["towncrier"]["section"]


def test_a_fragment_of_the_changelog_is_one_line_in_a_section() -> None:
    files = {path.relative_to(ROOT / "changes") for path in (ROOT / "changes").rglob("*.md")} - {Path("template.md")}
    assert {str(path.parent) for path in files} <= {section["path"] for section in SECTIONS}
    assert [path for path in files if len((ROOT / "changes" / path).read_text("utf-8").strip().splitlines()) != 1] == []


def test_a_release_takes_every_fragment_into_the_changelog(tmp_path: Path) -> None:
    """As CONTRIBUTING.md says, in a copy with one fragment of each section."""
    for name in ("pyproject.toml", "CHANGELOG.md", "changes/template.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for section in SECTIONS:
        folder = tmp_path / "changes" / section["path"]
        folder.mkdir()
        (folder / "18.added.md").write_text(f"Something in {section['path']}.\n")
    (tmp_path / "changes" / SECTIONS[-1]["path"] / "19.fixed.md").write_text("A repair.\n")
    before = (tmp_path / "CHANGELOG.md").read_text("utf-8")
    command = [sys.executable, "-m", "towncrier", "build", "--keep", "--version", "9.9.9", "--date", "2030-01-01"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    after = (tmp_path / "CHANGELOG.md").read_text("utf-8")
    start, mark, end = before.partition("<!-- towncrier release notes start -->\n")
    new = "\n".join(f"### {each['name']}\n\nAdded:\n\n- Something in {each['path']}.\n" for each in SECTIONS)
    assert after == f"{start}{mark}\n## 9.9.9 (2030-01-01)\n\n{new}\nFixed:\n\n- A repair.\n{end}"


def test_the_changelog_has_the_version_that_is_declared() -> None:
    (version,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert f"## {version} (" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_every_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = [line for line in text.splitlines() if re.match(r'\s+"[\w\[\]-]+(>=[\d.]+)?",', line) and ">=" in line]
    assert len(listed) >= 15
    assert [line for line in listed if "#" not in line] == []


def test_every_ignored_warning_says_why() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        ignores = [line for line in tomllib.load(file)["tool"]["pytest"]["filterwarnings"] if line != "error"]
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    explained = [line for line in text.splitlines() if re.match(r"\s+[\"']ignore", line) and "#" in line]
    assert len(ignores) == len(explained)


def test_what_is_pinned_is_what_the_package_asks_for() -> None:
    lines = (ROOT / "requirements/constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    asked = {re.split(r"[^\w-]", line)[0].lower() for line in requires("normwise") or []}
    assert asked - pinned == {"normwise"}  # the package is the clone


def test_every_pinned_package_installs_on_the_first_python_that_is_promised() -> None:
    """Some packages ask for a later bug-fix release, such as 3.11.5, which a distribution's own Python may not be."""
    first = (
        tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"].strip(">= ") + ".0"
    )
    asked, pins = {}, (ROOT / "requirements/constraints.txt").read_text("utf-8")
    for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", pins, re.MULTILINE):
        with suppress(PackageNotFoundError):
            if (installed := metadata(name))["Version"] == version:
                # Where importlib_metadata is imported, [] raises for a field that a package lacks.
                asked[name] = (installed.get_all("Requires-Python") or [""])[0]
    assert len(asked) > 50
    assert {name: words for name, words in asked.items() if not SpecifierSet(words).contains(first)} == {}
