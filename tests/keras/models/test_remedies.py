"""Each remedy for a Keras model, pasted as it is printed: it runs, and examining again no longer finds the fault."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

import normwise.keras
from normwise.doctor import Diagnosis, examine
from normwise.doctor.check import left
from tests.keras.calls import values
from tests.keras.models import test_examine_checks as sick
from tests.keras.models.test_examine_checks import SICK, bn_of, data, dense, labels

COMMENTS = {"batch_dependent_output", "dead_channels", "missing_updates", "repeated_updates"}
"""Their remedy in Keras is a comment: what is to be done stands in the user's own code."""
BUILT_AGAIN = {
    "bias_before_normalization", "gradients_lost_in_depth", "low_precision_statistics", "mixed_domains",
    "padding_in_statistics", "wrong_axis",
}  # fmt: skip
"""Their remedy gives a layer or a setting with which the user builds the model again."""
TRAINED_ON = {"decayed_scales"}
"""Their remedy changes the training that follows."""
STAYS_AS_A_NOTE = {"dropout_before_normalization"}
QUICK = {"changed_eps", "stale_running_statistics", "zero_momentum", "low_precision_statistics", "repeated_updates"}
"""The remedies that run on each backend; the others on torch alone, because none of their code asks for the backend."""


def tried(names: set[str]) -> list[str]:
    return sorted(names if keras.backend.backend() == "torch" else names & QUICK)


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    """A remedy may set the policy of all layers that are built afterwards."""
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def case(made: Callable[[], Diagnosis], monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Diagnosis]:
    """The objects that the user of a sick model has at hand, with what ``examine`` was given, and its diagnosis."""
    given: dict[str, Any] = {}

    def recorded(model: Any, batches: Any, **rest: Any) -> Diagnosis:
        given.update(model=model, batches=batches, rest=rest)
        return examine(model, batches, **rest)

    monkeypatch.setattr(sick, "examine", recorded)
    diagnosis = made()
    return at_hand_of(**given), diagnosis


def at_hand_of(model: Any, batches: Any, rest: dict[str, Any]) -> dict[str, Any]:
    """The names that a remedy may use."""
    return {
        "model": model, "batches": batches, "rest": rest, "source_model": rest.get("source_model"),
        "optimizer": keras.optimizers.AdamW(), "normwise": normwise, "keras": keras, "np": np,
    }  # fmt: skip


def cured(at_hand: dict[str, Any], code: str) -> Diagnosis:
    """The diagnosis after the remedy, which is pasted as into a notebook."""
    exec(code, at_hand)
    return examine(at_hand["model"], at_hand["batches"], **at_hand["rest"])


def found(diagnosis: Diagnosis) -> list[str]:
    return [each.check for each in diagnosis.findings]


@pytest.mark.parametrize("name", tried({*SICK} - COMMENTS - BUILT_AGAIN - TRAINED_ON))
def test_a_pasted_remedy_cures_a_keras_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_hand, diagnosis = case(SICK[name], monkeypatch)
    (finding,) = [each for each in diagnosis.findings if each.check == name]
    again = cured(at_hand, finding.remedy)
    if name in STAYS_AS_A_NOTE:
        assert left(name)
        assert again.healthy
    else:
        assert name not in found(again), str(again)
    if name not in ("changed_eps", "drifted_data"):  # which are made of models that differ from their source for more
        assert again.healthy, str(again)


@pytest.mark.parametrize("name", tried(BUILT_AGAIN | TRAINED_ON))
def test_a_remedy_that_leaves_the_rest_to_the_user_runs_and_says_what(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hand, diagnosis = case(SICK[name], monkeypatch)
    (finding,) = [each for each in diagnosis.findings if each.check == name]
    assert ast.parse(finding.remedy).body
    exec(finding.remedy, at_hand)
    assert left(name).endswith(".")


@pytest.mark.parametrize("name", tried(COMMENTS))
def test_a_remedy_in_the_users_own_code_is_a_comment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, diagnosis = case(SICK[name], monkeypatch)
    (finding,) = [each for each in diagnosis.findings if each.check == name]
    assert finding.remedy.startswith("# ")
    assert not ast.parse(finding.remedy).body
    assert "torch" not in finding.remedy
    assert "paused_statistics" not in finding.remedy  # which is for PyTorch
    assert left(name).endswith(".")


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("form", ["arrays", "list", "lists in a list"])
def test_sorted_batches_are_shuffled_in_each_form_that_data_have(form: str, labelled: bool) -> None:
    x = data(512)
    x = x[np.argsort(x[:, 0])]
    y = (x[:, 0] > 0).astype("int64")
    rows: Any = (x, y) if labelled else x
    cut = [keras.tree.map_structure(lambda part, i=i: part[i : i + 32], rows) for i in range(0, 512, 32)]
    kept = copy.copy(cut) if form == "list" else [list(each) if labelled else each for each in cut]
    at_hand = at_hand_of(dense(), rows if form == "arrays" else kept, {})
    (finding,) = examine(dense(), (x, y)).findings
    assert finding.check == "sorted_batches"
    again = cured(at_hand, finding.remedy)
    assert (found(again), again.facts.samples, again.facts.labels is None) == ([], 512, not labelled)


def test_a_last_batch_of_one_sample_is_left_out() -> None:
    at_hand = at_hand_of(dense(), (data(257), labels(257)), {})
    (finding,) = examine(at_hand["model"], at_hand["batches"]).findings
    assert finding.check == "too_few_values"
    again = cured(at_hand, finding.remedy)
    assert (found(again), again.facts.samples) == ([], 256)


def test_scales_that_exploded_get_that_of_the_other_channels() -> None:
    model = dense()
    bn_of(model).gamma.assign(np.where(np.arange(8) == 2, 1e5, 0.5))
    (finding,) = [each for each in examine(model, data()).findings if each.check == "exploding_channels"]
    assert "exploding_channels" not in found(cured(at_hand_of(model, data(), {}), finding.remedy))
    assert values(bn_of(model).gamma) == pytest.approx(0.5)


def test_data_with_targets_are_standardized_and_keep_them() -> None:
    layers = [keras.Input((8,)), keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(2)]
    at_hand = at_hand_of(keras.Sequential(layers, name="m"), (3000 + data(), labels()), {})
    diagnosis = examine(at_hand["model"], at_hand["batches"])
    assert "cancelling_variance" in found(diagnosis)
    again = cured(at_hand, diagnosis.findings[0].remedy)
    assert found(again) == []
    assert (at_hand["batches"][1] == labels()).all()
