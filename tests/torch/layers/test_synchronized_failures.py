"""A process that dies or comes too late: the others get an error that says so within the group's timeout, no hang."""

from __future__ import annotations

import datetime
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

import normwise.torch as nt
from normwise.errors import NormwiseError
from tests.torch.processes import LONGEST, outcomes, work

PATIENCE = 8  # seconds that the first group waits; in the others it is the end of a process that is noticed
LATE = "comes too late"
# What becomes of the process that rank 0 shares a batch with, in this order.
FATES = {1: LATE, 2: "dies between two forwards", 3: "dies before the backward"}


def network(group: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return nt.convert_to_synchronized(model, group).model


def find(rank: int, world: int) -> dict[str, Any]:
    groups = {}
    for other in range(1, world):
        patience = datetime.timedelta(seconds=PATIENCE if FATES[other] == LATE else LONGEST)
        groups[other] = distributed.new_group([0, other], timeout=patience)
    distributed.barrier()  # the first steps are at the same time
    if rank == 0:
        return {fate: left_alone(groups[other]) for other, fate in FATES.items()}
    y = network(groups[rank])(torch.randn(5, 3))
    if FATES[rank] == "dies before the backward":
        os._exit(7)
    y.sum().backward()
    if FATES[rank] != LATE:
        os._exit(7)
    ended = Path(sys.argv[3]) / "0.pt"
    while not ended.exists():
        time.sleep(0.1)
    return {}


def left_alone(group: Any) -> dict[str, Any]:
    """Two steps of training; where they ended and why, how long that took, and whether the statistics moved then."""
    model, steps, before = network(group), 0, torch.zeros(4)
    began = time.monotonic()
    try:
        while steps < 2:
            y = model(torch.randn(5, 3))
            before = model[1].running_mean.clone()
            y.sum().backward()
            steps, began = steps + 1, time.monotonic()
    except NormwiseError as error:
        same = torch.equal(before, model[1].running_mean)
        found = {"words": str(error), "cause": str(error.__cause__), "steps": steps, "same": same}
        return {**found, "seconds": time.monotonic() - began}
    return {}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return outcomes(__name__, Path(tmp_path_factory.mktemp("ranks")), 4, codes=[0, 0, 7, 7])[0]


@pytest.mark.parametrize("fate", FATES.values())
def test_the_error_names_the_layer_and_what_to_do(fate: str, found: dict[str, Any]) -> None:
    when = "backward" if fate == "dies before the backward" else "forward"
    assert re.fullmatch(
        r"batch norm '1' could not join its batch with those of the other processes of its 2, in the "
        rf"{when} \([^()]+(\([^()]*\)[^()]*)*\): one of them ended, was later than the group's timeout, or was at "
        r"another layer; see what happened there, and start all of them again\.",
        found[fate]["words"],
    ), found[fate]["words"]
    assert found[fate]["cause"]
    assert found[fate]["steps"] == (1 if when == "forward" else 0)


@pytest.mark.parametrize("fate", FATES.values())
def test_it_comes_within_the_timeout_and_the_statistics_are_as_they_were(fate: str, found: dict[str, Any]) -> None:
    assert found[fate]["seconds"] < LONGEST / 2
    assert found[fate]["same"]


if __name__ == "__main__":
    work(find, timeout=LONGEST / 2)
