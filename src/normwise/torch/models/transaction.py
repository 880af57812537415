"""The state of a model, byte for byte, and how it is restored: every operation on a whole model rests on this."""

from __future__ import annotations

import random
import sys
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class RandomState:
    """The state of every generator that running a model may move: torch's, NumPy's and Python's global ones.

    Args:
        devices: besides the CPU's generator of torch, those of these devices.

    Example:
        >>> state = RandomState()
        >>> first = torch.rand(1)
        >>> state.restore()
        >>> bool(torch.rand(1) == first)
        True
    """

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self._devices = {device for device in devices if device.type not in ("cpu", "meta")}
        self._python = random.getstate()
        self._numpy: Any = np.random.get_state()  # noqa: NPY002  # the global one is what must come back
        self._cpu = torch.get_rng_state()
        self._others = {device: _generator_of(device).get_rng_state(*_which(device)) for device in self._devices}

    def bytes(self) -> Hashable:
        """All of it, which is equal to another one if no generator has moved in between."""
        kind, keys, *places = self._numpy
        tensors = self._cpu, *self._others.values()
        return self._python, kind, keys.tobytes(), *places, *(tensor.numpy(force=True).tobytes() for tensor in tensors)

    def restore(self) -> None:
        """Draw from now on what would have been drawn then."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002  # as above
        torch.set_rng_state(self._cpu)
        for device, state in self._others.items():
            _generator_of(device).set_rng_state(state, *_which(device))


def _generator_of(device: torch.device) -> Any:
    return torch.get_device_module(device)


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """``torch.mps`` has one generator and takes no device."""
    return () if device.type == "mps" else (device,)


class Snapshot:
    """Everything that a model is: bytes and places of its tensors, modes, hooks, attributes, and the random state.

    The tensors are copied where they are, so a snapshot takes as much memory as the model. Not in it: gradients, and
    what lies inside an attribute that is neither a tensor of the model nor one of the module's own dictionaries.

    Args:
        model: any module.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> snapshot = Snapshot(layer)
        >>> _ = layer(torch.randn(8, 2)), layer.eval(), layer.requires_grad_(False)
        >>> snapshot.restore()
        >>> layer.running_mean, layer.training, layer.weight.requires_grad
        (tensor([0., 0.]), True, True)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        _reshard(model)
        self._modules = [_ModuleState(module) for module in model.modules()]
        tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self._tensors = [_TensorState(tensor) for tensor in tensors.values() if not _unborn(tensor)]
        self.random = RandomState(tensor.device for tensor in tensors.values())

    def restore(self, *, failed: bool = False) -> None:
        """Make the model what it was, whatever happened to it since; also the random state.

        Args:
            failed: whether an error came in between.
        """
        _reshard(self._model, failed=failed)
        for module in self._modules:
            module.restore()
        for tensor in self._tensors:
            tensor.restore()
        self.random.restore()


@contextmanager
def unchanged(model: nn.Module) -> Iterator[Snapshot]:
    """Whatever is done to the model inside, by whomever and with whatever end, it is as before afterwards.

    An operation works out its result inside, on the model itself, and writes it behind the block with ``write``: what
    is then different is the result and nothing else.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> with unchanged(layer):
        ...     _ = layer(torch.randn(8, 2))
        >>> layer.num_batches_tracked
        tensor(0)
    """
    snapshot = Snapshot(model)
    try:
        yield snapshot
    except BaseException:
        snapshot.restore(failed=True)
        raise
    snapshot.restore()


@contextmanager
def transaction(model: nn.Module) -> Iterator[Snapshot]:
    """Keep what is done to the model inside if the block ends well; on any error the model is as before the block.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> try:
        ...     with transaction(layer):
        ...         layer.running_mean.fill_(3)[7]
        ... except IndexError:
        ...     print(layer.running_mean)
        tensor([0., 0.])
    """
    snapshot = Snapshot(model)
    try:
        yield snapshot
    except BaseException:
        snapshot.restore(failed=True)
        raise


