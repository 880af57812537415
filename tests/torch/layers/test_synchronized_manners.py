"""Synchronized batch norm in two processes: all that a layer is put through, and what is refused in both alike."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import normwise.torch as nt
from tests.torch.processes import outcomes as outcomes_of
from tests.torch.processes import work

F64 = torch.float64
Found = dict[str, Any]


def numbers(rank: int, samples: int = 4, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(10 * seed + rank)
    return torch.randn((samples, 3, 2), generator=draw, dtype=F64) * (1 + rank) + 3 * rank


def both(samples: int = 4, seed: int = 0) -> Tensor:
    return torch.cat([numbers(rank, samples, seed) for rank in range(2)])


def words(deed: Callable[[], object]) -> str:
    """The words of the error that a deed ends with."""
    try:
        deed()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def block() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 4, 1), nt.SyncBatchNorm(4, activation="silu"), nn.Conv1d(4, 3, 1)).to(F64)


def in_inference(rank: int) -> Found:
    layer = nt.SyncBatchNorm(3, dtype=F64)
    # Rank 1 does not even come: nothing is exchanged.
    return {"y": layer.eval()(numbers(rank)).detach()} if rank == 0 else {}


def without_statistics(rank: int) -> Found:
    layer = nt.SyncBatchNorm(3, dtype=F64, track_running_stats=False)
    return {"y": layer(numbers(rank)).detach(), "alone": layer.eval()(numbers(rank)).detach()}


def checkpointed(rank: int) -> Found:
    found = {}
    for name, reentrant in (("plain", None), ("reentrant", True), ("not reentrant", False)):
        model = block()
        x = numbers(rank).requires_grad_()
        y = model(x) if reentrant is None else checkpoint(model, x, use_reentrant=reentrant)
        y.pow(3).sum().backward()
        assert x.grad is not None
        found[name] = {"x": x.grad, **{key: each.grad for key, each in model.named_parameters()}, **model.state_dict()}
    return found


def compiled(rank: int) -> Found:
    model = block()
    found: Found = {}
    for name, run in (("plain", copy.deepcopy(model)), ("compiled", torch.compile(model, backend="aot_eager"))):
        x = numbers(rank).requires_grad_()
        run(x).pow(3).sum().backward()
        found[name] = x.grad
    torch.compiler.reset()
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)
    found["state"] = dict(model.state_dict())
    found["words"] = words(lambda: whole(numbers(rank)))
    return found


def transformed(rank: int) -> Found:
    layer = nt.SyncBatchNorm(3, dtype=F64)
    return {"words": words(lambda: torch.func.grad(lambda x: layer(x).sum())(numbers(rank)))}


def twice(rank: int) -> Found:
    layer = nt.SyncBatchNorm(3, dtype=F64)
    x = numbers(rank).requires_grad_()
    (once,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    return {"once": once.detach(), "words": words(lambda: once.sum().backward())}


def copies(rank: int) -> Found:
    group = distributed.new_group([0, 1])
    layer = nt.SyncBatchNorm(3, process_group=group, activation="relu", dtype=F64)
    copied = copy.deepcopy(layer)
    pickled = pickle.loads(pickle.dumps(nt.SyncBatchNorm(3, activation="relu", dtype=F64)))
    assert copied.process_group is group
    return {"copied": copied(numbers(rank)).detach(), "pickled": pickled(numbers(rank)).detach()}


def groups(rank: int) -> Found:
    """Each process in a group of its own, and one that only one of them is in."""
    alone = [distributed.new_group([each]) for each in range(2)]
    layer, wrong = (nt.SyncBatchNorm(3, process_group=alone[each], dtype=F64) for each in (rank, 1 - rank))
    return {"y": layer(numbers(rank)).detach(), "words": words(lambda: wrong(numbers(rank)))}


def frozen_input(rank: int) -> Found:
    """Nothing is exchanged for the gradient where no input has one; rank 1 does not go backwards."""
    layer = nt.SyncBatchNorm(3, dtype=F64)
    loss = layer(numbers(rank)).pow(3).sum()
    if rank == 0:
        loss.backward()
        return {"weight": layer.weight.grad}
    return {}


def data_parallel(rank: int) -> Found:
    model = DistributedDataParallel(block())
    for seed in range(2):
        model.zero_grad()
        model(numbers(rank, 4, seed)).pow(3).mean().backward()
    found = {name: each.grad for name, each in model.module.named_parameters()}
    return {**found, **model.module.state_dict()}


def out_of_step(rank: int) -> Found:
    """Each process begins with another layer of the same size."""
    model = nt.convert_to_synchronized(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)).to(F64)).model
    return {"words": words(lambda: model.get_submodule(str(rank))(numbers(rank)))}


def of_torch(rank: int) -> Found:
    """PyTorch's own layer, on CPUs."""
    layer = nn.SyncBatchNorm(3, dtype=F64)
    wrapped = nn.Sequential(nn.Conv1d(3, 3, 1), nn.SyncBatchNorm(3))
    return {
        "forward": words(lambda: layer(numbers(rank))),
        "data parallel": words(lambda: DistributedDataParallel(wrapped)),
    }


SCENES: dict[str, Callable[[int], Found]] = {
    scene.__name__: scene
    for scene in (
        in_inference,
        without_statistics,
        checkpointed,
        compiled,
        transformed,
        twice,
        copies,
        groups,
        frozen_input,
        data_parallel,
        out_of_step,
        of_torch,
    )
}


