"""Images as sequences of rows, whatever their size and colours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from normwise.lab.data import splits
from normwise.lab.data.splits import Split
from normwise.lab.networks import recurrent


@pytest.fixture(autouse=True)
def _digits_again() -> Iterator[None]:
    yield
    splits.use(None)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 4, 5)])
def test_a_step_is_a_row_of_all_colours(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "shape", lambda: shape)
    channels, height, width = shape
    images = torch.arange(2.0 * channels * height * width).reshape(2, -1)
    found = recurrent.sequences(Split(images, torch.zeros(2), torch.arange(2)), blank=3)
    assert recurrent.sequence_shape() == (height, channels * width)
    assert found.images.shape == (2, 3 + height, channels * width)
    assert not found.images[:, :3].any()
    picture = images[1].reshape(shape)
    for row in range(height):
        assert torch.equal(found.images[1, 3 + row], picture[:, row].flatten())
