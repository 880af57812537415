"""MODEL and DATA of a command line: the options that describe them, and how they are read, for every command alike.

What can be wrong without a framework is refused before one is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from normwise.commands import keras_backend, streams
from normwise.commands.functions import Function, named_function
from normwise.commands.values import Factor, File, Place, Several, Source, Whole, allowed, check_data
from normwise.errors import MissingExtra, NormwiseError
from normwise.frameworks import installed_version
from normwise.loading import READABLE, attempt, check_file, check_place, check_source, check_suffix, split_key

Option = Callable[[Any], Any]

MODEL: Option = click.argument("model", type=Place(lambda place: check_place(place, "MODEL")))
DATA: Option = click.option(
    "--data",
    required=True,
    type=Place(lambda place: check_place(place, "DATA")),
    metavar="DATA",
    help="Where the data are: FILE.py:FUNCTION, a function that returns batches (a DataLoader, or a list), or the path "
    "of an .npz file whose arrays have one row per sample.",
)
OPTIONAL_DATA: Option = click.option(
    "--data",
    type=Place(lambda place: check_place(place, "DATA")),
    metavar="DATA",
    help="Data on which the model's outputs before and after are compared: FILE.py:FUNCTION, a function that returns "
    "batches (a DataLoader, or a list), or the path of an .npz file whose arrays have one row per sample. Default: no "
    "comparison",
)
LAYERS: Option = click.option(
    "--layers",
    type=Several(str, "names of layers"),
    help="Names of the layers to change, with commas between them. Default: all layers",
)
BATCHES: tuple[Option, ...] = (
    click.option("--batches", type=Whole(1), help="Largest number of batches to use. Default: all"),
    click.option(
        "--batch-size",
        type=Whole(1),
        default=64,
        show_default=True,
        help="Number of rows per batch, if --data is an .npz file.",
    ),
    click.option(
        "--scale",
        type=Factor(),
        help="Number to multiply the values of an .npz file by, for example 1/255 for pixels. Default: 1",
    ),
    click.option(
        "--device",
        metavar="NAME",
        help="PyTorch device to run on, for example cuda. Default: the device that MODEL is on",
    ),
    click.option(
        "--forward",
        type=Function("--forward"),
        help="Function of the model and a batch that runs the batch through the model, for models that take something "
        "else than the first items of a batch. Default: model(inputs)",
    ),
)

_WEIGHTS: Option = click.option(
    "--weights",
    type=File(),
    metavar="FILE[:KEY]",
    help="File with the weights to load into a PyTorch model first: .safetensors, .pt, .pth, .ckpt, .bin or .tar. Add "
    "a KEY if the file holds several sets of weights, for example last.ckpt:ema. Default: the weights that MODEL has",
)
_CLASSES: Option = click.option(
    "--classes",
    type=Source(),
    metavar="FILE.py",
    help="Python file or module with the layers and other classes of your own that a .keras file needs; it is run. "
    "Default: only the classes of Keras and normwise",
)

_ALIKE = "name two functions that return PyTorch models, or two .keras files"
_BOTH = "MODEL and --source must be of one framework"


def options(*every: Option) -> Option:
    """The options above a command, in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed(every):
            command = option(command)
        return command

    return decorate


PARTS = options(_WEIGHTS, _CLASSES)
"""Parts of MODEL that lie in other files."""


