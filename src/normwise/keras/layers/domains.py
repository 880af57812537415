"""Several sets of moving statistics in one layer, one for each domain that the data come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from normwise.errors import NormwiseError, UnknownName
from normwise.keras.layers.batch_normalization import BatchNormalization
from normwise.keras.steps.estimate import finite, moved


@keras.saving.register_keras_serializable(package="normwise")
class PerDomainBatchNormalization(BatchNormalization):
    r"""Batch normalization with moving statistics of its own for every domain; the parameters are shared.

    One set of statistics for several domains (cameras, hospitals, real and generated images) is wrong for each of them.
    Here ``with domain(model, "night"):`` says whose data come. The choice is a weight of the layer, so it holds in
    functions that were compiled before, in ``fit`` and ``predict`` too, and it is saved with the model.

    Args:
        domains: their names, at least one; the first is chosen until another is.
        **kwargs: the keywords of ``BatchNormalization``, without ``renorm`` and ``estimator``.

    The weights are Keras's, with one row per domain in ``moving_mean`` and ``moving_variance``, and behind them
    ``chosen``, the number of the domain.

    Raises:
        TypeError: ``domains`` is a string or holds something else than strings.
        ValueError: no domain, one twice, ``renorm`` or ``estimator``, and what ``BatchNormalization`` refuses.

    References:
        Li, Wang, Shi, Liu and Hou, Revisiting batch normalization for practical domain adaptation, 2016.

    Example:
        >>> from keras import ops
        >>> from normwise.keras import PerDomainBatchNormalization, domain
        >>> layer = PerDomainBatchNormalization(["day", "night"], momentum=0.0)
        >>> with domain(layer, "night"):
        ...     y = layer(ops.convert_to_tensor([[1.0], [3.0]]), training=True)
        >>> ops.convert_to_numpy(layer.moving_mean.value).tolist()
        [[0.0], [2.0]]
    """

    def __init__(self, domains: Iterable[str], **kwargs: Any) -> None:
        if isinstance(domains, str):
            raise TypeError(f"domains must be a list of names, received {domains!r}: pass [{domains!r}].")
        names = tuple(domains)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"a domain is a name, received {type(name).__name__}: pass for example 'night'.")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"domains must be names that differ, at least one, received {list(names)}: rename them.")
        for argument in ("renorm", "estimator"):
            if kwargs.get(argument):
                raise ValueError(
                    f"statistics per domain are Keras's average, received {argument}={kwargs[argument]!r}: "
                    "leave it out."
                )
        super().__init__(**kwargs)
        self.domains = names
        self._chosen_first = 0

    def build(self, input_shape: Any) -> None:
        """Keras's weights, the moving statistics with a row per domain, and which is chosen."""
        super().build(input_shape)
        channels = input_shape[self.axis]
        for name, initializer in (
            ("moving_mean", self.moving_mean_initializer),
            ("moving_variance", self.moving_variance_initializer),
        ):
            self._untrack_variable(getattr(self, name))
            rows = self.add_weight(
                shape=(len(self.domains), channels),
                name=name,
                initializer=initializer,
                trainable=False,
                autocast=False,
            )
            setattr(self, name, rows)
        self.chosen = self.add_weight(shape=(), name="chosen", dtype="int32", initializer="zeros", trainable=False)
        self.chosen.assign(self._chosen_first)

    @property
    def domain(self) -> str:
        """The domain that is chosen now."""
        return self.domains[int(self.chosen.value) if self.built else self._chosen_first]

    def choose(self, domain: str) -> None:
        """Take the statistics of a domain from now on.

        Raises:
            UnknownName: the layer has no such domain; the message names those that it has.
        """
        if domain not in self.domains:
            raise UnknownName("domain", domain, self.domains)
        self._chosen_first = self.domains.index(domain)
        if self.built:
            self.chosen.assign(self._chosen_first)

    def _moving(self) -> tuple[Any, Any]:
        """Those of the domain that is chosen."""
        number = ops.convert_to_tensor(self.chosen)
        mean, var = (ops.convert_to_tensor(rows) for rows in (self.moving_mean, self.moving_variance))
        return ops.take(mean, number, axis=0), ops.take(var, number, axis=0)

    def _kernels_enter(self) -> bool:
        return False

    def _enter(self, mean: Any, var: Any, count: Any) -> None:
        """One more batch into the rows of the domain that is chosen."""
        new = [moved(old, batch, self.momentum) for old, batch in zip(self._moving(), (mean, var), strict=True)]
        row = ops.expand_dims(ops.arange(len(self.domains), dtype="int32") == ops.convert_to_tensor(self.chosen), 1)
        enters = ops.logical_and(row, ops.logical_and(finite(new), ops.convert_to_tensor(count > 1)))
        for rows, value in zip((self.moving_mean, self.moving_variance), new, strict=True):
            old = ops.convert_to_tensor(rows)
            rows.assign(ops.where(enters, ops.cast(value, old.dtype), old))

    def get_config(self) -> dict[str, Any]:
        """The settings from which Keras builds the layer again, with the domains."""
        config = {**super().get_config(), "domains": list(self.domains)}
        return {name: value for name, value in config.items() if not name.startswith("renorm")}


@contextmanager
def domain(model: Any, name: str) -> Iterator[None]:
    """Choose for a block the domain whose statistics every ``PerDomainBatchNormalization`` of a model takes.

    Compiled functions follow it, in ``fit``, ``evaluate`` and ``predict`` too. Afterwards every layer has the domain
    that it had.

    Args:
        model: with at least one such layer, or the layer itself.
        name: a domain that all of them have.

    Raises:
        UnknownName: a layer does not have the domain; nothing is changed then.
        NormwiseError: the model has no such layer.

    Example:
        >>> from normwise.keras import PerDomainBatchNormalization, domain
        >>> layer = PerDomainBatchNormalization(["day", "night"])
        >>> with domain(layer, "night"):
        ...     layer.domain
        'night'
        >>> layer.domain
        'day'
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, PerDomainBatchNormalization)]
    if not layers:
        raise NormwiseError(
            f"{type(model).__name__} has no layer with statistics per domain: "
            "build it with normwise.keras.PerDomainBatchNormalization."
        )
    for layer in layers:
        if name not in layer.domains:
            raise UnknownName("domain", name, layer.domains)
    before = [(layer, layer.domain) for layer in layers]
    try:
        for layer in layers:
            layer.choose(name)
        yield
    finally:
        for layer, was in before:
            layer.choose(was)
