"""Reading gives what was written, whatever the format, and an error names what is damaged."""

from __future__ import annotations

import gzip
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from normwise import lab
from normwise.errors import NormwiseError
from normwise.lab.data import images, splits
from normwise.lab.data.images import DataError
from normwise.lab.networks.convolutional import Convolutional
from normwise.lab.networks.dense import Dense, he
from normwise.lab.running.plan import Plan
from normwise.lab.running.workers import Task, work
from tests.lab.data.formats.conftest import PER_FILE, TEST, TRAIN, idx, made_up, write_cifar10, write_mnist, write_svhn


@pytest.fixture(autouse=True)
def _digits_again() -> Iterator[None]:
    images.read.cache_clear()
    yield
    splits.use(None)


def test_pixels_and_labels_come_back(written: tuple[str, Path]) -> None:
    name, folder = written
    found = images.read(name, folder)
    shape = (1, 28, 28) if name == "mnist" else (3, 32, 32)
    if name == "cifar10":
        parts = [made_up(PER_FILE, shape, seed) for seed in range(6)]
        train, test = np.concatenate([part.images for part in parts[:5]]), parts[5]
    else:
        train, test = made_up(TRAIN, shape, 0).images, made_up(TEST, shape, 1)
    assert np.array_equal(found.train.images, train)
    assert found.test is not None
    assert np.array_equal(found.test.images, test.images)
    assert np.array_equal(found.test.labels, test.labels)
    assert found.train.images.dtype == np.uint8


def test_experiments_get_the_users_images_in_their_size(written: tuple[str, Path]) -> None:
    name, folder = written
    source = images.source(name, folder)
    splits.use(source)
    shape = (1, 28, 28) if name == "mnist" else (3, 32, 32)
    assert splits.shape() == shape
    split = splits.digits(0)
    whole = len(images.read(name, folder).train.labels)
    assert len(split.train.labels) + len(split.validation.labels) == whole
    assert len(split.test.labels) == TEST
    assert not set(split.train.rows.tolist()) & set(split.validation.rows.tolist())
    assert min(split.test.rows.tolist()) >= whole  # its own test part
    assert split.test.images.shape == (TEST, splits.pixels())
    assert 0 <= float(split.test.images.min()) < 0.1 < 0.9 < float(split.test.images.max()) <= 1
    assert set(splits.digits(0, binary=True).test.images.flatten().tolist()) == {0.0, 1.0}
    assert splits.digits_on_photos(0).test.images.shape == split.test.images.shape
    dense = Dense(depth=1, width=4, activation="relu", std=he, seed=0)
    convolutional = Convolutional(width=2, activation="relu", norm=None, seed=0)
    assert dense(split.test.images).shape == convolutional(split.test.images).shape == (TEST, 10)
    splits.use(None)
    assert splits.digits(0).test.images.shape == (450, 64)


def test_large_data_are_drawn_by_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    splits.use(images.source("mnist", tmp_path))
    monkeypatch.setattr(splits, "LARGE", {"train": 20, "validation": 10, "test": 10})
    first, again, other = splits.digits(0), splits.digits(0), splits.digits(1)
    assert [len(part.labels) for part in (first.train, first.validation, first.test)] == [20, 10, 10]
    assert torch.equal(first.test.rows, again.test.rows)
    assert not torch.equal(first.test.rows, other.test.rows)


