"""Running statistics of synchronized batch norm in two processes: the same in both, and those of the joined batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.estimators import names
from normwise.estimators.window import Window
from tests.torch.processes import outcomes as outcomes_of
from tests.torch.processes import work

F64 = torch.float64
Found = dict[str, Any]
ESTIMATORS: dict[str, Any] = {name: name for name in names()} | {"window": Window(1, 3), "none": None}
POLICIES = [("running", 1), ("running", 5), ("renorm", 1), ("renorm", 5), ("renorm", 40)]


def numbers(rank: int, samples: int = 4, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(10 * seed + rank)
    return torch.randn((samples, 3, 2), generator=draw, dtype=F64) * (1 + rank) + 3 * rank


def both(samples: int = 4, seed: int = 0) -> Tensor:
    return torch.cat([numbers(rank, samples, seed) for rank in range(2)])


def state(layer: nn.Module) -> Found:
    return dict(layer.state_dict()) | {"skipped": layer.get_buffer("num_batches_skipped")}


def words(deed: Callable[[], object]) -> str:
    """The words of the error that a deed ends with."""
    try:
        deed()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def one_value(rank: int) -> Found:
    layer = nt.SyncBatchNorm(3, dtype=F64)
    x = torch.ones((1 - rank, 3), dtype=F64)
    return {"words": words(lambda: layer(x)), **state(layer)}


def one_value_each(rank: int) -> Found:
    return {"y": nt.SyncBatchNorm(1, dtype=F64)(torch.tensor([[float(rank)]], dtype=F64)).detach()}


def tiny(rank: int, policy: str, samples: int) -> Found:
    layer = nt.SyncBatchNorm(3, dtype=F64, on_tiny_batch=policy)
    prepare(layer)
    x = (both(20)[:samples] if rank == 0 else both(20)[samples:samples]).sum(2, keepdim=True).requires_grad_()
    y = layer(x)
    y.pow(3).sum().backward()
    assert layer.weight.grad is not None
    return {"y": y.detach(), "x": x.grad, "gradient": layer.weight.grad, **state(layer)}


def prepare(layer: Any) -> None:
    """Give the layer numbers as if it had been trained."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            tensor.copy_(torch.rand(3, generator=draw, dtype=F64) + 0.5)


def not_finite(rank: int) -> Found:
    layer = nt.SyncBatchNorm(3, dtype=F64)
    x = numbers(rank)
    x[rank * 3, 1] = torch.tensor([1.0, float("inf")])[rank]
    layer(x)
    return state(layer)


def estimators(rank: int) -> Found:
    found = {}
    for name, estimator in ESTIMATORS.items():
        layer = nt.SyncBatchNorm(3, dtype=F64, estimator=estimator)
        for seed, samples in enumerate((4, 2, 5)):
            layer(numbers(rank, samples, seed))
        found[name] = state(layer)
    return found


def cumulative(rank: int) -> Found:
    layer = nt.SyncBatchNorm(3, dtype=F64, momentum=None)
    for seed in range(3):
        layer(numbers(rank, 4, seed))
    return state(layer)


def paused(rank: int) -> Found:
    layer = nt.SyncBatchNorm(3, dtype=F64)
    with nt.paused_statistics(layer):
        y = layer(numbers(rank))
    return {"y": y.detach(), **state(layer)}


def mixed_masks(rank: int) -> Found:
    """A mask for each channel in one process, none in the other."""
    layer = nt.SyncBatchNorm(3, dtype=F64, estimator="pooled")
    mask = torch.ones((4, 3, 2), dtype=torch.bool)
    mask[0, 1] = False
    layer(numbers(rank), **({} if rank else {"mask": mask}))
    return state(layer)


