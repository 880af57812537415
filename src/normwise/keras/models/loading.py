"""MODEL and DATA of the command line, for Keras: a ``.keras`` file, read and written, and its batches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from normwise.archives import Cast, arrays_of, check_keras
from normwise.errors import NormwiseError, UnsuitableModel
from normwise.frameworks import with_article
from normwise.keras.layers.saving import say_nothing
from normwise.loading import attempt, called, check_suffix, check_target, imported, named_object, write_whole

SUFFIX = ".keras"
Tell = Callable[[str], None]


def load_model(place: str, classes: str | None = None) -> Any:
    """The model in a file, with its optimizer; code that the file brings with it is not run.

    Args:
        place: a path that ends in ``.keras``.
        classes: ``file.py`` or ``package.module`` with what the file names and Keras does not have; it is run.

    Raises:
        NormwiseError: there is no such file, it needs classes that are not there, or Keras refuses it, as it does with
            code in it (``Lambda`` layers).
    """
    check_keras(Path(place))
    own = {} if classes is None else {name: it for name, it in vars(imported(classes)).items() if callable(it)}
    try:
        return attempt(lambda: keras.saving.load_model(place, own, safe_mode=True), f"loading {place}")
    except NormwiseError as error:
        # Keras's own words go on with how to let the code run.
        if any(word in str(error) for word in ("safe_mode", "unsafe_deserialization")):
            raise NormwiseError(
                f"{place!r} holds Python code, as a Lambda layer does, and code in it is not run: put a layer of a "
                "class of your own, or an operation of keras.ops, in its place and save the model again."
            ) from error
        if lacking := re.search(r"Could not locate (?:class|function) '(\w+)'", str(error.__cause__)):
            where = "not in Keras" if classes is None else f"neither in Keras nor in {classes}"
            raise NormwiseError(
                f"{place!r} needs {lacking[1]!r}, which is {where}: name the Python file that defines it with "
                "--classes."
            ) from error
        raise


def load_batches(place: str, model: Any, *, scale: float | None = None, tell: Tell = lambda _: None) -> Any:
    """The batches of DATA: ``file.py:callable`` that returns an iterable of them or arrays, or an ``.npz``.

    Of an ``.npz``, the arrays that are named like inputs of the model are its inputs; if none is, the first one. They
    are cast to the dtypes of these, except integers of 32 and 64 bits.

    Args:
        place: as above; the callable takes no argument.
        model: for which they are.
        scale: what the values of an ``.npz`` are multiplied by.
        tell: is told which array is taken and how it is cast.

    Raises:
        NormwiseError: something of it is not there, fails, or does not fit; the sentence says what.
    """
    if place.endswith(".npz"):
        inputs = {each.name: _dtype_of(each) for each in getattr(model, "inputs", None) or ()}
        arrays = arrays_of(Path(place), inputs, tell)
        named = arrays.keys() <= inputs.keys()
        first = next(iter(inputs.values()), keras.config.floatx())
        dtypes = {name: inputs[name] if named else first for name in arrays}
        cast = Cast(Path(place), scale, tell)
        cast.says(arrays, dtypes)
        arrays = {name: cast(array, dtypes[name]) for name, array in arrays.items()}
        return arrays if named else next(iter(arrays.values()))
    found = named_object(place, "DATA")
    return called(found, place) if callable(found) else found


def _dtype_of(tensor: Any) -> str:
    """The dtype of an input of a model, as NumPy knows it."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return "float32" if dtype == "bfloat16" else dtype


def check_name(path: Path) -> None:
    """Refuse what is no file of a model, before minutes are spent on what would go into it.

    Raises:
        NormwiseError: the suffix is unknown, or it could not be written.
    """
    check_suffix(path, (SUFFIX,), "a file of a Keras model")
    check_target(path)


def needs_normwise(model: Any) -> bool:
    """True if a file of the model can be loaded only where normwise was imported."""
    return any(type(layer).__module__.startswith("normwise.") for layer in model._flatten_layers())


def not_in_a_file(model: Any) -> Counter[str]:
    """The classes of the layers that a file of the model does not hold, each with the number of such layers.

    These are the layers that a class of the user's makes in its constructor: it makes them again when a file is loaded.

    Example:
        >>> not_in_a_file(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]))
        Counter()
    """
    written = Counter(_classes_in(attempt(lambda: keras.saving.serialize_keras_object(model), "writing the model")))
    return _classes_of(model) - written


def check_held(model: Any, before: Counter[str], place: str, call: str) -> None:
    """Refuse a model whose file would not hold its new layers, because a class of the user's makes other ones.

    Args:
        model: changed since it was loaded.
        before: what ``not_in_a_file`` returned then.
        place: the file it was loaded from.
        call: the line of Python that does the same work in a program.

    Raises:
        UnsuitableModel: it is, or contains, such a model or layer.
    """
    lost = not_in_a_file(model) - before
    if not lost:
        return
    owners = [each for each in model._flatten_layers() if not type(each).__module__.startswith(("keras.", "normwise."))]
    owner = next((each for each in owners if _classes_of(each) & lost), model)
    kind, otherwise = type(owner).__name__, ""
    what = f"is a model of a class of its own, {kind}"
    if owner is not model:
        what = f"holds {owner.name!r}, {with_article(kind)}, a class of its own"
        otherwise = ", or name the other layers with --layers"
    raise UnsuitableModel(
        f"{place!r} {what}, which makes its layers itself when it is loaded, so a file cannot hold other ones: call "
        f"{call} in the program, after loading{otherwise}."
    )


def _classes_of(model: Any) -> Counter[str]:
    return Counter(keras.saving.get_registered_name(type(each)) for each in model._flatten_layers())


def _classes_in(config: Any) -> Iterator[str]:
    """The class of each thing in a config, at any depth."""
    if isinstance(config, list | tuple):
        for item in config:
            yield from _classes_in(item)
    elif isinstance(config, dict):
        if "class_name" in config:
            yield config.get("registered_name") or config["class_name"]
        for item in config.values():
            yield from _classes_in(item)


def save_model(model: Any, path: Path) -> None:
    """Write the whole model; the file is there with all of it, or is as it was.

    Raises:
        NormwiseError: a name that ends otherwise than models do.
    """
    check_name(path)
    say_nothing()
    write_whole(path, model.save)
