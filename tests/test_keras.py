"""The layers for Keras on each of its backends, in a process of its own: Keras has one backend per process."""

import os
from importlib.util import find_spec

import pytest

from tests.sessions import ROOT, session

# JAX compiles small programs for most of its session, many of them the same: kept, each is compiled once. LLVM's passes
# over them take more than half of the first session; XLA's own, which fuse and reorder what a layer does, stay as they
# are. An empty XLA_FLAGS in the environment brings LLVM's back.
FOR_JAX = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / "build/jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_all_that_is_for_keras_passes_on(backend: str) -> None:
    if "CI" not in os.environ and (find_spec("keras") is None or find_spec(backend) is None):
        pytest.skip(f"Keras or its backend {backend} is not installed; the extra `dev` has both")
    own = {name: os.environ.get(name, value) for name, value in FOR_JAX.items()} if backend == "jax" else {}
    found = session(
        "src/normwise/keras",
        "src/normwise/callbacks/keras",
        "src/normwise/surgery/keras_layers.py",
        "tests/keras",
        seconds=3600,
        KERAS_BACKEND=backend,
        TF_CPP_MIN_LOG_LEVEL="2",
        **own,
    )
    assert found.returncode == 0, f"{found.stdout[-20000:]}\n{found.stderr[-5000:]}"
