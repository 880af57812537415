"""The common part of layers with running statistics: the forward, the estimator's state, what checkpoints hold."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, strided
from torch.compiler import is_compiling  # by its name alone, see ``normalize_in_graph``
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.estimators import Estimator, named
from normwise.estimators.cumulative import Cumulative
from normwise.estimators.ema import Ema
from normwise.kernels.choose import SMALL, SMALL_LAST
from normwise.kernels.kernel import Call, Kernel
from normwise.kernels.torch_activations import ACTIVATIONS, activate
from normwise.moments import Moments
from normwise.torch.layers.conversion_guard import QConfig, check_fusion, check_pairing
from normwise.torch.layers.lazy import learn_features
from normwise.torch.layers.left_away import LEFT, activation_now, added_late, is_larger
from normwise.torch.layers.recordable import Recordable
from normwise.torch.layers.unsaved_buffers import kept_unsaved, make_real, reset_unsaved, skipped_of
from normwise.torch.steps.buffers import STATISTICS, widen
from normwise.torch.steps.call import checked, like_torch, normalize_and_update
from normwise.torch.steps.checks import check_activation, refuse_nested, residual_matches
from normwise.torch.steps.estimate import update_running
from normwise.torch.steps.estimate_recomputation import StatisticsMet
from normwise.torch.steps.normalize_aten import AtenAtAnyOrder
from normwise.torch.steps.normalize_in_graph import normalize_in_graph
from normwise.torch.steps.normalize_small import normalize_small
from normwise.torch.steps.normalize_tiny import POLICIES, check_policy


def unlike_torch(norm: torch.nn.Module) -> str | None:
    """The clause of a layer that does something else at inference than PyTorch's batch norm; None for all others."""
    clause: str | None = getattr(norm, "unlike_torch", None)
    return clause