@contextmanager
def transaction_of_modules(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Do what ``transaction`` does, for changes of modules and of no byte of a tensor: no tensor is copied.

    On any error each module has its class, mode, attributes, hooks, children, parameters and buffers again. A full
    snapshot takes as much memory as the model, which such an operation need not have.

    Args:
        modules: those that may be changed; not those inside them.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> try:
        ...     with transaction_of_modules([layer]):
        ...         layer.__class__, layer.eps = nn.BatchNorm2d, 1.0
        ...         layer.register_buffer("running_mean", None)
        ...         layer[7]
        ... except TypeError:
        ...     print(type(layer).__name__, layer.eps, layer.running_mean)
        BatchNorm1d 1e-05 tensor([0., 0.])
    """
    states = [_ModuleState(module) for module in modules]
    try:
        yield
    except BaseException:
        for state in states:
            state.restore()
        raise


def write(target: Tensor, value: Tensor) -> None:
    """Give a buffer or parameter other values, in place and unseen by autograd, as PyTorch's own operator does it.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> write(layer.running_mean, torch.ones(2, dtype=torch.float64))
        >>> layer.running_mean
        tensor([1., 1.])
    """
    with torch.no_grad(), torch.inference_mode(target.is_inference()):
        (target if target.is_inference() else target.data).copy_(value)


def sharded_parts(model: nn.Module) -> list[Any]:
    """The modules of a model whose parameters ``fully_shard`` has sharded, those around others first."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", ())
    return [module for module in model.modules() if isinstance(module, kind)]


def _reshard(model: nn.Module, *, failed: bool = False) -> None:
    """Let ``fully_shard`` put its shards in the places of whole parameters: it knows which of the two are there.

    Args:
        model: any module.
        failed: whether a forward may have ended in the middle, which PyTorch before 2.13 cannot be told.
    """
    inside = set[nn.Module]()
    for module in sharded_parts(model):
        if failed and module not in inside and hasattr(module, "reset_iter_state"):
            with suppress(AttributeError):  # before its first forward it lacks what there would be to reset
                module.reset_iter_state()
        inside |= {*module.modules()}
        module.reshard()


def _unborn(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)


class _ModuleState:
    """A module's class, mode, attributes, and what stands in its own dictionaries: children, hooks, buffers."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind, self.training = module, type(module), module.training
        self.attributes = dict(vars(module))
        self.inside = [(held, held.copy()) for held in self.attributes.values() if isinstance(held, dict | set)]

    def restore(self) -> None:
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind
        now = vars(self.module)
        for name in [name for name in now if name not in self.attributes]:
            del now[name]
        for name, value in self.attributes.items():
            if now.get(name, self) is not value:
                now[name] = value
        for held, before in self.inside:
            # In place: handles of hooks refer to the very dictionary.
            held.clear()
            held.update(before)
        if self.module.training != self.training:  # of a scripted module it is no attribute
            self.module.training = self.training


class _TensorState:
    """A tensor's bytes, the memory that they are in, and whether it learns."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.learns = tensor, tensor.requires_grad
        self.memory = tensor if tensor.is_inference() else tensor.data
        with torch.no_grad():
            self.bytes = _without_repeats(tensor.detach()).clone()

    def restore(self) -> None:
        write(_without_repeats(self.memory), self.bytes)
        if self.memory is not self.tensor and not _same_place(self.tensor, self.memory):
            self.tensor.data = self.memory
        if self.tensor.requires_grad != self.learns:
            self.tensor.requires_grad_(self.learns)


def _without_repeats(tensor: Tensor) -> Tensor:
    """The part of a tensor that ``expand`` made which lies in memory once: PyTorch does not write to the whole."""
    if tensor.layout is torch.strided:
        for axis, (size, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            tensor = tensor.narrow(axis, 0, 1) if step == 0 and size > 1 else tensor
    return tensor


def _same_place(one: Tensor, other: Tensor) -> bool:
    kind = one.dtype == other.dtype and one.device == other.device and one.shape == other.shape
    return kind and one.stride() == other.stride() and one.data_ptr() == other.data_ptr()
