"""Nothing is found in models that are trained, frozen, folded and evaluated in ordinary ways; and nothing is left."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normwise.doctor import examine
from normwise.errors import CallFailed
from tests.doctor.digits import MODELS, accuracy, examined, held_out, residual, serious, step, train, trained


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", [{}, {"adam": True, "size": 16, "epochs": 2}, {"adam": True, "size": 256, "epochs": 6}])
def test_an_ordinary_training_is_healthy(name: str, how: dict[str, Any]) -> None:
    torch.manual_seed(2)
    model = train(MODELS[name](), **how).train()
    assert serious(examined(model, train_step=step)) == []
    assert serious(examined(model, held_out(66), loss=None, metric=None)) == []  # the last batch has one sample


@pytest.mark.parametrize("size", [16, 66, 400])
def test_the_size_of_the_batches_of_an_evaluation_is_nothing_to_a_healthy_model(size: int) -> None:
    assert serious(examined(trained().eval(), held_out(size))) == []


def test_fine_tuning_behind_frozen_layers_is_healthy() -> None:
    def loop(model: nn.Sequential, batch: tuple[Tensor, Tensor]) -> None:
        model.train()
        model[:5].eval()
        step(model, batch)

    torch.manual_seed(0)
    model = train(residual(), adam=True)
    model[:5].requires_grad_(False)
    batches = held_out()
    for batch in batches[:3]:
        loop(model, batch)
    assert serious(examined(model, train_step=loop)) == []


def test_a_shallow_network_without_norms_is_healthy() -> None:
    torch.manual_seed(0)
    assert serious(examined(train(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))))) == []


def everything(model: nn.Module) -> dict[str, Any]:
    """The state of a model: bytes, modes, what learns, hooks, momentum; and the random state."""
    state: dict[str, Any] = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    for name, module in model.named_modules():
        hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
        state[f"module {name}"] = (module.training, hooks, getattr(module, "momentum", None), sorted(vars(module)))
    for name, parameter in model.named_parameters():
        state[f"parameter {name}"] = (parameter.requires_grad, parameter.data_ptr(), parameter.grad is None)
    return {**state, "random": torch.get_rng_state().numpy().tobytes()}


def mixed() -> Any:
    """A model in training mode with one layer in inference mode and one that does not learn."""
    model = trained().train()
    model[5].eval()
    model[2].requires_grad_(False)
    return model


def test_examining_leaves_every_byte() -> None:
    model = mixed()
    before = everything(model)
    examined(model, train_step=step, source_model=trained())
    assert everything(model) == before


class Stopped(Exception):
    """Raised in the middle."""


@pytest.mark.parametrize("where", ["loss", "metric", "train_step", "forward_fn", "interrupt"])
def test_an_error_in_the_middle_leaves_every_byte(where: str) -> None:
    model = mixed()
    before = everything(model)
    calls = 0

    def stop(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise KeyboardInterrupt if where == "interrupt" else Stopped
        if where == "forward_fn":
            return given[0](given[1][0])
        return nn.functional.cross_entropy(*given) if where in ("loss", "interrupt") else accuracy(*given)

    settings: dict[str, Any] = {where if where != "interrupt" else "loss": stop}
    if where == "train_step":

        def fail(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
            step(model, batch)
            raise Stopped

        settings["train_step"] = fail

    with pytest.raises(KeyboardInterrupt if where == "interrupt" else CallFailed) as caught:
        examine(model, held_out(), **settings)
    assert where == "interrupt" or isinstance(caught.value.__cause__, Stopped)
    assert everything(model) == before


def test_a_step_that_reaches_for_the_model_itself_leaves_every_byte() -> None:
    model = mixed()
    before = everything(model)
    examined(model, train_step=lambda _, batch: step(model, batch))
    after = everything(model)
    assert {name for name in before if before[name] != after[name] and not name.startswith("parameter")} == set()
    assert copy.deepcopy(model) is not model
