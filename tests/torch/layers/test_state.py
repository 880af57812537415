"""Batch norm as a function from a state to the next: under vmap, jacrev, grad, functional_call and compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jacfwd, jacrev, vmap

import normwise.torch as nt
from normwise.estimators import Estimator, estimator_class, names
from normwise.estimators.window import Window
from normwise.torch.layers.state import BatchNormState, batch_norm_with_state
from tests.cases import running


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape or (6, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def estimator(name: str) -> Estimator:
    made: Any = estimator_class(name)
    found: Estimator = {
        "window": lambda: Window(0, 9),
        "ema": lambda: made(0.3),
        "debiased_ema": lambda: made(0.3),
    }.get(name, made)()
    return found


def assert_states(found: BatchNormState, right: BatchNormState) -> None:
    for mine, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", names())
def test_a_stream_gives_what_the_layer_gives(name: str) -> None:
    layer = nt.BatchNorm1d(3, estimator=estimator(name), dtype=torch.float64)
    state = BatchNormState.start(3, dtype=torch.float64)
    for seed in range(4):
        x = batch(5 + seed, 3, seed=seed)
        y, state = batch_norm_with_state(x, state, estimator=estimator(name))
        torch.testing.assert_close(y, layer(x))
    torch.testing.assert_close((state.running_mean, state.running_var), running(layer))
    assert int(state.num_batches_tracked) == 4
    y, same = batch_norm_with_state(batch(), state, training=False)
    torch.testing.assert_close(y, layer.eval()(batch()))
    assert same is state


def test_nothing_is_changed_in_place() -> None:
    state = BatchNormState.start(3, dtype=torch.float64)
    copies = [each.clone() for each in state]
    batch_norm_with_state(batch(), state)
    assert all(torch.equal(mine, right) for mine, right in zip(state, copies, strict=True))


def test_torchs_layer_fails_under_vmap_and_jacrev_in_training() -> None:
    layer = nn.BatchNorm1d(3).double()
    with pytest.raises(RuntimeError):
        vmap(layer)(batch(4, 6, 3))
    with pytest.raises(RuntimeError):
        jacrev(layer)(batch())


def test_vmap_over_batches() -> None:
    state, x = BatchNormState.start(3, dtype=torch.float64), batch(4, 6, 3)
    y, states = vmap(batch_norm_with_state, in_dims=(0, None))(x, state)
    for number in range(4):
        right, after = batch_norm_with_state(x[number], state)
        torch.testing.assert_close(y[number], right)
        assert_states(BatchNormState(*(each[number] for each in states)), after)


@pytest.mark.parametrize("name", names())
def test_vmap_over_models(name: str) -> None:
    singles = [
        BatchNormState(batch(3, seed=n), batch(3, seed=n).square(), *torch.tensor([2.0, 9.0, 0.0]).double())
        for n in range(4)
    ]
    states = BatchNormState(*(torch.stack(parts) for parts in zip(*singles, strict=True)))
    x, weight = batch(4, 6, 3), batch(4, 3)
    y, after = vmap(lambda x, s, w: batch_norm_with_state(x, s, w, estimator=estimator(name)))(x, states, weight)
    for number, single in enumerate(singles):
        right, next_one = batch_norm_with_state(x[number], single, weight[number], estimator=estimator(name))
        torch.testing.assert_close(y[number], right)
        assert_states(BatchNormState(*(each[number] for each in after)), next_one)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # inside torch's forward mode
@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobians(transform: Any) -> None:
    state = BatchNormState.start(3, dtype=torch.float64)
    found, after = transform(lambda x: batch_norm_with_state(x, state), has_aux=True)(batch())
    right = torch.autograd.functional.jacobian(
        lambda x: nn.functional.batch_norm(x, None, None, training=True), batch()
    )
    torch.testing.assert_close(found, right)
    assert_states(after, batch_norm_with_state(batch(), state)[1])


def test_gradients_of_an_ensemble() -> None:
    state = BatchNormState.start(3, dtype=torch.float64)

    def loss(weight: Tensor, x: Tensor) -> tuple[Tensor, BatchNormState]:
        y, after = batch_norm_with_state(x, state, weight, activation="tanh")
        return y.pow(2).sum(), after

    x, weights = batch(4, 6, 3), batch(4, 3)
    found, states = vmap(grad(loss, has_aux=True))(weights, x)
    for number in range(4):
        leaf = weights[number].clone().requires_grad_()
        value, after = loss(leaf, x[number])
        torch.testing.assert_close(found[number], torch.autograd.grad(value, leaf)[0])
        assert_states(BatchNormState(*(each[number] for each in states)), after)


def test_masks_for_each_channel_and_weights() -> None:
    state = BatchNormState.start(3, dtype=torch.float64)
    mask = torch.arange(6)[:, None] < torch.tensor([6, 4, 2])
    _, after = batch_norm_with_state(batch(), state, mask=mask, estimator=estimator("pooled"))
    assert after.running_count.tolist() == [6.0, 4.0, 2.0]
    for channel, count in enumerate((6, 4, 2)):
        values = batch()[:count, channel]
        torch.testing.assert_close(after.running_mean[channel], values.mean())
        torch.testing.assert_close(after.running_var[channel], values.var())


def test_a_batch_that_is_not_finite() -> None:
    state = BatchNormState.start(3, dtype=torch.float64)
    x = batch()
    x[0, 1] = float("nan")
    _, after = batch_norm_with_state(x, state)
    assert (float(after.running_mean[1]), float(after.running_var[1]), int(after.num_batches_skipped)) == (0.0, 1.0, 1)
    assert float(after.running_mean[0]) != 0.0


def test_compiled_in_one_graph() -> None:
    state = BatchNormState.start(3, dtype=torch.float64)
    compiled = torch.compile(batch_norm_with_state, fullgraph=True, backend="aot_eager")
    y, after = compiled(batch(), state)
    right, next_one = batch_norm_with_state(batch(), state)
    torch.testing.assert_close(y, right)
    assert_states(BatchNormState(*after), next_one)


def test_the_state_of_a_layer_is_a_copy() -> None:
    layer = nt.BatchNorm1d(3, estimator="pooled", dtype=torch.float64)
    layer(batch())
    state = BatchNormState.of(layer)
    torch.testing.assert_close((state.running_mean, state.running_var), running(layer))
    assert (int(state.num_batches_tracked), int(state.running_count)) == (1, 6)
    layer(batch() + 1)
    assert not torch.equal(state.running_mean, running(layer)[0])
    with pytest.raises(ValueError, match="has no state") as refused:
        BatchNormState.of(nt.BatchNorm1d(3, track_running_stats=False))
    assert str(refused.value) == (
        "a layer without running statistics has no state: make it with track_running_stats=True."
    )
