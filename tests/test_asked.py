"""Each kernel that can be asked for by name, in a process of its own: the name is read when the program starts."""

from importlib.util import find_spec

import pytest

from normwise.kernels.choose import BY_NAME, built
from tests.sessions import session


@pytest.mark.parametrize("name", BY_NAME)
def test_it_serves_every_call_or_refuses_it(name: str) -> None:
    if name == "triton" and find_spec("triton") is None:
        pytest.skip("Triton is not installed; the extra `dev` has it on Linux")
    if name == "cpu" and not built():
        pytest.skip("the compiled kernels are not built")
    environment, faster = {"NORMWISE_KERNEL": name}, []
    if name == "triton":
        environment["TRITON_INTERPRET"], faster = "1", ["-p", "tests.kernels.triton_gpu.interpreted"]
    found = session(*faster, "tests/kernels/test_asked_by_name.py", seconds=1800, **environment)
    assert found.returncode == 0, f"{found.stdout[-20000:]}\n{found.stderr[-5000:]}"
