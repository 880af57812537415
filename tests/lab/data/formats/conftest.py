"""Tiny files in the original formats of the data sets, with as many images as the tests say that there should be."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from normwise.lab.data.formats import cifar10, mnist, svhn
from normwise.lab.data.images import Bytes, Part

TRAIN, TEST, PER_FILE = 200, 40, 40


def made_up(n: int, shape: tuple[int, int, int], seed: int) -> Part:
    random = np.random.default_rng(seed)
    return Part(random.integers(0, 256, (n, *shape), np.uint8), (np.arange(n) % 10).astype(np.uint8))


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "COUNTS", {"train": TRAIN, "t10k": TEST})
    monkeypatch.setattr(mnist, "COUNT", TRAIN)
    monkeypatch.setattr(svhn, "COUNTS", {"train": TRAIN, "test": TEST})
    monkeypatch.setattr(cifar10, "PER_FILE", PER_FILE)


def idx(array: Bytes) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, compressed: bool = False) -> None:
    pack, ending = (gzip.compress, ".gz") if compressed else (bytes, "")
    for seed, (name, n) in enumerate((("train", TRAIN), ("t10k", TEST))):
        part = made_up(n, (1, 28, 28), seed)
        (folder / f"{name}-images-idx3-ubyte{ending}").write_bytes(pack(idx(part.images[:, 0])))
        (folder / f"{name}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(part.labels)))


def write_rows(folder: Path) -> None:
    """One file of pixels and labels, as the package writes it that brings some of MNIST's images."""
    part = made_up(TRAIN, (1, 28, 28), 0)
    rows = np.hstack([part.images.reshape(TRAIN, -1), part.labels[:, None]])
    text = "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())
    (folder / mnist.FILE).write_bytes(gzip.compress(text.encode()))


def write_svhn(folder: Path) -> None:
    for seed, (name, n) in enumerate((("train", TRAIN), ("test", TEST))):
        part = made_up(n, (3, 32, 32), seed)
        labels = np.where(part.labels == 0, 10, part.labels)[:, None]
        savemat(folder / f"{name}_32x32.mat", {"X": part.images.transpose(2, 3, 1, 0), "y": labels})


def python_2_pickle(part: Part) -> bytes:
    """A dictionary as Python 2's cPickle wrote it, opcode by opcode: strings are bytes, modules old ones."""

    def string(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    rows = part.images.reshape(len(part.images), -1)
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85" + string(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + string(b"u1") + number(0) + number(1) + b"tR"
    state = number(3) + string(b"|") + b"NNN" + number(-1) + number(-1) + number(0)
    filled = b"(" + number(1) + b"(" + b"".join(map(number, rows.shape)) + b"t" + dtype + b"(" + state + b"tb"
    data = empty + filled + b"\x89" + string(rows.tobytes()) + b"tb"
    labels = b"](" + b"".join(number(int(label)) for label in part.labels) + b"e"
    return b"\x80\x02}(" + string(b"labels") + labels + string(b"data") + data + b"u."


def binary(part: Part) -> bytes:
    return np.hstack([part.labels[:, None], part.images.reshape(len(part.images), -1)]).tobytes()


def write_cifar10(folder: Path, *, pickled: bool = False) -> None:
    write: Callable[[Part], bytes] = python_2_pickle if pickled else binary
    for seed, name in enumerate((*(f"data_batch_{n}" for n in range(1, 6)), "test_batch")):
        path = folder / (name if pickled else f"{name}.bin")
        path.write_bytes(write(made_up(PER_FILE, (3, 32, 32), seed)))


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "mnist": ("mnist", write_mnist),
    "mnist, compressed": ("mnist", lambda folder: write_mnist(folder, compressed=True)),
    "svhn": ("svhn", write_svhn),
    "cifar10, binary": ("cifar10", write_cifar10),
    "cifar10, pickled": ("cifar10", lambda folder: write_cifar10(folder, pickled=True)),
}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """The name of a data set and the folder with its files, in every form that it comes in."""
    name, write = WRITERS[request.param]
    write(tmp_path)
    return name, tmp_path
