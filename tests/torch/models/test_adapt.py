"""``adapt``: what statistics shifted data get, whose they are, and how to undo it; first PyTorch's own layers."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.errors import NormwiseError, UnknownName
from normwise.lab.data.splits import Split, digits
from normwise.lab.networks.dense import Dense, he
from normwise.lab.training.descent import accuracy, train
from normwise.moments import Moments
from normwise.torch.models.recalibration.adapt import adapt
from normwise.torch.models.recalibration.recalibrate import recalibrate


def shifted(split: Split) -> Split:
    """Darker with less contrast, as a photograph of the same paper in bad light would be."""
    return Split(split.images * 0.4 + 0.5, split.labels, split.rows)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Split]:
    """A network on the digits, and test images that are shifted."""
    data = digits(0)
    model: Any = Dense(depth=2, width=64, activation="relu", batch_norm=True, std=he, seed=0)
    for number in range(2):  # the very layers of PyTorch
        model.normalize[number] = nn.BatchNorm1d(64)
    train(model, data.train, rate=0.1, steps=300, batch=64, seed=0)
    assert accuracy(model.eval(), data.test) > 0.95
    return model, shifted(data.test)


def by_the_batch(model: nn.Module, data: Split, size: int) -> float:
    """Accuracy of PyTorch's own layers in training mode, which is what people do at test time."""
    probe = copy.deepcopy(model).train()
    order = data.labels.argsort(stable=True)  # one class after the other, as a camera sees it
    with torch.no_grad():
        guesses = torch.cat([probe(data.images[rows]).argmax(1) for rows in order.split(size)])
    return float((guesses == data.labels[order]).double().mean())


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_bytes(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(torch.signbit(value), torch.signbit(before[name])), name
        assert torch.equal(value, before[name]), name


def test_torch_fails_on_shifted_data_by_its_statistics_and_by_small_batches_and_ours_does_not(
    trained: tuple[Any, Split],
) -> None:
    model, data = copy.deepcopy(trained[0]), trained[1]
    source = accuracy(model, data)
    large, small = by_the_batch(model, data, 45), by_the_batch(model, data, 4)
    adapt(model, data.images.split(45))
    adapted = accuracy(model, data)
    assert adapted > source + 0.2
    assert adapted > max(large, small) + 0.2
    assert adapted > 0.9


def test_few_samples_are_enough_with_a_prior(trained: tuple[Any, Split]) -> None:
    found = {}
    for prior in (0, 4):
        model = copy.deepcopy(trained[0])
        adapt(model, [trained[1].images[:4]], prior=prior)
        found[prior] = accuracy(model, trained[1])
    assert found[4] > found[0]


def network() -> Any:
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nt.BatchNorm2d(3), nn.Dropout()
    )
    model(torch.randn(16, 2, 5, 5))
    return model


BATCHES = list(torch.randn(22, 2, 5, 5, generator=torch.Generator().manual_seed(1)).mul(2).add(1).split(8))


