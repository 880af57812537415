"""Every door by listing: it is in the table, and its keywords are those of both frameworks' functions, documented.

The sources are read and not imported: a process has one of Keras's backends, and this one has none.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import normwise
from normwise import surgery
from normwise.surgery.door import TABLE, Behind
from tests.docs.test_generate import generate

ROOT = Path(__file__).resolve().parents[2]
# What the rooms call their own, where it is the same; a model of both frameworks is of no one class.
ALIASES = {"ForwardFn": "Callable[[Any, Any], Any]", "Iterator[None]": "AbstractContextManager[None]"}
# A context that is entered around calls, in compiled code too: it is in the rooms, and called in the same way in both.
IN_ROOMS = {"domain"}


class Parameter(NamedTuple):
    """A parameter as it stands in the source."""

    annotation: str
    default: str | None
    keyword: bool


def function_in(file: Path, name: str) -> ast.FunctionDef:
    (found,) = [
        node
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    return found


def source_of(behind: Behind) -> ast.FunctionDef:
    return function_in(ROOT / "src" / f"{behind.module.replace('.', '/')}.py", behind.name)


def source_of_door(name: str) -> ast.FunctionDef:
    return function_in(Path(inspect.getfile(inspect.unwrap(getattr(normwise, name)))), name)


def written(annotation: ast.expr | None) -> str:
    text = "" if annotation is None else ast.unparse(annotation)
    for alias, meaning in ALIASES.items():
        text = text.replace(alias, meaning)
    return text


def parameters(function: ast.FunctionDef) -> dict[str, Parameter]:
    arguments = function.args
    assert not arguments.posonlyargs
    assert arguments.vararg is None
    assert arguments.kwarg is None
    missing: list[ast.expr | None] = [None] * (len(arguments.args) - len(arguments.defaults))
    by_place = zip(arguments.args, [*missing, *arguments.defaults], [False] * len(arguments.args), strict=True)
    by_name = zip(arguments.kwonlyargs, arguments.kw_defaults, [True] * len(arguments.kwonlyargs), strict=True)
    return {
        each.arg: Parameter(written(each.annotation), None if default is None else ast.unparse(default), keyword)
        for each, default, keyword in [*by_place, *by_name]
    }


def joined(every: list[dict[str, Parameter]]) -> dict[str, Parameter]:
    """The union, in order; what has another type in the other framework has any."""
    found: dict[str, Parameter] = {}
    for each in every:
        for name, parameter in each.items():
            known = found.setdefault(name, parameter)
            assert (known.default, known.keyword) == (parameter.default, parameter.keyword), name
            if known != parameter:
                found[name] = known._replace(annotation="Any")
    return found


def test_every_door_is_in_the_table_and_the_other_way_round() -> None:
    assert normwise.__all__ == sorted(TABLE)
    assert sorted(surgery.__all__) == normwise.__all__
    for name in TABLE:
        assert getattr(surgery, name) is getattr(normwise, name)
        assert name in dir(normwise)
        assert set(TABLE[name]) <= {"torch", "keras"}
        where = {room: f"normwise.{'doctor' if name == 'examine' else room}." for room in TABLE[name]}
        assert all(behind.module.startswith(where[room]) for room, behind in TABLE[name].items())


def test_type_checkers_are_told_of_every_door() -> None:
    (only,) = [node for node in ast.parse(Path(normwise.__file__).read_text("utf-8")).body if isinstance(node, ast.If)]
    told = [alias.name for node in only.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(told) == normwise.__all__


def test_all_that_takes_a_whole_model_is_a_door() -> None:
    behind = {(each.module, each.name) for rooms in TABLE.values() for each in rooms.values()}
    for room in ("torch", "keras"):
        exported = list(generate.exported(ROOT / "src/normwise" / room / "__init__.py", ROOT))
        assert len(exported) > 8
        for name, source in exported:
            for node in ast.parse(source.read_text("utf-8")).body:
                takes = isinstance(node, ast.FunctionDef) and node.name == name and "model" in parameters(node)
                if takes and name not in IN_ROOMS:
                    module = ".".join(source.relative_to(ROOT / "src").with_suffix("").parts)
                    assert (module, name) in behind, f"{name} of normwise.{room} takes a model: make a door of it."


@pytest.mark.parametrize("name", normwise.__all__)
def test_a_doors_keywords_are_those_of_both_frameworks(name: str) -> None:
    door, behind = source_of_door(name), [source_of(each) for each in TABLE[name].values()]
    assert parameters(door) == joined([parameters(each) for each in behind])
    (returned,) = {written(each.returns) for each in behind}
    assert written(door.returns) == returned


@pytest.mark.parametrize("name", normwise.__all__)
def test_a_doors_signature_is_what_editors_show(name: str) -> None:
    shown = inspect.signature(getattr(normwise, name)).parameters
    assert [*shown] == [*parameters(source_of_door(name))]
    assert next(iter(shown)) == "model"
    assert {each.kind for each in shown.values()} <= {
        inspect._ParameterKind.POSITIONAL_OR_KEYWORD,
        inspect._ParameterKind.KEYWORD_ONLY,
    }


def test_defaults_that_are_documented_are_visible() -> None:
    shown = inspect.signature(normwise.recalibrate).parameters
    assert {name: each.default for name, each in shown.items() if each.default is not inspect.Parameter.empty} == {
        "estimator": "pooled",
        "upstream": "inference",
        "forward_fn": None,
        "at_most": None,
        "tolerance": None,
        "layers": None,
        "distributed": True,
        "memory": None,
        "batch_size": 32,
    }
    assert inspect.signature(normwise.adapt).parameters["prior"].default == 4.0


def documented(function: ast.FunctionDef) -> list[str]:
    """The names under Args of a docstring."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", f"{ast.get_docstring(function)}\n", re.MULTILINE)
    return [] if section is None else re.findall(r"^    (\w+): ", section[1], re.MULTILINE)


@pytest.mark.parametrize("name", normwise.__all__)
def test_every_parameter_is_documented_and_no_other(name: str) -> None:
    for function in (source_of_door(name), *map(source_of, TABLE[name].values())):
        assert documented(function) == [*parameters(function)], function.name


@pytest.mark.parametrize("name", normwise.__all__)
def test_a_doors_docstring_is_whole(name: str) -> None:
    docstring = inspect.getdoc(getattr(normwise, name)) or ""
    headings = re.findall(r"^([A-Z]\w+):$", docstring, re.MULTILINE)
    order = ["Args", "Returns", "Raises", "Warns", "References", "Example"]
    assert headings == sorted(headings, key=order.index)
    assert {"Args", "Returns", "Raises", "Example"} <= {*headings}
    assert ">>> " in docstring
    frameworks = {"torch": "PyTorch", "keras": "Keras"}
    assert all(frameworks[room] in docstring.split("\n")[0] for room in TABLE[name])


def test_editors_and_documentation_see_where_a_door_is() -> None:
    assert (normwise.fuse.__module__, normwise.fuse.__qualname__) == ("normwise.surgery.layers", "fuse")
