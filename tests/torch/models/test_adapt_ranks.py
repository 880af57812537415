"""``adapt`` over two real processes: each its share of the shifted data, and the same statistics for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normwise.errors import NormwiseError
from normwise.torch.models.recalibration.adapt import adapt
from tests.torch.processes import outcomes, work

SHARES = ((16, 16, 5), (9,))
PRIOR = 10


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
    ).double()


def share(rank: int, scene: str = "") -> list[Tensor]:
    if scene == "one has nothing" and rank == 1:
        return []
    draw = torch.Generator().manual_seed(rank)
    found = [torch.randn((n, 3), generator=draw, dtype=torch.float64) + 3 * rank for n in SHARES[rank]]
    if scene == "one fails" and rank == 1:
        found.append(torch.zeros(4, 7, dtype=torch.float64))
    return found


def attempt(rank: int, scene: str) -> Any:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def same() -> bool:
        return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    try:
        report = adapt(model, share(rank, scene), prior=PRIOR, distributed=scene != "alone")
    except (NormwiseError, RuntimeError) as error:
        return {"error": str(error), "same": same(), "kind": type(error).__name__}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    report.undo()
    return {"state": state, "samples": report.samples, "batches": report.batches, "same": same()}


SCENES = ["both", "one has nothing", "alone", "one fails"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The results of both processes."""
    return outcomes(__name__, tmp_path_factory.mktemp("ranks"), 2)


@pytest.mark.parametrize("scene", ["both", "one has nothing"])
def test_all_ranks_have_the_statistics_of_one_process_with_all_data(scene: str, found: list[Any]) -> None:
    alone = network()
    everything = [batch for rank in range(2) for batch in share(rank, scene)]
    adapt(alone, everything, prior=PRIOR)
    first, second = (outcome[scene] for outcome in found)
    assert (first["batches"], first["samples"]) == (len(everything), sum(len(batch) for batch in everything))
    for name, value in alone.state_dict().items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scene", ["both", "one has nothing", "alone"])
def test_every_rank_takes_it_back_for_itself(scene: str, found: list[Any]) -> None:
    assert [outcome[scene]["same"] for outcome in found] == [True, True]


def test_a_process_may_stay_alone(found: list[Any]) -> None:
    for rank, outcome in enumerate(found):
        alone = network()
        adapt(alone, share(rank), prior=PRIOR)
        torch.testing.assert_close(outcome["alone"]["state"], dict(alone.state_dict()))


def test_a_failure_on_one_rank_is_an_error_on_all_and_every_model_is_as_it_was(found: list[Any]) -> None:
    there, here = (outcome["one fails"] for outcome in found)
    assert here["error"] == "mat1 and mat2 shapes cannot be multiplied (4x7 and 3x6)"
    assert there["kind"] == "NormwiseError"
    assert there["error"] == (
        f"adapt was given up because rank 1 failed with RuntimeError: {here['error']}: "
        "the model is as it was; mend that and call it again on every rank."
    )
    assert there["same"]
    assert here["same"]


if __name__ == "__main__":
    work(lambda rank, _: {scene: attempt(rank, scene) for scene in SCENES})
