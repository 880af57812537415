"""Faults of the training loop, seen in some steps on a copy; and loops in which nothing is wrong."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from normwise.doctor import Severity
from tests.doctor.digits import Batches, dense, examined, held_out, images, serious, step, train, trained


def frozen_by_gradient(model: Any) -> Any:
    """The first two norms and all before the second do not learn."""
    for module in model[:6]:
        module.requires_grad_(False)
    return model


def test_a_frozen_layer_whose_statistics_move_is_found() -> None:
    model = frozen_by_gradient(trained()).train()
    assert serious(examined(model, train_step=step)) == [("moving_frozen_layer", ("2", "5"))]


def test_without_steps_its_state_is_a_warning() -> None:
    model = frozen_by_gradient(trained()).train()
    found = examined(model)
    assert serious(found) == [("moving_frozen_layer", ("2", "5"))]
    assert found.findings[0].severity is Severity.WARNING


def test_a_rightly_frozen_layer_is_healthy() -> None:
    def loop(model: nn.Sequential, batch: tuple[Tensor, Tensor]) -> None:
        model.train()
        model[2].eval()
        model[5].eval()
        step(model, batch)

    model = frozen_by_gradient(trained())
    assert serious(examined(model.eval(), train_step=loop)) == []
    model.train()
    model[2].eval()
    model[5].eval()
    assert serious(examined(model, train_step=step)) == []


def test_a_model_in_inference_mode_is_set_to_training_and_what_is_not_known_is_said() -> None:
    found = examined(frozen_by_gradient(trained()).eval(), train_step=step)
    assert serious(found) == []
    assert [each.check for each in found.skipped if "inference mode" in each.reason] == ["moving_frozen_layer"]


def test_learning_with_frozen_statistics_is_a_note() -> None:
    model = trained().train()
    model[5].eval()
    found = examined(model, train_step=step)
    assert serious(found) == []
    assert [finding.layers for finding in found.findings if finding.check == "half_frozen_layer"] == [("5",)]


def test_statistics_that_settings_keep_still_are_found() -> None:
    model = trained().train()
    model[5].track_running_stats = False
    assert serious(examined(model, train_step=step)) == [("half_frozen_layer", ("5",))]


def accumulating(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Four small batches in the place of one."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for x, y in zip(batch[0].split(16), batch[1].split(16), strict=True):
        (cross_entropy(model(x), y) / 4).backward()
    optimizer.step()


def checkpointing(model: nn.Sequential, batch: tuple[Tensor, Tensor]) -> None:
    """Activations are computed twice."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    x = checkpoint(model[:7], batch[0].clone().requires_grad_(), use_reentrant=False)
    cross_entropy(model[7:](x), batch[1]).backward()
    optimizer.step()


def test_several_updates_in_a_step_are_found() -> None:
    model = trained().train()
    (found,) = serious(examined(model, train_step=accumulating))
    assert found[0] == "repeated_updates"
    assert {*found[1]} == {"2", "5", "9"}
    assert serious(examined(model, train_step=checkpointing)) == [("repeated_updates", ("2", "5"))]


def test_a_second_forward_with_paused_statistics_is_healthy() -> None:
    def loop(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        import normwise

        with normwise.paused_statistics(model):
            model(batch[0].flip(0))
        step(model, batch)

    assert serious(examined(trained().train(), train_step=loop)) == []


def test_steps_that_move_no_statistics_are_found() -> None:
    def loop(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        import normwise

        with normwise.paused_statistics(model):
            step(model, batch)

    (found,) = serious(examined(trained().train(), train_step=loop))
    assert found[0] == "missing_updates"
    assert {*found[1]} == {"2", "5", "9"}


def test_batches_of_four_are_too_few_for_features_and_not_for_images() -> None:
    few: Batches = held_out(4, 200)
    assert serious(examined(trained().train(), few, train_step=step)) == [("too_few_values", ("9",))]
    assert serious(examined(trained("one-dimensional").train(), few, train_step=step)) == []


def test_a_last_batch_of_one_is_a_note() -> None:
    found = examined(trained(), held_out(64, 64 * 5 + 1))
    assert serious(found) == []
    assert [each.layers for each in found.findings if each.check == "too_few_values"] == [("9",)]


def test_decay_that_kills_scales_is_found() -> None:
    torch.manual_seed(0)
    model = train(dense(), epochs=10, decay=0.3)
    assert "decayed_scales" in [check for check, _ in serious(examined(model))]


def nothing(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """A step that does nothing."""


def of_another_optimizer(model: nn.Module) -> Any:
    """A step whose optimizer holds the parameters of the model that was there before the copy."""
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def loop(given: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        cross_entropy(given(batch[0]), batch[1]).backward()
        optimizer.step()

    return loop


def of_another_model(model: nn.Module) -> Any:
    """A step that trains the model that was there before the copy, which it ought to leave alone."""
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def loop(_: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad(set_to_none=False)
        cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()

    return loop


NOT_CALLED = "train_step did not call the model that it was given"
NOT_TRAINED = "no parameter of the model that train_step was given changed: build the optimizer from that model"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize(
    ("make", "reason"),
    [(lambda _: nothing, NOT_CALLED), (of_another_model, NOT_CALLED), (of_another_optimizer, NOT_TRAINED)],
    ids=["nothing", "another model", "another optimizer"],
)
def test_steps_that_train_nothing_are_no_healthy_ones(
    make: Any, reason: str, with_gradients: bool, training: bool
) -> None:
    model = trained("dense").train(training)
    if with_gradients:
        cross_entropy(model(images()[0][:64]), images()[1][:64]).backward()
    grads = [each.grad for each in model.parameters()]
    before = [
        *(each.detach().clone() for each in model.state_dict().values()),
        *(each.clone() for each in grads if each is not None),
    ]
    found = examined(model, train_step=make(model), only=["missing_updates", "repeated_updates"])
    assert found.idle
    assert not found.healthy
    assert [(each.check, each.reason) for each in found.skipped] == [
        ("missing_updates", reason),
        ("repeated_updates", reason),
    ]
    assert all(one.grad is other for one, other in zip(model.parameters(), grads, strict=True))
    after = [*model.state_dict().values(), *(each for each in grads if each is not None)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_step_of_parts_of_the_model_or_of_one_that_learns_nothing_was_done() -> None:
    assert examined(trained().train(), train_step=checkpointing).facts.steps is not None
    model = trained("dense").train().requires_grad_(False)

    def forward(given: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        given(batch[0])

    steps = examined(model, train_step=forward).facts.steps
    assert steps is not None
    assert steps.statistics_moved == {"1", "5"}


def test_an_optimizer_that_the_first_step_builds_once_trains_the_model_in_inference_mode() -> None:
    optimizers: list[Any] = []

    def loop(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        if not optimizers:
            optimizers.append(torch.optim.SGD(model.parameters(), 0.01))
        optimizers[0].zero_grad()
        cross_entropy(model(batch[0]), batch[1]).backward()
        optimizers[0].step()

    found = examined(trained("dense").eval(), train_step=loop)
    assert found.facts.steps is not None
    assert serious(found) == []
