"""Two processes over gloo, whose interpreted kernels share their moments, have what one has with the whole batch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernels.triton_gpu.device import DEVICE
from tests.kernels.triton_gpu.two_processes import CASES, STEPS, assert_as_one, one_of
from tests.torch.processes import outcomes, work


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    if DEVICE != "cpu":
        pytest.skip("the two processes of this test have interpreted kernels; test_on_a_gpu.py has two with a GPU each")
    return outcomes("tests.kernels.triton_gpu.test_triton_processes", tmp_path_factory.mktemp("meeting"), 2)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_what_one_has(name: str, parts: list[Any]) -> None:
    assert_as_one([part[name] for part in parts], CASES[name])


def test_the_triton_kernels_computed_all_of_it(parts: list[Any]) -> None:
    """The backward calls the kernel for running statistics once more."""
    for part in parts:
        assert part["calls"] == {"moments": len(CASES) * STEPS, "forward_running": 2 * len(CASES) * STEPS}


def _find(rank: int, _: int) -> dict[str, dict[str, Any]]:
    return one_of(rank, "cpu")


if __name__ == "__main__":
    work(_find)
