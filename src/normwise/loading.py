"""Objects and files that the command line is given by name: found, imported, called; read, and written whole."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from normwise.entering import noted
from normwise.errors import NormwiseError, UnknownName
from normwise.failures import sentence
from normwise.frameworks import with_article

Result = TypeVar("Result")

_FILES = {"MODEL": "a .keras", "DATA": "an .npz"}
_EXAMPLES = {"MODEL": "nets.py:make_model", "DATA": "nets.py:make_batches"}
WEIGHTS = (".safetensors", ".pt", ".pth")
"""The names that files of a PyTorch model's weights end in."""
READABLE = (*WEIGHTS, ".ckpt", ".bin", ".tar")
"""Those of files that weights are read from: Lightning's, Hugging Face's and ``.pth.tar`` too."""
FORWARD = "give --forward a function of the model and a batch"
"""The remedy, on the command line, for batches that a model does not take."""
FULL = 1 << 20
"""Bytes; a device with fewer free ones, while a part of a file lies there, has no space for the rest."""
_folders: set[str] = set()
"""The folders of the files that were imported."""
_INSTEAD = {
    b"version https://git-lfs": "is a Git LFS pointer and not the file itself: fetch that with `git lfs pull`.",
    b"<!doctype html": "is a web page, as a failed download leaves one: download the file again.",
    b"<html": "is a web page, as a failed download leaves one: download the file again.",
}


def check_place(place: str, what: str, *, file: bool = True) -> None:
    """Refuse what cannot be a place, without looking whether anything is there.

    Args:
        place: ``file.py:name`` or ``package.module:name``.
        what: what the command line calls it, for example ``"MODEL"``.
        file: whether a ``.keras`` or ``.npz`` file may be given as well.

    Raises:
        NormwiseError: the place is written otherwise.

    Example:
        >>> check_place("nets.py:net", "MODEL")
    """
    file = file and what in _FILES
    if file and place.endswith(suffix := _FILES[what].split()[1]) and place != suffix:
        return
    source, _, name = place.rpartition(":")
    if name.isidentifier() and (Path(source).suffix == ".py" or all(map(str.isidentifier, source.split(".")))):
        return
    kinds = "FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION"
    kinds = f"FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION or as {_FILES[what]} file" if file else kinds
    example = _EXAMPLES.get(what) or "nets.py:" + what.removeprefix("--").replace("-", "_")
    remedy = f"write FILE.py:FUNCTION, for example {example}"
    if what == "MODEL" and place.endswith(READABLE):
        remedy = "that is a file of weights; write FILE.py:FUNCTION for the model, and give the file with --weights"
    elif file and what == "MODEL" and place.endswith((".h5", ".hdf5")):
        remedy = "save the model as a .keras file"
    elif file and what == "DATA" and place.endswith(".npy"):
        remedy = "save the array with numpy.savez"
    elif name.endswith("()"):
        remedy = "leave out the parentheses"
    raise NormwiseError(f"{what} is written {kinds}, received {place!r}: {remedy}.")


