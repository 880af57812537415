"""``swap`` to layers that normalize in another way: what stays, and where calibrated layers start from."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.reports.swap_report import Swap
from normwise.torch.models.conversion.domains import convert_to_domains
from normwise.torch.models.conversion.freeze import freeze
from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.fusion.fuse import fuse
from tests.torch import networks_to_fuse
from tests.torch.every_layer import CASES
from tests.torch.models.test_swap import prepared, whole_of
from tests.torch.networks_to_swap import images

CALIBRATED: dict[str, dict[str, Any]] = {"group": {"num_groups": 2}, "layer": {}, "instance": {}}
SAME: dict[str, dict[str, Any]] = {
    "ghost": {"num_splits": 2},
    "renorm": {},
    "sync": {},
    "domains": {"domains": ["day", "night"], "domain": "day"},
}


def moments(model: nn.Module, batches: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of what each layer puts out before its activation, per channel, in inference mode."""
    found: dict[str, list[Tensor]] = {}
    twin = copy.deepcopy(model).eval()
    for name, module in twin.named_modules():
        if isinstance(module, nn.GroupNorm | nn.modules.batchnorm._NormBase):
            if hasattr(module, "activation"):
                assert module.activation is None
            module.register_forward_hook(lambda _m, _x, y, name=name: found.setdefault(name, []).append(y.clone()))
    with torch.no_grad():
        for batch in batches:
            twin(batch)
    joined = {name: torch.cat(outputs).transpose(0, 1).flatten(1) for name, outputs in found.items()}
    return {name: (values.mean(1), values.var(1, correction=0)) for name, values in joined.items()}


@pytest.mark.parametrize("to", CALIBRATED)
@pytest.mark.parametrize("name", ["resnet18", "vgg", "densenet"])
def test_calibrated_layers_start_from_the_moments_that_were(to: str, name: str) -> None:
    model = prepared(getattr(networks_to_fuse, name))
    if name == "vgg" and to == "instance":
        model = model[0]  # one value per channel has no instance norm
    parameters = dict(model.named_parameters())
    batches = [images(seed, samples=5 + seed) for seed in range(3)]
    with torch.no_grad():
        before = [copy.deepcopy(model).eval()(batch) for batch in batches]
    wanted = moments(model, batches)
    report = swap(model, to, calibrate=iter(batches), **CALIBRATED[to])
    assert report.skipped == {}
    assert report.not_reached == ()
    assert [*report.swapped] == [*wanted] or {*report.swapped} == {*wanted}
    found = moments(model, batches)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)
    assert all(parameter is parameters[key] for key, parameter in model.named_parameters())
    assert parameters.keys() == dict(model.named_parameters()).keys()
    with torch.no_grad():
        after = [copy.deepcopy(model).eval()(batch) for batch in batches]
    difference = torch.cat(after) - torch.cat(before)
    assert math.isclose(report.output_change, float(difference.norm() / torch.cat(before).norm()), rel_tol=1e-9)
    assert report.output_change < report.uncalibrated_change
    model.train()(batches[0]).sum().backward()


@pytest.mark.parametrize("to", SAME)
@pytest.mark.parametrize("fused", [False, True])
def test_other_ways_of_training_leave_inference_as_it_is(to: str, fused: bool) -> None:
    model = prepared(networks_to_fuse.resnet18)
    if fused:
        fuse(model)
    x = images(0)
    with torch.no_grad():
        before = copy.deepcopy(model).eval()(x)
    parameters = dict(model.named_parameters())
    report = swap(model, to, calibrate=[x], **SAME[to])
    assert len(report.swapped) == 10
    assert report.output_change < 1e-12
    assert math.isnan(report.uncalibrated_change)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(model).eval()(x), before, rtol=1e-10, atol=1e-10)
    model.train()(x).sum().backward()
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(parameter is parameters[key] for key, parameter in model.named_parameters())
    assert {*swap(model, to, **SAME[to]).skipped} == {*report.swapped}
    if fused and to != "domains":
        assert model.layer1[0].bn1.activation == "relu"


