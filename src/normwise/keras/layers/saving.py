"""The line in the log that says, once, how to load a saved model again."""

from __future__ import annotations

import logging

_LOG = logging.getLogger("normwise.keras")
_SENTENCE = (
    "this model has normwise's layers: write `import normwise.keras` before keras.models.load_model where you load it, "
    "or call normwise.keras.to_keras(model) before saving it. A model of your own class makes its layers itself when "
    "it is loaded: call normwise.keras.convert(model) again then. normwise says this once per process."
)
_said = False


def say_nothing() -> None:
    """Leave the line out in a program that saves a model which it was given as a file: its author knows already."""
    global _said  # noqa: PLW0603  # as below
    _said = True


def say_how_to_load() -> None:
    """Log, the first time in a process, what loads a file with a layer of ours.

    It is a logged line and not a warning: nothing is wrong, and a program that makes errors of warnings can save.
    """
    global _said  # noqa: PLW0603  # once per process is what it is for
    if not _said:
        _said = True
        _LOG.warning(_SENTENCE)
