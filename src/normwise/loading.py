"""What the command line is given by name: found, imported, called; arrays read, and files written whole."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from normwise.errors import NormwiseError, UnknownName

Result = TypeVar("Result")


def named_object(place: str, what: str) -> Any:
    """What stands under a name in a file or a module, whatever it is.

    Args:
        place: ``file.py:name`` or ``package.module:name``.
        what: for an error, what the command line calls it.

    Raises:
        NormwiseError: the place is written otherwise, or its module cannot be imported.
        UnknownName: the module has no such name.

    Example:
        >>> named_object("math:pi", "DATA")
        3.141592653589793
    """
    source, _, name = place.rpartition(":")
    if not source or not name:
        raise NormwiseError(
            f"{what} is written file.py:callable or package.module:callable, received {place!r}: "
            "name the file and, behind a colon, what to call in it."
        )
    module = _imported(source)
    if not hasattr(module, name):
        raise UnknownName(f"name in {source}", name, [each for each in vars(module) if not each.startswith("_")])
    return getattr(module, name)


def _imported(source: str) -> ModuleType:
    """A file's module, which may import what lies beside it; or a module, here or where Python finds it."""
    file = Path(source)
    if file.suffix == ".py" and not file.is_file():
        raise NormwiseError(f"there is no file {source!r}: give the path from {str(Path.cwd())!r}.")
    beside = str(file.resolve().parent) if file.suffix == ".py" else str(Path.cwd())
    sys.path.insert(0, beside)
    try:
        if file.suffix != ".py":
            return importlib.import_module(source)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None  # a file that ends in .py has a specification and a loader
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module  # dataclasses and pickle look it up there
        spec.loader.exec_module(module)
    except Exception as error:
        raise NormwiseError(f"{source} could not be imported: {sentence(error)}.") from error
    else:
        return module
    finally:
        sys.path.remove(beside)


def called(found: Any, place: str) -> Any:
    """What the user's callable returns.

    Raises:
        NormwiseError: it is none, or it failed.
    """
    if not callable(found):
        raise NormwiseError(f"{place} must be callable, received {type(found).__name__}: name a function.")
    return attempt(found, f"{place}()")


def attempt(work: Callable[[], Result], place: str) -> Result:
    """What the user's code returns; its error in one sentence.

    Raises:
        NormwiseError: ``work`` failed; an error of normwise's own says enough and stays.
    """
    try:
        return work()
    except NormwiseError:
        raise
    except Exception as error:
        raise NormwiseError(f"{place} failed: {sentence(error)}.") from error


_PACKAGE = Path(__file__).resolve().parent


def sentence(error: Exception) -> str:
    """Kind, place and first line of an error in the user's code."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<")]
    first = str(error).strip().split("\n", maxsplit=1)[0].rstrip(".")
    if frames and Path(frames[-1].filename).is_relative_to(_PACKAGE):  # normwise's own words about what it was given
        return first
    where = f" in line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
    return f"{type(error).__name__}{where}: {first}" if first else f"{type(error).__name__}{where}"


def arrays_of(path: Path, names: Collection[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an ``.npz`` that have one of these names; if none has, the first one.

    Args:
        path: of a file without pickled objects.
        names: of a model's inputs.

    Raises:
        NormwiseError: there is no such file, it holds something else, or its arrays do not have one row per sample.
    """
    if not path.is_file():
        raise NormwiseError(f"there is no file {str(path)!r}: give the path of the data.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            chosen = [name for name in archive.files if name in names] or archive.files[:1]
            arrays = {name: archive[name] for name in chosen}
    except (ValueError, TypeError, OSError) as error:
        raise NormwiseError(f"{str(path)!r} could not be read as arrays: {sentence(error)}.") from error
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if not arrays or len({*lengths.values()}) > 1:
        raise NormwiseError(
            f"the arrays of {str(path)!r} must have one row per sample, received {lengths or 'none'}: "
            "save them with the same number of rows."
        )
    return arrays


def check_folder(path: Path) -> None:
    """Refuse a file in no folder.

    Raises:
        NormwiseError: the folder does not exist.
    """
    if not path.parent.is_dir():
        raise NormwiseError(f"there is no folder {str(path.parent)!r} for {path.name!r}: make it first.")


def write_whole(path: Path, write: Callable[[str], None]) -> None:
    """Write a file; it is there with all of it, or is as it was.

    Args:
        path: of the file.
        write: given the path of a file beside it, writes that.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        write(name)
        with Path(name).open("rb+") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(path.stat().st_mode if path.exists() else 0o666 & ~mask)  # mkstemp's files are private
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
