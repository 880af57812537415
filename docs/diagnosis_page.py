"""The page and the JSON Schema of what the doctor writes for programs."""

import json
import textwrap
from pathlib import Path

from docs.tour import NOTICE

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


def diagnosis_pages() -> dict[Path, str]:
    """The JSON of the doctor: the schema for programs, and the page for people."""
    from normwise.doctor import json_schema

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
        + f"\n## In a program\n\n```python\n{READING}```\n"
    )
    return {
        Path("docs/diagnosis_json.md"): page,
        Path("docs/diagnosis.schema.json"): json.dumps(schema, indent=2) + "\n",
    }
