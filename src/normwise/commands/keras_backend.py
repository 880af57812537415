"""Keras's backend, looked at before Keras is imported, which takes seconds and ends in words about something else."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normwise.commands import streams
from normwise.errors import MissingExtra, NormwiseError, UnknownName
from normwise.frameworks import installed_version

STANDARD_ERROR = 2
_NEWS = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl|To enable the following instructions:")
VARIABLE = "KERAS_BACKEND"
BACKENDS = ("jax", "tensorflow", "torch")
NOT_SERVED = ("numpy", "openvino")
"""Backends of Keras on which no layer can be trained, and normwise does not work."""


def check() -> None:
    """Refuse a backend that is not there, or that normwise does not work on.

    Raises:
        MissingExtra: Keras is not installed.
        NormwiseError: its backend is unknown, not served or not installed.
    """
    if installed_version("keras") is None:
        raise MissingExtra("keras", extra="keras")
    name, source = _chosen()
    here = [each for each in ("tensorflow", "jax", "torch") if installed_version(each)]
    other = f"set {VARIABLE}={here[0]}, which is installed" if here else f"install {BACKENDS[-1]} for it"
    if name in NOT_SERVED:
        raise NormwiseError(
            f"normwise works on Keras's backends {', '.join(BACKENDS[:-1])} and {BACKENDS[-1]}, received {name} "
            f"({source}): {other}."
        )
    if name not in BACKENDS:
        raise UnknownName("backend", name, BACKENDS, place=f"in {source}")
    if installed_version(name) is None:
        raise NormwiseError(
            f"Keras needs its backend {name} ({source}), which is not installed: install {name}"
            + (f", or {other}." if here else ".")
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the news of TensorFlow's libraries about the processor from standard error; all else comes a little later.

    No setting of theirs does it: they speak before they have read one. Keras imports them on every backend, at the
    latest when a model is saved.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        own = os.dup(STANDARD_ERROR)
        os.dup2(said.fileno(), STANDARD_ERROR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(own, STANDARD_ERROR)
            os.close(own)
            said.seek(0)
            for line in said.read().decode(errors="replace").splitlines():
                if not _NEWS.match(line):
                    streams.complain(line)


def import_the_rest() -> None:
    """Let Keras import quietly what it else imports when a layer is first asked for its settings: TensorFlow."""
    import keras

    with quiet():
        keras.dtype_policies.serialize(keras.dtype_policies.get("float32"))


def _chosen() -> tuple[str, str]:
    """The backend that Keras will take, and who says so."""
    if os.environ.get(VARIABLE):
        return os.environ[VARIABLE], VARIABLE
    file = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras.json"
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["backend"]), str(file)
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow", "its default"
