"""Trials on another device than the processor, which the experiments, written for none, need not know about.

Inside of ``on`` new tensors are on the device. Random numbers are drawn on the processor and moved there, so that
initial weights, splits and orders are those of a run without it; what is handed to NumPy comes back first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from normwise.errors import MissingExtra, NormwiseError

if TYPE_CHECKING:  # a command that is refused need not wait for it
    import torch

CPU = "cpu"


def check_name(name: str) -> None:
    """Refuse what is no PyTorch device, or none that holds values.

    Args:
        name: in PyTorch's words, for example "cuda" or "cuda:1".

    Raises:
        MissingExtra: PyTorch is not installed.
        NormwiseError: there is no such kind of device.
    """
    if name == CPU:
        return
    if find_spec("torch") is None:
        raise MissingExtra("torch", extra="lab")
    from normwise.torch.models.loading import check_device_name

    check_device_name(name)


def check(name: str) -> None:
    """Refuse a device on which trials cannot run.

    Args:
        name: in PyTorch's words.

    Raises:
        MissingExtra: PyTorch is not installed.
        NormwiseError: there is no such kind of device, or none here.
    """
    check_name(name)
    if name == CPU:
        return
    import torch

    try:
        torch.zeros(1, device=name).item()
    except Exception as error:
        raise NormwiseError(
            f"no device {name!r} is on this machine: leave --device out, and the trials run on the processor."
        ) from error


def words(name: str) -> str:
    """The device as its maker calls it, for the stamp of a result.

    Args:
        name: of a device that is here, and not the processor.
    """
    import torch

    if torch.device(name).type == "cuda":
        return f"{torch.cuda.get_device_name(name)} ({name})"
    return name


@contextmanager
def on(name: str) -> Iterator[None]:
    """Compute on a device what experiments compute in the block.

    Args:
        name: in PyTorch's words; "cpu" changes nothing. A process has one device for all its life, because data that
            were read are kept there.
    """
    if name == CPU:
        yield
        return
    from unittest.mock import patch

    import torch

    device, from_numpy = torch.device(name), torch.from_numpy
    # PyTorch shows this function to no mode
    with patch.object(torch, "from_numpy", lambda array: from_numpy(array).to(device)), device, _mode(device):
        yield


def _mode(device: torch.device) -> Any:
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        """Draws on the processor, and brings back what NumPy reads."""

        def __torch_function__(
            self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            return _called(device, function, args, kwargs or {})

    return Mode()


def _called(device: torch.device, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    import torch

    if function in (torch.Tensor.numpy, torch.Tensor.__array__):
        return function(args[0].cpu(), *args[1:], **kwargs)
    generator = kwargs.get("generator")
    if generator is None or generator.device.type != CPU:
        return function(*args, **kwargs)
    if function.__name__.endswith("_"):  # fills the tensor that it is given, in ``nn.init`` by its name
        args, kwargs = args or (kwargs["tensor"],), {name: each for name, each in kwargs.items() if name != "tensor"}
        filled = torch.empty_like(args[0], device=CPU)
        function(filled, *args[1:], **kwargs)
        with torch.no_grad():
            return args[0].copy_(filled)
    here = [each.cpu() if isinstance(each, torch.Tensor) else each for each in args]
    with torch.device(CPU):  # nearer than the one that is meant for everything else
        return function(*here, **kwargs).to(device)
