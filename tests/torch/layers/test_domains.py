"""Statistics per domain: each domain is a layer for itself, chosen by a block, an argument, a model or a default."""

from __future__ import annotations

import copy
import io
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import normwise
import normwise.torch as nt
from normwise.errors import NormwiseError, UnknownName
from tests.cases import gradients

LAYERS: dict[str, Any] = {
    "torch": lambda: nn.BatchNorm1d(3),
    "fused": lambda: nt.BatchNorm1d(3, activation="relu"),
    "pooled": lambda: nt.BatchNorm1d(3, estimator="pooled"),
    "ghost": lambda: nt.GhostBatchNorm1d(3, virtual_batch_size=4),
    "renorm": lambda: nt.BatchRenorm1d(3),
    "instance": lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
    "without parameters": lambda: nn.BatchNorm1d(3, affine=False),
}


def data(seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn((8, 3, 5), generator=torch.Generator().manual_seed(seed)) + mean


def network(**settings: Any) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nt.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 3, 1), nn.BatchNorm1d(3))
    if settings:
        nt.convert_to_domains(model, **settings)
    return model


def test_one_set_of_torchs_is_wrong_for_both_domains_and_a_set_each_is_right() -> None:
    plain, layer = nn.BatchNorm1d(3), nt.PerDomain(nt.BatchNorm1d(3), ["day", "night"])
    for seed in range(200):
        for name, mean in (("day", -4.0), ("night", 4.0)):
            x = data(2 * seed + (mean > 0), mean)
            plain(x)
            with nt.domain(layer, name):
                layer(x)
    for name, mean in (("day", -4.0), ("night", 4.0)):
        x = data(1000, mean)
        wrong = plain.eval()(x).detach()
        with nt.domain(layer, name):
            right = layer.eval()(x).detach()
        assert float(wrong.mean().abs()) > 1  # of 8 apart: 4 to either side, over a spread that is within each
        assert float(right.mean().abs()) < 0.2
        assert abs(float(right.std()) - 1) < 0.1


@pytest.mark.parametrize("kind", LAYERS)
def test_every_domain_is_a_layer_for_itself(kind: str) -> None:
    first = LAYERS[kind]()
    alone = {name: copy.deepcopy(first) for name in ("a", "b")}
    layer = nt.PerDomain(first, ["a", "b"])
    for seed, name in enumerate("abba"):
        x = data(seed, seed)
        assert torch.equal(layer(x, domain=name), alone[name](x))
    for name, right in alone.items():
        for key, value in right.state_dict().items():
            assert torch.equal(layer.of(name).state_dict()[key], value), key
        assert torch.equal(layer.eval()(data(9), domain=name), right.eval()(data(9)))


def test_residuals_and_masks_are_passed_on() -> None:
    layer, plain = nt.PerDomain(nt.BatchNorm1d(3, activation="relu"), ["a"]), nt.BatchNorm1d(3, activation="relu")
    mask = torch.rand(8, 5) < 0.5
    assert torch.equal(layer(data(0), data(1), mask=mask, domain="a"), plain(data(0), data(1), mask=mask))


def test_gradients_of_shared_parameters_add_up() -> None:
    layer = nt.PerDomain(nt.BatchNorm1d(3), ["a", "b"])
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    total = torch.zeros(3)
    for name in ("a", "b"):
        x = data(ord(name))
        layer(x, domain=name).pow(3).sum().backward()
        plain = nt.BatchNorm1d(3)
        plain(x).pow(3).sum().backward()
        assert plain.weight.grad is not None
        total += plain.weight.grad
    torch.testing.assert_close(layer._parameters["weight"].grad, total)  # type: ignore[union-attr]  # it has one


def test_parameters_of_their_own() -> None:
    source = nt.BatchNorm1d(3)
    layer = nt.PerDomain(source, ["a", "b"], own_affine=True)
    assert len(list(layer.parameters())) == 4
    layer(data(0), domain="a").sum().backward()
    assert layer.of("a").bias.grad is not None
    assert layer.of("b").bias.grad is None
    with torch.no_grad():
        layer.of("a").weight.fill_(7)
    assert torch.equal(layer.of("b").weight, torch.ones(3))
    assert torch.equal(source.weight, torch.ones(3))


def chosen(layer: nt.PerDomain) -> str:
    """The name of the set that a training batch moves."""
    before = {name: int(layer.of(name).num_batches_tracked) for name in layer.domains}
    layer(data(0))
    moved = [name for name in layer.domains if int(layer.of(name).num_batches_tracked) > before[name]]
    assert len(moved) == 1
    return moved[0]


def test_blocks_may_be_inside_one_another_and_end_with_an_error() -> None:
    layer = nt.PerDomain(nt.BatchNorm1d(3), ["a", "b", "c"], default="c")
    assert chosen(layer) == "c"
    with nt.domain(layer, "a"):
        with nt.domain(layer, "b"):
            assert chosen(layer) == "b"
        assert chosen(layer) == "a"
        with pytest.raises(RuntimeError, match="inside"), nt.domain(layer, "b"):
            raise RuntimeError("inside")
        assert chosen(layer) == "a"
        before = int(layer.of("b").num_batches_tracked)
        layer(data(0), domain="b")
        assert int(layer.of("b").num_batches_tracked) == before + 1
    assert chosen(layer) == "c"


