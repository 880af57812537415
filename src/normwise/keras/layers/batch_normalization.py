"""The layer: Keras's signature and files, the four steps on every backend."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from normwise.estimators import Estimator
from normwise.keras.layers.arguments import axis_of, check_clipping, check_shape, check_switch, number_between
from normwise.keras.layers.saving import say_how_to_load
from normwise.keras.layers.settings import estimator_from, settings_of
from normwise.keras.steps.activate import activation_of, name_in_kernels
from normwise.keras.steps.checks_mask import fewest_values_per_channel, values_per_channel
from normwise.keras.steps.estimate import enter, estimated, finite, moved, wide
from normwise.keras.steps.gather import gather
from normwise.keras.steps.gather_replicas import synchronizing
from normwise.keras.steps.inputs import Given, given
from normwise.keras.steps.kernels import check_asked, kernels_for
from normwise.keras.steps.normalize import activate, normalize, normalize_by_fixed
from normwise.keras.steps.normalize_renormalized import composed, corrections, enter_renormalized
from normwise.keras.steps.normalize_tiny import (
    FEW,
    by_moving_where_single,
    check_policy,
    refuse_single_values,
    renormalized,
)


@keras.saving.register_keras_serializable(package="normwise")
class BatchNormalization(keras.layers.BatchNormalization):
    r"""``keras.layers.BatchNormalization`` that is exact at any mean, keeps its statistics finite, and does more.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + \text{residual}\Big)

    In training :math:`\mu, v` are the batch's mean and biased variance, and the moving statistics take a step towards
    them; in inference, and with ``trainable=False``, they are the moving statistics.

    The arguments up to ``synchronized`` are Keras's, with its defaults; so are the names and the order of the weights,
    and the files. On the torch backend the compiled kernels do the work, without a copy where the channels come last;
    on JAX they do in training on the CPU, where they were built for it. TensorFlow's own kernels do in training on the
    CPU where XLA does not compile. Else it is ``keras.ops``, which JAX and TensorFlow compile.

    Args:
        axis: of the channels.
        momentum: weight of what the moving statistics were; ``1 - momentum`` is that of a new batch.
        epsilon: :math:`\epsilon`, added to the variance.
        center: whether to learn :math:`\beta`.
        scale: whether to learn :math:`\gamma`.
        beta_initializer: of :math:`\beta`.
        gamma_initializer: of :math:`\gamma`.
        moving_mean_initializer: of the moving mean.
        moving_variance_initializer: of the moving variance.
        beta_regularizer: of :math:`\beta`, or None.
        gamma_regularizer: of :math:`\gamma`, or None.
        beta_constraint: of :math:`\beta`, or None.
        gamma_constraint: of :math:`\gamma`, or None.
        renorm: whether training is by batch renormalization.
        renorm_clipping: its bounds ``rmin``, ``rmax`` and ``dmax``, each of them optional.
        renorm_momentum: of the statistics that renormalization is towards.
        synchronized: whether the moments are those of all replicas: in a ``tf.distribute`` strategy, in a process group
            of ``torch.distributed``. On JAX they always are those of the whole batch, however
            ``keras.distribution`` shards it.
        activation: :math:`f`, whatever ``keras.activations.get`` takes; None for the identity.
        estimator: how batches become moving statistics: a name (``"pooled"``, ``"debiased_ema"``, ...; those with a
            weight take ``1 - momentum``) or a ``normwise.estimators.Estimator``. The moving variance is then the
            population's, n/(n - 1) times Keras's. None for Keras's own average.
        on_tiny_batch: what to do with a training batch of too few values per channel: ``"error"`` refuses one value,
            ``"running"`` normalizes it by the moving statistics, ``"renorm"`` renormalizes fewer than 32. Where the
            number is not known while the call is traced, ``"error"`` does what ``"running"`` does.
        **kwargs: ``name``, ``dtype``, ``trainable`` and the other keywords that every Keras layer takes.

    Call arguments: ``inputs``, of any rank, ragged TensorFlow tensors and nested PyTorch tensors too, of which the
    values that exist are normalized; ``training``; ``mask``, True where a value counts for the moments, one
    entry per position, that is the input's shape without the channels (or without the last axis, as Keras's
    ``Masking`` makes it, where only that fits); ``residual``, added before the activation, the shape of ``inputs``. As
    in Keras, what a mask leaves out is normalized like the rest.

    What a batch would make of a channel that is not finite does not enter the moving statistics, nor does a batch in
    which fewer than two values count. They are in float32 whatever the layer's dtype, float64 for ``dtype="float64"``.

    Raises:
        ValueError: what Keras refuses; a momentum or an epsilon out of bounds; inputs without that axis; ``estimator``
            with ``renorm``; one value per channel in training; a mask or a residual of the wrong shape.
        TypeError: an argument of the wrong type, such as several axes; inputs that are no real numbers.

    References:
        Ioffe and Szegedy 2015, algorithms 1 and 2. Ioffe 2017 (renormalization).

    Example:
        >>> import keras
        >>> from normwise.keras import BatchNormalization
        >>> layer = BatchNormalization(epsilon=1e-6, activation="relu")
        >>> y = layer(keras.ops.convert_to_tensor([[1.0], [3.0]]), training=True)
        >>> keras.ops.convert_to_numpy(y).round(3).ravel().tolist()
        [0.0, 1.0]
        >>> round(float(layer.moving_mean.value[0]), 3)
        0.02
    """

    activation: Any
    estimator: Estimator | None
    on_tiny_batch: str

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: dict[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        *,
        activation: Any = None,
        estimator: Estimator | str | dict[str, Any] | None = None,
        on_tiny_batch: str = "error",
        **kwargs: Any,
    ) -> None:
        for name, value in {"center": center, "scale": scale, "renorm": renorm, "synchronized": synchronized}.items():
            check_switch(name, value)
        if renorm:
            check_clipping(renorm_clipping)
        super().__init__(
            axis=axis_of(axis),
            momentum=number_between("momentum", momentum, 0, 1),
            epsilon=number_between("epsilon", epsilon, 0, math.inf),
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            moving_mean_initializer=moving_mean_initializer,
            moving_variance_initializer=moving_variance_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            renorm=renorm,
            renorm_clipping=renorm_clipping,
            renorm_momentum=number_between("renorm_momentum", renorm_momentum, 0, 1),
            **kwargs,
        )
        self.synchronized = synchronized  # which Keras's own constructor refuses outside TensorFlow
        check_policy(on_tiny_batch)
        self.activation = activation_of(activation)
        self.estimator = estimator_from(estimator, self.momentum, renorm)
        self.on_tiny_batch = on_tiny_batch

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Add a weight as Keras does; the statistics are in float32 where the layer is in half precision."""
        if kwargs.get("trainable") is False and kwargs.get("dtype") is None:
            kwargs["dtype"] = wide(self.variable_dtype)
        return super().add_weight(*args, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Keras's weights in Keras's order; behind them, with an ``estimator``, what it counts."""
        check_shape(input_shape, self.axis, type(self).__name__)
        super().build(input_shape)
        if self.estimator is not None:
            self.updates = self.add_weight(
                shape=(), name="updates", initializer="zeros", dtype="int32", trainable=False, autocast=False
            )
            if self.estimator.needs_count:
                self.count = self.add_weight(
                    shape=self.moving_mean.shape, name="count", initializer="zeros", trainable=False, autocast=False
                )

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, *, residual: Any = None) -> Any:
        """``activation(normalize(inputs) + residual)``."""
        learns = bool(training and self.trainable)
        if mask is None and residual is not None:  # of several tensors, Keras hands on the mask of none
            mask = getattr(inputs, "_keras_mask", None)
        values = given(inputs, mask if learns else None, residual, self._channels)
        return values.back(self._in_training(values) if learns else self._in_inference(values.inputs, values.residual))

    def _in_training(self, given: Given) -> Any:
        inputs, mask, residual = given.inputs, given.mask, given.residual
        values = values_per_channel(inputs, self._channels)
        if isinstance(values, int) and mask is None:
            if values == 0:  # an empty batch says nothing about the statistics
                return self._in_inference(inputs, residual)
            if values == 1 and self.on_tiny_batch == "error" and not self._asks_replicas():
                refuse_single_values(self.name, tuple(inputs.shape))
        fewest = fewest_values_per_channel(inputs, self._channels)
        kernels = self._kernels_for(inputs, mask, fewest, by_batch=True) if self._kernels_gather() else None
        if kernels is not None:
            return self._by_kernels(kernels, inputs, residual)
        check_asked()
        return self._by_ops(given)

    def _by_ops(self, given: Given) -> Any:
        """Training on ``keras.ops``."""
        x = ops.cast(given.inputs, self._wide(given.inputs))
        scale, shift = self._scale_and_shift(x.dtype)
        batch = self._gather(x, given.mask, given.samples)
        if self.renorm:
            epsilon = self.epsilon
            near = ops.clip(ops.cast(self.renorm_stddev, x.dtype), epsilon**0.5, math.inf)
            near_mean = ops.cast(self.renorm_mean, x.dtype)
            r, d = corrections(batch.mean(), batch.variance(), near_mean, near, epsilon, self.renorm_clipping)
            scale, shift = composed(r, d, scale, shift)
        mean, var = (ops.cast(statistic, x.dtype) for statistic in self._moving())
        if self.on_tiny_batch == "renorm":
            scale, shift = renormalized(batch, mean, var, scale, shift, self.epsilon)
        settled = batch if self.on_tiny_batch == "renorm" else by_moving_where_single(batch, mean, var, self._channels)
        y = normalize(settled, scale, shift, self.epsilon, self._channels)
        # Only now: on torch, what was taken from the variables above is their own memory.
        self._enter(ops.stop_gradient(batch.mean()), ops.stop_gradient(batch.variance()), batch.count)
        return ops.cast(activate(y, self.activation, given.residual), self.compute_dtype)

    def _gather(self, x: Any, mask: Any, samples: tuple[Any, Any] | None) -> Any:
        """The moments of the batch; ``samples`` says which of them a row is of, where that is not its number."""
        _ = samples
        return gather(x, mask, self._channels, synchronized=self.synchronized)

    def _kernels_gather(self) -> bool:
        """True if the layer's gather step is the one that the compiled kernels have."""
        return True

    def _kernels_enter(self) -> bool:
        """True if the layer's estimate step, without an estimator, is the one that the compiled kernels have."""
        return True

    def _by_kernels(self, kernels: Any, inputs: Any, residual: Any) -> Any:
        """Training by the compiled kernels, a module of ``kernels_for``."""
        fused = name_in_kernels(self.activation)
        inside = fused is not None or self.activation is None
        scale, shift = self._scale_and_shift(self._wide(inputs))
        beside = None if residual is None else ops.cast(residual, inputs.dtype)
        batch = kernels.by_batch(inputs, scale, shift, self.epsilon, self._channels, fused, beside)
        plain = self.estimator is None and self._kernels_enter()
        if not plain or not kernels.move(self.moving_mean, self.moving_variance, batch, self.momentum):
            self._enter(batch.mean, batch.var, values_per_channel(inputs, self._channels))
        y = batch.y if inside else self.activation(batch.y)
        return ops.cast(y, self.compute_dtype)

    def _in_inference(self, inputs: Any, residual: Any) -> Any:
        mean, var = self._moving()
        dtype = self._wide(inputs)
        scale, shift = self._scale_and_shift(dtype)
        mean, var = ops.cast(mean, dtype), ops.cast(var, dtype)
        kernels = self._kernels_for(inputs, None, 2, by_batch=False)
        if kernels is not None:
            fused = name_in_kernels(self.activation)
            beside = None if residual is None else ops.cast(residual, inputs.dtype)
            y = kernels.by_fixed(inputs, mean, var, scale, shift, self.epsilon, self._channels, fused, beside)
            if fused is None and self.activation is not None:
                y = self.activation(y)
        else:
            if 0 not in inputs.shape:
                check_asked()
            x = ops.cast(inputs, dtype)
            y = normalize_by_fixed(x, mean, var, scale, shift, self.epsilon, self._channels)
            y = activate(y, self.activation, residual)
        return ops.cast(y, self.compute_dtype)

    def _kernels_for(self, inputs: Any, mask: Any, values: int, *, by_batch: bool) -> Any:
        """The module of kernels that serves the call, or None; ``values``: per channel, at least."""
        few = self.on_tiny_batch == "renorm" and values < FEW
        serve = (
            values >= 2
            and mask is None
            and not (by_batch and (few or self.renorm or self._asks_replicas()))
            and self.epsilon > 0
            and len(inputs.shape) > 1
            and 0 not in inputs.shape
        )
        return kernels_for(inputs, self._channels, by_batch=by_batch) if serve else None

    @property
    def _channels(self) -> int:
        """Their axis, counted from the last one, which is the same for the values of a ragged tensor."""
        return int(self.axis if self.axis < 0 else self.axis - self.input_spec.ndim)

    def _asks_replicas(self) -> bool:
        return self.synchronized and synchronizing()

    def _wide(self, inputs: Any) -> str:
        """The dtype of the computation; ``keras.backend.result_type`` makes float32 of float64 on JAX and torch."""
        return wide(keras.backend.standardize_dtype(inputs.dtype))

    def _scale_and_shift(self, dtype: Any) -> tuple[Any, Any]:
        gamma = ops.cast(self.gamma, dtype) if self.scale else None
        return gamma, ops.cast(self.beta, dtype) if self.center else None

    def _moving(self) -> tuple[Any, Any]:
        """The moving mean and variance to be used, shape (C,)."""
        return self.moving_mean, self.moving_variance

    def _enter(self, mean: Any, var: Any, count: Any) -> None:
        """One more batch, its mean and biased variance of shape (C,), into the moving statistics."""
        if self.renorm:
            enter_renormalized(self, mean, var, count)
        elif self.estimator is None:
            so_far = [ops.convert_to_tensor(variable) for variable in (self.moving_mean, self.moving_variance)]
            new = [moved(old, batch, self.momentum) for old, batch in zip(so_far, (mean, var), strict=True)]
            enter([self.moving_mean, self.moving_variance], new, count)
        else:
            self._enter_by_estimator(self.estimator, mean, var, count)

    def _enter_by_estimator(self, estimator: Estimator, mean: Any, var: Any, count: Any) -> None:
        variables = [self.moving_mean, self.moving_variance, *([self.count] if estimator.needs_count else [])]
        so_far = [ops.convert_to_tensor(variable) for variable in variables]
        updates = ops.convert_to_tensor(self.updates)
        seen = so_far[2] if estimator.needs_count else ops.zeros_like(so_far[0])
        new_mean, new_var, new_updates, new_seen = estimated(
            estimator, [*so_far[:2], updates, seen], [mean, var], count
        )
        # The estimator decides about a batch of fewer than two values.
        enters = finite([new_mean, new_var])
        for variable, new, old in zip(variables, (new_mean, new_var, new_seen), so_far, strict=False):
            variable.assign(ops.where(enters, ops.cast(new, old.dtype), old))
        self.updates.assign(ops.where(ops.any(enters), ops.max(new_updates), updates))

    def get_config(self) -> dict[str, Any]:
        """Keras's entries, and those of the arguments beyond Keras's that are not at their defaults."""
        return {**super().get_config(), **settings_of(self.activation, self.estimator, self.on_tiny_batch)}

    def get_build_config(self) -> Any:
        """Keras's; it is asked for where a model is written, not where a layer is copied, so here saving says how."""
        say_how_to_load()
        return super().get_build_config()