def test_domains_are_a_list_of_names_too() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    assert str(swap(model, ["day", "night"])).splitlines()[1] == (
        "  swapped      0: torch BatchNorm1d -> normwise PerDomain: day, night, which start from the same statistics"
    )
    theirs = convert_to_domains(nn.Sequential(nn.BatchNorm1d(3)), ["day", "night"]).model
    assert [*model.state_dict()] == [*theirs.state_dict()]
    model.load_state_dict(theirs.state_dict())
    swap(model, domain="day")
    assert [*model.state_dict()] == [*nn.Sequential(nn.BatchNorm1d(3)).state_dict()]


@pytest.mark.parametrize(
    ("channels", "asked", "words"),
    [
        (64, None, "32 groups of 2 channels"),
        (24, None, "12 groups of 2 channels"),
        (7, None, "1 group of 7 channels"),
        (1, None, "1 group of 1 channel"),
        (8, 8, "8 groups of 1 channel"),
        (24, 32, "24 groups of 1 channel; 32 do not divide 24"),
        (10, 4, "2 groups of 5 channels; 4 do not divide 10"),
    ],
)
def test_the_number_of_groups_divides_the_channels(channels: int, asked: int | None, words: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(channels))
    assert swap(model, "group", num_groups=asked).swapped["0"] == Swap("torch BatchNorm2d", "normwise GroupNorm", words)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("to", [*CALIBRATED, *SAME])
def test_every_layer_is_swapped_or_says_why_not(name: str, to: str) -> None:
    case = CASES[name]
    layer = case.make()
    layer(case.input())
    model = nn.Sequential(layer)
    keys, state = dict(model.named_parameters()), whole_of(model)
    report = swap(model, to, calibrate=None, **{**CALIBRATED, **SAME}[to])
    if report.skipped:
        (why,) = report.skipped.values()
        assert why
        assert whole_of(model) == state
    else:
        model(case.input()).sum().backward()
        model.eval()(case.input())
        assert dict(model.named_parameters()).keys() == keys.keys()
    again = swap(model, to, **{**CALIBRATED, **SAME}[to])
    assert again.swapped == {}, "there is nothing left to be done"


def test_single_values_are_not_normalized_by_themselves() -> None:
    rows, sequences = torch.randn(6, 4), torch.randn(6, 4, 3)
    unknown = "an instance norm takes (N, C) for one sample of (C, L), and of which shape its inputs are shows in "
    unknown += "batches only: pass calibrate=, or swap it to 'layer'"
    single = "its inputs are (N, C), where every group of one channel of a sample is a single value"
    for kind in (nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nt.BatchNorm1d(4)):
        model = nn.Sequential(kind)
        assert swap(model, "instance").skipped == {"0": unknown}
        assert swap(model, "instance", calibrate=[rows]).skipped == {"0": single}
        assert swap(model, "group", num_groups=4, calibrate=[rows]).skipped == {"0": single}
        assert swap(model, "instance", calibrate=[sequences]).swapped["0"].became == "normwise InstanceNorm1d"
        model(sequences)
    column = nn.Sequential(nn.BatchNorm1d(1))
    assert swap(column, "layer", calibrate=[rows[:, :1]]).skipped == {"0": single}


