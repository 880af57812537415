"""CIFAR-10's batches, in the binary version or in Python's.

Python's are pickles, and a pickle may call anything. These are read by an unpickler that knows NumPy's arrays and
nothing else: a file that asks for more is refused before any of it is run.

References:
    A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from normwise.lab.data.images import Images, Part, check, damaged, find

TITLE = "CIFAR-10"
PER_FILE = 10_000
SHAPE = (3, 32, 32)
BELOW = ("cifar-10-batches-bin", "cifar-10-batches-py")
ALLOWED = {
    (f"numpy.{core}.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct")
    for core in ("core", "_core")
} | {("numpy", name): ("numpy", name) for name in ("ndarray", "dtype")}


def read(folder: Path) -> Images:
    """The training images, in the order of their five files, and the test images.

    Raises:
        DataError: a file is missing, damaged, or a pickle of anything but arrays.
    """
    parts = [_part(folder, f"data_batch_{n}") for n in range(1, 6)]
    train = Part(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))
    return Images(train, _part(folder, "test_batch"))


def _part(folder: Path, name: str) -> Part:
    path = find(folder, (f"{name}.bin", name), BELOW)
    part = _binary(path) if path.suffix == ".bin" else _pickled(path)
    return check(path, part, PER_FILE, SHAPE)


def _binary(path: Path) -> Part:
    """A byte for the label, then 1024 for red, green and blue each."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    row = 1 + int(np.prod(SHAPE))
    if len(content) % row:
        raise damaged(path, f"a multiple of {row} bytes", f"{len(content)}")
    rows = content.reshape(-1, row)
    return Part(rows[:, 1:].reshape(-1, *SHAPE), rows[:, 0])


class _ArraysOnly(pickle.Unpickler):
    """Reads bytes, numbers, lists, dictionaries and NumPy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function, by its name, that makes NumPy's arrays; anything else is refused."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(*ALLOWED[module, name])


def _pickled(path: Path) -> Part:
    expected = "a pickle of NumPy's arrays and nothing else"
    try:
        found = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # bytes that are no pickle make it raise nearly anything
        raise damaged(path, expected, " ".join(str(error).split()) or type(error).__name__) from error
    if not isinstance(found, dict) or not {b"data", b"labels"} <= {_name(key) for key in found}:
        raise damaged(path, "a dictionary with data and labels", type(found).__name__)
    fields = {_name(key): value for key, value in found.items()}
    data, labels = fields[b"data"], fields[b"labels"]
    row = int(np.prod(SHAPE))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != row:
        kind = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise damaged(path, f"bytes in rows of {row}", kind)
    if not isinstance(labels, list) or not all(type(each) is int and 0 <= each <= 255 for each in labels):
        raise damaged(path, "a list of labels", type(labels).__name__)
    return Part(data.reshape(-1, *SHAPE), np.array(labels, np.uint8))


def _name(key: object) -> object:
    return key.encode() if isinstance(key, str) else key
