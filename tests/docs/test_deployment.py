"""The scripts of "Deployment" run and give the network's answers; the page shows what they call and what they print."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/deployment.md").read_text("utf-8")
FOLDER = ROOT / "examples/deployment"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("digits", "keras_digits"))
NEEDS = {
    "to_onnx": ["torch", "onnxscript", "onnxruntime"],
    "quantization": ["torch", "onnxscript", "onnxruntime"],
    "keras_file": ["keras"],
    "saved_model": ["tensorflow"],
    "tflite": ["tensorflow"],
}
COMPILED = {"aot_inductor", "torch_compile"}
PARITY = 1e-5
OF_8_BITS = 0.2
DEPLOYING = re.compile(
    r"torch\.(export|onnx|compile|_inductor)|normwise\.|quant|model\.(save|export)|onnxruntime\.|keras\.saving|tensorflow\."
)
NUMBER = re.compile(r"\d\.\d\S*")


def block(name: str, language: str) -> str:
    """The code block of a language that follows the script's name in the page."""
    _, _, rest = PAGE.partition(f"`examples/deployment/{name}.py`")
    return rest.split(f"```{language}\n", 1)[1].split("```", 1)[0]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_answers_of_what_is_deployed_are_those_of_the_network(name: str) -> None:
    missing = [each for each in NEEDS.get(name, ["torch"]) if find_spec(each) is None]
    if missing and "CI" not in os.environ:  # where CI is set, the script fails without them
        pytest.skip(f"{', '.join(missing)} is not installed")
    if name in COMPILED and not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("there is no C++ compiler")
    line = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert NUMBER.sub("X", done.stdout) == NUMBER.sub("X", block(name, "text"))
    found = [float(each) for each in re.findall(r"^batch of (?:8|1): .* at most (\S+)$", done.stdout, re.MULTILINE)]
    assert len(found) == 2
    assert max(found) <= (OF_8_BITS if name == "quantization" else PARITY)
    if accuracies := [float(each) for each in re.findall(r"^accuracy .*: (\S+)$", done.stdout, re.MULTILINE)]:
        assert min(accuracies) > 0.8
        assert max(accuracies) - min(accuracies) < 0.03


def test_the_page_shows_what_every_script_does() -> None:
    """Each call of what deploys, with the same keywords; only files and the network differ."""
    assert len(SCRIPTS) == 9
    for name in SCRIPTS:
        shown, script = calls(block(name, "python")), calls((FOLDER / f"{name}.py").read_text("utf-8"))
        assert shown, name
        assert shown <= script, name


def calls(program: str) -> set[tuple[str, tuple[str, ...]]]:
    """The functions of modules that a program calls, with the names of their keywords."""
    nodes = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    named = {
        (re.sub(r"\(.*?\)", "()", ast.unparse(node.func)), tuple(str(each.arg) for each in node.keywords))
        for node in nodes
    }
    return {call for call in named if DEPLOYING.match(call[0])}


def test_what_the_page_prints_keeps_to_the_bounds() -> None:
    for name in SCRIPTS:
        found = [float(each) for each in re.findall(r"at most (\S+)\n", block(name, "text"))]
        assert len(found) == 2
        assert max(found) <= (OF_8_BITS if name == "quantization" else PARITY)
