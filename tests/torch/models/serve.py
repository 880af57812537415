"""A process in which normwise cannot be imported: it loads what was saved, runs it, and compares with what is known.

Run as ``python serve.py KIND FOLDER...``, with the root of the project as the working directory; in each folder are the
files ``model``, ``x.pt`` and ``y.pt``.
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


if __name__ == "__main__":  # the tests' own process, which collects this file too, needs normwise
    sys.meta_path.insert(0, Blocker())

import torch  # noqa: E402  # after the blocker


def loaded(kind: str, file: Path) -> Any:
    """The model in the file, ready to be called."""
    if kind == "pickle":
        return torch.load(file, weights_only=False)
    if kind == "export":
        return torch.export.load(file).module()
    return torch.jit.load(file)


def main(kind: str, *folders: str) -> None:
    """Compare."""
    sys.path.insert(0, ".")
    for folder in map(Path, folders):
        file = folder / ("model.pt2" if kind == "export" else "model.pt")
        model, x = loaded(kind, file), torch.load(folder / "x.pt")
        with torch.no_grad():
            torch.testing.assert_close(model(x), torch.load(folder / "y.pt"), rtol=1e-9, atol=1e-9)
        if kind == "pickle":  # it can be trained and saved on there
            model.train()(x).sum().backward()
            torch.save(model, file)
            torch.load(file, weights_only=False)
    found = [name for name in sys.modules if name.partition(".")[0] == "normwise"]
    if found:
        raise SystemExit(f"normwise came in: {found}")


if __name__ == "__main__":
    main(*sys.argv[1:])