def named_object(place: str, what: str) -> Any:
    """The object of that name in a file or a module, whatever it is.

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
    check_place(place, what, file=False)
    source, _, name = place.rpartition(":")
    module = imported(source)
    if not hasattr(module, name):
        known = [
            each for each, it in vars(module).items() if not each.startswith("_") and not isinstance(it, ModuleType)
        ]
        raise UnknownName("name", name, known, place=f"in {source}")
    return getattr(module, name)


def check_source(place: str) -> None:
    """Refuse a place in a file that is not there, before anything large is imported.

    Raises:
        NormwiseError: there is no such file.
    """
    source = place.rpartition(":")[0]
    if Path(source).suffix == ".py":
        check_file(Path(source), "the file with the function in it")


def imported(source: str) -> ModuleType:
    """A file's module, which may import what lies beside it, now and later; or a module, here or where Python finds it.

    The folder stays the first of ``sys.path``, as Python leaves it for a script: functions, datasets and ``forward``
    import what they need when they are called.

    Args:
        source: ``file.py`` or ``package.module``.

    Raises:
        NormwiseError: it is not there, or running it failed.

    Example:
        >>> imported("math").pi
        3.141592653589793
    """
    check_source(f"{source}:")
    file = Path(source)
    beside = str(file.resolve().parent) if file.suffix == ".py" else str(Path.cwd())
    _forget_namesakes(beside)
    _folders.add(beside)
    if beside in sys.path:
        sys.path.remove(beside)
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
    except SystemExit as error:
        raise NormwiseError(
            f"{source} called sys.exit({error.code!r}) when normwise imported it: put the code that does so under "
            "`if __name__ == '__main__':`."
        ) from error
    except ModuleNotFoundError as error:
        if error.name and f"{source}.".startswith(f"{error.name}."):
            raise NormwiseError(
                f"there is no module {error.name!r}, neither in {beside!r} nor among the installed modules: write the "
                "module's name as in an import statement."
            ) from error
        raise NormwiseError(f"{source} could not be imported: {sentence(error)}.") from error
    except Exception as error:
        raise NormwiseError(f"{source} could not be imported: {sentence(error)}.") from error
    else:
        return module


def _forget_namesakes(folder: str) -> None:
    """Drop the modules of earlier files' folders that this folder has too, so that its files import its own.

    Who imported them keeps them. What is installed somewhere below such a folder stays.
    """
    own = {each.stem for each in Path(folder).iterdir() if each.suffix == ".py" or each.is_dir()}
    others = [each for each in _folders if each != folder]
    for name in [each for each in sys.modules if others and each.partition(".")[0] in own]:
        module = sys.modules[name]
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if place and any(_is_of(each, name.partition(".")[0], Path(place).resolve()) for each in others):
            del sys.modules[name]


def _is_of(folder: str, top: str, place: Path) -> bool:
    """True if a module's place is the file or the package of that name in a folder."""
    package = Path(folder, top)
    return place == Path(folder, f"{top}.py") or place == package or package in place.parents


def called(found: Any, place: str) -> Any:
    """The result of the user's callable.

    Raises:
        NormwiseError: it is none, needs arguments, or failed.
    """
    if not callable(found):
        kind = with_article(type(found).__name__)
        raise NormwiseError(
            f"{place} must be a model or a function that returns one, received {kind}: write the name of one."
        )
    if needed := _needed(found):
        which = f"the argument {needed[0]!r}" if len(needed) == 1 else f"the arguments {', '.join(map(repr, needed))}"
        raise NormwiseError(
            f"{place} needs {which}, and normwise calls it without arguments: give defaults, or name a function that "
            "needs none."
        )
    return attempt(found, f"{place}()")


