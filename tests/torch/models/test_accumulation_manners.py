"""Micro-batches side by side, as a guest in a model: what is left behind, and what is said when it cannot be done."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.torch.models.accumulation.accumulate import accumulate_gradients, forward_together


def network() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nt.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[1].forward = model[1].forward  # someone's own
    return model


def loss_of(model: nn.Module, part: Tensor) -> Tensor:
    y: Tensor = model(part)
    return y.pow(4).mean()


def everything(model: nn.Module) -> dict[str, Any]:
    return {
        "bytes": {name: tensor.detach().clone().tolist() for name, tensor in model.state_dict().items()},
        "hooks": {name: [*module._forward_pre_hooks, *module._forward_hooks] for name, module in model.named_modules()},
        "attributes": {name: {*vars(module)} for name, module in model.named_modules()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "grads": [parameter.grad for parameter in model.parameters()],
        "threads": threading.active_count(),
    }


class Fails(nn.Module):
    """A layer that fails in the middle of the model, for one of the parts."""

    def __init__(self, error: type[BaseException], at: int) -> None:
        super().__init__()
        self.error, self.left = error, at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error("no more")
        return x


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_one_part_ends_all_and_leaves_the_model_as_it_was(error: type[BaseException], at: int) -> None:
    model = network()
    model[2] = Fails(error, at)
    before = everything(model)
    with pytest.raises(error, match="no more"):
        accumulate_gradients(model, torch.randn(16, 3).split(4), loss_of)
    assert everything(model) == before


def test_only_gradients_and_statistics_are_different_afterwards() -> None:
    model = network()
    calls: list[int] = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    before = everything(model)
    accumulate_gradients(model, torch.randn(16, 3).split(4), loss_of)
    after = everything(model)
    assert {key for key in before if before[key] != after[key]} == {"bytes", "grads"}
    changed = {key for key, value in before["bytes"].items() if after["bytes"][key] != value}
    assert {key.split(".")[1] for key in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    assert len(calls) == 4  # the layer's hooks are heard for every part


def test_the_same_seed_gives_the_same_step() -> None:
    models = [network(), network()]
    for model in models:
        torch.manual_seed(5)
        accumulate_gradients(model, torch.randn(16, 3).split(4), loss_of)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_compiled_model() -> None:
    torch.compiler.reset()
    model = network()
    del model[1].forward, model[2]
    whole = copy.deepcopy(model)
    compiled: Any = torch.compile(model, backend="eager")
    x = torch.randn(16, 3)
    compiled(x)
    whole(x)
    accumulate_gradients(compiled, x.split(4), loss_of)
    loss_of(whole, x).backward()
    torch.testing.assert_close(model.state_dict(), whole.state_dict())
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_any_structure_of_the_parts() -> None:
    class Two(nn.Module):
        """Takes its inputs by name."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            y: Tensor = self.norm(a) + b
            return y

    x = torch.randn(8, 3)
    model = Two()
    expected = copy.deepcopy(model)(x, x)
    found = forward_together(model, ({"a": part, "b": part, "label": 3} for part in x.split(4)))
    torch.testing.assert_close(torch.cat(found), expected)


