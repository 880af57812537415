"""SVHN's cropped digits, format 2: train_32x32.mat and test_32x32.mat; the larger "extra" file is not used.

References:
    Y. Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from normwise.lab.data.images import Images, Part, check, damaged, find

TITLE = "SVHN"
COUNTS = {"train": 73_257, "test": 26_032}
SHAPE = (3, 32, 32)
BELOW = ("svhn", "SVHN")


def read(folder: Path) -> Images:
    """The training and the test images.

    Raises:
        DataError: a file is missing or damaged.
    """
    return Images(_part(folder, "train"), _part(folder, "test"))


def _part(folder: Path, name: str) -> Part:
    path = find(folder, [f"{name}_32x32.mat"], BELOW)
    try:
        found = loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # the reader has no class of its own for a file that it cannot read
        raise damaged(path, "a MATLAB file with the arrays X and y", " ".join(str(error).split())) from error
    if not {"X", "y"} <= set(found):
        held = ", ".join(sorted(each for each in found if not each.startswith("__"))) or "nothing"
        raise damaged(path, "the arrays X and y", held)
    images, labels = np.asarray(found["X"]), np.asarray(found["y"]).reshape(-1)
    if images.ndim != 4 or not np.issubdtype(labels.dtype, np.integer):
        raise damaged(path, "X with 4 dimensions and whole numbers in y", f"{images.ndim} and {labels.dtype}")
    if len(labels) and not 1 <= labels.min() <= labels.max() <= 10:
        raise damaged(path, "labels from 1 to 10", f"{labels.min()} to {labels.max()}")
    part = Part(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), (labels % 10).astype(np.uint8))  # 10 stands for 0
    return check(path, part, COUNTS[name], SHAPE)
