"""Refusals before anything is computed or changed; PyTorch's own errors stay PyTorch's."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.errors import NormwiseError, UnknownName
from normwise.kernels.activation_numbers import WITH_SETTING, parted
from normwise.kernels.kernel import Call
from normwise.kernels.torch_activations import ACTIVATIONS
from normwise.torch.steps.buffers import is_wide


def refuse_nested(layer: object) -> NoReturn:
    """Say what to do with a nested tensor in the place of giving it to a layer.

    Raises:
        TypeError: always.
    """
    raise TypeError(
        f"{type(layer).__name__} takes plain tensors, received a nested one: pad it with to_padded_tensor(0.0), "
        "with the channels on axis 1, and pass mask=, True where a value counts."
    )


def check_activation(activation: str | None) -> None:
    """Refuse an activation that does not exist, naming the nearest one."""
    if activation is None or activation in ACTIVATIONS:
        return
    if not isinstance(activation, str):
        kind = activation if isinstance(activation, type) else getattr(activation, "__name__", type(activation))
        word = getattr(kind, "__name__", str(kind)).lower()
        name = next((each for each in ACTIVATIONS if each and each.replace("_", "") == word.replace("_", "")), "relu")
        raise NormwiseError(f"activation must be a name, received {activation!r}: pass for example {name!r}.")
    try:
        parted(activation)
    except ValueError:
        kind, colon, setting = activation.partition(":")
        if not colon or kind not in ACTIVATIONS:
            raise UnknownName("activation", activation, ACTIVATIONS) from None
        if kind in WITH_SETTING:
            raise NormwiseError(
                f"the setting of the activation {kind!r} must be a finite number other than 0, received {setting!r}: "
                f"write for example '{kind}:0.2'."
            ) from None
        settable = " and ".join(sorted(WITH_SETTING))
        raise NormwiseError(
            f"the activation {kind!r} takes no setting, received {activation!r}: write {kind!r}; only {settable} take "
            "one."
        ) from None


def check_dense(input: Tensor) -> None:
    """Refuse a quantized tensor, which no normalization here can take."""
    if input.is_quantized:
        raise NormwiseError(
            f"normalization needs a tensor of floating dtype, received a quantized one, {input.dtype}: put a "
            "torch.ao.quantization.DeQuantStub before the layer and a QuantStub behind it, or quantize the model by "
            "torch.ao.quantization.quantize_fx, which does so by itself."
        )


def residual_matches(residual: Tensor, input: Tensor) -> bool:
    """True for a residual that ``check_residual`` takes."""
    return isinstance(residual, Tensor) and residual.shape == input.shape and residual.device == input.device


def check_residual(residual: Tensor | None, input: Tensor) -> None:
    """Refuse a residual that is not a tensor of the input's shape on the input's device."""
    if residual is None or residual_matches(residual, input):
        return
    if not isinstance(residual, Tensor):
        raise TypeError(f"residual must be a tensor, received {type(residual).__name__}: pass the tensor to be added.")
    if residual.shape != input.shape:
        raise ValueError(
            f"residual must have the shape of the input, {tuple(input.shape)}, received {tuple(residual.shape)}: "
            "expand it or project it first."
        )
    raise ValueError(
        f"residual must be on the device of the input, {input.device}, received {residual.device}: move it first."
    )


def checked_like_torch(call: Call, by_batch: bool, momentum: float | None = 0.0) -> Call:
    """The call with statistics and parameters of one axis, where torch takes the arguments; else torch's own error.

    Args:
        call: what is to be computed.
        by_batch: with batch statistics, or else with running ones.
        momentum: of the running statistics.
    """
    # Torch has the words for what is wrong; if nothing is, only copies of the statistics have changed.
    mean, var = (values.clone() if isinstance(values, Tensor) else values for values in (call.mean, call.var))
    F.batch_norm(call.x, mean, var, call.scale, call.shift, by_batch, momentum, call.eps)  # type: ignore[arg-type]  # torch says what it thinks of None
    mean, var, scale, shift = (
        None if values is None else values.reshape(-1) for values in (call.mean, call.var, call.scale, call.shift)
    )
    return call._replace(mean=mean, var=var, scale=scale, shift=shift)


def cast_parameters(
    input: Tensor, running_mean: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of the input's half precision in float32 where the statistics are, which torch wants to agree."""
    if not isinstance(running_mean, Tensor) or running_mean.dtype is not torch.float32 or is_wide(input):
        return weight, bias
    return tuple(  # type: ignore[return-value]  # two in, two out
        tensor.float() if isinstance(tensor, Tensor) and tensor.dtype is input.dtype else tensor
        for tensor in (weight, bias)
    )
