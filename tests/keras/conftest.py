"""The backend of this process, told apart once."""

import keras
import pytest

if keras.backend.backend() == "torch":
    import torch

    torch.set_num_threads(1)  # these tensors are tiny


def pytest_configure(config: pytest.Config) -> None:
    """The marks of Keras's own tests."""
    config.addinivalue_line("markers", "requires_trainable_backend: one that has gradients; all three have")


@pytest.fixture(scope="session")
def backend() -> str:
    """The name of this process's backend."""
    name: str = keras.backend.backend()
    return name


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    keras.utils.set_random_seed(0)