def test_the_fingerprint_changes_with_a_pixel(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    before = images.source("mnist", tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    images.read.cache_clear()
    assert images.source("mnist", tmp_path).fingerprint != before.fingerprint


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def no_such_dimensions(path: Path) -> None:
    path.write_bytes(idx(np.zeros((TRAIN, 28 * 28), np.uint8)))


def one_label_less(path: Path) -> None:
    path.write_bytes(idx(np.zeros(TRAIN - 1, np.uint8)))


def a_large_label(path: Path) -> None:
    path.write_bytes(idx(np.full(TRAIN, 11, np.uint8)))


def half_a_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(idx(np.zeros((TRAIN, 28, 28), np.uint8)))[:30])


DAMAGES: list[tuple[Callable[[Path], None], str, Callable[[Path], None], str]] = [
    (write_mnist, "train-images-idx3-ubyte", cut, "expected 156800 numbers, as its head says, found 156795."),
    (
        write_mnist,
        "train-images-idx3-ubyte",
        no_such_dimensions,
        "expected an IDX file of bytes with 3 dimensions, found it begins with 00000802.",
    ),
    (
        write_mnist,
        "train-labels-idx1-ubyte",
        one_label_less,
        "expected a label for each of 200 images, found 199 labels.",
    ),
    (write_mnist, "train-images-idx3-ubyte", half_a_gzip, "expected a whole gzip file, found "),
    (write_svhn, "test_32x32.mat", cut, "expected a MATLAB file with the arrays X and y, found "),
    (
        write_svhn,
        "test_32x32.mat",
        lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 5), np.uint8)}),
        "expected the arrays X and y, found X.",
    ),
    (
        write_svhn,
        "test_32x32.mat",
        lambda path: savemat(path, {"X": np.zeros((32, 32, 3, 5), np.uint8), "y": np.ones((5, 1), np.uint8)}),
        "expected 40 x 3 x 32 x 32 bytes, found 5 x 3 x 32 x 32 of uint8.",
    ),
    (write_cifar10, "data_batch_3.bin", cut, "expected a multiple of 3073 bytes, found 122915."),
]


@pytest.mark.parametrize(("write", "name", "damage", "sentence"), DAMAGES, ids=[row[3][:40] for row in DAMAGES])
def test_a_damaged_file_is_named_with_what_was_expected(
    write: Callable[[Path], None], name: str, damage: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    write(tmp_path)
    damage(tmp_path / name)
    kind = write.__name__.removeprefix("write_")
    with pytest.raises(DataError) as error:
        images.source(kind, tmp_path)
    assert str(error.value).startswith(
        f"the file {str(tmp_path / name)!r} is damaged or another one: {sentence}".rstrip()
    )


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    a_large_label(tmp_path / "train-labels-idx1-ubyte")
    with pytest.raises(DataError, match=r"expected labels from 0 to 9, found the label 11\.$"):
        images.source("mnist", tmp_path)


def test_a_missing_file_is_named_with_its_other_spellings(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    sentence = f"the folder {str(tmp_path)!r} holds no file 'test_32x32.mat': put the original file there."
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        images.source("svhn", tmp_path)
    with pytest.raises(DataError, match=r"holds no file 'data_batch_1\.bin', nor 'data_batch_1': put"):
        images.source("cifar10", tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    sentence = f"the folder {str(tmp_path / 'none')!r} of --data-dir is not there: name the one with mnist's files."
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        images.source("mnist", tmp_path / "none")


class Call:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.trace,)


def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path: Path) -> None:
    write_cifar10(tmp_path, pickled=True)
    trace = tmp_path / "trace"
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Call(trace), b"labels": [0]}, protocol=2))
    with pytest.raises(DataError) as error:
        images.source("cifar10", tmp_path)
    assert str(error.value).startswith(
        f"the file {str(path)!r} is damaged or another one: expected a pickle of NumPy's"
    )
    assert "it asks for " in str(error.value)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the file would have done it
    assert trace.exists()


def test_torchvisions_and_the_archives_folders_are_looked_into(tmp_path: Path) -> None:
    below = tmp_path / "MNIST" / "raw"
    below.mkdir(parents=True)
    write_mnist(below)
    assert len(images.read("mnist", tmp_path).train.labels) == TRAIN


def test_a_run_takes_the_users_images_and_says_so(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    name = "does_it_cure_vanishing_gradients"
    source = images.source(name="mnist", folder=tmp_path)
    settings = {"layers": 6, "width": 8, "activations": ("relu",), "scales": (1.0, 2.0)}
    trial = {"activation": "relu", "batch_norm": True, "scale": 1.0, "seed": 0}
    with_users, with_digits = (work(Task(name, None, settings, trial, each)) for each in (source, None))
    assert (with_users.error, with_digits.error) == ("", "")
    assert with_users.outcome != with_digits.outcome
    command = Plan(data=source).command(name, 10)
    assert command == f"normwise lab run {name} --seeds 10 --data mnist --data-dir DIR"  # no path of anybody's machine


def test_an_experiment_that_takes_no_other_data_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    name = "does_feature_scaling_round_the_valley"
    sentence = f"experiment {name!r} takes no other data than its own: run it without --data."
    with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
        lab.run([name], data=("mnist", tmp_path), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
