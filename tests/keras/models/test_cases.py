"""The reports of users that are re-created in examples/cases/, those of Keras, on each backend."""

from __future__ import annotations

import keras
import pytest

from tests.reported import Case, check

# which of the layers is named first there depends on how a backend draws the weights
CASES = {
    "keras_short_training": Case("unfinished_warm_up", None),
    "keras_nan_variance": Case("non_finite_statistics", "digits/low"),
    "keras_federated": Case("never_updated_statistics", "digits/low"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_doctor_names_the_fault_and_its_remedy_takes_it_away(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = check(name, CASES[name], capsys, monkeypatch, same_numbers=keras.backend.backend() == "torch")
    assert before < after
