"""Faults of the running statistics themselves, put into trained models: found, in the right layer, and nothing else."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normwise
from normwise.doctor import examination
from normwise.doctor.distances import outdone
from normwise.facts import ModelFacts
from tests.doctor.digits import (
    convolutional,
    examined,
    held_out,
    one_dimensional,
    serious,
    train,
    trained,
)


@pytest.mark.parametrize("name", ["2", "5", "9"])
def test_a_mean_that_is_off_is_found_in_its_layer(name: str) -> None:
    model = trained()
    norm = model[int(name)]
    norm.running_mean += 2 * norm.running_var.sqrt()
    found = examined(model)
    assert [check for check, _ in serious(found)] == ["stale_running_statistics"]
    assert found.findings[0].layers[0] == name
    assert found.findings[0].severity == "error"
    cost = found.findings[0].cost
    assert cost is not None
    assert cost.remedied > cost.now


def test_variances_that_are_off_are_found_without_a_loss() -> None:
    model = trained("one-dimensional")
    model[5].running_var /= 25
    found = examined(model, loss=None, metric=None)
    assert serious(found) == [("stale_running_statistics", ("5",))]


def test_the_remedy_of_stale_statistics_heals() -> None:
    model = trained()
    model[5].running_mean += 2 * model[5].running_var.sqrt()
    batches = held_out()
    (remedy,) = [finding.remedy for finding in examined(model).findings if finding.severity == "error"]
    exec(remedy, {"normwise": normwise, "model": model, "batches": batches})  # it is what users paste
    assert serious(examined(model)) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_a_number_that_no_variance_can_be_is_found(value: float) -> None:
    model = trained()
    model[5].running_var[3] = value
    assert serious(examined(model)) == [("non_finite_statistics", ("5",))]


def test_the_start_is_found_and_explains_that_statistics_are_off() -> None:
    model = trained()
    for index in (2, 5):
        model[index].reset_running_stats()
    assert serious(examined(model)) == [("never_updated_statistics", ("2", "5"))]


def test_a_layer_that_is_right_beside_one_that_was_never_updated_stays_unnamed() -> None:
    model = trained("dense")
    model[5].reset_running_stats()
    assert serious(examined(model)) == [("never_updated_statistics", ("5",))]


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_the_other_frameworks_momentum_is_found(momentum: float) -> None:
    torch.manual_seed(0)
    model: Any = convolutional()
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = momentum
    (found,) = serious(examined(train(model, epochs=2)))
    assert found[0] == "inverted_momentum"
    assert {*found[1]} == {"2", "5", "9"}


def test_a_momentum_of_zero_explains_statistics_of_the_start() -> None:
    torch.manual_seed(0)
    model: Any = convolutional()
    model[5].momentum = 0.0
    assert serious(examined(train(model, epochs=2))) == [("zero_momentum", ("5",))]


def test_a_warm_up_that_is_not_over_is_found() -> None:
    torch.manual_seed(0)
    model: Any = one_dimensional()
    for index in (2, 5):
        model[index].momentum = 0.01
    (found,) = serious(examined(train(model, epochs=3)))
    assert found[0] == "unfinished_warm_up"
    assert {*found[1]} <= {"2", "5"}


def test_statistics_of_the_source_with_weights_of_its_successor_are_found() -> None:
    source = trained()
    model = train(copy.deepcopy(source), epochs=3)
    for index in (2, 5, 9):
        model[index].running_mean.copy_(source[index].running_mean * 1)
    torch.manual_seed(1)
    other = train(convolutional(), epochs=3)
    for index in (2, 5, 9):
        other[index].running_mean.copy_(source[index].running_mean)
        other[index].running_var.copy_(source[index].running_var)
    (found,) = serious(examined(other, source_model=source))
    assert found[0] == "statistics_of_other_weights"
    assert {*found[1]} <= {"2", "5", "9"}


def test_an_average_of_models_without_statistics_of_its_own_is_found() -> None:
    torch.manual_seed(0)
    model: Any = convolutional()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for rate in (0.03, 0.3, 0.3):
        train(model, epochs=1, rate=rate)
        averaged.update_parameters(model)
    (found,) = serious(examined(averaged))
    assert found[0] in ("statistics_of_other_weights", "never_updated_statistics")


def test_statistics_that_a_checkpoint_did_not_hold_are_found() -> None:
    source = trained()
    model = copy.deepcopy(source)
    torch.manual_seed(0)
    for index in (5, 9):  # as an unrelated model left them
        model[index].running_mean.normal_()
        model[index].running_var.uniform_(0.5, 2)
    (found,) = serious(examined(model, source_model=source))
    assert found[0] == "statistics_of_other_weights"
    assert {"5", "9"} >= {*found[1]}


def test_another_eps_is_found_where_it_matters_and_only_there() -> None:
    source = trained()
    with torch.no_grad():
        source[1].weight /= 30  # variances near the eps
        source[2].running_mean /= 30
        source[2].running_var /= 900
    model = copy.deepcopy(source)
    for index in (2, 5, 9):
        model[index].eps = 1e-3
    (found,) = serious(examined(model, source_model=source))
    assert found[0] == "changed_eps"
    assert found[1][0] == "2"


def test_bfloat16_is_found_and_float32_is_not() -> None:
    batches = [(x.bfloat16(), y) for x, y in held_out()]
    (found,) = serious(examined(trained().bfloat16(), batches))
    assert found == ("low_precision_statistics", ("2", "5", "9"))
    assert serious(examined(trained())) == []


def test_drift_is_told_from_staleness_by_the_source() -> None:
    model = trained()
    drifted = [(0.3 * x + 0.6, y) for x, y in held_out()]
    without, with_source = serious(examined(model, drifted)), serious(examined(model, drifted, source_model=trained()))
    assert [check for check, _ in without] == ["stale_running_statistics"]
    assert [check for check, _ in with_source] == ["drifted_data"]


@pytest.mark.parametrize("kind", ["convolutional", "residual"])
def test_statistics_that_are_a_little_off_in_every_layer_are_found_by_the_loss_of_all_batches(kind: str) -> None:
    model = trained(kind)
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += 0.35 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
    found = examined(model, held_out(32))
    assert [check for check, _ in serious(found)] == ["stale_running_statistics"]


def test_every_second_batch_is_judged_by_the_statistics_of_the_others_and_the_model_is_as_before() -> None:
    model = trained()
    before = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    facts = facts_of(model, held_out(32))
    crossed = facts.crossed
    assert crossed is not None
    assert len(crossed.losses) == facts.batches
    assert outdone(facts) == 1.0
    assert {name: value.numpy().tobytes() for name, value in model.state_dict().items()} == before
    own = facts.layers[0].own
    assert own is not None
    halves = [own.every_second(half).pooled().mean for half in (0, 1)]
    assert not np.allclose(*halves)
    assert facts_of(model, held_out(128)).crossed is None  # too few batches to judge any by the others


def facts_of(model: nn.Module, batches: Any) -> ModelFacts:
    kept: list[ModelFacts] = []

    def keep(_: Any, facts: ModelFacts) -> tuple[list[Any], list[Any]]:
        kept.append(facts)
        return [], []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination, "run", keep)
        examined(model, batches)
    return kept[0]


def test_what_stands_behind_a_channel_that_explodes_is_not_stale_besides() -> None:
    model = trained()
    with torch.no_grad():
        model[2].weight[3] = 1e4
    assert serious(examined(model)) == [("exploding_channels", ("2",))]
