"""Doors to a training step: an optimizer's groups, batches that come in parts, and the memory for the backward."""

# mypy: disable-error-code="empty-body"
# A door has a signature and a docstring; its decorator is the body.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normwise.surgery.door import door, lazy_import_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn

    from normwise.torch.models.memory.save_memory import SaveMemoryReport

__all__ = ["accumulate_gradients", "forward_together", "param_groups", "save_memory"]


@door(torch=lazy_import_module("normwise.torch.models.accumulation.accumulate", "accumulate_gradients"))
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
    r"""Add to a PyTorch model's gradients what a step on all micro-batches together would add, batch norms included.

    .. math:: \nabla_\theta \sum_k \frac{n_k}{n} L\big(f_\theta(x_k \mid x_1 \dots x_K)\big)

    It replaces the loop over ``loss_fn(model, micro_batch).backward()``; the optimizer step follows as before. The
    parts meet at every batch norm, which normalizes them with the statistics of all; running statistics are updated
    once, as by the whole batch. Until the backward, autograd keeps as much as for the whole batch: if a GPU has no room
    for it, ``offload`` keeps it in the host's memory.

    Args:
        model: a ``torch.nn.Module`` in training mode; layers in inference mode stay as they are. It may not use
            ``torch.utils.checkpoint``.
        micro_batches: the parts of the batch, of any structure and any sizes; of different image sizes too. Tensors are
            moved to the model's device when their part's turn comes.
        loss_fn: ``loss_fn(model, micro_batch)``, the mean loss of one part, a scalar.
        weights: how much each part's loss counts; None for its share of the samples. If ``loss_fn`` gives sums, pass 1
            for each part.
        offload: whether to keep what the backward needs in the host's memory; for models on other devices.
        backward: what to do with the summed loss, for example ``lambda loss: scaler.scale(loss).backward()``; None for
            ``loss.backward()``.
        batch_layers: classes besides batch norms whose output depends on the whole batch: they are called once for all,
            with every argument that is a tensor joined along its first axis.

    Returns:
        the loss of the whole batch, without a graph.

    Raises:
        UnsuitableModel: not a PyTorch model, or one with batch norms that torch.jit or torch.export compiled.
        TypeError: ``loss_fn`` returns something else than a tensor.
        NormwiseError: no micro-batches; a loss that is no scalar or has no gradient; weights that are not one finite
            number for each micro-batch; parts that take different ways through the model; or a model with checkpoints.
            On any error the running statistics are as before; an error in the backward itself may leave a part of the
            gradients added.

    Example:
        >>> import torch
        >>> from normwise import accumulate_gradients
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
        >>> mse = torch.nn.functional.mse_loss
        >>> loss = accumulate_gradients(model, zip(x.split(2), y.split(2)), lambda f, part: mse(f(part[0]), part[1]))
        >>> (whole,) = torch.autograd.grad(mse(model(x), y), [model[0].weight])
        >>> torch.testing.assert_close(model[0].weight.grad, whole)
    """


@door(torch=lazy_import_module("normwise.torch.models.accumulation.accumulate", "forward_together"))
def forward_together(
    model: nn.Module,
    micro_batches: Iterable[Any],
    forward_fn: Callable[[Any, Any], Any] | None = None,
    *,
    offload: bool = False,
    batch_layers: tuple[type[nn.Module], ...] = (),
) -> list[Any]:
    """Run a PyTorch model on micro-batches with the statistics of all of them, for losses over the whole batch.

    Args:
        model: as in ``accumulate_gradients``.
        micro_batches: as in ``accumulate_gradients``.
        forward_fn: ``forward_fn(model, micro_batch)``, how a part enters the model, if its first items are not the
            model's inputs.
        offload: as in ``accumulate_gradients``.
        batch_layers: as in ``accumulate_gradients``.

    Returns:
        what the model or ``forward_fn`` returns for each part, with a graph. Call ``backward`` once, on a loss that
        depends on all of them.

    Raises:
        UnsuitableModel: not a PyTorch model, or one with batch norms that torch.jit or torch.export compiled.
        NormwiseError: no micro-batches; parts that take different ways through the model, or a model with checkpoints.

    Example:
        >>> import torch
        >>> from normwise import forward_together
        >>> layer = torch.nn.BatchNorm1d(1, affine=False)
        >>> [y.round().item() for y in forward_together(layer, [torch.tensor([[1.0]]), torch.tensor([[3.0]])])]
        [-1.0, 1.0]
    """