@dataclass(frozen=True)
class Inputs:
    """A model and data, as the command line names them.

    Args:
        model: MODEL.
        data: DATA, or None where the command needs none and none is given.
        weights: of a PyTorch model, or None.
        classes: the file or module with the classes of a Keras model, or None.
        batch_size: rows per batch of an ``.npz``.
        scale: what its values are multiplied by, or None.
        device: where a PyTorch model is to run, or None.
        forward: the function by which a batch enters the model, or None.
    """

    model: str
    data: str | None
    weights: Path | None
    classes: str | None
    batch_size: int
    scale: float | None
    device: str | None
    forward: str | None

    @property
    def of_keras(self) -> bool:
        """True where MODEL is a Keras file."""
        return self.model.endswith(".keras")

    def load(self, others: Sequence[str] = ()) -> tuple[Any, Any, list[Any]]:
        """The model, its batches, and other models that are named like MODEL.

        Raises:
            UsageError: options that do not go together.
            NormwiseError: something of it is not there, fails, or does not fit; the sentence says what.
        """
        found = self._of_keras(others) if self.of_keras else self._of_torch(others)
        if isinstance(found[1], list | tuple) and not found[1]:
            raise NormwiseError(f"{self.data} holds no batches: give it at least one.")
        return found

    def forwarding(self) -> dict[str, Any]:
        """The keyword of an operation that --forward is for; nothing where it is not given.

        Raises:
            NormwiseError: it names no function.
        """
        return {} if self.forward is None else {"forward_fn": named_function(self.forward, "--forward")}

    def _of_torch(self, others: Sequence[str]) -> tuple[Any, Any, list[Any]]:
        given = _is_given("batch_size")
        if self.classes is not None:
            raise click.UsageError(
                f"--classes is for .keras files, received {self.classes!r} with {self.model}: leave out --classes."
            )
        self._refuse_without_data()
        self._refuse_for_own_batches("--batch-size", given=given)
        self._refuse_for_own_batches("--scale", given=self.scale is not None)
        if self.weights is not None:
            weights, _ = split_key(self.weights)
            allowed(lambda: check_suffix(weights, READABLE, "a file of weights"))
            check_file(weights, "the weights")
        for place in others:
            if place.endswith(".keras"):
                raise click.UsageError(f"{_BOTH}, received {self.model} and {place!r}: {_ALIKE}.")
        for place in (self.model, *others):
            check_source(place)
        self._check_batches()
        if installed_version("torch") is None:
            raise MissingExtra("torch", extra="torch")
        from normwise.torch.models import loading

        if (device := self.device) is not None:
            allowed(lambda: loading.check_device_name(device))
            loading.check_device(device)
        network = loading.load_model(self.model, self.weights, tell=_tell)
        more = [loading.load_model(place) for place in others]
        if device is not None:
            for place, each in zip((self.model, *others), (network, *more), strict=True):
                attempt(partial(each.to, device), f"moving {place} to --device {device}")
        if self.data is None:
            return network, None, more
        batches = loading.load_batches(self.data, network, self.batch_size, scale=self.scale, tell=_tell)
        return network, batches, more

    def _of_keras(self, others: Sequence[str]) -> tuple[Any, Any, list[Any]]:
        """Load what ``load`` says for a Keras model, on the backend that KERAS_BACKEND names."""
        for option, given in (("--weights", self.weights), ("--device", self.device)):
            if given is not None:
                raise click.UsageError(
                    f"{option} is for PyTorch models, received {str(given)!r} with {self.model}: leave out {option}."
                )
        self._refuse_without_data()
        self._refuse_for_own_batches("--scale", given=self.scale is not None)
        from normwise.archives import check_keras

        for place in others:
            if not place.endswith(".keras"):
                raise click.UsageError(f"{_BOTH}, received {self.model} and {place!r}: {_ALIKE}.")
        for place in (self.model, *others):
            check_keras(Path(place))
        if self.classes is not None and Path(self.classes).suffix == ".py":
            check_file(Path(self.classes), "the file with the classes in it")
        self._check_batches()
        keras_backend.check()
        with keras_backend.quiet():
            loading = attempt(lambda: import_module("normwise.keras.models.loading"), "importing Keras")
        network = loading.load_model(self.model, self.classes)
        more = [loading.load_model(place, self.classes) for place in others]
        if self.data is None:
            return network, None, more
        return network, loading.load_batches(self.data, network, scale=self.scale, tell=_tell), more

    def _check_batches(self) -> None:
        """See that the files of the data and of the function by which they enter the model are there."""
        if self.data is not None:
            check_data(self.data)
        if self.forward is not None:
            check_source(self.forward)

    def _refuse_without_data(self) -> None:
        for name in ("batches", "batch_size", "scale", "device", "forward"):
            if self.data is None and _is_given(name):
                option = "--" + name.replace("_", "-")
                raise click.UsageError(
                    f"{option} describes --data, which is missing: give --data too, or leave out {option}."
                )

    def _refuse_for_own_batches(self, option: str, *, given: bool) -> None:
        if given and self.data is not None and not self.data.endswith(".npz"):
            raise click.UsageError(
                f"{option} is for an .npz file, and {self.data} makes its own batches: leave out {option}."
            )


def _is_given(name: str) -> bool:
    """True if the command has such a parameter and it was typed."""
    return click.get_current_context().get_parameter_source(name) not in (None, ParameterSource.DEFAULT)


def _tell(sentence: str) -> None:
    """Say what was done to a file that did not fit as it stood."""
    streams.complain(f"normwise: {sentence}")
