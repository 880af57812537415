r"""Gradients of a batch that comes in parts, which are those of the whole batch, batch norms included.

Adding up the gradients of micro-batches is not a step of the whole batch where there are batch norms: every part is
normalized by itself. To be exact, each layer needs the moments of all parts before any of them can pass it, and in the
backward the sums of the gradient over all parts. So the parts go through the model side by side and meet at every batch
norm, which is called once for all (``lockstep``); one backward follows, in which autograd waits for the parts by
itself. The layer sees the whole batch, so that every variant, estimator and fused activation is what it would be there,
and the running statistics move once.

Sweeps, one part after the other, can do with the memory of one part, but two of them are enough for one batch norm
only. The moments of the second are known when the first normalizes by those of all, and with the gradients it is the
same backwards: a network with L batch norms needs about 2 L sweeps, 106 for a ResNet-50. That is never cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from normwise.errors import NormwiseError
from normwise.recalibration.asked import as_number, check_forward_fn
from normwise.torch.models.accumulation.joining import joint_call
from normwise.torch.models.accumulation.lockstep import in_lockstep
from normwise.torch.models.accumulation.offloading import offloaded
from normwise.torch.models.feeding import ForwardFn, arguments, device_of, moved, samples_in, uncompiled
from normwise.torch.models.model_checks import check_model, check_reach
from normwise.torch.models.transaction import write


def accumulate_gradients(
    model: nn.Module,
    micro_batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    weights: Sequence[float] | None = None,
    offload: bool = False,
    backward: Callable[[Tensor], object] | None = None,
    batch_layers: tuple[type[nn.Module], ...] = (),
) -> Tensor:
    r"""Add to the gradients what a step on all micro-batches together would add, batch norms included, and once.

    .. math:: \nabla_\theta \sum_k \frac{n_k}{n} L\big(f_\theta(x_k \mid x_1 \dots x_K)\big)

    In the place of the loop over ``loss_fn(model, micro_batch).backward()``; the optimizer step follows as ever.
    Running statistics move once, as by the whole batch. What else differs from one call with the whole batch: random
    numbers, as for dropout, are drawn in another order.

    The price: what autograd keeps of all parts is kept until the backward, as for the whole batch, and not of one part
    at a time; time is about that of plain accumulation. Measured (``benchmarks/accumulation.py``: a network of 29 batch
    norms, 32 images of 64 x 64 in 8 parts, one thread of a busy machine; PyTorch's layers, then normwise's by ``fuse``;
    time against plain accumulation, median [smallest, largest] of 5 pairs; the most memory above that before the step):

    - plain accumulation, which is not exact: 1 and 34 MB; 1 and 34 MB.
    - ``accumulate_gradients``: 1.01 [0.92, 1.72] and 166 MB; 0.94 [0.77, 1.32] and 166 MB.
    - the same with ``offload``: 1.02 [0.95, 1.55] and 37 MB; 0.86 [0.56, 1.26] and 52 MB.
    - the whole batch at once: 0.57 [0.42, 0.74] and 155 MB; 0.40 [0.27, 0.53] and 157 MB.

    So it is for parts that no one call takes, as images of several sizes, and with ``offload`` for batches that do not
    fit the device's memory; one that fits is faster whole.

    Args:
        model: in training mode; layers in inference mode stay as they are. Without ``torch.utils.checkpoint`` inside.
        micro_batches: the parts of the batch, of any structure and any sizes; of different image sizes too, which no
            one tensor could hold. Tensors are moved to the model's device when their part's turn comes.
        loss_fn: ``loss_fn(model, micro_batch)``, the mean loss of one part, a scalar.
        weights: how much each part's loss counts; its share of the samples by default. For losses that are sums, 1 for
            each.
        offload: keep what the backward needs in the host's memory meanwhile, for models on other devices.
        backward: what is done with the sum, as ``lambda loss: scaler.scale(loss).backward()``; None for
            ``loss.backward()``.
        batch_layers: classes besides batch norms whose output depends on the whole batch: they are called once for all,
            with every argument that is a tensor joined along its first axis.

    Returns:
        the loss of the whole batch, without a graph.

    Raises:
        UnsuitableModel: not a ``torch.nn.Module``, or one with batch norms that torch.jit or torch.export made code of.
        TypeError: ``loss_fn`` gives something else than a tensor.
        NormwiseError: no micro-batches; no scalar loss, or one without a gradient; weights that are not one finite
            number for each micro-batch; parts that take different ways through the model, or a model with checkpoints.
            On any error the running statistics are as before; an error in the backward itself may leave a part of the
            gradients added.

    References:
        Ioffe and Szegedy, Batch normalization, 2015, section 3 (the gradient through the moments).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from normwise.torch import accumulate_gradients
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
        >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
        >>> parts = list(zip(x.split(2), y.split(2)))
        >>> loss = accumulate_gradients(model, parts, lambda f, part: nn.functional.mse_loss(f(part[0]), part[1]))
        >>> (whole,) = torch.autograd.grad(nn.functional.mse_loss(model(x), y), [model[0].weight])
        >>> torch.testing.assert_close(model[0].weight.grad, whole)
        >>> model[1].num_batches_tracked  # one for the micro-batches, one for the whole batch
        tensor(2)
    """
    check_model(model, called="accumulate_gradients")
    parts = list(micro_batches)
    shares = _shares(parts, weights)
    if not torch.is_grad_enabled():
        raise NormwiseError(
            "accumulate_gradients needs autograd, received a call inside torch.no_grad() or torch.inference_mode(): "
            "call it outside of that block."
        )

    def loss_of(model: nn.Module, part: Any) -> Tensor:
        loss = loss_fn(model, part)
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss_fn must give a tensor, received {type(loss).__name__}: return the loss itself.")
        if loss.numel() != 1:
            raise NormwiseError(
                f"loss_fn must give a scalar for each micro-batch, received the shape {tuple(loss.shape)}: "
                "return its mean."
            )
        return loss

    with _kept_on_error(_layers_that_meet(model, batch_layers)):
        losses = _together(model, parts, loss_of, offload, batch_layers, called="accumulate_gradients")
        total = torch.stack([loss.reshape(()) * share for loss, share in zip(losses, shares, strict=True)]).sum()
        if not total.requires_grad:
            raise NormwiseError(
                "loss_fn must give a loss with a gradient, received losses that do not require grad: return the loss "
                "without .detach() or torch.no_grad(), and let a parameter of the model require a gradient."
            )
        (backward or Tensor.backward)(total)
    return total.detach()


def forward_together(
    model: nn.Module,
    micro_batches: Iterable[Any],
    forward_fn: ForwardFn | None = None,
    *,
    offload: bool = False,
    batch_layers: tuple[type[nn.Module], ...] = (),
) -> list[Any]:
    """The outputs for micro-batches, each normalized as a part of all, with a graph: for losses over the whole batch.

    Args:
        model: as in ``accumulate_gradients``.
        micro_batches: as in ``accumulate_gradients``.
        forward_fn: ``forward_fn(model, micro_batch)`` in place of the rules of
            ``normwise.torch.models.feeding.arguments``.
        offload: as in ``accumulate_gradients``.
        batch_layers: as in ``accumulate_gradients``.

    Returns:
        what the model or ``forward_fn`` returns for each. Call ``backward`` once, on what all of them have a part in.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from normwise.torch import forward_together
        >>> model = nn.BatchNorm1d(1, affine=False)
        >>> [y.round().item() for y in forward_together(model, [torch.tensor([[1.0]]), torch.tensor([[3.0]])])]
        [-1.0, 1.0]
    """
    check_model(model, called="forward_together")
    check_forward_fn(forward_fn)
    with _kept_on_error(_layers_that_meet(model, batch_layers)):
        return _together(model, list(micro_batches), forward_fn, offload, batch_layers, called="forward_together")


def _together(
    model: nn.Module,
    parts: Sequence[Any],
    forward_fn: ForwardFn | None,
    offload: bool,
    batch_layers: tuple[type[nn.Module], ...],
    *,
    called: str,
) -> list[Any]:
    check_reach(model, called=called)
    if not parts:
        raise NormwiseError("there are no micro-batches, so there is no gradient: pass at least one.")
    device = device_of(model)
    layers = _layers_that_meet(model, batch_layers)

    def forward(part: Any) -> Any:
        part = moved(part, device)
        if forward_fn is not None:
            return forward_fn(model, part)
        positional, named = arguments(model, part)
        return model(*positional, **named)

    works = [lambda part=part: forward(part) for part in parts]
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        if offload:
            stack.enter_context(offloaded([*model.parameters(), *model.buffers()]))
        return in_lockstep(works, layers, joint_call)


def _layers_that_meet(model: nn.Module, batch_layers: tuple[type[nn.Module], ...]) -> dict[nn.Module, str]:
    return {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, batch_layers) or _depends_on_the_batch(module)
    }


@contextmanager
def _kept_on_error(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Give these layers the buffers that they had before the block back, on any error in it."""
    kept = [(buffer, buffer.detach().clone()) for layer in layers for buffer in layer.buffers() if not _unborn(buffer)]
    try:
        yield
    except BaseException:
        for buffer, before in kept:
            write(buffer, before)
        raise


def _depends_on_the_batch(module: nn.Module) -> bool:
    if not isinstance(module, _NormBase):
        return False
    if isinstance(module, _BatchNorm):
        return module.training or module.running_mean is None
    return module.training and module.running_mean is not None  # instance norm: only its statistics do


def _unborn(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.UninitializedBuffer)


def _shares(parts: Sequence[Any], weights: Sequence[float] | None) -> list[float]:
    if weights is not None:
        several = isinstance(weights, Iterable) and not isinstance(weights, str)
        numbers = [as_number(weight) for weight in weights] if several else [math.nan]
        if not all(math.isfinite(number) for number in numbers):
            raise NormwiseError(
                f"weights must hold finite numbers, received {weights!r}: pass the share of each micro-batch in the "
                "loss, as 0.25, or leave weights out."
            )
        if len(numbers) != len(parts):
            raise NormwiseError(
                f"weights must hold one number for each of the {len(parts)} micro-batches, received {len(numbers)}."
            )
        return numbers
    samples = [samples_in(part) for part in parts]
    if parts and not all(samples):
        raise NormwiseError(
            "a micro-batch holds no tensor to count its samples by: pass weights, the share of each in the loss."
        )
    return [number / sum(samples) for number in samples]
