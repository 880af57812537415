"""Finds words that the project does not use, in code, docstrings, messages and pages; `make check` runs it.

Readers have English as a second language. A word is here because somebody stumbled over it: an idiom, a word that means
the opposite in the field, or a second name for one thing. A docstring begins with a verb or a noun phrase.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORK = r"(?:Keras|PyTorch|torch|TensorFlow|JAX|NumPy|XLA)"
THING = (
    r"(?:batch norms?|layers?|models?|users?|networks?|devices?|warnings?|settings?|files?|functions?|arrays?|tensors|"
    r"activations?|graph|checkpoints?|arguments|strategy|distribution|mesh)"
)
# What a reader stumbles over -> what to write instead.
INSTEAD = {
    r"\banew\b": "again",
    r"\bthe way back\b": "how to undo it",
    r"\bhas seen to\b": "a verb that says what was done",
    r"\bhears? of\b": "is told, is warned, or sees",
    r"\bnothing to say\b": "what is missing",
    r"\bin (?:the company of|company with)\b": "together with, or in the same batch as",
    r"\bits company\b": "the rest of its batch",
    r"\bin silence\b": "silently, or without a warning",
    r"\bgiven statistics\b": "running statistics",
    r"\belementary operations\b": "plain PyTorch operations",
    r"\bbatch(?:es)? (?:normaliz|whiten)\w+ (?:by )?(?:itself|themselves)\b": "batch statistics are used",
    r"\bnothing to do with\b": "unrelated, or does not depend on",
    r"\bFused(?:BatchNorm|Whitening)\b": "TrackedBatchNorm; fused is for several operations in one kernel",
    r"\bneeds \w+ no more\b": "works without",
    r"\bthat are meant\b": "to change",
    r"\bfor being \w+ed\b": "the noun",
    rf"\b{THING} of {FRAMEWORK}'s(?= (?:is|are|that|as|to|can|behind|has|and|or|in|for|on|which)\b|[.,;:)\"`(])": (
        "the framework in front of the thing: a Keras layer, a PyTorch model"
    ),
}
# No first word of a docstring, which names a thing or says what is done: a reader who opens the function alone cannot
# tell what "Of the layer in the model." or "As above." is.
QUESTIONS = {"What", "Which", "How", "Whether", "Where", "That"}
# Nor one of these, but in a test, whose name is the sentence that its docstring goes on with.
PREPOSITIONS = {
    *("Of", "As", "In", "For", "On", "By", "From", "With", "At", "To"),
    *("After", "Around", "Before", "Behind", "Beside", "Between", "Beyond", "Inside", "Into", "Over", "Per", "Through"),
    *("Under", "Until", "Within", "Without"),
}
# Words may go on in the next line, which begins with a sign of a comment or a list.
PATTERNS = {re.compile(pattern.replace(" ", r"[\s#*]+"), re.IGNORECASE): words for pattern, words in INSTEAD.items()}
FOLDERS = ("src", "docs", "tests", "examples", "benchmarks", "changes", ".github")
PAGES = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "pyproject.toml"),
    *(".pre-commit-config.yaml", "requirements/constraints.txt"),
)
SUFFIXES = {".py", ".md", ".toml", ".html", ".yml", ".h", ".cpp"}
# This list; what is made from files that are read; and sentences of the lab that were measured as they stand.
NOT_READ = (
    *("docs/words.py", "tests/docs/test_words.py", "docs/learn/zh_tw/", "docs/claims.md", "docs/zoo.md"),
    *("docs/experiments/", "src/normwise/lab/experiments/", "benchmarks/results/"),
)


def files(root: Path) -> Iterator[Path]:
    """Every file that people read."""
    found = [root / page for page in PAGES]
    found += [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in SUFFIXES]
    for path in sorted(found):
        if path.is_file() and not path.relative_to(root).as_posix().startswith(NOT_READ):
            yield path


def troubles(text: str) -> Iterator[tuple[int, str, str]]:
    """The line, the words and what to write instead, for each place."""
    for pattern, instead in PATTERNS.items():
        for found in pattern.finditer(text):
            yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].split()), instead


def beginnings(source: str) -> Iterator[tuple[int, str, str]]:
    """The same for each docstring whose first word is one of ``QUESTIONS`` or ``PREPOSITIONS``."""
    for name, line, text in docstrings(source):
        first = "".join(text.split()[:1]).rstrip(",;:")
        if first in QUESTIONS or (first in PREPOSITIONS and not name.startswith("test_")):
            yield line, first, "a docstring that begins with a verb or a noun phrase"


def docstrings(source: str) -> Iterator[tuple[str, int, str]]:
    """The name around, line and text of each docstring, values' too; not of Triton kernels, whose text is compiled."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and "triton.jit" not in map(ast.unparse, getattr(node, "decorator_list", ())):
            for before, each in zip([None, *node.body], node.body, strict=False):
                named = before is None or isinstance(before, ast.Assign | ast.AnnAssign)
                if named and isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
                    yield getattr(node, "name", ""), each.lineno, str(each.value.value)


def main(root: Path) -> int:
    """Prints one line for each place; returns the exit code."""
    found = [
        f"{path.relative_to(root).as_posix()}:{line}: {words!r}: write {instead}"
        for path in files(root)
        for text in [path.read_text(encoding="utf-8")]
        for line, words, instead in sorted([*troubles(text), *(beginnings(text) if path.suffix == ".py" else ())])
    ]
    print("\n".join(found) or "No word is used that docs/words.py has another one for.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(ROOT))
