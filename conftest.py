"""What holds for all tests: which are collected, in which order, and that what they start hears Ctrl-C.

A process has one of Keras's backends, so the tests that are for Keras run in a process for each.
``tests/test_keras.py`` starts the three. To run some of them on one backend, name it in the environment:
``KERAS_BACKEND=jax pytest tests/keras``.

In the same way a process has Triton's kernels interpreted or compiled. ``tests/test_triton.py`` starts the
processes in which they are interpreted; by hand, ``TRITON_INTERPRET=1 pytest tests/kernels/triton_gpu``. With a GPU,
``make test DEVICE=cuda`` runs the same tests there, compiled. ``tests/test_asked.py`` starts a process for each name
that ``NORMWISE_KERNEL`` may have; by hand, ``NORMWISE_KERNEL=cpu pytest tests/kernels/test_asked_by_name.py``.
``tests/test_families.py`` starts processes that find timm and torchvision, which stand in a folder of their own.
"""

import os
import signal
from importlib.util import find_spec

import pytest

pytest_plugins = ["tests.quick"]
FOR_KERAS = [
    "src/normwise/keras",
    "src/normwise/callbacks/keras",
    "src/normwise/*/keras_*",
    "src/normwise/lab/comparison/keras_*",
    "tests/keras",
    "tests/benchmarks/zoo/test_keras_*",
]
FOR_TIMM = ["tests/benchmarks/zoo/test_timm.py", "tests/benchmarks/zoo/test_torchvision.py"]
FOR_LIGHTNING = ["src/normwise/callbacks/lightning"]
NO_GPU = "these tests run on a GPU, and PyTorch finds none here: leave DEVICE=cuda out, or run them where there is one."
collect_ignore_glob = [] if "KERAS_BACKEND" in os.environ else [*FOR_KERAS]
if find_spec("lightning") is None:
    collect_ignore_glob += FOR_LIGHTNING
if find_spec("timm") is None:
    collect_ignore_glob += FOR_TIMM
if "TRITON_INTERPRET" not in os.environ and "NORMWISE_TEST_DEVICE" not in os.environ:
    collect_ignore_glob += ["tests/kernels/triton_gpu"]
# For its examples pytest asks a module for every name that ``dir`` gives, and there that brings in all frameworks.
# TensorFlow and Triton crash in one process (TensorFlow 2.21 first, then Triton 3.7), and torch.compile imports Triton.
collect_ignore_glob += ["src/normwise/__init__.py"]
if "NORMWISE_KERNEL" not in os.environ:
    collect_ignore_glob += ["tests/kernels/test_asked_by_name.py"]
if find_spec("triton") is None:
    collect_ignore_glob += ["src/normwise/kernels/triton_gpu"]


@pytest.fixture(autouse=True)
def _names_of_keras_start_at_their_first(request: pytest.FixtureRequest) -> None:
    """Run an example as its reader does, in a process without layers: Keras counts them in the names that it gives."""
    if "KERAS_BACKEND" in os.environ and isinstance(request.node, pytest.DoctestItem):
        import keras

        keras.utils.clear_session(free_memory=False)


def pytest_configure() -> None:
    """Listen to Ctrl-C: a shell has what runs in the background ignore it, and what tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("NORMWISE_TEST_DEVICE") == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.exit(NO_GPU, returncode=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the sessions in processes of their own, which take minutes: at the end, one worker would run alone.

    pytest-xdist gives each worker a part of the list, and who is done takes from the ends of the others' parts. So each
    part begins with some of the sessions.
    """
    names = ("test_keras.py", "test_families.py", "test_triton.py", "test_asked.py")
    sessions = sorted((item for item in items if item.path.name in names), key=lambda item: names.index(item.path.name))
    others = [item for item in items if item.path.name not in names]
    workers, left = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), len(items)
    items.clear()
    for worker in range(workers):
        part = sessions[worker::workers]
        more = max(left // (workers - worker) - len(part), 0)
        items += part + others[:more]
        others, left = others[more:], left - len(part) - more
    items += others