def find(rank: int, _: int) -> Found:
    return {name: scene(rank) for name, scene in SCENES.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    first, second = outcomes_of(__name__, Path(tmp_path_factory.mktemp("ranks")), 2)
    return first, second


def plain(**settings: Any) -> Any:
    return nt.BatchNorm1d(3, dtype=F64, **settings)


def assert_alike(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_inference_exchanges_nothing(found: tuple[Found, Found]) -> None:
    layer = plain()
    assert torch.equal(found[0]["in_inference"]["y"], layer.eval()(numbers(0)).detach())


def test_without_statistics_training_is_joined_and_inference_alone(found: tuple[Found, Found]) -> None:
    layer = plain(track_running_stats=False)
    assert_alike(torch.cat([part["without_statistics"]["y"] for part in found]), layer(both()).detach())
    for rank, part in enumerate(found):
        assert_alike(part["without_statistics"]["alone"], layer(numbers(rank)).detach())


@pytest.mark.parametrize("way", ["reentrant", "not reentrant"])
def test_under_checkpoints_statistics_move_once_and_gradients_stay(way: str, found: tuple[Found, Found]) -> None:
    for part in found:
        assert_alike(part["checkpointed"][way], part["checkpointed"]["plain"])
        assert part["checkpointed"][way]["1.num_batches_tracked"] == 1


def test_compiled_models_leave_it_out_of_their_graphs(found: tuple[Found, Found]) -> None:
    for part in found:
        assert_alike(part["compiled"]["compiled"], part["compiled"]["plain"])
        assert part["compiled"]["state"]["1.num_batches_tracked"] == 1
        assert part["compiled"]["words"].startswith("Unsupported: ")
        assert "SyncBatchNorm exchanges moments with other processes, outside of the graph" in part["compiled"]["words"]


def test_function_transforms_are_refused(found: tuple[Found, Found]) -> None:
    for part in found:
        assert part["transformed"]["words"] == (
            "NormwiseError: SyncBatchNorm(3, eps=1e-05, momentum=0.1, affine=True, bias=True, "
            "track_running_stats=True) joins the batches of several processes, which torch.func cannot transform: put "
            "a BatchNorm in its place (normwise.torch.convert_from_synchronized), or call the model without it."
        )


def test_second_derivatives_are_refused_and_first_ones_of_a_graph_are_right(found: tuple[Found, Found]) -> None:
    x = both().requires_grad_()
    (right,) = torch.autograd.grad(plain()(x).pow(3).sum(), x)
    assert_alike(torch.cat([part["twice"]["once"] for part in found]), right)
    for part in found:
        assert part["twice"]["words"] == (
            "RuntimeError: SyncBatchNorm has first derivatives only, and its gradient was to be differentiated "
            "(create_graph=True): let such a loss see the whole batch in one process, with a BatchNorm."
        )


def test_copies_share_the_group(found: tuple[Found, Found]) -> None:
    right = plain(activation="relu")(both()).detach()
    for way in ("copied", "pickled"):
        assert_alike(torch.cat([part["copies"][way] for part in found]), right)


def test_groups_of_one_are_plain_and_others_groups_are_refused(found: tuple[Found, Found]) -> None:
    for rank, part in enumerate(found):
        assert_alike(part["groups"]["y"], plain()(numbers(rank)).detach())
        assert part["groups"]["words"] == (
            "NormwiseError: SyncBatchNorm(3, eps=1e-05, momentum=0.1, affine=True, bias=True, "
            f"track_running_stats=True) was given a process group that rank {rank} is not in, so there is no batch to "
            "join: give every process the group that it is in."
        )


def test_without_a_gradient_of_the_input_nothing_is_exchanged(found: tuple[Found, Found]) -> None:
    layer = plain()
    (layer(both())[:4]).pow(3).sum().backward()
    assert_alike(found[0]["frozen_input"]["weight"], layer.weight.grad)


def test_under_data_parallel_a_step_is_that_of_the_whole_batch(found: tuple[Found, Found]) -> None:
    model = block()
    nt.convert_from_synchronized(model, plain=nt.BatchNorm1d)
    for seed in range(2):
        model.zero_grad()
        model(both(4, seed)).pow(3).mean().backward()
    right = {name: each.grad for name, each in model.named_parameters()} | dict(model.state_dict())
    for part in found:
        assert set(right) == set(part["data_parallel"])
        assert_alike(part["data_parallel"], right)


def test_processes_at_two_layers_of_one_size_notice(found: tuple[Found, Found]) -> None:
    for rank, part in enumerate(found):
        assert part["out_of_step"]["words"] == (
            f"NormwiseError: batch norm '{rank}' met another layer in another process: let all processes come to the "
            "layers in the same order."
        )


def test_pytorchs_own_layer_does_not_know_the_cpu(found: tuple[Found, Found]) -> None:
    """If this fails, PyTorch has learned it: say so where the documentation says that it has not."""
    for part in found:
        assert part["of_torch"]["forward"].startswith("ValueError: SyncBatchNorm expected input tensor to be on GPU")
        assert part["of_torch"]["data parallel"].startswith("ValueError: SyncBatchNorm layers only work with ")


if __name__ == "__main__":
    work(find)