class Ways(nn.Module):
    """Goes one way or another, as the data say."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0] > 5:
            return x
        y: Tensor = self.one(x) if x[0, 0] > 0 else self.two(x)
        return y


def refusal(model: nn.Module, parts: Any, **settings: Any) -> str:
    before = everything(model)
    settings = {"loss_fn": loss_of} | settings
    with pytest.raises((NormwiseError, TypeError)) as refused:
        accumulate_gradients(model, parts, **settings)
    assert everything(model) == before
    return str(refused.value)


def test_parts_that_take_different_ways() -> None:
    one, two, none = torch.ones(4, 3), -torch.ones(4, 3), 6 * torch.ones(4, 3)
    assert refusal(Ways(), [one, two]) == (
        "the micro-batches took different ways through the model: number 0 came to 'one' and number 1 came to 'two', "
        "so there is no batch that they are parts of; let all of them go through the same layers."
    )
    assert "number 0 ended and number 2 came to 'two'" in refusal(Ways(), [none, none, two])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints(use_reentrant: bool) -> None:
    class Again(nn.Module):
        """Runs its inside again in the backward."""

        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = checkpoint(self.inside, x, use_reentrant=use_reentrant)
            return y

    model = nn.Sequential(nn.Linear(3, 3), Again())
    assert refusal(model, torch.randn(8, 3).split(4)) == (
        "batch norm '1.inside.1' is inside torch.utils.checkpoint, and a part of a batch that is run again does not "
        "have the other parts at hand: leave the checkpoints out here, or run the whole batch with them, which is as "
        "exact."
    )


def test_what_is_no_batch_in_parts() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    x = torch.randn(8, 3)
    assert refusal(model, []) == "there are no micro-batches, so there is no gradient: pass at least one."
    assert refusal(model, x.split(4), weights=[1.0]) == (
        "weights must hold one number for each of the 2 micro-batches, received 1."
    )
    assert refusal(model, ["a", "b"]) == (
        "a micro-batch holds no tensor to count its samples by: pass weights, the share of each in the loss."
    )
    assert refusal(model, x.split(4), loss_fn=lambda f, part: f(part)) == (
        "loss_fn must give a scalar for each micro-batch, received the shape (4, 3): return its mean."
    )
    assert refusal(model, x.split(4), loss_fn=lambda f, part: f(part).sum().item()) == (
        "loss_fn must give a tensor, received float: return the loss itself."
    )


def test_arguments_that_cannot_be_joined() -> None:
    volume = nn.InstanceNorm2d(2, track_running_stats=True)
    sizes = [torch.randn(1, 2, 3, 3), torch.randn(1, 2, 4, 4)]
    assert refusal(volume, sizes) == (
        "the micro-batches come to InstanceNorm2d with the shapes (1, 2, 3, 3), (1, 2, 4, 4), which it cannot take "
        "together: let them differ in the number of samples only."
    )
    domains = nt.PerDomain(nt.BatchNorm1d(3), ["a", "b"])
    parts = [(torch.randn(4, 3), "a"), (torch.randn(4, 3), "b")]
    message = refusal(domains, parts, loss_fn=lambda f, part: f(part[0], domain=part[1]).sum())
    assert "number 0 came to 'domain_a' and number 1 came to 'domain_b'" in message
    layer = nt.BatchNorm1d(3)
    masks = [(torch.randn(4, 3), torch.ones(4, dtype=torch.bool)), (torch.randn(4, 3), None)]
    assert refusal(layer, masks, loss_fn=lambda f, part: f(part[0], mask=part[1]).sum()) == (
        "the micro-batches call BatchNorm1d with arguments that cannot be joined: give all the same kind."
    )
    assert refusal(layer, masks, loss_fn=lambda f, part: (f(*part) if part[1] is None else f(part[0])).sum()) == (
        "the micro-batches call BatchNorm1d with different arguments: let all give it the same ones."
    )


def without_graph(model: nn.Module, part: Tensor) -> Tensor:
    with torch.no_grad():
        return loss_of(model, part)


def fails_behind(loss: Tensor) -> None:
    loss.backward()
    raise ValueError("no more")


LATE: list[tuple[str, dict[str, Any]]] = [
    ("loss_fn must give a loss with a gradient", {"loss_fn": lambda f, part: loss_of(f, part).detach()}),
    ("loss_fn must give a loss with a gradient", {"loss_fn": without_graph}),
    ("loss_fn must give a scalar", {"loss_fn": lambda f, part: f(part)}),
    ("weights must hold finite numbers, received", {"weights": ["a", 1.0]}),
    ("weights must hold finite numbers, received", {"weights": [1.0, float("nan")]}),
    ("weights must hold finite numbers, received", {"weights": [1.0, None]}),
    ("weights must hold finite numbers, received", {"weights": "ab"}),
    ("weights must hold finite numbers, received", {"weights": 3}),
    ("weights must hold one number for each", {"weights": [1.0]}),
    ("no more", {"backward": fails_behind}),
]


@pytest.mark.parametrize(("words", "given"), LATE)
def test_whatever_fails_and_however_late_no_running_statistic_moves(words: str, given: dict[str, Any]) -> None:
    model = network()
    before = everything(model)["bytes"]
    with pytest.raises(ValueError if words == "no more" else NormwiseError, match=f"^{words}"):
        accumulate_gradients(model, [torch.randn(4, 3)] * 2, **{"loss_fn": loss_of, **given})
    assert everything(model)["bytes"] == before


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_a_call_without_autograd_is_refused_before_anything_runs(block: Any) -> None:
    model = network()
    before = everything(model)
    with block(), pytest.raises(NormwiseError, match=r"^accumulate_gradients needs autograd, received a call inside"):
        accumulate_gradients(model, [torch.randn(4, 3)] * 2, loss_of)
    assert everything(model) == before


def test_weights_may_be_numbers_of_any_library() -> None:
    model = network()
    accumulate_gradients(model, [torch.randn(4, 3)] * 2, loss_of, weights=torch.tensor([0.5, 0.5]))  # type: ignore[arg-type]
    assert model[0].weight.grad is not None
