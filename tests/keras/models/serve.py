"""A process in which normwise cannot be imported: it loads a Keras file, runs it, and compares with what is known.

Run as ``python serve.py FOLDER``, in which are ``model.keras``, ``x.npy`` and ``y.npy``.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class Blocker(MetaPathFinder):
    """Refuses normwise."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname.partition(".")[0] == "normwise":
            raise ImportError("normwise is not installed here")


def main(folder: Path) -> None:
    """Compare."""
    import keras
    import numpy as np

    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    for file in sorted(folder.glob("*.keras")):
        model = keras.models.load_model(file)
        np.testing.assert_allclose(model.predict(x, verbose=0), y, rtol=1e-4, atol=1e-5)
    if any(name.partition(".")[0] == "normwise" for name in sys.modules):
        raise SystemExit("normwise came in")


if __name__ == "__main__":  # the tests' own process, which collects this file too, needs normwise
    sys.meta_path.insert(0, Blocker())
    main(Path(sys.argv[1]))
