"""Faults of the training loop, seen in some steps on a copy; and loops in which nothing is wrong."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from normwise.doctor import Severity
from tests.doctor.digits import Batches, dense, examined, held_out, serious, step, train, trained


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
