"""The rooms are attributes of `normwise`, without an import of theirs before."""

import subprocess
import sys

import pytest

import normwise


@pytest.mark.parametrize("room", ["torch", "keras", "lab", "estimators", "errors", "process_memory"])
def test_a_room_comes_in_when_it_is_first_used(room: str) -> None:
    """Of the two frameworks', a process that has imported neither is asked."""
    program = (
        "import sys, normwise\n"
        f"before = 'normwise.{room}' in sys.modules, {room!r} in sys.modules\n"
        f"print(before, normwise.{room}.__name__, {room!r} in dir(normwise))"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == f"(False, False) normwise.{room} True", run.stderr


def test_what_is_no_room_and_no_door_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"^module 'normwise' has no attribute 'kerass'$"):
        normwise.kerass  # noqa: B018  # the look-up is the test


def test_the_layers_do_not_bring_in_the_compiler() -> None:
    """Neither it nor Triton, which a process that has TensorFlow does not survive; and a second of waiting."""
    code = (
        "import normwise.torch, sys; print(sorted({'torch._dynamo', 'torch._inductor', 'triton'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
