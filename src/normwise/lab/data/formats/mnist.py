"""MNIST's four IDX files, compressed or not, also as torchvision unpacks them.

An IDX file is: two zero bytes, the type of the numbers (8: bytes), the number of dimensions, each dimension as four
bytes with the highest first, then the numbers.

References:
    Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, 1998.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from normwise.lab.data.images import Bytes, Images, Part, check, damaged, find

COUNTS = {"train": 60_000, "t10k": 10_000}
SHAPE = (1, 28, 28)
BELOW = ("MNIST/raw", "raw", "mnist")


def read(folder: Path) -> Images:
    """The training and the test images.

    Raises:
        DataError: a file is missing or damaged.
    """
    return Images(_part(folder, "train"), _part(folder, "t10k"))


def _part(folder: Path, name: str) -> Part:
    path = find(folder, _spellings(f"{name}-images", "idx3"), BELOW)
    images = _idx(path, 3)
    labels_path = find(folder, _spellings(f"{name}-labels", "idx1"), BELOW)
    labels = _idx(labels_path, 1)
    if len(labels) != len(images):
        raise damaged(labels_path, f"a label for each of {len(images)} images", f"{len(labels)} labels")
    return check(path, Part(images[:, None], labels), COUNTS[name], SHAPE)


def _spellings(name: str, kind: str) -> list[str]:
    plain = (f"{name}-{kind}-ubyte", f"{name}.{kind}-ubyte")
    return [f"{each}{ending}" for ending in ("", ".gz") for each in plain]


def _idx(path: Path, dimensions: int) -> Bytes:
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":  # whatever the name says
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(path, "a whole gzip file", f"{error}") from error
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes((0, 0, 8, dimensions)):
        raise damaged(path, f"an IDX file of bytes with {dimensions} dimensions", f"it begins with {content[:4].hex()}")
    shape = struct.unpack(f">{dimensions}I", content[4:head])
    if len(content) != head + int(np.prod(shape)):
        raise damaged(path, f"{int(np.prod(shape))} numbers, as its head says", f"{len(content) - head}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