def test_mean_and_total_variance_are_those_of_the_formula_in_every_layer() -> None:
    model = network()
    sources = {k: (model[k].running_mean.double(), model[k].running_var.double()) for k in (1, 4)}
    adapt(model, BATCHES, prior=10)
    probe = copy.deepcopy(model).eval().double()
    for k, (mean, var) in sources.items():
        with torch.no_grad():
            x = probe[:k](torch.cat(BATCHES).double()).transpose(0, 1).flatten(1)
        target = Moments(x.mean(1), x.var(1), 22)
        right = Moments(mean, var, 10).merge(target)
        torch.testing.assert_close(probe[k].running_mean, right.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(probe[k].running_var, right.var, rtol=1e-5, atol=1e-5)


def test_an_infinite_prior_is_the_source_byte_for_byte() -> None:
    model = network()
    model[1].running_mean[0] = -0.0
    before = state(model)
    adapt(model, BATCHES, prior=math.inf)
    assert_bytes(model, before)


def test_no_prior_is_recalibrate() -> None:
    model, other = network(), network()
    adapt(model, BATCHES, prior=0)
    recalibrate(other, BATCHES)
    for k in (1, 4):
        torch.testing.assert_close(model[k].running_mean, other[k].running_mean)
        torch.testing.assert_close(model[k].running_var, other[k].running_var)


def test_one_sample_of_one_value_adapts_with_a_prior_and_not_without() -> None:
    layer = nn.BatchNorm1d(1)
    report = adapt(layer, [torch.tensor([[4.0]])], prior=3)
    assert [*report.adapted] == [""]
    torch.testing.assert_close(layer.running_mean, torch.tensor([1.0]))
    torch.testing.assert_close(layer.running_var, torch.tensor([0.75 + 16 * 3 / 16]))
    assert adapt(layer, [torch.tensor([[4.0]])], prior=0).adapted == {}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_channel_whose_statistics_were_lost_has_no_prior(wrong: float) -> None:
    layer: Any = nn.BatchNorm1d(2)
    layer.running_mean[0] = wrong
    x = torch.randn(8, 2)
    adapt(layer, [x], prior=8)
    torch.testing.assert_close(layer.running_mean, torch.stack((x[:, 0].mean(), x[:, 1].mean() / 2)))
    torch.testing.assert_close(layer.running_var[0], x[:, 0].var())


def test_undo_gives_every_byte_back_and_only_once() -> None:
    model = network()
    before = state(model)
    report = adapt(model, BATCHES)
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    report.undo()
    assert_bytes(model, before)
    with pytest.raises(NormwiseError) as refused:
        report.undo()
    assert str(refused.value) == "this adaptation was undone already: call adapt again for another."


def test_at_the_end_of_a_block_all_is_as_before_also_after_an_error() -> None:
    model = network()
    before = state(model)

    def work() -> None:
        with adapt(model, BATCHES):
            assert not torch.equal(model[1].running_mean, before["1.running_mean"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert_bytes(model, before)


def test_an_error_in_the_data_leaves_modes_hooks_random_state_and_bytes() -> None:
    model = network().train()
    before, random = state(model), torch.get_rng_state()
    with pytest.raises(RuntimeError):
        adapt(model, [*BATCHES, torch.randn(3, 9, 5, 5, generator=torch.Generator())])
    assert_bytes(model, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("way", ["argument", "block"])
def test_of_several_domains_only_the_one_is_touched(way: str) -> None:
    model = network()
    model[4] = nt.convert_to_domains(model[4], ["a", "b"]).model
    before = state(model)
    if way == "argument":
        report = adapt(model, BATCHES, domain="b")
    else:
        with nt.domain(model, "b"):
            report = adapt(model, BATCHES)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"4.domain_b.running_mean", "4.domain_b.running_var"}
    assert [*report.adapted] == ["4.domain_b"]
    assert report.skipped == {
        "1": "it has no statistics per domain: name it in layers to adapt it for all of them",
        "4.domain_a": "it has the statistics of another domain",
    }
    report.undo()
    assert_bytes(model, before)


def test_a_domain_that_is_not_there_is_refused() -> None:
    model = network()
    with pytest.raises(NormwiseError) as refused:
        adapt(model, BATCHES, domain="b")
    assert str(refused.value) == (
        "adapt was asked for the domain 'b', and Sequential has no layer with statistics per domain: "
        "make them with normwise.torch.convert_to_domains, or leave domain out."
    )
    nt.convert_to_domains(model, ["day", "night"])
    with pytest.raises(UnknownName, match="unknown domain 'nigth'"):
        adapt(model, BATCHES, domain="nigth")


@pytest.mark.parametrize("prior", [-1, math.nan])
def test_a_prior_that_is_no_number_of_samples_is_refused(prior: float) -> None:
    with pytest.raises(NormwiseError) as refused:
        adapt(network(), BATCHES, prior=prior)
    assert str(refused.value) == (
        f"adapt needs a prior of 0 samples or more, received {prior}: "
        "pass for example 16, or math.inf for the statistics that the model has."
    )


def test_the_report_says_what_was_done() -> None:
    report = adapt(network(), BATCHES, prior=10)
    assert ([*report.adapted], report.samples, report.batches) == (["1", "4"], 22, 3)
    first = str(report).splitlines()[0]
    assert first == "2 of 2 batch norms adapted to 22 samples in 3 batches, with a prior of 10"
