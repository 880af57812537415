"""The kernels that this process's backend has, and the form of sums that suits its compiler."""

from __future__ import annotations

from typing import Any

import keras


def kernels_for(inputs: Any, axis: int, *, by_batch: bool) -> Any:
    """The module with the functions ``by_batch``, ``by_fixed`` and ``move`` that serves these inputs, or None.

    Args:
        inputs: a tensor of the backend's.
        axis: of the channels.
        by_batch: whether they are to be normalized by their own moments, or else by running statistics.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        from normwise.keras.steps import torch_kernels

        return torch_kernels if torch_kernels.serves(inputs, by_batch=by_batch) else None
    if backend == "jax":
        from normwise.keras.steps import jax_kernels

        return jax_kernels if jax_kernels.serves(inputs, by_batch=by_batch) else None
    if by_batch:
        from normwise.keras.steps import tensorflow_kernels

        return tensorflow_kernels if tensorflow_kernels.serves(inputs, axis) else None
    return None


def check_asked() -> None:
    """Refuse to compute by ``keras.ops`` where a kernel for PyTorch's tensors is asked for by name.

    Raises:
        KernelUnavailable: it is, and this call is not one for kernels.
    """
    if keras.backend.backend() == "torch":
        from normwise.keras.steps import torch_kernels

        torch_kernels.refuse_asked()


def tensorflow_sums() -> Any:
    """The module of sums for XLA where that compiles a TensorFlow function for CPUs, or None."""
    if keras.backend.backend() != "tensorflow":
        return None
    from normwise.keras.steps import tensorflow_kernels, tensorflow_sums

    return tensorflow_sums if tensorflow_kernels.on_cpu() and tensorflow_kernels.compiled_by_xla() else None
