"""The JSON Schema of what ``Diagnosis.to_json`` writes; docs/diagnosis_json.md and the .json beside it come from it."""

from __future__ import annotations

from typing import Any

VERSION = 1
"""The version of the schema; it grows when a key, a check or a name under ``evidence`` disappears or changes."""

STAYS = (
    "Version 1 begins with release 0.1.0. Within a version no key, no check and no name of a number under `evidence` "
    "disappears, gets another name, or changes its type or its meaning.",
    "What may come at any time: keys, names of checks, names of numbers under `evidence`, units. A reader takes the "
    "keys that it knows and leaves the others.",
    "What may change at any time: the words of `verdict`, `message`, `reason` and `remedy`, limits, and which checks "
    "find what. A program asks for `check`, `severity` and `layers`, not for words.",
    "A key or a name that is to disappear is named in the changelog one release before the version grows.",
)
"""The rules on what may change between releases, and what not."""

_NUMBER: dict[str, Any] = {"type": ["number", "null"]}


def _text(meaning: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": meaning, **more}


def _texts(meaning: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}, "description": meaning}


def _number(meaning: str) -> dict[str, Any]:
    return {**_NUMBER, "description": meaning}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a diagnosis.

    Example:
        >>> sorted(schema()["properties"])[:4]
        ['batches', 'checked', 'findings', 'healthy']
    """
    value = _object(
        value=_number("what was measured; null where it is NaN or infinite"),
        unit=_text("of it; empty for a plain number"),
        limit=_number("what it was held to; null where there is no limit"),
    )
    cost = _object(
        of=_text("whose number it is", enum=["loss", "metric"]),
        now=_number("as the model is; null where it is NaN or infinite"),
        remedied=_number("with the remedy"),
    )
    finding = _object(
        check=_text("the name of the check, which is the bad thing's; `normwise explain CHECK` prints its page"),
        layers=_texts("paths in the model, the guilty one first; empty where it is the model or the data"),
        severity=_text(
            "an error makes results wrong, a warning puts them at risk, a note costs little",
            enum=["error", "warning", "note"],
        ),
        message=_text("one sentence"),
        evidence={
            "type": "object",
            "additionalProperties": value,
            "description": "the name of a number -> the number with its unit and limit",
        },
        remedy=_text("Python that works when pasted, or a comment that says what is left to the user"),
        cost={**cost, "type": ["object", "null"], "description": "of it; null where it could not be measured"},
    )
    skipped = _object(
        check=_text("the name of a check that could not be carried out, or of which a part could not"),
        reason=_text("why, in a clause"),
        part=_text("what of the check was not carried out, in words; empty where all of it was not"),
    )
    top = _object(
        schema={"const": VERSION, "description": "the version of this schema"},
        verdict=_text("one line"),
        healthy={
            "type": "boolean",
            "description": "whether a check was carried out and there is neither an error nor a warning",
        },
        findings={"type": "array", "items": finding, "description": "the most expensive first"},
        skipped={"type": "array", "items": skipped, "description": "what could not be checked"},
        not_measured={
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "what else could not be measured -> why, in a clause; a loss that was never called too",
        },
        checked=_texts("the names of the checks that were asked for, those that were skipped too"),
        layers=_texts("the normalization layers that were examined, in the order of their calls"),
        batches={"type": "integer", "minimum": 0, "description": "how many batches were gone through"},
        samples={"type": "integer", "minimum": 0, "description": "how many samples were in them"},
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A diagnosis of normwise, version {VERSION}",
        **top,
    }


def rows(part: dict[str, Any], path: str = "") -> list[tuple[str, str, str]]:
    """Each key of a schema: its path, its type, and what it means.

    Args:
        part: a schema.
        path: where it stands.

    Example:
        >>> rows(schema())[1]
        ('verdict', 'string', 'one line')
    """
    found = []
    for name, each in part.get("properties", {}).items():
        kind = each.get("type", f"always {each.get('const')}")
        words = " or ".join(kind) if isinstance(kind, list) else kind
        words += f": {', '.join(each['enum'])}" if "enum" in each else ""
        here, inside = f"{path}{name}", f"{path}{name}."
        if "items" in each:
            words += f" of {each['items']['type']}s"
            inside = f"{here}[]."
        if "description" in each:
            found.append((here, words, each["description"]))
        for deeper, end in ((each, inside), (each.get("items", {}), inside)):
            found += rows(deeper, end)
        if isinstance(each.get("additionalProperties"), dict):
            found += rows(each["additionalProperties"], f"{here}.NAME.")
    return found
