"""Arguments of ``examine`` beside model and batches that it cannot work with: one sentence, and nothing is changed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import normwise
from normwise.doctor import names
from tests.doctor.test_bad_input import data, net, pairs, ran, refused

OUTPUTS = (
    "it received outputs that are a float32 tensor of shape (64, 2) and targets that are an int64 tensor of shape "
    "(64,): "
    "pass a function of these two that returns one number."
)


def failing(*_: Any) -> Any:
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize("name", ["loss", "metric"])
def test_a_loss_or_metric_that_raises(name: str) -> None:
    error = refused(net(), pairs(), **{name: failing})
    assert str(error).startswith(f"{name} failed on batch 1: ZeroDivisionError in line ")
    assert str(error).endswith(f"of test_bad_arguments.py: boom; {OUTPUTS}")
    assert isinstance(error.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("name", ["loss", "metric"])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.ones(64), "a float32 tensor of shape (64,): take the mean over the batch."),
        (None, "None: return one number."),
        ("good", "a str: return one number."),
        ((0.5, 1), "a tuple (a float, an int): return one number."),
    ],
    ids=str,
)
def test_a_loss_or_metric_that_returns_no_number(name: str, value: Any, what: str) -> None:
    error = refused(net(), pairs(), **{name: lambda *_: value})
    assert str(error) == f"{name} must return one number for a batch, received {what}"


def test_a_metric_may_return_a_tensor_of_one_number() -> None:
    facts = ran(net(), pairs(), metric=lambda outputs, targets: (outputs.argmax(1) == targets).float().mean()).facts
    assert facts.stored is not None
    assert 0 < facts.stored.metric < 1  # type: ignore[operator]  # it was given


def test_a_loss_without_gradients_is_measured_all_the_same() -> None:
    diagnosis = ran(net(), pairs(), loss=lambda y, t: float(cross_entropy(y, t).detach()))
    assert diagnosis.facts.stored is not None
    assert diagnosis.facts.stored.loss is not None
    assert diagnosis.facts.missing["gradients"].startswith("the loss could not be differentiated ('float' object has")


def test_a_loss_that_is_never_a_number_says_nothing_about_the_model() -> None:
    diagnosis = ran(net(), pairs(), loss=lambda outputs, targets: cross_entropy(outputs, targets) * torch.nan)
    assert diagnosis.healthy, str(diagnosis)
    assert diagnosis.facts.missing["gradients"] == "the loss is NaN or infinite, whatever the statistics are"


def test_a_step_that_raises() -> None:
    error = refused(net(), pairs(), train_step=failing)
    what = "a tuple (a float32 tensor of shape (64, 8), an int64 tensor of shape (64,))"
    assert str(error).startswith(f"train_step failed on batch 1, {what}: ZeroDivisionError in line ")
    assert str(error).endswith(
        "of test_bad_arguments.py: boom; pass a function of the model and a batch that does one step of the optimizer "
        "as your loop does it."
    )


def test_steps_of_a_model_that_cannot_be_copied_are_left_out() -> None:
    model = net()
    model.generator = (number for number in range(3))  # type: ignore[assignment]  # as a user keeps one
    missing = normwise.examine(model, pairs(), train_step=lambda *_: None).facts.missing
    assert missing["steps"].startswith("the model could not be copied (TypeError")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"loss": "mse"}, "loss must be a function of outputs and targets, received 'mse': pass the function itself."),
        ({"metric": 3}, "metric must be a function of outputs and targets, received 3: pass the function itself."),
        (
            {"train_step": torch.ones(2)},
            "train_step must be a function of the model and a batch, received a float32 tensor of shape (2,): pass the "
            "function itself.",
        ),
        (
            {"loss": nn.CrossEntropyLoss},
            "loss must be a function of outputs and targets, received the class CrossEntropyLoss: pass an instance, "
            "CrossEntropyLoss().",
        ),
        (
            {"metric": nn.L1Loss},
            "metric must be a function of outputs and targets, received the class L1Loss: pass an instance, L1Loss().",
        ),
        *(
            (
                {name: torch.optim.SGD},
                f"{name} must be a function of the model and a batch, received the class SGD: pass an instance, SGD().",
            )
            for name in ("train_step", "forward_fn")
        ),
        (
            {"only": ["stale_statistics"]},
            "unknown check 'stale_statistics': did you mean 'stale_running_statistics', 'non_finite_statistics' or "
            f"'low_precision_statistics'? normwise.doctor.names() shows all {len(names())}.",
        ),
        (
            {"allow": "wrong_axes"},
            f"unknown check 'wrong_axes': did you mean 'wrong_axis'? normwise.doctor.names() shows all {len(names())}.",
        ),
        ({"only": []}, "only must name a check, received []: name one, or pass None for all."),
        (
            {"only": "wrong_axis", "allow": ["wrong_axis"]},
            "allow leaves out all checks, received 1 of 1 names: remove some.",
        ),
        ({"only": 3}, "only takes names of checks, received 3: pass a list of them."),
        ({"at_most": 0}, "examine needs at least one batch, received 0: state how many, or None."),
        ({"at_most": "3"}, "examine needs at least one batch, received '3': state how many, or None."),
        (
            {"source_model": "net.pt"},
            "examine, for source_model, needs a torch.nn.Module, as the model is, received the string 'net.pt': build "
            "the model, load its weights, and pass it.",
        ),
        (
            {"source_model": nn.Linear(2, 2, device="meta")},
            "examine, for source_model, needs a model with values, and 'weight' is on the meta device: load its "
            "weights first.",
        ),
    ],
)
def test_wrong_arguments(given: dict[str, Any], sentence: str) -> None:
    assert str(refused(net(), data(), **given)) == sentence


def test_a_source_that_takes_other_batches() -> None:
    error = str(refused(net(), data(), source_model=nn.Linear(5, 2)))
    first, line, rest = re.split(r" in line (\d+) of linear.py: ", error)
    assert int(line) > 0
    assert first == (
        "examine could not run source_model on the batches that the model takes, the first of which is a float32 "
        "tensor of "
        "shape (64, 8): RuntimeError"
    )
    assert rest == (
        "mat1 and mat2 shapes cannot be multiplied (64x8 and 5x2); pass the model that this one was derived from, or "
        "leave source_model out."
    )
