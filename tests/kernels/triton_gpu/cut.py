"""The ways in which the kernels cut a tensor, each of which takes other kernels or another path through them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from normwise.kernels.triton_gpu import launch, plan
from normwise.kernels.triton_gpu.plan import Device, Settings

SWEPT = Settings(elements=64, held=0, alone=0)
# Programs, pieces of one group of channels each, and no more partial results than one before they are finished.
CUTS: dict[str, tuple[Settings, int, int | None]] = {
    "one launch": (Settings(), 4, None),
    "two launches": (SWEPT, 4, None),
    "by the last one": (Settings(elements=64, held=0), 4, None),
    "pieces": (Settings(elements=64, held=0, alone=0, share=1e-9), 2, None),
    "three launches": (SWEPT, 64, 1),
    "long loops": (Settings(elements=64, held=0, alone=0, programs=1), 1, None),
}


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that has tensors cut in one of the ways."""

    def use(name: str) -> None:
        settings, processors, joined = CUTS[name]
        monkeypatch.setattr(launch, "settings_for", lambda *_: settings)
        monkeypatch.setattr(launch, "device_of", lambda _: Device("a small one", processors, 1 << 20))
        if joined is not None:
            monkeypatch.setattr(plan, "JOINED", joined)
            monkeypatch.setattr(plan, "JOINED_LAST", joined)

    return use
