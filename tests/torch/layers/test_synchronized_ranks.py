"""Synchronized batch norm in three real processes: output, gradients and statistics are those of the joined batch."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

import normwise.torch as nt
from normwise.kernels import choose, reference
from normwise.torch.steps.checks_mask import check_weights
from tests.cases import LAYOUTS, array
from tests.torch.processes import outcomes as outcomes_of
from tests.torch.processes import work

WORLD = 3
CHANNELS = 3
SPATIAL = [(), (5,), (3, 2), (2, 1, 3)]
# Samples in each process; where there are two, they are a process group of their own.
SHARES = [(4, 0, 3), (1, 2, 5), (0, 4), (3, 2)]
MASKS = [None, "shared", "per channel", "weights"]


class Case(NamedTuple):
    """One batch, and how it is spread over processes."""

    shares: tuple[int, ...] = (4, 0, 3)
    spatial: tuple[int, ...] = (3, 2)
    mask: str | None = None
    activation: str | None = "silu"
    residual: bool = True
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float64
    kernel: str = ""
    mean: float = 1.0


CASES = {
    str(number): case
    for number, case in enumerate(
        [
            *(Case(shares, spatial, mask) for shares, spatial, mask in itertools.product(SHARES, SPATIAL, MASKS)),
            *(Case(spatial=(6, 5), mask=mask, layout=layout) for mask in MASKS for layout in LAYOUTS),
            *(
                Case(activation=activation, residual=residual)
                for activation in (None, "relu")
                for residual in (False, True)
            ),
            *(Case(kernel="two_pass", mask=mask, dtype=torch.float32) for mask in MASKS),
            Case(kernel="aten", dtype=torch.float32),
            Case(kernel="aten"),
            Case((9, 0, 40), (24, 24), dtype=torch.float32, layout="channels last"),
            Case((9, 0, 40), (24, 24), dtype=torch.float32),
            Case((9, 4), (24, 24), "shared", dtype=torch.bfloat16),
            Case((2, 1, 3), dtype=torch.float32, mean=1e5),  # where a mean in float32 has lost five digits
            Case((2, 1, 3), dtype=torch.float32, mean=1e5, kernel="two_pass"),
        ]
    )
}


class Problem(NamedTuple):
    """The whole batch."""

    x: Tensor
    residual: Tensor | None
    dy: Tensor
    mask: Tensor | None
    weight: Tensor
    bias: Tensor


def problem(case: Case) -> Problem:
    draw = torch.Generator().manual_seed(5)
    shape = (sum(case.shares), CHANNELS, *case.spatial)
    x, residual, dy = (torch.randn(shape, generator=draw, dtype=torch.float64).to(case.dtype) for _ in range(3))
    x = 2 * x + case.mean
    residual = LAYOUTS["channels last" if case.layout == "contiguous" else "contiguous"](residual)  # another one
    kept = torch.rand((shape[0], CHANNELS if case.mask == "per channel" else 1, *case.spatial), generator=draw)
    kept[0] = kept[-1] = 0  # at least two values in every channel
    mask = None if case.mask is None else kept.to(case.dtype) + 0.5 if case.mask == "weights" else kept < 0.8
    weight, bias = (torch.randn(CHANNELS, generator=draw, dtype=torch.float64) for _ in range(2))
    return Problem(x, residual if case.residual else None, dy, mask, weight, bias)


def own_part(case: Case, rank: int, group: Any) -> dict[str, Tensor | None]:
    """The part of the outcome that one process has."""
    choose._ASKED = case.kernel or None
    start = sum(case.shares[:rank])
    part = slice(start, start + case.shares[rank])
    x, residual, dy, mask, weight, bias = problem(case)
    layer = nt.SyncBatchNorm(CHANNELS, process_group=group, activation=case.activation, estimator="pooled")
    layer = layer.to(case.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    x = LAYOUTS[case.layout](x[part]).detach().requires_grad_()
    residual = None if residual is None else residual[part].detach().requires_grad_()
    key = "sample_weight" if case.mask == "weights" else "mask"
    given = {} if mask is None else {key: mask[part]}
    before = sequence(group)
    y = layer(x, residual, **given)
    between = sequence(group)
    y.backward(dy[part])
    return {
        "y": y.detach(),
        "x": x.grad,
        "residual": None if residual is None else residual.grad,
        "weight": layer.weight.grad,
        "bias": layer.bias.grad,
        "mean": layer.running_mean,
        "var": layer.running_var,
        "count": layer.running_count,
        "batches": layer.num_batches_tracked,
        "calls": torch.tensor([between - before, sequence(group) - between]),
    }


def sequence(group: Any) -> int:
    """The number of collective calls that the group has made."""
    world: Any = distributed.group.WORLD
    return int((group or world)._get_sequence_number_for_group())


def find(rank: int, _: int) -> dict[str, Any]:
    pair = distributed.new_group([0, 1])
    found = {}
    for name, case in CASES.items():
        if case.kernel == "cpu" and not choose.built():
            continue
        if rank < len(case.shares):
            found[name] = own_part(case, rank, pair if len(case.shares) == 2 else None)
    return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return outcomes_of(__name__, Path(tmp_path_factory.mktemp("ranks")), WORLD)


@pytest.mark.parametrize("name", CASES, ids=[f"{name}: {tuple(case)}" for name, case in CASES.items()])
def test_all_processes_together_have_what_one_has_by_the_reference(name: str, parts: list[Any]) -> None:
    case = CASES[name]
    found = [part[name] for part in parts[: len(case.shares)]]
    whole = problem(case)
    mask, sample_weight = (None, whole.mask) if case.mask == "weights" else (whole.mask, None)
    weights = check_weights(mask, sample_weight, whole.x)
    options: dict[str, Any] = {
        "activation": case.activation,
        "residual": None if whole.residual is None else array(whole.residual),
        "weights": None if weights is None else array(weights),
    }
    law = (array(whole.x), array(whole.weight.to(case.dtype)), array(whole.bias.to(case.dtype)), 1e-5)
    y, batch = reference.forward_batch(*law, **options)
    right = reference.backward_batch(array(whole.dy), *law, **options)
    limit = 100 * torch.finfo(case.dtype).eps
    outputs: dict[str, Any] = {"y": y, "x": right.x, "residual": right.residual}
    for key, wanted in outputs.items():
        if wanted is not None:
            together = torch.cat([part[key] for part in found])
            np.testing.assert_allclose(array(together), wanted, rtol=limit, atol=4 * limit, err_msg=key)
            assert [len(part[key]) for part in found] == list(case.shares)
    for key, wanted in {"weight": right.scale, "bias": right.shift}.items():
        total = np.sum([array(part[key]) for part in found], 0)
        size = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(total / size, wanted / size, rtol=limit, atol=limit, err_msg=key)
    for part in found:
        np.testing.assert_allclose(array(part["mean"]), batch.mean, rtol=max(limit, 1e-6), atol=1e-6)
        np.testing.assert_allclose(array(part["var"]), batch.unbiased_var(), rtol=max(limit, 1e-6))
        np.testing.assert_allclose(array(part["count"]), np.broadcast_to(batch.count, part["count"].shape), rtol=1e-6)
        assert part["batches"] == 1


@pytest.mark.parametrize("key", ["mean", "var", "count"])
def test_statistics_are_the_same_in_all_processes_bit_for_bit(key: str, parts: list[Any]) -> None:
    for name, case in CASES.items():
        first, *others = (part[name][key] for part in parts[: len(case.shares)])
        assert all(torch.equal(first, other) for other in others), name


def test_whole_counts_stay_whole_numbers(parts: list[Any]) -> None:
    for name, case in CASES.items():
        count = parts[0][name]["count"]
        assert count.dtype is (torch.float64 if case.mask == "weights" else torch.int64)
        assert count.dim() == (1 if case.mask == "per channel" else 0)


def test_there_is_one_collective_call_forward_and_one_backward(parts: list[Any]) -> None:
    assert {tuple(found["calls"].tolist()) for part in parts for found in part.values()} == {(1, 1)}


if __name__ == "__main__":
    work(find)
