"""A diagnosis says once what it could not measure, in text, JSON and page, and makes no number of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from torch.nn.functional import cross_entropy

from normwise.doctor import names
from normwise.doctor.diagnosis import Diagnosis
from normwise.report import diagnosis_text
from tests.doctor.test_bad_input import data, net, pairs, ran

WHOLE = "stale_running_statistics in the model as a whole, where no single layer is far off"
ONLY_X: dict[str, Callable[[], list[Any]]] = {
    "tensors": data,
    "tuples": lambda: [(x,) for x in data()],
    "mappings": lambda: [{"input": x} for x in data()],
}


def never(*_: Any) -> Any:
    raise AssertionError


def texts(diagnosis: Diagnosis) -> dict[str, str]:
    """The diagnosis in each of its forms, each without line ends."""
    console = Console(file=io.StringIO(), width=1000)
    diagnosis_text.show(diagnosis, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    return {"str": str(diagnosis), "text": shown, "json": diagnosis.to_json(), "html": diagnosis.to_html()}


@pytest.mark.parametrize("batches", ONLY_X)
@pytest.mark.parametrize("of", ["loss", "metric"])
@pytest.mark.parametrize("only", [None, ["never_updated_statistics"]])
def test_a_function_that_no_batch_has_targets_for_costs_nothing_and_is_named(
    batches: str, of: str, only: list[str] | None
) -> None:
    model = net()
    model[1].reset_running_stats()  # type: ignore[operator]  # a batch norm
    diagnosis = ran(model, ONLY_X[batches](), only=only, **{of: never})
    assert diagnosis.findings[0].check == "never_updated_statistics"
    assert diagnosis.findings[0].cost is None
    outcomes = (diagnosis.facts.stored, diagnosis.facts.by_batch, diagnosis.facts.recalibrated)
    assert all(each is not None and getattr(each, of) is None for each in outcomes)
    for form, text in texts(diagnosis).items():
        assert text.count(f"the batches have no targets, so that {of} was not called") == 1, form


def test_batches_without_targets_among_others_do_not_dilute_the_loss() -> None:
    some = [*pairs()[:2], *data()[2:]]
    mixed, alone = (ran(net(), batches, loss=cross_entropy).facts.stored for batches in (some, pairs()[:2]))
    assert mixed is not None
    assert alone is not None
    assert mixed.loss == pytest.approx(alone.loss)


def test_the_part_of_a_check_that_needs_a_loss_is_named_without_one() -> None:
    without = ran(net(), pairs())
    assert without.healthy
    for form in ("str", "text"):
        assert WHOLE in texts(without)[form]
    assert WHOLE.replace("_", " ") in texts(without)["html"]
    skipped = {each["check"]: each for each in json.loads(without.to_json())["skipped"]}
    assert skipped["stale_running_statistics"]["reason"] == "no loss was given"
    assert skipped["stale_running_statistics"]["part"] == WHOLE.partition(" ")[2]
    assert WHOLE not in str(ran(net(), pairs(), loss=cross_entropy))


def test_a_check_of_which_a_part_was_left_out_was_carried_out() -> None:
    diagnosis = ran(net(), pairs(), only=["stale_running_statistics"])
    assert [each.what for each in diagnosis.skipped] == [WHOLE]
    assert (diagnosis.idle, diagnosis.healthy, diagnosis.carried_out) == (False, True, 1)
    assert "1 of 1 checks were carried out" in diagnosis.to_html()


def test_the_page_gives_each_reason_why_something_is_unknown_once() -> None:
    page = ran(net(), pairs()).to_html()
    lines = [line for line in page.splitlines() if line.startswith(("<li>Not carried out", "<li>Not measured"))]
    of_the_source = [line for line in lines if "source_model" in line]
    assert len(of_the_source) == 1
    assert not any(line.startswith("<li>Not measured") and "was given" in line for line in lines)


def test_a_diagnosis_of_a_large_model_has_a_short_repr() -> None:
    model = net()
    model[1].running_mean += 3  # type: ignore[operator, assignment]  # a batch norm
    diagnosis = ran(model, pairs())
    assert repr(diagnosis) == (
        "<Diagnosis: 1 error (1 normalization layer, 256 samples), "
        f"{len({each.check for each in diagnosis.skipped})} skipped>"
    )
    assert len(repr(diagnosis)) < 120
    assert len(diagnosis.checked) > len(names()) / 2
