"""The reports of users that are re-created in examples/cases/, those of PyTorch."""

from __future__ import annotations

import pytest

from tests.reported import Case, check

CASES = {
    "dummy_forward": Case("stale_running_statistics", None),
    "overflow_batch": Case("non_finite_statistics", "2"),
    "averaged_weights": Case("statistics_of_other_weights", None),
    "ported_momentum": Case("inverted_momentum", None),
    "frozen_backbone": Case("moving_frozen_layer", "2"),
    "batch_size_matters": Case("batch_dependent_output", "9"),
    "large_steps": Case("stale_running_statistics", None, steady=False),  # at its rate, rounding decides where it ends
    "sorted_loader": Case("sorted_batches", "9"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_doctor_names_the_fault_and_its_remedy_takes_it_away(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = check(name, CASES[name], capsys, monkeypatch)
    assert before < after
