"""Conversion from one set of statistics to one per domain and back: what stays, and what checkpoints hold."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.errors import NormwiseError, UnknownName


class Twice(nn.Module):
    """A network that calls one norm under two names, has one without statistics, and one in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 3, 1)
        self.norm = nt.BatchNorm1d(3, activation="relu")
        self.same = self.norm
        self.others = nn.ModuleList([nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.same(self.norm(self.first(x)))
        for other in self.others:
            y = other(y)
        return y


def trained() -> Twice:
    torch.manual_seed(0)
    model = Twice()
    for seed in range(3):
        model(data(seed, 2.0))
    return model


def data(seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn((8, 3, 5), generator=torch.Generator().manual_seed(seed)) + mean


def test_every_layer_with_statistics_is_converted_once_and_the_outputs_stay() -> None:
    model = trained()
    plain = copy.deepcopy(model)
    norm = model.norm
    found = nt.convert_to_domains(model, ["a", "b"])
    assert found.model is model
    assert found.layers == ["norm", "same", "others.0"]
    assert found.left == {"others.1": "BatchNorm1d keeps none"}
    assert model.norm is model.same
    assert model.norm is not norm
    for name in ("a", "b"):
        with nt.domain(model, name):
            assert torch.equal(model.eval()(data(9)), plain.eval()(data(9)))


def test_domains_share_no_statistics_with_each_other() -> None:
    model = trained()
    nt.convert_to_domains(model, ["a", "b"])
    norm: Any = model.norm
    before = norm.of("b").running_mean.clone()
    with nt.domain(model, "a"):
        model(data(5, -7.0))
    assert torch.equal(norm.of("b").running_mean, before)
    assert not torch.equal(norm.of("a").running_mean, before)


def test_an_optimizer_from_before_still_has_the_parameters() -> None:
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parameters = list(model.parameters())
    nt.convert_to_domains(model, ["a", "b"])
    assert all(mine is theirs for mine, theirs in zip(model.parameters(), parameters, strict=True))
    weight = model.norm.weight.detach().clone()
    with nt.domain(model, "b"):
        model(data(0)).pow(3).sum().backward()
    optimizer.step()
    assert not torch.equal(model.norm.weight, weight)
    norm: Any = model.norm
    assert norm.of("a").weight is norm.of("b").weight is norm.weight


def test_modes_hooks_and_requires_grad_stay() -> None:
    model = trained()
    calls: list[str] = []
    before = model.norm.register_forward_pre_hook(lambda *_: calls.append("before"))
    model.norm.register_forward_hook(lambda *_: calls.append("after"))
    model.norm.register_full_backward_hook(lambda *_: calls.append("back"))
    model.norm.eval().requires_grad_(False)
    nt.convert_to_domains(model, ["a", "b"])
    modes = {name: module.training for name, module in model.named_modules()}
    assert not any(training for name, training in modes.items() if name.startswith("norm"))
    assert all(training for name, training in modes.items() if not name.startswith("norm"))
    assert not model.norm.weight.requires_grad
    x = data(0).requires_grad_()
    with nt.domain(model, "b"):
        model.norm(x).sum().backward()
    assert calls == ["before", "after", "back"]
    before.remove()
    with nt.domain(model, "b"):
        model.norm(x)
    assert calls[3:] == ["after"]
    nt.convert_from_domains(model, "b")
    assert type(model.norm) is nt.BatchNorm1d
    model.norm(x)
    assert calls[4:] == ["after"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_stay_and_statistics_stay_wide(dtype: torch.dtype) -> None:
    model = trained().to(dtype)
    kept = {name: value.dtype for name, value in model.state_dict().items()}
    nt.convert_to_domains(model, ["a", "b"])
    found = model.state_dict()
    for name, value in kept.items():
        key = name if name in found else name.replace("norm.", "norm.domain_a.").replace("same.", "same.domain_a.")
        key = key if key in found else key.replace("others.0.", "others.0.domain_a.")
        assert found[key].dtype is value, name
    model.to(torch.float32)
    norm: Any = model.norm
    assert norm.weight.dtype is torch.float32
    assert norm.of("a").weight is norm.of("b").weight is norm.weight


def test_from_the_meta_device_parameters_stay_shared() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm1d(3))
        nt.convert_to_domains(model, ["a", "b"])
    model.to_empty(device="cpu")
    layer: Any = model[0]
    assert layer.of("a").weight is layer.of("b").weight is layer.weight
    assert len(list(model.parameters())) == 2


def test_a_model_that_is_such_a_layer_itself() -> None:
    found = nt.convert_to_domains(nn.BatchNorm1d(3), ["a"])
    assert isinstance(found.model, nt.PerDomain)
    assert found.layers == [""]
    back = nt.convert_from_domains(found.model, "a")
    assert type(back.model) is nn.BatchNorm1d


def test_back_to_one_domain() -> None:
    model = trained()
    nt.convert_to_domains(model, ["a", "b"])
    for seed in range(5):
        with nt.domain(model, "b"):
            model.train()(data(seed, -3.0))
    with nt.domain(model, "b"):
        right = model.eval()(data(9))
    found = nt.convert_from_domains(model, "b")
    assert found.layers == ["norm", "same", "others.0"]
    assert torch.equal(model.eval()(data(9)), right)
    again = Twice()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(data(9)), right)


def test_on_an_error_the_model_is_as_before() -> None:
    model = trained()
    norm = model.norm
    with pytest.raises(ValueError, match="without a dot"):
        nt.convert_to_domains(model, ["a", "a"])
    assert model.norm is norm
    nt.convert_to_domains(model, ["a", "b"])
    with pytest.raises(UnknownName):
        nt.convert_from_domains(model, "c")
    assert isinstance(model.norm, nt.PerDomain)
    model.others.append(nt.PerDomain(nn.BatchNorm1d(3), ["a"]))
    with pytest.raises(UnknownName):
        nt.convert_from_domains(model, "b")  # two layers have it, the last does not
    assert isinstance(model.norm, nt.PerDomain)


def test_nothing_to_convert_is_an_error() -> None:
    with pytest.raises(NormwiseError) as caught:
        nt.convert_to_domains(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), ["a"])
    assert str(caught.value) == (
        "Sequential has no layer with running statistics (0: BatchNorm1d keeps none): nothing can differ by domain."
    )
    with pytest.raises(NormwiseError) as plain:
        nt.convert_from_domains(nn.Sequential(), "a")
    assert str(plain.value) == "Sequential has no layer with statistics per domain: it is plain already."
    model = trained()
    nt.convert_to_domains(model, ["a"])
    with pytest.raises(NormwiseError, match="it has the domains a already"):
        nt.convert_to_domains(model, ["b"])


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("own_affine", [False, True])
def test_its_own_checkpoints(own_affine: bool, assign: bool) -> None:
    model = nn.Sequential(nt.BatchNorm1d(3, estimator="pooled"))
    nt.convert_to_domains(model, ["a", "b"], own_affine=own_affine)
    for name, mean in (("a", 1.0), ("b", 2.0)):
        model[0](data(0, mean), domain=name)
    state = model.state_dict()
    per_domain = {"running_mean", "running_var", "num_batches_tracked", "running_count"}
    per_domain |= {"weight", "bias"} if own_affine else set()
    wanted = {f"0.domain_{name}.{key}" for name in "ab" for key in per_domain}
    assert set(state) == (wanted if own_affine else wanted | {"0.weight", "0.bias"})
    again = nn.Sequential(nt.BatchNorm1d(3, estimator="pooled"))
    nt.convert_to_domains(again, ["a", "b"], own_affine=own_affine)
    again.load_state_dict(copy.deepcopy(state), assign=assign)
    for key, value in again.state_dict().items():
        assert torch.equal(value, state[key]), key
    layer: Any = again[0]
    assert (layer.of("a").weight is layer.of("b").weight) is not own_affine


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("own_affine", [False, True])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nt.BatchNorm1d], ids=["torch's", "ours"])
def test_a_checkpoint_of_the_plain_model(kind: Any, own_affine: bool, assign: bool) -> None:
    plain: Any = nn.Sequential(nn.Conv1d(3, 3, 1), kind(3))
    plain(data(0, 5.0))
    torch.nn.init.normal_(plain[1].weight)
    model = nn.Sequential(nn.Conv1d(3, 3, 1), kind(3))
    nt.convert_to_domains(model, ["a", "b"], own_affine=own_affine)
    model.load_state_dict(copy.deepcopy(plain.state_dict()), assign=assign)
    for name in ("a", "b"):
        with nt.domain(model, name):
            assert torch.equal(model.eval()(data(1)), plain.eval()(data(1)))
    with nt.domain(model, "a"):
        model.train()(data(2))
    with nt.domain(model, "b"):
        assert torch.equal(model.eval()(data(1)), plain.eval()(data(1)))  # no storage is shared by domains


def test_a_checkpoint_with_other_domains_says_which() -> None:
    model, other = (nn.Sequential(nt.BatchNorm1d(3)) for _ in range(2))
    nt.convert_to_domains(model, ["a", "b"])
    nt.convert_to_domains(other, ["a", "c"])
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(other.state_dict())
    assert '"0.domain_b.running_mean"' in str(caught.value)
    assert '"0.domain_c.running_mean"' in str(caught.value)
    assert "domain_b.weight" not in str(caught.value)  # it is shared, and there
