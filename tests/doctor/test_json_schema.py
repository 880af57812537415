"""The doctor's JSON is what its schema says, in every key, for every check; and the schema is kept in docs/."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from docs import diagnosis_page
from normwise.doctor.check import load, names, run
from normwise.doctor.diagnosis import Diagnosis
from normwise.doctor.examination import examine
from normwise.doctor.finding import Cost, Finding, Number, Severity
from normwise.doctor.json_schema import VERSION, rows, schema
from normwise.facts import ModelFacts

TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
    "null": type(None),
}  # fmt: skip


def troubles(value: Any, part: dict[str, Any], path: str = "$") -> list[str]:
    """The places where a value is not what a schema says, or holds a key that the schema does not know."""
    if "const" in part and value != part["const"]:
        return [f"{path} is {value!r}"]
    kinds = part.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return [f"{path} is a {type(value).__name__}"]
    found = [f"{path} is {value!r}"] if "enum" in part and value not in part["enum"] else []
    if isinstance(value, dict):
        known = part.get("properties", {})
        found += [f"{path}.{name} is missing" for name in part.get("required", []) if name not in value]
        for name, item in value.items():
            inside = known.get(name, part.get("additionalProperties"))
            found += [f"{path}.{name} is not known"] if inside is None else troubles(item, inside, f"{path}.{name}")
    if isinstance(value, list):
        for place, item in enumerate(value):
            found += troubles(item, part["items"], f"{path}[{place}]")
    return found


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and not (isinstance(value, bool) and kind != "boolean")  # type: ignore[arg-type]  # one type or several


def diagnosed(facts: ModelFacts) -> Diagnosis:
    findings, skipped = run(names(), facts)
    return Diagnosis(tuple(findings), tuple(skipped), tuple(names()), facts)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("kind", ["sick", "healthy"])
def test_the_json_of_every_check_is_what_the_schema_says(name: str, kind: str) -> None:
    diagnosis = diagnosed(getattr(load(name), kind)())
    found = json.loads(diagnosis.to_json())
    assert troubles(found, schema()) == []
    assert [each["check"] for each in found["findings"]] == ([name] if kind == "sick" else [])


def test_the_json_of_a_real_model_is_what_the_schema_says() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval()
    batches = [(3 + torch.randn(32, 4), torch.randint(0, 2, (32,))) for _ in range(4)]
    found = json.loads(examine(model, batches, loss=nn.functional.cross_entropy).to_json())
    assert troubles(found, schema()) == []
    assert found["findings"][0]["cost"]["of"] == "loss"
    assert (found["schema"], found["layers"], found["batches"], found["samples"]) == (VERSION, ["1"], 4, 128)


def test_what_is_no_number_is_null() -> None:
    diagnosis = diagnosed(load("wrong_axis").healthy())
    evidence = {"one": Number(float("nan"), "", float("inf")), "two": Number(np.float64("-inf"), "%")}
    finding = Finding("wrong_axis", ("bn",), Severity.NOTE, "It.", evidence, "", Cost("loss", float("nan"), 1.0))
    text = Diagnosis((finding,), (), ("wrong_axis",), diagnosis.facts).to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    found = json.loads(text)
    assert troubles(found, schema()) == []
    assert found["findings"][0]["evidence"]["one"] == {"value": None, "unit": "", "limit": None}
    assert found["findings"][0]["cost"] == {"of": "loss", "now": None, "remedied": 1.0}


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        ({"schema": 2}, "$.schema is 2"),
        ({"healthy": 1}, "$.healthy is a int"),
        ({"samples": True}, "$.samples is a bool"),
        ({"layers": [1]}, "$.layers[0] is a int"),
        ({"new": 1}, "$.new is not known"),
        ({"skipped": [{"check": "a"}]}, "$.skipped[0].reason is missing"),
    ],
)
def test_the_comparison_notices(change: dict[str, Any], trouble: str) -> None:
    found = json.loads(diagnosed(load("wrong_axis").healthy()).to_json())
    assert trouble in troubles({**found, **change}, schema())


def test_the_severities_are_those_of_the_schema_and_every_key_is_described() -> None:
    finding = schema()["properties"]["findings"]["items"]
    assert finding["properties"]["severity"]["enum"] == [str(each) for each in Severity]
    paths = [path for path, _, _ in rows(schema())]
    assert {"findings[].evidence.NAME.limit", "findings[].cost.now", "skipped[].reason", "samples"} <= {*paths}
    assert all(kind and meaning for _, kind, meaning in rows(schema()))


def test_the_file_for_programs_and_the_page_are_in_docs() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    assert json.loads((docs / "diagnosis.schema.json").read_text("utf-8")) == schema()
    page = (docs / "diagnosis_json.md").read_text("utf-8")
    assert all(f"| `{path}` | " in page for path, _, _ in rows(schema()))


ROOT = Path(__file__).resolve().parents[2]


def test_no_promised_name_disappears_within_a_version() -> None:
    """A renamed number or check breaks programs that read the JSON: raise VERSION, then run `make docs`."""
    kept = json.loads((ROOT / diagnosis_page.KEPT).read_text("utf-8"))
    assert kept == {"schema": VERSION, "evidence": {check: sorted(all_) for check, all_ in now().items()}}
    page = (ROOT / "docs/diagnosis_json.md").read_text("utf-8")
    assert all(f"`{name}`" in page for each in kept["evidence"].values() for name in each)


@cache
def now() -> dict[str, list[str]]:
    return diagnosis_page.evidence(ROOT)


@pytest.mark.parametrize("name", names())
def test_a_finding_has_no_number_that_is_not_promised(name: str) -> None:
    promised = now()[name]
    assert promised
    found = [each for each in load(name).check(load(name).sick()) if isinstance(each, Finding)]
    assert found
    assert {number for each in found for number in each.evidence} <= {*promised}


def test_a_renamed_number_stays_promised_until_the_version_grows(tmp_path: Path) -> None:
    checks = tmp_path / "src/normwise/doctor/checks"
    checks.mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (checks / "it.py").write_text('held = Number(1)\nevidence = {"new": held}\nevidence["more"] = Number(2)\n')
    kept = {"schema": 1, "evidence": {"it": ["old"], "gone": ["x"]}}
    (tmp_path / diagnosis_page.KEPT).write_text(json.dumps(kept))
    assert diagnosis_page.promised(tmp_path, 1) == {"gone": ["x"], "it": ["more", "new", "old"]}
    assert diagnosis_page.promised(tmp_path, 2) == {"it": ["more", "new"]}