@door(torch=lazy_import_module("normwise.torch.models.param_groups", "param_groups"))
def param_groups(
    model: nn.Module,
    weight_decay: float,
    decay_norm: bool = False,
    *,
    decay_bias: bool = True,
    norm_types: tuple[type[nn.Module], ...] = (),
) -> list[dict[str, Any]]:
    """Make groups for a PyTorch optimizer, in which the scale and shift of normalization layers do not decay.

    Every parameter of the model is in exactly one group, in the model's order. A shared parameter counts once, and does
    not decay if it should not in one of its places.

    Args:
        model: a ``torch.nn.Module``.
        weight_decay: for the parameters that decay, 0 or more.
        decay_norm: whether the scale and shift of normalization layers decay.
        decay_bias: whether parameters that are called ``bias`` in other layers decay.
        norm_types: classes that are normalization layers too. The function knows PyTorch's and normwise's, classes
            derived from them, and every class whose name ends in ``Norm``, ``Norm2d`` or the like.

    Returns:
        one or two groups, none of them empty. Each has ``params``, ``weight_decay`` and a ``name``, ``"decayed"`` or
        ``"not decayed"``.

    Raises:
        UnsuitableModel: not a PyTorch model, or one in whose code normalization cannot be told from the rest.
        NormwiseError: ``weight_decay`` is not a number of 0 or more; or the model has no parameters.

    Example:
        >>> import torch
        >>> from normwise import param_groups
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
        >>> [group["weight_decay"] for group in param_groups(model, 0.01)]
        [0.01, 0.0]
    """


@door(
    torch=lazy_import_module("normwise.torch.models.memory.save_memory", "save_memory"),
    keras=lazy_import_module("normwise.keras.models.save_memory", "save_memory"),
)
def save_memory(model: Any, example: Any = None) -> SaveMemoryReport:
    r"""Let a PyTorch or Keras model keep about half as much for the backward, with bit-for-bit the same gradients.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    A network keeps the input x of a batch norm and its output y, which the next layer saves. From now on y is freed
    after the forward, and when the backward asks for it, it is made again from x with the statistics that the forward
    used: one elementwise pass by the kernel that made it. With PyTorch, call ``normwise.fuse`` first: behind an
    activation that is a layer of its own, the next layer saves the activation's output, which stays.

    Running statistics and random layers work as before. In a row of outputs, each with the one before as its residual,
    every second output is made again. If something changes an output in place, autograd raises the same error as
    without ``save_memory``. It works with autocast, ``DistributedDataParallel``, ``fully_shard``,
    ``torch.utils.checkpoint``, ``create_graph=True`` and other hooks on saved tensors; it leaves alone what
    ``torch.compile`` compiles.

    In a Keras model on the torch backend it reaches normwise's layers (``normwise.convert_from_keras`` puts them in),
    in ``fit`` too, and what Keras's own layers make of their outputs: activations, padding, and the copies in another
    layout that its convolutions save. Such a copy is not kept beside a tensor that is kept anyway. On JAX and
    TensorFlow the compiler decides what is kept; there, ``keras.RematScope`` runs the forwards of whole blocks again.

    Args:
        model: a ``torch.nn.Module`` on any device; on the meta device, it reports on a model that is too large for this
            machine. Or a built ``keras.Model`` on the torch backend. The model gets forward hooks: calls of the model
            count, not calls of its parts from outside.
        example: a batch, as ``recalibrate`` takes them. With it, two forwards that leave the model as it is measure the
            bytes and find out what becomes of each layer.

    Returns:
        a report of what is saved and kept, and why, with the bytes before and after, and with ``undo()``. It is a
        context manager too: at the end of a ``with`` block all is as before. Copies of the model have the hooks
        too: ``normwise.save_memory(copy).undo()`` takes them away there.

    Raises:
        UnsuitableModel: neither a PyTorch nor a Keras model, one that torch.jit or torch.export compiled, or a Keras
            model on JAX or TensorFlow.
        NormwiseError: a Keras model that is not built.

    References:
        Rota Bulò et al., In-place activated BatchNorm for memory-optimized training of DNNs, 2018.

    Example:
        >>> import torch
        >>> from normwise import save_memory
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 8, 3))
        >>> print(str(save_memory(model, torch.randn(4, 3, 16, 16))).splitlines()[1].strip())
        saved  1: made again from its input
    """
