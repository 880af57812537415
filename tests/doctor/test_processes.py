"""Two real processes that train one model on other data: what each of them is told, and that nobody waits in vain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normwise.doctor import examine
from tests.torch.processes import outcomes, work

REASON = "processes are compared when every one of them calls examine with distributed=True"


def camera(rank: int, seed: int) -> list[Tensor]:
    """The images of one rank's camera are brighter."""
    draw = torch.Generator().manual_seed(10 * seed + rank)
    return [torch.randn((64, 4), generator=draw) + 3 * rank for _ in range(12)]


def trained(rank: int) -> nn.Sequential:
    """The same weights in each process, and statistics of its own data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3))
    for x in camera(rank, 1):
        model(x)
    return model.eval()


def told(model: nn.Module, rank: int, **given: Any) -> dict[str, Any]:
    diagnosis = examine(model, camera(rank, 2), only=["disagreeing_ranks"], **given)
    return {
        "found": [(str(each.severity), list(each.layers), each.message) for each in diagnosis.findings],
        "remedies": [each.remedy for each in diagnosis.findings],
        "far": [each.evidence["distance"].value for each in diagnosis.findings],
        "skipped": [each.reason for each in diagnosis.skipped],
    }


def find(rank: int, world: int) -> dict[str, Any]:
    import normwise.torch

    model: Any = trained(rank)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # Rank 0 examines by itself first, as users do: were this collective, the processes would wait for each other.
    alone = told(model, rank) if rank == 0 else {}
    found: dict[str, Any] = {"alone": alone, "sick": told(model, rank, distributed=True)}
    found["group"] = told(model, rank, distributed=torch.distributed.new_group([*range(world)]))
    found["same"] = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    names = {"normwise": normwise, "torch": torch, "model": model}
    exec(found["sick"]["remedies"][0], names)  # a user pastes it
    found["cured"] = told(model, rank, distributed=True)
    with torch.no_grad():
        model[1].weight += rank * 0.1
    found["weights"] = told(model, rank, distributed=True)
    exec(found["weights"]["remedies"][0], names)
    found["weights cured"] = told(model, rank, distributed=True)
    other = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4)) if rank else nn.BatchNorm1d(4)
    found["other layers"] = told(other.eval(), rank, distributed=True)
    return found


def test_processes_that_came_apart_are_found_by_both_and_the_remedy_joins_them(tmp_path: Path) -> None:
    first, second = outcomes("tests.doctor.test_processes", tmp_path, 2)
    assert first["alone"] == {"found": [], "remedies": [], "far": [], "skipped": [REASON]}
    for found in (first, second):
        ((severity, layers, message),) = found["sick"]["found"]
        assert severity == "error"
        assert layers == ["0", "2"]
        assert message == (
            "the running statistics of 2 layers differ between the processes: only those of one process would be saved."
        )
        assert 1 < found["sick"]["far"][0] < 4
        assert found["group"] == found["sick"]
        assert found["same"]
        assert found["cured"]["found"] == []
        ((severity, layers, message),) = found["weights"]["found"]
        assert (severity, layers) == ("error", [])
        assert message == "the weights differ between the processes: only those of one process would be saved."
        assert found["weights cured"]["found"] == []
        assert found["other layers"]["skipped"] == ["the processes have models with other layers"]
    assert first["sick"] == second["sick"]


def test_one_process_says_that_there_is_nothing_to_compare() -> None:
    model = trained(0)
    assert told(model, 0)["skipped"] == []
    assert told(model, 0, distributed=True)["skipped"] == ["torch.distributed is not in use, or knows one process only"]


if __name__ == "__main__":
    work(find)
