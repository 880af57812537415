"""One thread per worker: these tensors are tiny, and threads of several workers on few cores wait for each other.

And the same numbers in every run: a tolerance that one draw in a thousand exceeds is not to be found out by chance.
"""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