def _needed(found: Callable[..., Any]) -> list[str]:
    """The arguments without which it cannot be called."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # one without a signature, such as some builtins
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in free]


def attempt(work: Callable[[], Result], place: str, layer_of: Callable[[BaseException], str] = lambda _: "") -> Result:
    """The result of the user's code; its error in one sentence.

    Args:
        work: calls the user's code.
        place: for an error, what was tried.
        layer_of: the layer of a model that an error came out of, in words, or an empty text.

    Raises:
        NormwiseError: ``work`` failed; an error of normwise's own says enough and stays.
    """
    try:
        return work()
    except NormwiseError:
        raise
    except SystemExit as error:
        raise NormwiseError(
            f"{place} called sys.exit({error.code!r}), which would end normwise: let the function return instead."
        ) from error
    except Exception as error:
        raise NormwiseError(f"{place} failed: {sentence(error, layer_of(error))}{_given(error)}.") from error


def _given(error: Exception) -> str:
    """The part of a batch that the model was given when it failed."""
    called, batch, remedy = noted(error)
    if not called:
        return ""
    otherwise = f"let DATA give batches as the model takes them, or {FORWARD}"
    return f"; {called}, of a batch that is {batch}: {remedy or otherwise}"


def check_file(path: Path, what: str) -> None:
    """Refuse what is no file that can be read.

    Args:
        path: of the file.
        what: for an error, what the path leads to.

    Raises:
        NormwiseError: there is no such file, or it cannot be read.
    """
    if path.is_dir():
        raise NormwiseError(f"{str(path)!r} is a folder: give the path of {what}.")
    if not path.is_file():
        siblings = [each.stem for each in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
        near = get_close_matches(path.stem, siblings, n=1)
        meant = str(path.with_name(f"{near[0]}{path.suffix}")) if near else ""
        remedy = f"did you mean {meant!r}?" if near else f"give the path of {what}."
        raise NormwiseError(f"there is no file {str(path)!r}: {remedy}")
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError as error:
        raise NormwiseError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    for mark, words in _INSTEAD.items():
        if start.startswith(mark):
            raise NormwiseError(f"{str(path)!r} {words}")


def split_key(place: Path) -> tuple[Path, str]:
    """The file and the key of ``file.pt:key``; a path without a key has the empty one.

    Example:
        >>> split_key(Path("last.ckpt:ema.state_dict"))
        (PosixPath('last.ckpt'), 'ema.state_dict')
    """
    file, _, key = str(place).rpartition(":")
    return (Path(file), key) if key and file.endswith(READABLE) and not place.exists() else (place, "")


def check_suffix(path: Path, suffixes: Sequence[str], what: str) -> None:
    """Refuse a name that ends otherwise than such files do.

    Args:
        path: of the file.
        suffixes: those that are right.
        what: for an error, what the file is.

    Raises:
        NormwiseError: the suffix is another.

    Example:
        >>> check_suffix(Path("new.pt"), WEIGHTS, "a file of weights")
    """
    if path.suffix not in suffixes:
        kinds = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}" if suffixes[1:] else suffixes[0]
        raise NormwiseError(f"the name of {what} must end in {kinds}, received {str(path)!r}: give such a name.")


def check_target(path: Path) -> None:
    """Refuse a file that could not be written, before minutes are spent on what would go into it.

    Raises:
        NormwiseError: its folder does not exist or cannot be written to, or it is a folder itself.
    """
    if path.is_dir():
        raise NormwiseError(f"{str(path)!r} is a folder: give the path of a file to write.")
    if not path.parent.is_dir():
        raise NormwiseError(f"there is no folder {str(path.parent)!r} for {path.name!r}: make it first.")
    _check_writable(path.parent)


def check_folder(path: Path) -> None:
    """Refuse a folder that could not be written to; one that is not there yet is judged by those above it.

    Raises:
        NormwiseError: it cannot be made or written to, or is a file.
    """
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise NormwiseError(f"{str(there)!r} is a file: give the path of a folder.")
    _check_writable(there)


def _check_writable(folder: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise NormwiseError(
            f"the folder {str(folder)!r} cannot be written to: {error.strerror}; name another."
        ) from error


def write_whole(path: Path, write: Callable[[str], None]) -> None:
    """Write a file; it is there with all of it, or is as it was.

    Args:
        path: of the file.
        write: given the path of a file beside it, writes that.

    Raises:
        NormwiseError: it could not be written.
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
    except Exception as error:
        # Libraries say in words of their own that a device is full, or only that a write failed.
        full = "No space left" in str(error) or shutil.disk_usage(path.parent).free < FULL
        Path(name).unlink(missing_ok=True)
        words = error.strerror if isinstance(error, OSError) and error.strerror else sentence(error)
        words = "no space is left on its device: free some, or name another folder" if full else words
        raise NormwiseError(f"{str(path)!r} could not be written: {words}.") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8, as ``write_whole`` does.

    Raises:
        NormwiseError: it could not be written.
    """

    def write(name: str) -> None:
        Path(name).write_text(text, encoding="utf-8")

    write_whole(path, write)
