"""The page and the JSON Schema of what the doctor writes for programs."""

import ast
import json
import textwrap
from pathlib import Path

from docs.tour import NOTICE

KEPT = Path("docs/diagnosis_evidence.json")
"""The names of numbers that are promised: within a version of the schema, names are added here and none goes."""

# The example in the page.
READING = '''import json
import subprocess
import sys
from pathlib import Path

Path("nets.py").write_text("""
import torch
net = torch.nn.BatchNorm1d(4).eval()
def val():
    return [5 + torch.randn(64, 4) for _ in range(4)]
""")
command = [sys.executable, "-m", "normwise", "doctor", "nets.py:net", "--data", "nets.py:val", "--json"]
done = subprocess.run(command, capture_output=True)
if done.returncode == 2:
    raise SystemExit(done.stderr.decode())

diagnosis = json.loads(done.stdout)
assert diagnosis["schema"] == 1
for finding in diagnosis["findings"]:
    print(finding["severity"], finding["check"], finding["layers"])
'''


def evidence(root: Path) -> dict[str, list[str]]:
    """The names of the numbers that each check can put under ``evidence``, read from its source."""
    files = sorted((root / "src/normwise/doctor/checks").glob("[!_]*.py"))
    return {file.stem: list(dict.fromkeys(_numbers(ast.parse(file.read_text("utf-8"))))) for file in files}


def _numbers(module: ast.Module) -> list[str]:
    """The literal names in ``{name: Number(...)}`` and ``evidence[name] = Number(...)``, also by way of a variable."""
    pairs: list[tuple[ast.expr | None, ast.expr]] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Dict):
            pairs += zip(node.keys, node.values, strict=True)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            pairs.append((node.targets[0].slice, node.value))
    held = {
        target.id
        for node in ast.walk(module)
        if isinstance(node, ast.Assign) and _is_number(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return [
        str(name.value)
        for name, value in pairs
        if isinstance(name, ast.Constant) and (_is_number(value) or (isinstance(value, ast.Name) and value.id in held))
    ]


def _is_number(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "Number"


def promised(root: Path, version: int) -> dict[str, list[str]]:
    """The names that the checks have now, and those that were promised before in this version of the schema."""
    now = evidence(root)
    kept = json.loads((root / KEPT).read_text("utf-8")) if (root / KEPT).exists() else {}
    before: dict[str, list[str]] = kept["evidence"] if kept.get("schema") == version else {}
    return {check: sorted({*now.get(check, ()), *before.get(check, ())}) for check in sorted({*now, *before})}


def diagnosis_pages(root: Path) -> dict[Path, str]:
    """The JSON of the doctor: the schema and the names of numbers for programs, and the page for people."""
    from normwise.doctor import json_schema

    names = promised(root, json_schema.VERSION)
    numbers = "".join(f"| `{check}` | {', '.join(f'`{name}`' for name in each)} |\n" for check, each in names.items())
    schema = json_schema.schema()
    notice = NOTICE.format(source="src/normwise/doctor/json_schema.py")
    rows = "".join(f"| `{path}` | {kind} | {meaning} |\n" for path, kind, meaning in json_schema.rows(schema))
    first = (
        f"`normwise doctor ... --json` and `Diagnosis.to_json()` write one object, version {json_schema.VERSION} of "
        "[this JSON Schema](diagnosis.schema.json). Every diagnosis has all keys. The exit code of the command is 1 if "
        "a finding is an error, and 0 if none is. If the command could not examine the model, the exit code is 2, and "
        "the command prints one sentence to standard error and nothing to standard output."
    )
    page = (
        f"{notice}# The doctor's JSON\n\n{textwrap.fill(first, 120)}\n\n"
        f"| key | type | meaning |\n|---|---|---|\n{rows}\n## What may change\n\n"
        + "".join(f"* {textwrap.fill(line, 118, subsequent_indent='  ')}\n" for line in json_schema.STAYS)
        + "\n## Names of numbers\n\n"
        + textwrap.fill(
            "What each check can put under `evidence`; which of them a finding has depends on what was measured. "
            "[The same for programs](diagnosis_evidence.json).",
            120,
        )
        + f"\n\n| check | names |\n|---|---|\n{numbers}"
        + f"\n## In a program\n\n```python\n{READING}```\n"
    )
    return {
        Path("docs/diagnosis_json.md"): page,
        Path("docs/diagnosis.schema.json"): json.dumps(schema, indent=2) + "\n",
        KEPT: json.dumps({"schema": json_schema.VERSION, "evidence": names}, indent=2) + "\n",
    }
