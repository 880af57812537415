"""A member of a stack is the network that it stands for, trained alone."""

from __future__ import annotations

import math

import pytest
import torch

from normwise.lab.data.splits import digits
from normwise.lab.networks.dense import Dense, he
from normwise.lab.networks.stack import Ghost, Normalization, Stack, batch_norm
from normwise.lab.training.descent import train
from normwise.lab.training.stacks import accuracies, correct, losses, train_stack
from normwise.torch import GhostBatchNorm1d


def stack(members: int, normalize: Normalization | None = batch_norm, **settings: object) -> Stack:
    made = {"depth": 2, "width": 16, "activation": "relu", "std": he, "seed": 3} | settings
    return Stack(members, normalize=normalize, **made)  # type: ignore[arg-type]  # a dictionary has no types by key


@pytest.mark.parametrize("with_batch_norm", [False, True])
def test_each_member_learns_as_the_network_alone_at_its_rate(with_batch_norm: bool) -> None:
    data = digits(0)
    together = stack(2, batch_norm if with_batch_norm else None)
    train_stack(together, data.train, rates=(0.1, 0.5), steps=30, batch=20, seed=5)
    together.eval()
    for member, rate in enumerate((0.1, 0.5)):
        alone = Dense(depth=2, width=16, activation="relu", batch_norm=with_batch_norm, std=he, seed=3)
        train(alone, data.train, rate=rate, steps=30, batch=20, seed=5)
        alone.eval()
        expected = alone(data.test.images)
        torch.testing.assert_close(together(data.test.images)[member].T, expected, rtol=1e-3, atol=1e-3)


def test_the_penalty_and_the_schedule_are_each_members_own() -> None:
    data = digits(0)
    together = stack(3, None)
    begin = together.weights[0].detach().clone()
    schedule = torch.tensor([1.0, 1.0, 0.0])
    train_stack(
        together, data.train, rates=(0.1,) * 3, steps=1, batch=20, seed=5, decay=(0.0, 0.5, 0.0),
        schedule=lambda _: schedule,
    )  # fmt: skip
    end = together.weights[0].detach()
    torch.testing.assert_close(end[1], end[0] - 0.1 * 0.5 * begin[1])
    assert torch.equal(end[2], begin[2])


def test_scales_multiply_the_hidden_weights_and_leave_the_readout() -> None:
    first, _, readout = stack(2, None, scales=(1.0, 10.0)).weights
    torch.testing.assert_close(first[1], 10 * first[0])
    assert torch.equal(readout[0], readout[1])


def test_dropout_is_each_members_own_and_only_in_training() -> None:
    together = stack(2, None, dropout=(0.0, 0.5))
    images = digits(0).train.images[:20]
    together.eval()
    calm = together(images)
    assert torch.equal(calm[0], calm[1])
    together.train()
    shaken = together(images)
    assert torch.equal(shaken[0], calm[0])
    assert not torch.allclose(shaken[1], calm[1])


def test_behind_the_activation_the_units_are_normalized() -> None:
    together = stack(1, after=True)
    seen = []
    together.normalize[0].register_forward_hook(lambda *found: seen.append((found[1][0], found[2])))
    together(digits(0).train.images[:50])
    ((before, behind),) = seen
    assert float(before.detach().min()) == 0
    assert float(behind.detach().mean(dim=2).abs().max()) < 1e-5


def test_ghost_is_the_layer_of_its_name_by_parts() -> None:
    ghost, layer = Ghost(6, 5), GhostBatchNorm1d(6, virtual_batch_size=5)
    x = torch.randn(20, 6)
    torch.testing.assert_close(ghost(x.T[None].contiguous())[0].T, layer(x))
    torch.testing.assert_close(ghost.layer.running_var, layer.running_var)


def test_one_that_diverges_leaves_the_others_alone_and_guesses() -> None:
    data = digits(0)
    together, alone = stack(2, None), stack(1, None)
    finite = train_stack(together, data.train, rates=(0.1, 1e9), steps=30, batch=20, seed=5)
    train_stack(alone, data.train, rates=(0.1,), steps=30, batch=20, seed=5)
    assert finite == [True, False]
    assert accuracies(together, data.test)[0] == accuracies(alone, data.test)[0] > 0.2
    assert accuracies(together, data.test)[1] == 0.1


def test_looks_come_when_asked_for_and_training_goes_on() -> None:
    seen: list[int] = []
    together = stack(1)
    train_stack(together, digits(0).train, rates=(0.1,), steps=5, batch=20, seed=0, look=seen.append,
                look_at=frozenset({2, 4}))  # fmt: skip
    assert seen == [2, 4]
    assert together.training


def test_losses_and_right_answers_by_hand() -> None:
    logits = torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[math.nan, 0.0], [0.0, 0.0]]])
    labels = torch.tensor([1, 0])
    assert losses(logits, labels)[0].item() == pytest.approx((math.log(2) + math.log1p(math.exp(-2))) / 2)
    assert correct(logits, labels) == [0.5, 0.1]