class TrackedBatchNorm(Recordable, _BatchNorm):
    """The common part of all layers here: the forward, and the estimator's state. Not for direct use."""

    activation: str | None
    estimator: Estimator | None
    on_tiny_batch: str
    running_count: Tensor | None
    num_batches_skipped: Tensor | None
    # Set by ``paused_statistics``: all goes as in training, but nothing enters the running statistics.
    _paused: bool = False
    # Set by ``fuse``: the activation was the model's, and not given to the layer by whoever built it.
    _fused: bool = False
    # What ``on_tiny_batch="renorm"`` has for a forward that is run again.
    _met: StatisticsMet | None = None
    # Why ``convert_to_synchronized`` leaves such a layer; None where it does not.
    why_not_joined: ClassVar[str | None] = None
    # What it does at inference where that is not what PyTorch's batch norm does, a clause that begins with a verb: no
    # layer of ``torch.nn`` can take its place then, and no convolution can take it over.
    unlike_torch: ClassVar[str | None] = None
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
        elif name == "parametrizations" and not torch.compiler.is_compiling():
            check_pairing(self)
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
        if residual is not None and is_larger(self, input, residual):
            return added_late(self, input, residual, mask=mask, sample_weight=sample_weight)
        plain = mask is sample_weight is None
        if is_compiling():
            y = self._in_graph(input, residual) if plain else None
            if y is not None:
                return y
        elif plain and (  # the compiler would guard the size
            input.numel() < SMALL
            or (input.numel() < SMALL_LAST and input.layout is strided and not input.is_nested and input.stride(1) == 1)
        ):
            y = self._small(input, residual)
            if y is not None:
                return y
        tracks = self.training and self.track_running_stats
        policy = POLICIES[self.on_tiny_batch] if tracks else None
        call, kernel = self._checked(input, residual, mask, sample_weight, ask_torch=policy is None)
        mean, var = call.mean, call.var
        if not self.training and not mean is var is None:
            return kernel.forward_running(call)
        if policy is not None and mean is not None and var is not None:
            tiny = policy(call, self._met)
            if tiny is not None:
                if tiny.moments is not None:
                    self._enter(tiny.moments, call.weights)
                return tiny.y
            call = call if isinstance(kernel, AtenAtAnyOrder) else like_torch(call, by_batch=True)
        if not tracks or self._paused or input.numel() == 0:  # an empty batch has nothing to add to the statistics
            return normalize_and_update(call._replace(mean=None, var=None), kernel, 0.0)
        updates, skipped = self._buffers.get("num_batches_tracked"), self._buffers.get("num_batches_skipped")
        if skipped is not None and skipped.is_meta:
            skipped = skipped_of(self)
        simple = call.weights is None and self.estimator is None and self.momentum is not None
        if simple or mean is None or var is None or updates is None:
            y = normalize_and_update(call, kernel, 0.0 if self.momentum is None else self.momentum, updates, skipped)
            if updates is not None and mean is None:
                updates.add_(1)
            return y
        y, batch = kernel.forward_batch(like_torch(call, by_batch=True) if isinstance(kernel, AtenAtAnyOrder) else call)
        self._enter(batch, call.weights)
        return y

    def _in_graph(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        """The whole of a plain call in a graph of the compiler; None for all others."""
        if self.training and (
            not self.track_running_stats or self._paused or self.estimator is not None or self.on_tiny_batch != "error"
        ):
            return None
        parameters, buffers, activation = self._parameters, self._buffers, self.activation
        if activation is not None and LEFT.layers:
            activation = activation_now(self)
        try:
            return normalize_in_graph(
                input, residual, parameters, buffers, self.eps, self.momentum, self.training, activation
            )
        except KeyError:  # as in ``_small``
            return None

    def _small(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        """The whole of a plain call on a small tensor; None for all others."""
        if residual is not None and not (
            type(residual) is Tensor
            and residual_matches(residual, input)
            and residual.dtype is input.dtype
            and residual.layout is strided
        ):
            return None
        activation = self.activation
        if activation is not None and LEFT.layers:
            activation = activation_now(self)
        if self._paused or not self.track_running_stats:
            return None
        if self.estimator is not None or self.on_tiny_batch != "error":
            return None
        if activation is not None and activation not in ACTIVATIONS:
            return None
        parameters, buffers = self._parameters, self._buffers
        try:
            y = normalize_small(
                input,
                buffers["running_mean"],
                buffers["running_var"],
                parameters["weight"],
                parameters["bias"],
                self.eps,
                self.momentum,
                buffers["num_batches_tracked"],
                buffers["num_batches_skipped"],
                self.training,
            )
        except KeyError:  # something else stands in the place of one of them, a parametrization for example
            return None
        return y if y is None or (activation is None and residual is None) else activate(y, activation, residual)

    def _checked(
        self,
        input: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        sample_weight: Tensor | None,
        *,
        ask_torch: bool,
    ) -> tuple[Call, Kernel]:
        """The arguments of a kernel, checked, and the kernel; see ``steps/call.py``."""
        if input.is_nested:
            refuse_nested(self)
        activation = self.activation
        if activation is not None and LEFT.layers:
            activation = activation_now(self)
        try:  # past a module's slow attributes
            parameters, buffers = self._parameters, self._buffers
            scale, shift = parameters["weight"], parameters["bias"]
            mean, var = buffers["running_mean"], buffers["running_var"]
        except KeyError:  # where something else stands in their place, a parametrization for example
            scale, shift, mean, var = self.weight, self.bias, self.running_mean, self.running_var
        return checked(
            input,
            mean,
            var,
            scale,
            shift,
            self.eps,
            activation,
            residual,
            mask,
            sample_weight,
            by_batch=self.training or mean is var is None,
            momentum=0.0 if self.momentum is None else self.momentum,
            ask_torch=ask_torch,
        )

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
        """Convert as torch does, but keep the running statistics in float32 under ``.half()`` and ``.bfloat16()``."""
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
        # A checkpoint of torch's layer does not say how many values stand behind its statistics: counting starts at 0.
        if self.running_count is not None:
            mean = state_dict.get(f"{prefix}running_mean", self.running_count)
            zero = torch.zeros((), dtype=torch.int64, device=mean.device)
            count = state_dict.setdefault(f"{prefix}running_count", zero)
            self.running_count = torch.zeros_like(count, device=self.running_count.device)  # of its shape and dtype
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        widen(self, {})  # assign=True takes a checkpoint's tensors as they are
        make_real(self)
