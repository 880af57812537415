"""The files of this package that a file reaches by import, and a digest of their code.

Imports are read from the syntax tree and not carried out, so that a digest costs milliseconds. All of them count: those
inside functions, ``import_module("normwise...")``, and the ``__init__`` of every package on the way. Where the name is
put together, as in ``import_module(f"normwise.estimators.{name}")``, every module of that package counts. A compiled
module stands for the C++ sources beside it. What only type checkers see does not count.

A package that imports in a module-level ``__getattr__`` has doors: what lies behind them is reached by a file that asks
the package for a name that is not one of its modules, and by no other.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[2]
CPP = "cpp"
"""The folder of a compiled module's sources, beside it."""
ANY = "*"
"""The sign in the place of a name for whatever the module has to offer."""
ALL = "*.*"
"""The sign in the place of a name for every module of a package, because only the running program knows which."""
ITSELF = "__name__"
"""The sign in the place of a module for the one that imports."""


class Import(NamedTuple):
    """A module, and the name that is taken from it, ``ANY``, ``ALL`` or none."""

    module: str
    name: str = ""


class Code(NamedTuple):
    """The facts about a Python file: a digest of its code, and its imports, before and behind its doors."""

    digest: str
    imports: frozenset[Import]
    doors: frozenset[Import]


def digest(file: Path, package: Path = PACKAGE) -> str:
    """A digest of a file's code and of all that it reaches; comments, docstrings and layout do not change it.

    Args:
        file: a Python file, of the package or from elsewhere.
        package: the folder of the package; another one than this serves tests.
    """
    parts = [_read(str(file)).digest]
    for name in reached(file, package):
        each = f"{package}/{name}"
        content = _read(each).digest if name.endswith(".py") else _sha256(Path(each).read_bytes())
        parts.append(f"{name} {content}")
    return _sha256("\n".join(parts).encode())


def reached(file: Path, package: Path = PACKAGE) -> list[str]:
    """The files of the package that a file reaches by import, without the file itself: sorted, relative to the package.

    Example:
        >>> reached(PACKAGE / "moments.py")
        ['__init__.py', 'moved.py']
    """
    modules = _modules(package)
    inside = file.relative_to(package).as_posix() if file.is_relative_to(package) else ""
    own = next((name for name, path in modules.items() if path == inside), "")
    found: set[str] = set()
    seen: set[Import] = set()
    waiting: list[Import] = []

    def follow(imports: Iterable[Import], module: str) -> None:
        named = {Import(module, name) if at == ITSELF else Import(at, name) for at, name in imports} - seen
        waiting.extend(each for each in named if each.module.split(".")[0] == package.name)
        seen.update(named)

    follow(_read(str(file)).imports, own)
    follow({Import(own)}, own)  # the packages that it lies in
    while waiting:
        module, taken = waiting.pop()
        parts = module.split(".")
        for name in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
            path = modules.get(name, "")
            if path and path not in found:
                found.add(path)
                follow(_read(f"{package}/{path}").imports, name)
        if module not in modules:
            sources = package.joinpath(*parts[1:-1], CPP).glob("*")
            found.update(each.relative_to(package).as_posix() for each in sources if each.is_file())
        elif taken == ALL:
            follow([Import(name) for name in modules if name.rpartition(".")[0] == module], module)
        elif f"{module}.{taken}" in modules:
            follow([Import(f"{module}.{taken}")], module)
        elif taken:
            follow(_read(f"{package}/{modules[module]}").doors, module)
    return sorted(found - {inside})


def _modules(package: Path) -> dict[str, str]:
    """Every module of the package by its dotted name: its file, relative to the package."""
    found = {}
    for folder, _, files in os.walk(package):
        parts = Path(folder).relative_to(package).parts
        dotted = ".".join((package.name, *parts))
        for name in files:
            if name.endswith(".py"):
                found[dotted if name == "__init__.py" else f"{dotted}.{name[:-3]}"] = "/".join((*parts, name))
    return found


def _read(path: str) -> Code:
    state = os.stat(path)  # noqa: PTH116  # as are the joined names: a digest asks for thousands, and Path is slow
    return _parsed(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _parsed(path: str, changed: int, size: int) -> Code:  # noqa: ARG001  # a file that changes is parsed again
    words: list[str] = []
    imports: set[Import] = set()
    doors: set[Import] = set()
    for statement in ast.parse(Path(path).read_bytes()).body:
        is_door = isinstance(statement, ast.FunctionDef) and statement.name == "__getattr__"
        _walk((statement,), words, doors if is_door else imports)
    return Code(_sha256("\0".join(words).encode()), frozenset(imports), frozenset(doors))


def _walk(values: Iterable[object], words: list[str], imports: set[Import]) -> None:
    """Write down what the code says, and collect what it imports, in one pass: it takes most of a digest's time."""
    for value in values:
        if isinstance(value, ast.AST):
            if isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant):
                continue  # a docstring, which does nothing
            if isinstance(value, ast.If) and _name(value.test).endswith("TYPE_CHECKING"):
                _walk(value.orelse, words, imports)
                continue
            if isinstance(value, ast.Import | ast.ImportFrom | ast.Call):
                imports.update(_imports(value))
            words.append(type(value).__name__)
            _walk([getattr(value, field, None) for field in value._fields], words, imports)
        elif isinstance(value, list):
            words.append("[")
            _walk(value, words, imports)
            words.append("]")
        else:
            words.append(repr(value))


def _imports(node: ast.Import | ast.ImportFrom | ast.Call) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, ANY)
            parts = [] if alias.asname else alias.name.split(".")[:-1]  # `import a.b` without `as` binds a
            yield from (Import(".".join(parts[: end + 1]), ANY) for end in range(len(parts)))
    elif isinstance(node, ast.ImportFrom):
        yield from (Import(node.module or "", alias.name) for alias in node.names)  # relative ones ruff refuses
    elif node.args and _name(node.func).endswith("import_module"):
        if isinstance(node.args[0], ast.Constant):
            yield Import(str(node.args[0].value), ANY)
        elif isinstance(node.args[0], ast.JoinedStr):
            yield Import(_beginning(node.args[0]).rpartition(".")[0], ALL)


def _beginning(text: ast.JoinedStr) -> str:
    """The beginning of an f-string, before the first value that is not known; ``__name__`` is left as it is."""
    known = ""
    for part in text.values:
        if isinstance(part, ast.Constant):
            known += str(part.value)
        elif isinstance(part, ast.FormattedValue) and _name(part.value) == ITSELF:
            known += ITSELF
        else:
            break
    return known


def _name(expression: ast.expr) -> str:
    return expression.id if isinstance(expression, ast.Name) else getattr(expression, "attr", "")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
