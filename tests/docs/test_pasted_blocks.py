"""Every Python block of every page runs when it is pasted alone into a fresh interpreter."""

from __future__ import annotations

import ast
import codeop
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEARN = ROOT / "docs/learn"  # tests/docs/test_tour.py pastes its programs and reads what they print
ALL = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
PAGES = [path for path in ALL if LEARN not in path.parents]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A process has one of Keras's backends, and TensorFlow and what torch.compile imports crash in one process.
PROCESSES = ("torch", "compiled", "keras", "tensorflow")
# Which words of a block say what it imports that need not be there.
NEEDS = {"onnxruntime": ["onnxruntime", "onnxscript"], "tensorflow": ["tensorflow"], "keras": ["keras"]}
NEEDS |= {"sklearn": ["sklearn"], "lightning": ["lightning"]}


def blocks(process: str) -> dict[str, str]:
    """The blocks for one process, by the page and the number on it."""
    found = {
        f"{page.relative_to(ROOT).as_posix()} {number}": block
        for page in sorted(PAGES)
        for number, block in enumerate(BLOCK.findall(page.read_text("utf-8")), 1)
    }
    return {name: block for name, block in found.items() if process_of(block) == process}


def process_of(block: str) -> str:
    if '"KERAS_BACKEND"] = "tensorflow"' in block:
        return "tensorflow"
    if re.search(r"\bkeras\b", block):
        return "keras"
    return "compiled" if "torch.compile" in block or "torch._inductor" in block else "torch"


def missing(block: str) -> list[str]:
    """The libraries that the block imports and that are not installed."""
    return [
        each
        for word, names in NEEDS.items()
        if re.search(rf"\b{word}\b", block)
        for each in names
        if not find_spec(each)
    ]


def path_without_this_environment() -> str:
    """PATH as it is where nobody activated the virtual environment, which a block must not ask for."""
    own = {Path(sys.executable).parent} if sys.prefix != sys.base_prefix else set()
    return os.pathsep.join(each for each in os.environ["PATH"].split(os.pathsep) if Path(each) not in own)


@pytest.mark.parametrize("process", PROCESSES)
def test_every_block_runs_when_it_is_pasted_alone(process: str) -> None:
    if process == "compiled" and not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("there is no C++ compiler")
    found = blocks(process)
    assert found
    here = found if "CI" in os.environ else {name: block for name, block in found.items() if not missing(block)}
    if not here:
        pytest.skip("what these blocks import is not installed")
    environment = os.environ | {"KERAS_BACKEND": "torch" if process == "keras" else "tensorflow"}
    environment["PATH"] = path_without_this_environment()
    command = [sys.executable, str(Path(__file__).with_name("pasting.py"))]
    done = subprocess.run(
        command, input=json.dumps(here), capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_blocks_are_code_without_prompts() -> None:
    """Python's own prompt refuses `>>>`, and an example in a docstring becomes a block without it."""
    found = {name: block for process in PROCESSES for name, block in blocks(process).items()}
    assert len(found) > 80
    for name, block in found.items():
        ast.parse(block, name)
        assert not re.search(r"^(>>>|\.\.\.) ", block, re.MULTILINE), name


def refused(block: str) -> str:
    """The first line that Python's prompt refuses, up to 3.12 line by line; empty where it takes all of them."""
    compiler, open_lines = codeop.CommandCompiler(), list[str]()
    for line in [*block.splitlines(), ""]:
        open_lines.append(line)
        try:
            if compiler("\n".join(open_lines), "<stdin>", "single"):
                open_lines.clear()
        except SyntaxError:
            return line
    return "\n".join(open_lines).strip()


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pythons_prompt_takes_every_block(page: Path) -> None:
    """There a block of a loop or a function ends with an empty line and holds none. A file of examples/ is no paste."""
    text = page.read_text("utf-8")
    for found in BLOCK.finditer(text):
        if not re.search(r"`examples/\S+\.py`.*\n\n\Z", text[: found.start()]):
            assert refused(found[1]) == ""


def test_a_block_that_pythons_prompt_refuses_is_found() -> None:
    assert refused("for x in (1, 2):\n    print(x)\nprint()\n") == "print()"
    assert refused("def f():\n    x = 1\n\n    return x\n") == "    return x"
    assert refused("f(1,\n") == "f(1,"
    assert refused("for x in (1, 2):\n    print(x)\n\nprint()\nwith f():\n    pass\n") == ""


def test_a_block_behind_a_name_that_nothing_defines_is_found() -> None:
    command = [sys.executable, str(Path(__file__).with_name("pasting.py"))]
    given = {"good": "import math\nx = math.pi\n", "bad": "y = x\n", "warns": "import warnings\nwarnings.warn('no')\n"}
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=True)
    wrong = json.loads(done.stdout)
    assert list(wrong) == ["bad", "warns"]
    assert "NameError: name 'x' is not defined" in wrong["bad"]
