"""Holds a GPU to float32's own digits: by default its convolutions round to fewer."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _all_digits() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False):
        yield