def without_a_look(rank: int) -> Found:
    """The outcomes as on devices where Python does not look at numbers, because it would have to wait for them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("layers.joint_forward", "steps.normalize_joined_tiny"):
            patch.setattr(f"normwise.torch.{module}.readable", lambda _: False)
        found = {"alone": one_value(rank), "error": tiny(rank, "error", 9)}
        for policy, samples in POLICIES:
            found[f"{policy} {samples}"] = tiny(rank, policy, samples)
        pooled = nt.SyncBatchNorm(3, dtype=F64, estimator="pooled")
        for seed, samples in enumerate((4, 2, 5)):
            pooled(numbers(rank, samples, seed))
    return found | {"pooled": state(pooled)}


SCENES: dict[str, Callable[[int], Found]] = {
    scene.__name__: scene
    for scene in (one_value, one_value_each, not_finite, estimators, cumulative, paused, mixed_masks, without_a_look)
}


def find(rank: int, _: int) -> Found:
    found = {name: scene(rank) for name, scene in SCENES.items()}
    found |= {f"{policy} {samples}": tiny(rank, policy, samples) for policy, samples in POLICIES}
    return found | {"error": tiny(rank, "error", 9)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    first, second = outcomes_of(__name__, Path(tmp_path_factory.mktemp("ranks")), 2)
    return first, second


def plain(**settings: Any) -> Any:
    return nt.BatchNorm1d(3, dtype=F64, **settings)


def assert_alike(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_one_value_in_all_processes_together_is_refused_in_all(found: tuple[Found, Found]) -> None:
    for rank, part in enumerate(found):
        assert part["one_value"]["words"] == (
            "ValueError: Expected more than 1 value per channel when training, got 1 value in all 2 processes "
            f"together, with input size torch.Size([{1 - rank}, 3]) in this one: make the batch larger, or choose "
            "on_tiny_batch='running'."
        )
        assert part["one_value"]["num_batches_tracked"] == 0


def test_one_value_in_each_is_two(found: tuple[Found, Found]) -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(1)(torch.zeros(1, 1))
    y = torch.cat([part["one_value_each"]["y"] for part in found])
    assert_alike(y, nn.BatchNorm1d(1, dtype=F64)(torch.tensor([[0.0], [1.0]], dtype=F64)).detach())


@pytest.mark.parametrize("looks", [True, False], ids=["on the CPU", "elsewhere"])
@pytest.mark.parametrize(("policy", "samples"), [*POLICIES, ("error", 9)])
def test_policies_count_the_values_of_all_processes(
    policy: str, samples: int, looks: bool, found: tuple[Found, Found]
) -> None:
    layer = plain(on_tiny_batch=policy)
    prepare(layer)
    x = both(20)[:samples].sum(2, keepdim=True).requires_grad_()
    y = layer(x)
    y.pow(3).sum().backward()
    name = "error" if policy == "error" else f"{policy} {samples}"
    first, second = (part[name] if looks else part["without_a_look"][name] for part in found)
    assert_alike(first["y"], y.detach())
    assert_alike(first["x"], x.grad)
    assert_alike(first["gradient"] + second["gradient"], layer.weight.grad)
    assert second["y"].shape == second["x"].shape == (0, 3, 1)
    for part in (first, second):
        assert_alike({key: part[key] for key in state(layer)}, state(layer))


def test_elsewhere_one_value_becomes_beta_and_moves_nothing(found: tuple[Found, Found]) -> None:
    for part in found:
        alone = part["without_a_look"]["alone"]
        assert alone["words"] == "no error"
        assert torch.equal(alone["running_mean"], torch.zeros(3, dtype=F64))
        assert alone["num_batches_tracked"] == 0


def test_elsewhere_values_are_counted_by_channel(found: tuple[Found, Found]) -> None:
    layer = plain(estimator="pooled")
    for seed, samples in enumerate((4, 2, 5)):
        layer(both(samples, seed))
    right = state(layer)
    right["running_count"] = right["running_count"].double().expand(3)
    for part in found:
        assert_alike(part["without_a_look"]["pooled"], right)


def test_what_is_not_finite_in_one_process_enters_in_none(found: tuple[Found, Found]) -> None:
    first, second = (part["not_finite"] for part in found)
    assert first["skipped"] == second["skipped"] == 1
    assert first["running_mean"][1] == 0
    assert first["running_mean"].isfinite().all()
    assert (first["running_mean"][[0, 2]] != 0).all()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_what_it_would_have_of_the_joined_batches(name: str, found: tuple[Found, Found]) -> None:
    layer = plain(estimator=ESTIMATORS[name])
    for seed, samples in enumerate((4, 2, 5)):
        layer(both(samples, seed))
    for part in found:
        assert_alike(part["estimators"][name], state(layer))


def test_the_plain_average(found: tuple[Found, Found]) -> None:
    layer = plain(momentum=None)
    for seed in range(3):
        layer(both(4, seed))
    for part in found:
        assert_alike(part["cumulative"], state(layer))


def test_paused_statistics_stay(found: tuple[Found, Found]) -> None:
    right = plain()(both()).detach()
    assert_alike(torch.cat([part["paused"]["y"] for part in found]), right)
    assert all(part["paused"]["num_batches_tracked"] == 0 for part in found)
    assert all(torch.equal(part["paused"]["running_mean"], torch.zeros(3, dtype=F64)) for part in found)


def test_masks_of_several_kinds_leave_the_same_statistics_everywhere(found: tuple[Found, Found]) -> None:
    mask = torch.ones((8, 3, 2), dtype=torch.bool)
    mask[0, 1] = False
    layer = plain(estimator="pooled")
    layer(both(), mask=mask)
    for part in found:
        assert_alike(part["mixed_masks"], state(layer))


if __name__ == "__main__":
    work(find)
