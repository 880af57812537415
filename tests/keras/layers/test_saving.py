"""A file of a model with our layers, loaded where normwise.keras is not imported, and what saving says of that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SENTENCE = (
    "this model has normwise's layers: write `import normwise.keras` before keras.models.load_model where you load it, "
    "or call normwise.keras.to_keras(model) before saving it. A model of your own class makes its layers itself when "
    "it is loaded: call normwise.keras.convert(model) again then. normwise says this once per process."
)
MODEL = """
import sys, keras
from normwise.keras import BatchNormalization, GhostBatchNormalization, to_keras
def model(layer):
    return keras.Sequential([keras.Input((4,)), layer])
"""


def program(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::UserWarning", "-c", text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))


def test_the_first_save_says_how_to_load_and_no_later_one(tmp_path: Path) -> None:
    done = program(
        MODEL + "model(BatchNormalization()).save(sys.argv[1]); print('saved', file=sys.stderr)\n"
        "model(GhostBatchNormalization(num_splits=2)).save(sys.argv[2])",
        tmp_path / "first.keras",
        tmp_path / "second.keras",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(SENTENCE) == 1
    assert done.stderr.index(SENTENCE) < done.stderr.index("saved")


def test_what_needs_no_import_says_nothing(tmp_path: Path) -> None:
    done = program(
        MODEL + "m = model(BatchNormalization()); m.save_weights(sys.argv[2]); keras.models.clone_model(m)\n"
        "to_keras(m); m.save(sys.argv[1])",
        tmp_path / "theirs.keras",
        tmp_path / "ours.weights.h5",
    )
    assert done.returncode == 0, done.stderr
    assert SENTENCE not in done.stderr
    loaded = program("import sys, keras; keras.models.load_model(sys.argv[1])", tmp_path / "theirs.keras")
    assert loaded.returncode == 0, loaded.stderr


def test_loading_asks_for_the_import_that_the_guide_puts_first(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    assert program(MODEL + "model(BatchNormalization()).save(sys.argv[1])", path).returncode == 0
    without = program("import sys, keras; keras.models.load_model(sys.argv[1])", path)
    assert without.returncode == 1
    assert "Could not locate class 'BatchNormalization'" in without.stderr
    remedy = program("import sys, keras, normwise.keras; keras.models.load_model(sys.argv[1])", path)
    assert remedy.returncode == 0, remedy.stderr