class Twice(nn.Module):
    """A layer that is called twice, and one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.unused, self.bare = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.norm(self.conv(x))
        return {"one": self.norm(2 * y + 1), "two": self.bare(y), "of": torch.arange(3)}


def test_what_cannot_be_calibrated_is_named() -> None:
    model = prepared(Twice)
    batches = [images(0), images(1)]
    wanted = moments(model, batches)
    report = swap(model, "layer", calibrate=[(batch, torch.zeros(6)) for batch in batches])
    assert report.not_reached == ("unused",)
    assert report.swapped["bare"].words.endswith("; it has no scale and shift to be calibrated by")
    assert str(report).splitlines()[0] == "3 of 3 normalization layers swapped, 1 not reached"
    assert "  not reached  unused: it starts uncalibrated" in str(report)
    torch.testing.assert_close(moments(model, batches)["norm"], wanted["norm"], rtol=0.3, atol=0.1)


def test_calibrating_changes_nothing_else() -> None:
    model = prepared(lambda: nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))
    model[3].eval()
    random = torch.get_rng_state()
    swap(model, "group", layers=["1"], calibrate=[images(0)])
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model] == [True, True, True, False]
    assert model[3].num_batches_tracked == 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(not module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("make", [networks_to_fuse.resnet18, networks_to_fuse.densenet])
def test_an_error_while_calibrating_leaves_every_byte(make: Callable[[], nn.Module]) -> None:
    model = prepared(make)
    before = whole_of(model)
    with pytest.raises(RuntimeError, match=r"channels|elements"):
        swap(model, "group", calibrate=[images(0), torch.randn(2, 5, 8, 8, dtype=torch.float64)])
    with pytest.raises(TypeError):
        swap(model, "group", calibrate=images(0))
    assert whole_of(model) == before


def test_kept_activations_and_reasons() -> None:
    model: Any = nn.Sequential(
        nt.BatchNorm2d(4, activation="relu"), nn.LayerNorm([8, 8]), nt.IterativeNorm2d(4), nn.SyncBatchNorm(4)
    )
    swap(model, "group", layers=["0"])
    assert (model[0].activation, model[0].training) == ("relu", True)
    reasons = swap(model, "ghost", virtual_batch_size=4).skipped
    assert dict(reasons) == {
        "0": "a GroupNorm has no statistics of batches that a ghost norm could go on with",
        "1": "a LayerNorm has no statistics of batches that a ghost norm could go on with",
        "2": "an IterativeNorm2d has no statistics of batches that a ghost norm could go on with",
        "3": "it is synchronized: make it plain with convert_from_synchronized first",
    }
    scale = "its scale and shift are one for each of 8 x 8 elements, and not one for each channel"
    assert swap(model, "instance", layers=["1"]).skipped["1"] == scale


def test_what_is_not_finite_is_refused_and_leaves_every_byte() -> None:
    model = prepared(networks_to_fuse.resnet18)
    before = whole_of(model)
    spoilt = images(0)
    spoilt[0, 0, 0, 0] = float("nan")
    with pytest.raises(NormwiseError, match="puts out NaN or infinite values: leave such samples out of calibrate"):
        swap(model, "group", calibrate=[images(0), spoilt])
    assert whole_of(model) == before


def test_a_scale_that_another_layer_has_too_is_not_calibrated() -> None:
    model: Any = prepared(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    model[2].weight = nn.Parameter(model[1].weight.detach())  # the same memory
    before = model[1].weight.detach().clone()
    report = swap(model, "group", calibrate=[images(0)], num_groups=2)
    words = "2 groups of 2 channels; it is not calibrated, because its scale or shift is another layer's too"
    assert [each.words for each in report.swapped.values()] == [words, words]
    assert torch.equal(model[1].weight, before)


@pytest.mark.parametrize("to", ["torch", "normwise", "group", "ghost"])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nt.BatchNorm2d], ids=["torch", "normwise"])
def test_a_frozen_layer_says_that_it_is_frozen(kind: type[nn.Module], to: str) -> None:
    model = nn.Sequential(kind(4))
    freeze(model)
    report = swap(model, to, num_splits=2 if to == "ghost" else None)
    assert dict(report.skipped) == {"0": "normwise.freeze froze its statistics: unfreeze it before"}


def test_the_own_layers_of_the_other_framework_are_not_to_be_had() -> None:
    with pytest.raises(NormwiseError, match="swap to 'keras' is for a model of that framework: for this one, pass to="):
        swap(nn.Sequential(nt.BatchNorm2d(4)), "keras")
