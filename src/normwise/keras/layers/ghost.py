"""The gather step over virtual batches, which are also called ghost batches."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from normwise.errors import UnknownName
from normwise.keras.layers.arguments import check_shape
from normwise.keras.layers.batch_normalization import BatchNormalization
from normwise.keras.steps.gather_virtual import ORDERS, GatheredByGroups, Sizes, gather_by_groups, virtual_batch_of
from normwise.keras.steps.normalize_tiny import refuse_single_values


@keras.saving.register_keras_serializable(package="normwise")
class GhostBatchNormalization(BatchNormalization):
    r"""Batch normalization over virtual batches: each part of a batch by its own moments.

    .. math:: y_i = f\Big(\gamma \frac{x_i - \mu_{g(i)}}{\sqrt{v_{g(i)} + \epsilon}} + \beta + r_i\Big)

    with :math:`g(i)` the virtual batch that sample i is in. A large batch then has the noise of a small one, which is
    what makes small batches generalize. In inference it is plain batch normalization, for any number of samples.

    The moving statistics move once per batch, towards the mean and the total variance of all its values.

    Args:
        virtual_batch_size: samples in a virtual batch. This or ``num_splits`` is given.
        num_splits: into how many to split the batch, whatever its size: ceil(N / num_splits) samples each.
        smallest: of how many samples the last virtual batch has to be, where N is not a multiple; if fewer are left,
            they join the one before. More than half of the others by default.
        order: which samples make up a virtual batch. ``"consecutive"``: neighbours; ``"interleaved"``: they are dealt
            out like cards; ``"shuffled"``: drawn again in every forward.
        seed: of ``"shuffled"``.
        **kwargs: the keywords of ``BatchNormalization``, without ``renorm`` and ``synchronized``.

    Raises:
        ValueError: neither or both of ``virtual_batch_size`` and ``num_splits``, a number below 1, an unknown order,
            ``on_tiny_batch="renorm"``, ``axis=0``, and what ``BatchNormalization`` refuses.

    References:
        Hoffer, Hubara and Soudry, Train longer, generalize better: closing the generalization gap in large batch
        training of neural networks, 2017.

    Example:
        >>> from keras import ops
        >>> from normwise.keras import GhostBatchNormalization
        >>> layer = GhostBatchNormalization(virtual_batch_size=2)
        >>> y = layer(ops.convert_to_tensor([[1.0], [3.0], [10.0], [20.0]]), training=True)
        >>> ops.convert_to_numpy(y).round(2).ravel().tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """

    def __init__(
        self,
        *,
        virtual_batch_size: int | None = None,
        num_splits: int | None = None,
        smallest: int | None = None,
        order: str = "consecutive",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        given = {"virtual_batch_size": virtual_batch_size, "num_splits": num_splits, "smallest": smallest}
        for name, number in given.items():
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
                raise ValueError(f"{name} must be a whole number, 1 or more, received {number!r}: pass for example 32.")
        if (virtual_batch_size is None) == (num_splits is None):
            raise ValueError(
                "virtual_batch_size or num_splits must be given, and not both, received "
                f"virtual_batch_size={virtual_batch_size}, num_splits={num_splits}: pass for example "
                "virtual_batch_size=128."
            )
        if order not in ORDERS:
            raise UnknownName("order", order, ORDERS)
        for name, value in (("renorm", True), ("synchronized", True), ("on_tiny_batch", "renorm")):
            if kwargs.get(name) == value:
                raise ValueError(
                    f"virtual batches are normalized by themselves, received {name}={value!r}: leave it out."
                )
        super().__init__(**kwargs)
        self.sizes = Sizes(virtual_batch_size, num_splits, smallest)
        self.order = order
        self.seed = seed
        if order == "shuffled":
            self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        """Build the layer as ``BatchNormalization`` does; refuse the samples' axis as that of the channels."""
        check_shape(input_shape, self.axis, type(self).__name__)
        if self.axis % len(input_shape) == 0:
            raise ValueError(f"samples lie along axis 0, received axis={self.axis} for it: name the channels' axis.")
        super().build(input_shape)

    def _gather(self, x: Any, mask: Any, samples: tuple[Any, Any] | None) -> GatheredByGroups:
        """The moments of each virtual batch, and of all values."""
        of_rows, number = (None, ops.shape(x)[0]) if samples is None else samples
        if samples is None and isinstance(number, int) and mask is None and self.on_tiny_batch == "error":
            self._refuse_single_values(x, number)
        generator = getattr(self, "seed_generator", None)
        of_samples, groups = virtual_batch_of(number, self.sizes, self.order, generator)
        of_rows = of_samples if of_rows is None else ops.take(of_samples, of_rows, axis=0)
        return gather_by_groups(x, mask, self._channels, of_rows, groups)

    def _refuse_single_values(self, x: Any, samples: int) -> None:
        groups, size, more = self.sizes.of(samples)
        last = samples - groups * size if more else size
        values = 1
        for index, length in enumerate(x.shape):
            values *= 1 if index in (0, self._channels % len(x.shape)) else length
        if min(last, size if groups else last) * values == 1:
            refuse_single_values(self.name, tuple(x.shape))

    def _kernels_gather(self) -> bool:
        return False

    def get_config(self) -> dict[str, Any]:
        """The settings from which Keras builds the layer again, with the arguments of this layer."""
        config = {**super().get_config(), **self.sizes._asdict(), "order": self.order, "seed": self.seed}
        return {
            name: value for name, value in config.items() if not name.startswith("renorm") and name != "synchronized"
        }