def test_every_thread_has_its_own_domain() -> None:
    layer = nt.PerDomain(nt.BatchNorm1d(3), ["a", "b"])
    inside, found = threading.Barrier(2), {}

    def run(name: str) -> None:
        with nt.domain(layer, name):
            inside.wait(timeout=20)  # both are inside their blocks now
            layer.eval()
            found[name] = layer._choice(None)
            inside.wait(timeout=20)

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": "a", "b": "b"}
    with pytest.raises(NormwiseError, match="no domain was chosen"):
        layer(data(0))


def test_errors_name_what_is_known() -> None:
    layer = nt.PerDomain(nt.BatchNorm1d(3), ["day", "night"])
    with pytest.raises(UnknownName) as caught:
        nt.domain(layer, "nigth")
    assert str(caught.value) == "unknown domain 'nigth': did you mean 'night'? Known: day, night."
    with pytest.raises(NormwiseError) as none:
        layer(data(0))
    assert str(none.value) == (
        "no domain was chosen for a layer with the domains day, night: run the model inside "
        "normwise.torch.domain(model, 'day'), or pass domain= to the layer."
    )


WRONG: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: nt.domain(nt.PerDomain(nn.BatchNorm1d(3), ["a"]), 1),  # type: ignore[call-overload]  # on purpose
        TypeError,
        "a domain is a name, received int: pass for example 'night'.",
    ),
    (
        lambda: nt.domain(1, "a"),  # type: ignore[call-overload]  # on purpose
        TypeError,
        "domain needs a torch.nn.Module, received int: pass the model itself.",
    ),
    (
        lambda: nt.domain(nn.Sequential(nn.BatchNorm1d(3)), "a"),
        NormwiseError,
        "Sequential has no layer with statistics per domain: make them with normwise.convert_to_domains, or leave the "
        "block out.",
    ),
    (
        lambda: nt.PerDomain(nn.BatchNorm1d(3, track_running_stats=False), ["a"]),
        ValueError,
        "a layer per domain needs running statistics, and BatchNorm1d keeps none: pass one that keeps them.",
    ),
    (
        lambda: nt.PerDomain(nn.LazyBatchNorm1d(), ["a"]),
        ValueError,
        "a layer per domain needs running statistics, and LazyBatchNorm1d has not seen an input yet: pass one that "
        "keeps them.",
    ),
    (
        lambda: nt.PerDomain(nn.BatchNorm1d(3), "ab"),
        TypeError,
        "domains must be a list of names, received 'ab': pass ['ab'].",
    ),
    (
        lambda: nt.PerDomain(nn.BatchNorm1d(3), []),
        ValueError,
        "domains must hold at least one name, received none: pass for example ['day', 'night'].",
    ),
    (
        lambda: nt.PerDomain(nn.BatchNorm1d(3), ["a", "a"]),
        ValueError,
        "every domain needs a name of its own without a dot, and 'a' is there already: rename it.",
    ),
    (
        lambda: nt.PerDomain(nn.BatchNorm1d(3), ["v1.2"]),
        ValueError,
        "every domain needs a name of its own without a dot, and 'v1.2' cannot be a part of a checkpoint's keys: "
        "rename it.",
    ),
    (
        lambda: nt.PerDomain(nn.BatchNorm1d(3), ["a", 2]),  # type: ignore[list-item]  # on purpose
        TypeError,
        "a domain is a name, received int: pass for example 'night'.",
    ),
    (
        lambda: nt.PerDomain(nn.BatchNorm1d(3), ["a", "b"], default="c"),
        ValueError,
        "unknown domain 'c'; known: a, b.",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_settings(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


def test_a_domain_may_have_the_name_of_a_method() -> None:
    layer = nt.PerDomain(nt.BatchNorm1d(3), ["train", "eval"])
    layer(data(0), domain="train")
    again = nt.PerDomain(nt.BatchNorm1d(3), ["train", "eval"])
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.of("train").running_mean, layer.of("train").running_mean)


def test_a_domain_more_starts_from_another_and_goes_its_own_way() -> None:
    layer = nt.PerDomain(nt.BatchNorm1d(3), ["a"])
    layer(data(0, 3.0), domain="a")
    layer.add("b", like="a")
    assert torch.equal(layer.of("b").running_mean, layer.of("a").running_mean)
    layer(data(1, -3.0), domain="b")
    assert not torch.equal(layer.of("b").running_mean, layer.of("a").running_mean)
    assert layer.of("b").weight is layer.of("a").weight
    with pytest.raises(UnknownName):
        layer.add("c", like="d")


@pytest.mark.parametrize("training", [True, False])
def test_statistics_from_a_domain_for_inference_leave_everything_as_it_was(training: bool) -> None:
    model = network(domains=["a", "b"]).train(training)
    for module in model.modules():
        if isinstance(module, nt.PerDomain):
            for offset, name in enumerate(module.domains):
                module.of(name).running_mean.fill_(1.0 + offset)
    right = copy.deepcopy(nt.convert_from_domains(copy.deepcopy(model), "b").model).eval()(data(0))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with nt.domain(model, "a"):
        with nt.statistics_from(model, "b"):
            torch.testing.assert_close(model(data(0)), right)
        with pytest.raises(RuntimeError, match="inside"), nt.statistics_from(model, "b"):
            raise RuntimeError("inside")
        assert all(module._statistics_from is None for module in model.modules() if isinstance(module, nt.PerDomain))
    assert [module.training for module in model.modules()] == modes
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_statistics_from_an_unknown_domain_change_nothing() -> None:
    model = network(domains=["a", "b"])
    model.append(nt.PerDomain(nt.BatchNorm1d(3), ["a"]))
    with pytest.raises(UnknownName) as caught, nt.statistics_from(model, "b"):
        pass
    assert str(caught.value) == "unknown domain 'b'; known: a."
    assert all(module.training for module in model.modules())
    with pytest.raises(NormwiseError) as none, nt.statistics_from(nn.Sequential(), "b"):
        pass
    assert str(none.value) == (
        "Sequential has no layer with statistics per domain: make them with normwise.torch.convert_to_domains."
    )


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_forward_that_is_run_again_outside_its_block_has_the_domain_of_the_first(reentrant: bool) -> None:
    layer = nt.PerDomain(nt.BatchNorm1d(3), ["a", "b"])
    plain = nt.BatchNorm1d(3)
    layer.eval()  # where the domain decides on the gradient
    layer.of("b").running_var.fill_(4.0)
    plain.eval().running_var.fill_(4.0)  # type: ignore[union-attr]  # it has one
    with nt.domain(layer, "b"):
        x = data(0).requires_grad_()
        y = checkpoint(layer, x, use_reentrant=reentrant)
    with nt.domain(layer, "a"):
        y.pow(2).sum().backward()
    other = data(0).requires_grad_()
    plain(other).pow(2).sum().backward()
    torch.testing.assert_close(*gradients(x, other))
    with nt.domain(layer, "a"):
        layer(data(0))
    assert layer._ran[False] == {"a"}  # what was run again is done with


def test_a_forward_that_is_run_again_does_not_guess_among_domains() -> None:
    layer = nt.PerDomain(nt.BatchNorm1d(3), ["a", "b"])
    total = torch.zeros(())
    for name in ("a", "b"):
        with nt.domain(layer, name):
            total = total + checkpoint(layer, data(0).requires_grad_(), use_reentrant=False).pow(2).sum()
    with pytest.raises(NormwiseError) as caught:
        total.backward()
    assert str(caught.value) == (
        "a forward is run again for its gradients, and the layer ran with the domains a, b since the last backward: "
        "call backward after each domain, or pass domain= to the layer inside what is checkpointed."
    )
    total = torch.zeros(())
    for name in ("a", "b"):
        total = total + checkpoint(layer, data(0).requires_grad_(), domain=name, use_reentrant=False).pow(2).sum()
    total.backward()
    assert int(layer.of("a").num_batches_tracked) == 2


def test_compiled_without_a_break() -> None:
    torch._dynamo.reset()
    model = network(domains=["a", "b"])
    compiled: Any = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    for seed, name in enumerate("abab"):
        with nt.domain(model, name), nt.domain(compiled, name):
            torch.testing.assert_close(compiled(data(seed)), model(data(seed)))
    for mine, theirs in zip(compiled.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs)

    def both(x: Tensor) -> Tensor:
        with nt.domain(model, "a"):
            first = model(x)
        with nt.domain(model, "b"):
            y: Tensor = first + model(x)
        return y

    found = torch.compile(both, backend="aot_eager", fullgraph=True)(data(0))
    torch.testing.assert_close(found, both(data(0)))


def test_recalibrate_inside_a_block_sets_the_statistics_of_that_domain() -> None:
    model = network(domains=["a", "b"])
    batches = [data(seed, 2.0) for seed in range(4)]
    with nt.domain(model, "b"):
        normwise.recalibrate(model, batches)
    first = model[1]
    assert isinstance(first, nt.PerDomain)
    assert bool((first.of("a").running_mean == 0).all())
    torch.testing.assert_close(
        first.of("b").running_mean, model[0](torch.cat(batches)).mean((0, 2)).detach(), rtol=1e-5, atol=1e-5
    )


def test_copies_and_pickles() -> None:
    layer = nt.PerDomain(nt.BatchNorm1d(3), ["a", "b"], default="a")
    layer(data(0))
    with io.BytesIO() as file:
        torch.save(layer, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
    for again in (copy.deepcopy(layer), loaded):
        assert again.of("a").weight is again.of("b").weight is again.weight
        assert again.weight is not layer.weight
        assert torch.equal(again(data(1)), copy.deepcopy(layer)(data(1)))
