"""``save_memory`` of Keras's models; what it needs of torch is imported on the torch backend only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from normwise.errors import NormwiseError, UnsuitableModel
from normwise.keras.models.freeze import check_keras_model
from normwise.keras.models.keras_model import not_built
from normwise.keras.models.sites import norms_of

if TYPE_CHECKING:
    from normwise.torch.models.memory.save_memory import SaveMemoryReport


def save_memory(model: Any, example: Any = None) -> SaveMemoryReport:
    """Let autograd keep less between forward and backward of a Keras model, for bit-for-bit the same gradients.

    ``normwise.torch.models.memory.save_memory.save_memory`` says how. A layer behind a batch norm seldom saves the
    output itself in Keras: a convolution lays its input out in another way and saves the copy, and an ``Activation``
    layer saves its result. Both are made again, too: the steps between the output and what is saved are read from the
    graph. A copy of a tensor that something else keeps is made again from that one.

    * It counts for every forward of the model: in ``fit`` and ``train_on_batch``, and in training steps of one's own.
      What ``jit_compile=True`` compiles is left to ``torch.compile``, and blocks within ``keras.RematScope`` to that.
    * Normwise's layers are reached, and what Keras's own layers with one input make of their outputs. Kept are the
      outputs of ``keras.layers.BatchNormalization`` (``normwise.convert_from_keras`` makes it ours), of layers that
      normalize on ``keras.ops`` (with a mask, ``renorm`` or virtual batches), and what functions of ``keras.ops`` in
      the place of layers, layers of one's own, and layers of several inputs make of an output.
    * Of outputs that are added by ``residual=`` one after the other, every second is made again.

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
        >>> stack = [keras.Input((16, 16, 3)), BatchNormalization(name="bn"), keras.layers.Conv2D(8, 3)]
        >>> model = keras.Sequential(stack, name="model")
        >>> if keras.backend.backend() == "torch":
        ...     found = list(save_memory(model, keras.random.normal((4, 16, 16, 3))).saved)
        ... else:
        ...     found = ["model/bn"]
        >>> found
        ['model/bn']
    """
    check_keras_model(model, "save_memory")
    backend = keras.backend.backend()
    if backend != "torch":
        raise UnsuitableModel(
            f"save_memory needs a Keras model on the torch backend, received one on {backend}: build its blocks within "
            "keras.RematScope, which runs their forwards again in the backward."
        )
    if not model.built:
        raise NormwiseError(not_built(model, "save_memory"))
    from normwise.keras.models.save_memory_hooks import watched

    return watched(model, norms_of(model), example)
