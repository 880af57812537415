"""``adapting``: statistics that follow drifting data, each batch before it is normalized, and how it is undone."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from normwise.errors import NormwiseError, UnknownName
from normwise.torch.models.recalibration.adapt import adapt
from normwise.torch.models.recalibration.adapting import adapting


def network() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nt.BatchNorm2d(3), nn.Dropout()
    )
    model(torch.randn(16, 2, 5, 5))
    return model.eval()


def drift(steps: int, seed: int = 1) -> list[Tensor]:
    """Batches, each a little further away."""
    generator = torch.Generator().manual_seed(seed)
    return [step / 4 + torch.randn(8, 2, 5, 5, generator=generator) for step in range(steps)]


def everything(model: nn.Module) -> dict[str, Any]:
    return {
        "bytes": {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
        "hooks": [[*module._forward_pre_hooks, *module._forward_hooks] for module in model.modules()],
        "attributes": [{*vars(module)} for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "random": torch.get_rng_state().tolist(),
    }


def test_torchs_statistics_do_not_follow_and_training_mode_needs_more_than_one_sample() -> None:
    layer = nn.BatchNorm1d(1, affine=False)
    layer.eval()
    assert [layer(torch.tensor([[day]])).round().item() for day in (0.0, 10.0, 20.0)] == [0, 10, 20]
    layer.train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        layer(torch.tensor([[20.0]]))


def test_ours_follow_one_sample_at_a_time() -> None:
    layer = nn.BatchNorm1d(1, affine=False).eval()
    days = [float(day) for day in range(1, 200)]
    with adapting(layer, prior=4, memory=10):
        outputs = [layer(torch.tensor([[day]])).item() for day in days]
    assert max(outputs) < 3
    assert max(outputs[-50:]) - min(outputs[-50:]) < 0.2  # it has found its distance to the drift


@pytest.mark.parametrize("prior", [0, 1, 5.5])
@pytest.mark.parametrize("memory", [3.0, 40.0, math.inf])
def test_the_statistics_are_those_of_the_formula_after_every_batch(prior: float, memory: float) -> None:
    layer = nn.BatchNorm2d(2, affine=False, dtype=torch.float64).eval()
    source = np.array([0.5, -1.0]), np.array([2.0, 0.3])
    for buffer, value in zip((layer.running_mean, layer.running_var), source, strict=True):
        assert buffer is not None
        buffer.copy_(torch.from_numpy(value))
    batches = [batch.double()[: 3 + step] for step, batch in enumerate(drift(5))]
    with adapting(layer, prior=prior, memory=memory):
        for last, batch in enumerate(batches):
            y = layer(batch)
            seen = [part.numpy() for part in batches[: last + 1]]
            ages = np.cumsum([0, *(len(part) for part in seen[:0:-1])])[::-1]
            weights = np.concatenate(
                [np.full(len(part), np.exp(-age / memory)) for part, age in zip(seen, ages, strict=True)]
            )
            values = np.concatenate(seen).transpose(1, 0, 2, 3).reshape(2, len(weights), 9 + 16)
            share = weights / weights.sum() / 25
            mean = (values * share[:, None]).sum((1, 2))
            var = (((values - mean[:, None, None]) ** 2) * share[:, None]).sum((1, 2))
            number = weights.sum() * 25
            var = var * number / (number - 1)
            n = weights.sum()
            right_mean = (prior * source[0] + n * mean) / (prior + n)
            right_var = (prior * source[1] + n * var) / (prior + n)
            right_var += prior * n / (prior + n) ** 2 * (mean - source[0]) ** 2
            state = layer.state_dict()
            np.testing.assert_allclose(state["running_mean"].numpy(), right_mean, rtol=1e-12)
            np.testing.assert_allclose(state["running_var"].numpy(), right_var, rtol=1e-12)
            expected = (batch.numpy() - right_mean[:, None, None]) / np.sqrt(right_var[:, None, None] + layer.eps)
            np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_with_one_batch_every_layer_meets_what_those_before_it_have_become() -> None:
    streaming, settled = network(), network()
    (batch,) = drift(1)
    report = adapt(settled, [batch], prior=3)
    with adapting(streaming, prior=3) as adaptation, torch.no_grad():
        y = streaming(batch)
        for k in (1, 4):
            torch.testing.assert_close(streaming[k].running_mean, settled[k].running_mean)
            torch.testing.assert_close(streaming[k].running_var, settled[k].running_var)
        torch.testing.assert_close(y, settled(batch))
    found = adaptation.report()
    assert [*found.adapted] == [*report.adapted] == ["1", "4"]
    assert found.adapted["4"].largest == pytest.approx(report.adapted["4"].largest, rel=1e-5)
    assert (found.samples, found.batches) == (8, 1)


def test_afterwards_everything_is_as_before() -> None:
    model = network()
    model[1].running_mean[0] = -0.0
    before = everything(model)
    with adapting(model, prior=4), torch.no_grad():
        for batch in drift(4):
            model(batch)
        assert everything(model)["bytes"] != before["bytes"]
    assert everything(model) == before


@pytest.mark.parametrize("keep", [True, False])
def test_after_an_error_too(keep: bool) -> None:
    model = network()
    before = everything(model)

    def work() -> None:
        with adapting(model, prior=4) as adaptation, torch.no_grad():
            model(drift(1)[0])
            if keep:
                adaptation.keep()
            model(torch.randn(3, 9, 5, 5, generator=torch.Generator()))

    with pytest.raises(RuntimeError):
        work()
    assert everything(model) == before


def test_what_is_kept_stays_until_it_is_taken_back() -> None:
    model = network()
    before = everything(model)
    with adapting(model, prior=4) as adaptation, torch.no_grad():
        model(drift(3)[2])
        adaptation.keep()
        inside = everything(model)["bytes"]
    report = adaptation.report()
    assert everything(model)["bytes"] == inside
    assert {key for key in inside if inside[key] != before["bytes"][key]} == {
        f"{k}.{name}" for k in (1, 4) for name in ("running_mean", "running_var")
    }
    report.undo()
    assert everything(model) == before


def test_reset_forgets_what_came() -> None:
    model = network()
    first, second = drift(2)
    with adapting(model, prior=4) as adaptation, torch.no_grad():
        model(second + 100)
        adaptation.reset()
        assert [*adaptation.report().not_reached] == ["1", "4"]
        after = model(first)
    with adapting(model, prior=4), torch.no_grad():
        torch.testing.assert_close(model(first), after, rtol=0, atol=0)


def test_it_can_be_used_again_but_not_twice_at_once() -> None:
    model = network()
    adaptation = adapting(model, prior=4)
    outputs = []
    for _ in range(2):
        with adaptation, torch.no_grad():
            outputs.append(model(drift(1)[0]))
    assert torch.equal(*outputs)
    with adaptation, pytest.raises(NormwiseError) as refused, adaptation:
        pass
    assert str(refused.value) == "this adaptation is in use already: make another one, or leave the block first."


def test_values_that_are_not_finite_do_not_enter() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(2)).eval()
    x = torch.randn(8, 2)
    x[3, 0] = math.nan
    with adapting(model, prior=4) as adaptation:
        model(x)
        assert model[0].running_mean[0].item() == 0
        assert model[0].running_mean[1].item() == pytest.approx(x[:, 1].mean().item() * 8 / 12, rel=1e-5)
        assert "1 of its calls held NaN or infinity" in str(adaptation.report())


def test_frozen_layers_and_masks() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(2, momentum=0), nt.BatchNorm1d(2)).eval()
    x, mask = torch.randn(6, 2, 4), torch.rand(6, 4) < 0.5
    with adapting(model, prior=0) as adaptation:
        model[1](x, mask=mask)
        counted = x.transpose(1, 2)[mask]
        torch.testing.assert_close(model[1].running_mean, counted.mean(0))
        torch.testing.assert_close(model[1].running_var, counted.var(0))
    assert adaptation.report().skipped == {"0": "it is frozen: its momentum is 0"}


def test_of_several_domains_the_one_that_is_chosen_adapts() -> None:
    model = network()
    nt.convert_to_domains(model, ["a", "b"])
    with nt.domain(model, "b"), adapting(model, prior=4) as adaptation, torch.no_grad():
        model(drift(3)[2])
    report = adaptation.report()
    assert [*report.adapted] == ["1.domain_b", "4.domain_b"]
    assert [*report.not_reached] == ["1.domain_a", "4.domain_a"]


def test_a_compiled_model_adapts() -> None:
    torch.compiler.reset()
    model = network()
    compiled: Any = torch.compile(model, backend="eager")
    (batch,) = drift(1)
    with torch.no_grad():
        compiled(batch)
        with adapting(compiled, prior=4):
            found = compiled(batch)
        with adapting(model, prior=4):
            torch.testing.assert_close(found, model(batch))


def test_gradients_go_through_with_the_statistics_for_constants() -> None:
    model = network()
    (batch,) = drift(1)
    with adapting(model, prior=4):
        x = batch.clone().requires_grad_()
        model(x).square().sum().backward()
        fixed = copy.deepcopy(model)
    z = batch.clone().requires_grad_()
    fixed[1]._forward_pre_hooks.clear()
    fixed[4]._forward_pre_hooks.clear()
    fixed(z).square().sum().backward()
    torch.testing.assert_close(x.grad, z.grad)


def test_training_mode_is_refused_where_it_happens() -> None:
    model = network().train()
    before = everything(model)
    with pytest.raises(NormwiseError) as refused, adapting(model, prior=4):
        model(drift(1)[0])
    assert str(refused.value) == (
        "batch norm '1' is in training mode, in which it normalizes by the batch and adapts to nothing: call "
        "model.eval() before the model is used inside adapting."
    )
    assert everything(model) == before


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"prior": -1},
        "adapting needs a prior of 0 samples or more, received -1: pass for example 16, or math.inf for the "
        "statistics that the model has.",
    ),
    (
        {"memory": 0},
        "adapting needs a memory of more than 0 samples, received 0: pass for example 1000, or leave it out to forget "
        "nothing.",
    ),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_what_is_no_number_of_samples(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NormwiseError) as refused:
        adapting(network(), **settings)
    assert str(refused.value) == message
    with pytest.raises(UnknownName, match="unknown batch norm 'head'"):
        adapting(network(), layers=["head"])


def test_the_front_door_leads_here() -> None:
    model = network()
    with normwise.adapting(model, prior=4, memory=100) as adaptation:
        model(drift(1)[0])
    assert [*adaptation.report().adapted] == ["1", "4"]
    with pytest.raises(TypeError) as refused:
        normwise.adapting([model])  # type: ignore[arg-type]  # on purpose
    assert str(refused.value) == (
        "adapting needs a PyTorch model (torch.nn.Module), received a list: pass one model at a time."
    )
