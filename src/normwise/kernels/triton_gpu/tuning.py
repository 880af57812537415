"""The fastest settings: a bounded list, the measured choices from it in a file, and how they are looked up.

A call only looks up. Measuring is ``normwise tune``'s, so that nothing is ever timed inside a graph capture or a step.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from normwise.errors import NormwiseError
from normwise.kernels.triton_gpu.layout import view
from normwise.kernels.triton_gpu.plan import Device, Settings, power_of_two

VERSION = 1  # of the file
# Every setting that may be chosen, the default first; a share of 0 is one piece, whatever the cache holds.
CANDIDATES = (
    Settings(),
    Settings(share=0.0),
    Settings(share=0.8),
    Settings(programs=8),
    Settings(programs=8, share=0.0),
    Settings(elements=1024, warps=4, programs=8),
    Settings(elements=1024, warps=4, programs=8, share=0.0),
    Settings(held=2048),
    Settings(held=0),
    Settings(held=0, share=0.0),
    Settings(alone=0),
    Settings(alone=4 << 20),
    Settings(launches=16),
    Settings(launches=256),
)


class Tuned(NamedTuple):
    """The measurements for one kind of tensor."""

    key: str
    settings: Settings
    milliseconds: float  # with the settings
    default: float  # milliseconds with the default settings


def file() -> Path:
    """The file of the settings: ``normwise/triton.json`` in the user's folder for caches."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "normwise" / "triton.json"


def key_of(x: Tensor, device: Device) -> str:
    """The device, the shape's class (rows and their length to the next power of two), dtype and layout.

    Example:
        >>> import torch
        >>> key_of(torch.zeros(6, 64, 7, 7), Device("NVIDIA H200", 132, 60 << 20))
        'NVIDIA H200, 8 rows, 64 channels, 64 wide, float32, channels first'
    """
    lies = view(x)
    rows, width = power_of_two(lies.rows), power_of_two(lies.width)
    dtype = str(x.dtype).removeprefix("torch.")
    order = "last" if lies.last else "first"
    return f"{device.name}, {rows} rows, {lies.channels} channels, {width} wide, {dtype}, channels {order}"


def settings_for(x: Tensor, device: Device) -> Settings:
    """The settings that were fastest for such a tensor on such a device, or the default.

    Args:
        x: dense.
        device: where it lies.
    """
    if _TRIED:
        return _TRIED[-1]
    found = known()
    return found.get(key_of(x, device), Settings()) if found else Settings()


_TRIED: list[Settings] = []


@contextmanager
def trying(settings: Settings) -> Iterator[None]:
    """A block in which every call is done with these settings; for one thread only."""
    _TRIED.append(settings)
    try:
        yield
    finally:
        _TRIED.pop()


@cache
def known() -> dict[str, Settings]:
    """The settings in the file, read once; a file that is missing, damaged or of another version holds none."""
    return read(file())


def read(path: Path) -> dict[str, Settings]:
    """The settings in a file, only those that may be chosen."""
    try:
        found: Any = json.loads(path.read_text("utf-8"))
        if found["version"] != VERSION:
            return {}
        kept = {str(key): Settings(**settings) for key, settings in found["settings"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {key: settings for key, settings in kept.items() if settings in CANDIDATES}


def keep(found: list[Tuned], path: Path | None = None) -> Path:
    """Add settings to the file; a reader meanwhile sees the old file or the new one, never a part of one.

    Raises:
        NormwiseError: it cannot be written.
    """
    path = file() if path is None else path
    settings = {**read(path), **{tuned.key: tuned.settings for tuned in found}}
    text = json.dumps(
        {"version": VERSION, "settings": {key: value._asdict() for key, value in settings.items()}}, indent=1
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8") as new:
            new.write(text + "\n")
            new.flush()
            os.fsync(new.fileno())
        Path(new.name).replace(path)
    except OSError as error:
        raise NormwiseError(
            f"the settings cannot be written to {path} ({error.strerror}): set XDG_CACHE_HOME to a folder that can be "
            "written to."
        ) from error
    known.cache_clear()
    return path


def tune(
    x: Tensor, device: Device, step: Callable[[], object], clock: Callable[[Callable[[], object]], float]
) -> Tuned:
    """Time every candidate and say which was fastest.

    Args:
        x: dense, of the kind that is tuned for.
        device: where it lies.
        step: what is timed, a forward and backward of x.
        clock: gives the milliseconds that a call takes; what cannot run with some settings raises, and is left out.

    Raises:
        NormwiseError: a CUDA graph is being captured, in which nothing can be timed.
    """
    if capturing(x):
        raise NormwiseError(
            "tuning was asked for while a CUDA graph is captured, and nothing can be timed there: tune before the "
            "capture."
        )
    times: dict[Settings, float] = {}
    for settings in CANDIDATES:
        with trying(settings):
            try:
                times[settings] = clock(step)
            except Exception as error:  # Triton has no one class for what a GPU has no room for
                if settings == CANDIDATES[0] or "out of resource" not in str(error):
                    raise
    best = min(times, key=lambda settings: times[settings])
    return Tuned(key_of(x, device), best, times[best], times[CANDIDATES[0]])


def capturing(x: Tensor) -> bool:
    """True if a CUDA graph is being captured from what runs now."""
    import torch

    return bool(x.is_cuda and torch.cuda.is_current_stream_capturing())
