"""What all layers with running statistics share: the forward, the estimator's state, and what checkpoints hold."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.estimators import Estimator, named
from normwise.estimators.cumulative import Cumulative
from normwise.estimators.ema import Ema
from normwise.kernels import aten
from normwise.kernels.choose import TOO_SMALL
from normwise.kernels.torch_activations import ACTIVATIONS, activate
from normwise.moments import Moments
from normwise.torch.buffers import STATISTICS, widen
from normwise.torch.checks import check_activation, check_residual, fits, parameters_for
from normwise.torch.conversion_guard import QConfig, check_fusion
from normwise.torch.functional import batch_norm_by_batch, batch_norm_by_fixed, output_and_moments
from normwise.torch.lazy_norm import learn_features
from normwise.torch.mask_checks import check_weights
from normwise.torch.recomputation import StatisticsMet
from normwise.torch.running_statistics import update_running
from normwise.torch.steps import choice_for, normalize_and_move
from normwise.torch.tiny_batches import POLICIES, Batch, check_policy
from normwise.torch.unsaved_buffers import kept_unsaved, make_real, reset_unsaved, skipped_of


class FusedBatchNorm(_BatchNorm):
    """What all layers here share: the forward, and the estimator's state. Not for direct use."""

    activation: str | None
    estimator: Estimator | None
    on_tiny_batch: str
    running_count: Tensor | None
    num_batches_skipped: Tensor | None
    # Set by ``statistics.paused_statistics``: all goes as in training, but nothing enters the running statistics.
    _paused: bool = False
    # What ``on_tiny_batch="renorm"`` has for a forward that is run again.
    _met: StatisticsMet | None = None
    # Buffers that no checkpoint holds, and the value that each starts from.
    _unsaved: ClassVar[dict[str, float]] = {"num_batches_skipped": 0}
    # By which torch's conversion to its ``SyncBatchNorm`` is noticed.
    qconfig = QConfig()

    def _settle(self, activation: str | None, estimator: Estimator | str | None, on_tiny_batch: str = "error") -> None:
        """Take the keywords that torch does not have; called once, after torch's own ``__init__``."""
        check_activation(activation)
        if not isinstance(estimator, Estimator | str | None):
            raise TypeError(
                f"estimator must be a name or a normwise.estimators.Estimator, received {type(estimator).__name__}: "
                "pass for example 'pooled'."
            )
        check_policy(on_tiny_batch, self.track_running_stats)
        self.activation = activation
        self.on_tiny_batch = on_tiny_batch
        if on_tiny_batch == "renorm":
            self._met = StatisticsMet()
        self.estimator = named(estimator, weight_of_new=self.momentum) if isinstance(estimator, str) else estimator
        # One given by name takes its weight from ``momentum``, which schedules may change.
        self._follows_momentum = isinstance(estimator, str) and hasattr(self.estimator, "weight_of_new")
        counted = self.estimator is not None and self.estimator.needs_count and self.track_running_stats
        device = None if self.num_batches_tracked is None else self.num_batches_tracked.device
        self.register_buffer("running_count", torch.zeros((), dtype=torch.int64, device=device) if counted else None)
        # Not a part of checkpoints, which are torch's.
        skipped = torch.zeros((), dtype=torch.int64, device=device) if self.track_running_stats else None
        self.register_buffer("num_batches_skipped", skipped, persistent=False)
        widen(self, {})
        learn_features(self)  # of a layer that was PyTorch's and lazy

    def __getattr__(self, name: str) -> Any:
        if name == "running_var" and not torch.compiler.is_compiling():
            check_fusion(self)
        return super().__getattr__(name)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """``activation(normalize(input) + residual)``; see ``normwise.torch.functional.batch_norm`` for the shapes."""
        self._check_input_dim(input)
        weight, bias, mean, var, updates = self._tensors()
        tracks = self.training and self.track_running_stats
        activation = self.activation
        if (
            mask is None
            and sample_weight is None
            and (activation is None or activation in ACTIVATIONS)
            and mean is not None
            and input.numel() > 0
            and (weight is None or weight.dtype is mean.dtype)
            and (residual is None or fits(residual, input))
            and choice_for(input, by_batch=self.training, mask=None) is TOO_SMALL
        ):  # the common call of a small tensor, of whose time every further step in Python is a hundredth
            if not self.training:
                y = aten.forward_fixed(input, mean, var, weight, bias, self.eps)
                return y if activation is None and residual is None else activate(y, activation, residual)
            momentum, skipped = self.momentum, self._buffers["num_batches_skipped"]
            if skipped is not None and skipped.is_meta:
                skipped = skipped_of(self)
            plain = self.estimator is None and self.on_tiny_batch == "error" and not self._paused
            if tracks and plain and momentum is not None and updates is not None:
                y = normalize_and_move(input, mean, var, weight, bias, momentum, self.eps, updates, skipped)
                return y if activation is None and residual is None else activate(y, activation, residual)
        check_activation(activation)
        check_residual(residual, input)
        weights = check_weights(mask, sample_weight, input)
        weight, bias = parameters_for(input, mean, weight, bias)
        if not self.training and (mean is not None or var is not None):
            return batch_norm_by_fixed(input, mean, var, weight, bias, self.eps, self.activation, residual, weights)
        policy = POLICIES[self.on_tiny_batch] if tracks else None
        if policy is not None and mean is not None and var is not None:
            tiny = policy(
                Batch(input, weights, mean, var, weight, bias, self.eps, self.activation, residual, self._met)
            )
            if tiny is not None:
                if tiny.moments is not None:
                    self._enter(tiny.moments, weights)
                return tiny.y
        if not tracks or self._paused or input.numel() == 0:  # an empty batch has nothing to say
            mean = var = updates = None
        simple = weights is None and self.estimator is None and self.momentum is not None
        if simple or mean is None or var is None or updates is None:
            y = batch_norm_by_batch(
                input,
                mean,
                var,
                weight,
                bias,
                0.0 if self.momentum is None else self.momentum,
                self.eps,
                self.activation,
                residual,
                weights,
                updates,
                skipped_of(self),
            )
            if updates is not None and mean is None:
                updates.add_(1)
            return y
        y, batch = output_and_moments(input, mean, var, weight, bias, self.eps, self.activation, residual, weights)
        self._enter(batch, weights)
        return y

    def _tensors(self) -> tuple[Tensor | None, ...]:
        """weight, bias, running_mean, running_var and num_batches_tracked, without a module's slow attributes."""
        try:
            parameters, buffers = self._parameters, self._buffers
            return (
                parameters["weight"],
                parameters["bias"],
                buffers["running_mean"],
                buffers["running_var"],
                buffers["num_batches_tracked"],
            )
        except KeyError:  # where something else stands in their place, a parametrization for example
            return self.weight, self.bias, self.running_mean, self.running_var, self.num_batches_tracked

    def _enter(self, batch: Moments, weights: Tensor | None = None) -> None:
        """One more batch into the running statistics, which are there; ``weights`` is what it was gathered with."""
        if self._paused:
            return
        mean, var, count = self.running_mean, self.running_var, self.running_count
        assert mean is not None
        assert var is not None
        if count is not None and weights is not None:
            # One whole number is enough until channels differ, or values count by fractions.
            count = count.double() if weights.is_floating_point() else count
            self.running_count = count = (
                count.expand(mean.shape).clone() if weights.shape[1] > 1 > count.dim() else count
            )
        update_running(self._estimator(), batch, mean, var, self.num_batches_tracked, count, skipped_of(self))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As torch's, but the running statistics stay in float32 where ``.half()`` or ``.bfloat16()`` converts."""
        originals = {name: buffer for name in STATISTICS if (buffer := self._buffers.get(name)) is not None}
        with kept_unsaved(self, fn):
            super()._apply(fn, recurse)
        widen(self, originals)
        return self

    def _estimator(self) -> Estimator:
        """The estimator as of now."""
        if self.estimator is None:
            return Cumulative() if self.momentum is None else Ema(self.momentum)
        if self._follows_momentum and self.momentum is None:  # what torch's update_bn asks for, for a time
            return Cumulative()
        if self._follows_momentum:
            return type(self.estimator)(self.momentum)  # type: ignore[call-arg]  # it has a weight_of_new
        return self.estimator

    def reset_running_stats(self) -> None:
        """Back to mean 0, variance 1, nothing seen."""
        super().reset_running_stats()
        count = self._buffers.get("running_count")
        if count is not None:
            count.zero_()
        reset_unsaved(self)

    def extra_repr(self) -> str:
        """Torch's line, and what is set beyond it."""
        activation = "" if self.activation is None else f", activation={self.activation}"
        estimator = "" if self.estimator is None else f", estimator={self._estimator()!r}"
        tiny = "" if self.on_tiny_batch == "error" else f", on_tiny_batch={self.on_tiny_batch}"
        return f"{super().extra_repr()}{activation}{estimator}{tiny}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # A checkpoint of torch's layer does not say how many values stand behind its statistics: start counting anew.
        if self.running_count is not None:
            mean = state_dict.get(f"{prefix}running_mean", self.running_count)
            zero = torch.zeros((), dtype=torch.int64, device=mean.device)
            count = state_dict.setdefault(f"{prefix}running_count", zero)
            self.running_count = torch.zeros_like(count, device=self.running_count.device)  # of its shape and dtype
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        widen(self, {})  # assign=True takes a checkpoint's tensors as they are
        make_real(self)
