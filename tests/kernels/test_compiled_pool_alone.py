"""The pool by itself, compiled for the test: forks, the clock, limits of control groups, settings that are none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CPP = ROOT / "src/normwise/kernels/cpp"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
MB = 1 << 20
UNLIMITED = 2**63 - 1

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="control groups, and a clock that can be replaced, are Linux's"),
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("pool") / "pool_alone"
    source = ROOT / "tests/kernels/cpp/pool_alone.cpp"
    command = [str(COMPILER), "-std=c++17", "-O1", "-Wall", "-Werror", f"-I{CPP}", str(source), str(CPP / "pool.cpp")]
    result = subprocess.run([*command, "-o", str(built), "-lpthread"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return built


def run(program: Path, *arguments: object, **environment: str) -> tuple[dict[str, int], str]:
    """The facts that it prints, and what it says on the standard error."""
    inherited = {name: value for name, value in os.environ.items() if name != "NORMWISE_POOL_MB"}
    command = [str(program), *(str(argument) for argument in arguments)]
    result = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr[-2000:]
    facts = (line.rpartition(" ") for line in result.stdout.splitlines())
    return {name: int(value) for name, _, value in facts}, result.stderr


def test_a_fork_while_other_threads_are_inside_leaves_no_lock_behind(program: Path) -> None:
    assert run(program, "forks")[0] == {"failed": 0, "untouched": 1, "lent": 0}


def test_what_is_idle_for_ten_seconds_goes_back_at_the_next_call_of_any_kind(program: Path) -> None:
    found, _ = run(program, "idle")
    assert found == {"both": 8 * MB, "not called": 8 * MB, "the younger": 4 * MB, "still": 4 * MB, "none": 0}


@pytest.mark.parametrize("text", ["abc", "-5", "1e30", "99999999999999999999", "20MB", "2.5", "7 ", " "])
def test_a_limit_that_is_no_number_of_megabytes_is_said_once_and_not_taken(program: Path, text: str) -> None:
    usual = run(program, "limit")[0]
    found, said = run(program, "limit", NORMWISE_POOL_MB=text)
    assert found == usual
    assert said == (
        f"normwise: NORMWISE_POOL_MB is '{text}', and a whole number of megabytes from 0, which switches the pool off, "
        f"is wanted; {usual['limit'] // MB} are kept at most, as without it.\n"
    )


@pytest.mark.parametrize(("text", "megabytes"), [("0", 0), ("20", 20), ("  20", 20), ("8796093022207", 8796093022207)])
def test_a_limit_that_is_a_number_is_taken_without_a_word(program: Path, text: str, megabytes: int) -> None:
    found, said = run(program, "limit", NORMWISE_POOL_MB=text)
    assert found["limit"] == megabytes * MB
    assert said == ""


def test_without_one_it_is_an_eighth_of_the_memory_that_the_process_may_use(program: Path) -> None:
    found, said = run(program, "limit")
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < found["memory"] <= machine
    assert found["limit"] == found["memory"] // 8
    assert run(program, "limit", NORMWISE_POOL_MB="") == (found, said) == (found, "")


GROUPS = {
    "version 2": ("0::/a/b\n", {"a/b/memory.max": "3000\n"}, 3000),
    "version 2, by a group around it": ("0::/a/b\n", {"a/memory.max": "2000\n", "a/b/memory.max": "max\n"}, 2000),
    "version 2, in a container": ("0::/\n", {"memory.max": "1000\n"}, 1000),
    "version 2, in a container, by the path outside": ("0::/docker/x\n", {"memory.max": "1000\n"}, 1000),
    "version 2, none stated": ("0::/a\n", {"a/memory.max": "max\n"}, UNLIMITED),
    "version 1": ("5:cpu:/\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "3000\n"}, 3000),
    "version 1, beside another controller": ("4:hugetlb,memory:/", {"memory/memory.limit_in_bytes": "3000\n"}, 3000),
    "version 1, none stated": ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 2**63 - 4096),
    "another controller's": ("4:memory_other:/a\n", {"memory/a/memory.limit_in_bytes": "3000\n"}, UNLIMITED),
    "nothing mounted": ("0::/a/b\n4:memory:/a\n", {}, UNLIMITED),
    "lines that are none": ("\nmemory\n0:memory\n", {"memory/memory.limit_in_bytes": "3000\n"}, UNLIMITED),
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_limit_of_a_container_counts_in_place_of_the_machine(program: Path, case: str, tmp_path: Path) -> None:
    groups, files, right = GROUPS[case]
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounted" / name).write_text(text)
    assert run(program, "groups", tmp_path / "groups", tmp_path / "mounted")[0] == {"limit": right}
