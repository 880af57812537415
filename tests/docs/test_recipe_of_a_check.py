"""The recipe for a check of the doctor, followed: scales that are far too large."""

from __future__ import annotations

from pathlib import Path

from tests.docs.following import Copy

CHECK = '''"""Scales that are far too large.

What it finds:
    A layer of which every channel has a scale above a thousand.

Why it is bad:
    What follows gets numbers that it was not made for.

How it is measured:
    By the scales.

What to do:
    Clip them, and call ``normwise.recalibrate(model, batches)``.

References:
    None.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.facts import ModelFacts

LIMITS = {"scale": (1000.0, "of a channel", "made up for this example")}
HIDES = ("exploding_channels", "drifted_data", "stale_running_statistics")
ON = True
PROOF = "limits"
REMEDY = (
    "for name in {layers}: model.get_submodule(name).weight.data.clamp_(-1, 1)\\n"
    "normwise.recalibrate(model, batches)"
)


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for each such layer."""
    limit = LIMITS["scale"][0]
    for each in facts.tracked():
        if each.scale is not None and abs(each.scale).min() > limit:
            smallest = Number(float(abs(each.scale).min()), "of the smallest", limit)
            said = f"Every scale of {each.name} is above {limit:g}."
            remedy = REMEDY.format(layers=[each.name])
            yield Finding("oversized_scales", (each.name,), Severity.WARNING, said, {"scale": smallest}, remedy)


def sick() -> ModelFacts:
    """A layer with scales of a million."""
    return model(layer("bn", scale=1e6))


def healthy() -> ModelFacts:
    """A layer with scales of 1."""
    return model(layer("bn"))
'''
ITS_TEST = '''"""Scales that are far too large are found in a trained model, and not in its twin."""

from tests.doctor.digits import examined, serious, trained


def test_oversized_scales() -> None:
    model = trained("dense")
    model[1].weight.data *= 1e6
    assert serious(examined(model)) == [("oversized_scales", ("1",))]
    assert serious(examined(trained("dense"))) == []
'''


def followed(folder: Path) -> Copy:
    """A copy in which every step is taken."""
    copy = Copy(folder, "Add a check of the doctor")
    copy.write("src/normwise/doctor/checks/oversized_scales.py", CHECK)
    copy.write("tests/doctor/test_oversized_scales.py", ITS_TEST)
    first = "def stale_running_statistics() -> Case:\n"
    made = 'def oversized_scales() -> Case:\n    model = trained("dense")\n    norm(model, "1").weight.data *= 1e6\n'
    copy.change("tests/doctor/sick_models.py", first, f"{made}    return case(model)\n\n\n{first}")
    first = '    "padding_in_statistics": padding_in_statistics,\n'
    sick = "lambda: examine(dense(gamma_initializer=keras.initializers.Constant(1e6)), data())"
    entry = f'    "oversized_scales": {sick},\n'
    copy.change("tests/keras/models/test_examine_checks.py", first, entry + first)
    return copy


def test_a_check(tmp_path: Path) -> None:
    copy = followed(tmp_path)
    tests = [f"tests/doctor/test_{name}.py" for name in ("oversized_scales", "exam", "remedies", "json_schema")]
    report = "tests/report/test_diagnosis_page.py"
    copy.check_tests(*tests, report, only="oversized or whose_remedy_does_all", at_least=14)
    said = " ".join(copy.python("-m", "normwise", "explain", "oversized_scales").split())
    assert "Scales that are far too large." in said
    assert "- [Oversized scales](oversized_scales.md): " in copy.pages()["docs/checks/index.md"]


def test_a_check_on_keras(tmp_path: Path) -> None:
    tests = "tests/keras/models/test_examine_checks.py"
    followed(tmp_path).check_tests(tests, only="oversized or tried_on_keras", at_least=2, KERAS_BACKEND="torch")
