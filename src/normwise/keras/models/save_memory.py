"""``save_memory`` of Keras's models; what it needs of torch is imported on the torch backend only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from normwise.errors import NormwiseError, UnsuitableModel
from normwise.keras.models.freeze import check_keras_model
from normwise.keras.models.sites import norms_of

if TYPE_CHECKING:
    from normwise.torch.models.memory.save_memory import SaveMemoryReport


def save_memory(model: Any, example: Any = None) -> SaveMemoryReport:
    """Let autograd keep less between forward and backward of a Keras model, for bit-for-bit the same gradients.

    ``normwise.torch.models.memory.save_memory.save_memory`` says how. In Keras the layers behind a batch norm save
    neither its output nor what a row of an ``Activation`` layer, views and copies makes of it: its convolutions lay
    their input out in another way and save the copy.

    * It counts for every forward of the model: in ``fit`` and ``train_on_batch`` too, and in training steps of one's
      own. What ``jit_compile=True`` compiles is left to ``torch.compile``.
    * Only normwise's layers are reached, and only what Keras's own layers make of their outputs; what
      ``keras.layers.BatchNormalization`` gives, and what functions of ``keras.ops`` in the place of layers make, is
      kept.

    Args:
        model: any Keras model that is built. It gets forward hooks, which copies and files of it do not have.
        example: a batch, as ``recalibrate`` takes them. With it two forwards are run with ``training=True``, which
            leave the model and the random state as they are, and the report says the bytes and what becomes of each
            layer.

    Returns:
        what is saved and kept, with ``undo()``; also a context manager, which undoes it at the end of the block.

    Raises:
        UnsuitableModel: not a Keras model, or one on another backend than torch.
        NormwiseError: it is not built.

    Example:
        >>> from normwise.keras import BatchNormalization
        >>> if keras.backend.backend() == "torch":
        ...     layers = [keras.Input((16, 16, 3)), BatchNormalization(activation="relu"), keras.layers.Conv2D(8, 3)]
        ...     report = save_memory(keras.Sequential(layers, name="m"))
        ...     report.undo()
    """
    check_keras_model(model, "save_memory")
    backend = keras.backend.backend()
    if backend != "torch":
        raise UnsuitableModel(
            f"save_memory needs a Keras model on the torch backend, received one on {backend}: build its blocks within "
            "keras.RematScope, which runs their forwards again in the backward."
        )
    if not model.built:
        raise NormwiseError(
            f"save_memory needs a model that is built, and {model.name!r} has no variables yet: run one batch through "
            "the model first."
        )
    from normwise.keras.models.save_memory_hooks import watched

    return watched(model, norms_of(model), example)
