"""The running statistics of two processes made one: without that, what is saved is what rank 0 has seen."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

import normwise.torch as nt
from normwise.errors import NormwiseError
from tests.torch.processes import outcomes as outcomes_of
from tests.torch.processes import work

F64 = torch.float64
STEPS, SAMPLES = 60, 256
Found = dict[str, Any]


def shifted(rank: int, step: int) -> Tensor:
    """Two cameras: the data of one rank are around 0, those of the other around 3."""
    draw = torch.Generator().manual_seed(100 * rank + step)
    return torch.randn((SAMPLES, 1), generator=draw, dtype=F64) + 3 * rank


# By its name in the installed PyTorch.
SYNCED = "forward_sync_buffers"
SYNCED = SYNCED if SYNCED in inspect.signature(DistributedDataParallel).parameters else "broadcast_buffers"


def trained(layer: nn.Module, rank: int, **settings: Any) -> Any:
    """The layer trained in ``DistributedDataParallel``, with data that differ by rank."""
    model: Any = DistributedDataParallel(nn.Sequential(nn.Identity(), layer).double(), **settings)
    for step in range(STEPS):
        model(shifted(rank, step)).sum().backward()
    return model


def statistics(layer: Any) -> Found:
    return {name: value.clone() for name, value in layer.state_dict().items() if not is_lazy(value)}


def in_parallel(rank: int) -> Found:
    """Train as users do, and return what they save."""
    theirs = trained(nn.BatchNorm1d(1), rank)
    alone = trained(nn.BatchNorm1d(1), rank, **{SYNCED: False})
    before = statistics(alone)
    report = nt.pool_statistics(alone)
    joined = trained(nt.SyncBatchNorm(1), rank)
    return {
        "by torch": statistics(theirs.module[1]),
        "before": before,
        "pooled": statistics(alone),
        "report": str(report),
        "names": [*report.pooled],
        "synchronized": statistics(joined.module[1]),
        "refused": words(lambda: nt.pool_statistics(theirs)),
    }


def words(deed: Callable[[], object]) -> str:
    """The words of the error that a deed ends with."""
    try:
        deed()
    except NormwiseError as error:
        return str(error)
    return "no error"


SHARES = ((5, 9, 2), (3,))


def batches(rank: int, epoch: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(10 * epoch + rank)
    return [torch.randn((n, 3), generator=draw, dtype=F64) * (1 + rank) + rank for n in SHARES[rank]]


def seen(layer: nn.Module, rank: int, epochs: int = 1) -> nn.Module:
    for epoch in range(epochs):
        for batch in batches(rank, epoch):
            layer(batch)
        nt.pool_statistics(layer)
    return layer


def exact(rank: int) -> Found:
    layers = {epochs: seen(nt.BatchNorm1d(3, estimator="pooled", dtype=F64), rank, epochs) for epochs in (1, 3)}
    return {str(epochs): statistics(layer) for epochs, layer in layers.items()}


def averages(rank: int) -> Found:
    kinds = {
        "ours": nt.BatchNorm1d(3, estimator="cumulative", dtype=F64),
        "torch's": nn.BatchNorm1d(3, momentum=None, dtype=F64),
    }
    return {name: statistics(seen(layer, rank)) for name, layer in kinds.items()}


def one_has_not_trained(rank: int) -> Found:
    layer = nn.BatchNorm1d(3, dtype=F64)
    if rank == 1:
        layer(batches(0)[0])
    before = statistics(layer)
    nt.pool_statistics(layer)
    return {"before": before, "after": statistics(layer)}


def every_kind(rank: int) -> Found:
    model = nn.ModuleDict(
        {
            "norm": nt.BatchNorm1d(3, dtype=F64),
            "new": nn.BatchNorm1d(3, dtype=F64),
            "domains": nt.PerDomain(nt.BatchNorm1d(3, dtype=F64), ["a", "b"]),
            "ghost": nt.GhostBatchNorm1d(3, num_splits=2, dtype=F64),
            "white": nt.IterativeNorm1d(3, dtype=F64),
            "lazy": nt.LazyBatchNorm1d(),
            "instance": nn.InstanceNorm1d(3, track_running_stats=True, dtype=F64),
            "none": nn.BatchNorm1d(3, track_running_stats=False, dtype=F64),
        }
    )
    x = batches(rank)[0]
    for name in ("norm", "ghost", "white"):
        model[name](x)
    model["domains"](x, domain="a")
    model["instance"](x.T.unsqueeze(0))
    state = statistics(model)
    report = nt.pool_statistics(model)
    changed = [name for name, value in statistics(model).items() if not torch.equal(value, state[name])]
    return {"pooled": [*report.pooled], "skipped": dict(report.skipped), "changed": changed}


def refused(rank: int) -> Found:
    spoiled = nn.Sequential(nn.BatchNorm1d(2))
    spoiled[0].get_buffer("running_var").fill_(float("nan") if rank else 1.0)
    other = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) if rank else nn.Sequential(nn.BatchNorm1d(2))
    return {
        "not finite": words(lambda: nt.pool_statistics(spoiled)),
        "other layers": words(lambda: nt.pool_statistics(other)),
    }


SCENES = {scene.__name__: scene for scene in (in_parallel, exact, averages, one_has_not_trained, every_kind, refused)}


def find(rank: int, _: int) -> Found:
    return {name: scene(rank) for name, scene in SCENES.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    first, second = outcomes_of(__name__, Path(tmp_path_factory.mktemp("ranks")), 2)
    return first, second


def test_pytorch_keeps_what_rank_0_has_seen(found: tuple[Found, Found]) -> None:
    """If this fails, ``DistributedDataParallel`` pools statistics now, and ``pool_statistics`` can go."""
    saved = found[0]["in_parallel"]["by torch"]
    assert abs(saved["running_mean"].item()) < 0.1
    assert abs(saved["running_var"].item() - 1) < 0.1


@pytest.mark.parametrize("way", ["pooled", "synchronized"])
def test_here_it_is_what_all_have_seen(way: str, found: tuple[Found, Found]) -> None:
    for part in found:
        state = {name.removeprefix("module.1."): value for name, value in part["in_parallel"][way].items()}
        assert abs(state["running_mean"].item() - 1.5) < 0.1
        assert abs(state["running_var"].item() - 3.25) < 0.1
        assert state["num_batches_tracked"] == STEPS


def test_pooled_is_the_total_of_both(found: tuple[Found, Found]) -> None:
    means, variances = (
        torch.stack([part["in_parallel"]["before"][f"module.1.running_{name}"] for part in found])
        for name in ("mean", "var")
    )
    wanted = variances.mean(0) + means.var(0, correction=0)
    for part in found:
        after = part["in_parallel"]["pooled"]
        torch.testing.assert_close(after["module.1.running_mean"], means.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(after["module.1.running_var"], wanted, rtol=1e-12, atol=1e-12)


def test_the_report(found: tuple[Found, Found]) -> None:
    first = found[0]["in_parallel"]
    assert first["names"] == ["module.1"]
    lines = first["report"].split("\n")
    assert lines[0] == "1 of 1 layers pooled over 2 processes"
    assert lines[1].startswith("  pooled        module.1: moved by ")
    assert len(lines) == 2


def test_where_rank_0_overwrites_the_others_there_is_nothing_to_pool(found: tuple[Found, Found]) -> None:
    why = (
        "this DistributedDataParallel has forward_sync_buffers=True, with which rank 0's statistics overwrite all "
        "others in every forward, so there is nothing left to pool: wrap the model with forward_sync_buffers=False "
        "(broadcast_buffers=False in older PyTorch), or train with convert_to_synchronized."
    )
    assert [part["in_parallel"]["refused"] for part in found] == [why] * 2


@pytest.mark.parametrize("epochs", [1, 3])
def test_with_counts_it_is_exact_and_counts_nothing_twice(epochs: int, found: tuple[Found, Found]) -> None:
    everything = torch.cat([batch for epoch in range(epochs) for rank in range(2) for batch in batches(rank, epoch)])
    for rank, part in enumerate(found):
        state = part["exact"][str(epochs)]
        torch.testing.assert_close(state["running_mean"], everything.mean(0), rtol=1e-12, atol=1e-12)
        # Again and again, the fewest values that a process has set the limit.
        limit = 1e-12 if epochs == 1 else 1 / sum(SHARES[1])
        torch.testing.assert_close(state["running_var"], everything.var(0), rtol=limit, atol=1e-12)
        assert state["running_count"] == epochs * sum(SHARES[rank])


@pytest.mark.parametrize("kind", ["ours", "torch's"])
def test_where_all_batches_count_the_same_so_they_do(kind: str, found: tuple[Found, Found]) -> None:
    every = [batch for rank in range(2) for batch in batches(rank)]
    mean = torch.stack([batch.mean(0) for batch in every]).mean(0)
    for part in found:
        torch.testing.assert_close(part["averages"][kind]["running_mean"], mean, rtol=1e-12, atol=1e-12)
        assert torch.equal(part["averages"][kind]["running_var"], found[0]["averages"][kind]["running_var"])


def test_who_has_not_trained_has_no_say(found: tuple[Found, Found]) -> None:
    wanted = found[1]["one_has_not_trained"]["before"]
    for rank, part in enumerate(found):
        after = part["one_has_not_trained"]["after"]
        for name in ("running_mean", "running_var"):
            assert torch.equal(after[name], wanted[name])
        assert after["num_batches_tracked"] == rank


def test_each_layer_is_pooled_or_skipped_with_the_reason(found: tuple[Found, Found]) -> None:
    pooled = ["norm", "domains.domain_a", "ghost", "instance"]
    for part in found:
        every = part["every_kind"]
        assert every["pooled"] == pooled
        assert every["skipped"] == {
            "new": "no process has trained it yet",
            "domains.domain_b": "no process has trained it yet",
            "white": "it whitens, and keeps a covariance: recalibrate gathers that, or estimator='pooled' does",
            "lazy": "it has not seen an input yet",
        }
        assert every["changed"] == [f"{name}.running_{each}" for name in pooled for each in ("mean", "var")]


def test_what_cannot_be_pooled_is_an_error_everywhere(found: tuple[Found, Found]) -> None:
    own = "the running statistics of '0' are not finite: recalibrate the model instead."
    first, second = (part["refused"] for part in found)
    assert second["not finite"] == own
    assert first["not finite"] == (
        f"pool_statistics was given up because rank 1 failed with NormwiseError: {own}: the model is as it was; mend "
        "that and call it again on every rank."
    )
    for part in (first, second):
        assert part["other layers"] == (
            "rank 1 has other layers with running statistics than rank 0, for example '0': pool the statistics of one "
            "and the same model."
        )


def test_alone_nothing_moves() -> None:
    layer = nn.BatchNorm1d(3)
    layer(torch.randn(8, 3))
    before = statistics(layer)
    report = nt.pool_statistics(layer)
    assert report.processes == 1
    assert report.pooled[""].largest == 0
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert str(nt.pool_statistics(nn.Linear(2, 2))) == "nothing pooled: the model has no layer with running statistics"
    with pytest.raises(TypeError) as caught:
        nt.pool_statistics("model")  # type: ignore[arg-type]  # that is the test
    assert str(caught.value) == (
        "pool_statistics needs a torch.nn.Module, received the string 'model': "
        "build the model, load its weights, and pass it."
    )


if __name__ == "__main__":
    work(find)
