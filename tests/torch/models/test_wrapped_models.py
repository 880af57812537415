"""Every operation on a whole model that is compiled, distributed, averaged or sharded: it works as on the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel

import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.torch.models.fusion.fuse import fuse
from normwise.torch.models.recalibration.recalibrate import recalibrate
from normwise.torch.models.transaction import sharded_parts
from tests.torch.operations import OPERATIONS, X, network


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def compiled_and_called(model: nn.Module) -> Any:
    made = compiled(model)
    made.eval()
    made(X)
    return made.train()


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def sharded(model: nn.Module) -> nn.Module:
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


def sharded_layer_by_layer(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (1,))
    for layer in (0, 1, 4):
        fully_shard(model.get_submodule(str(layer)), mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


SHARDED = "fully_shard has sharded it: do this to the model before that"
AVERAGED = "AveragedModel takes its buffers from another model, in order: do this to both before"
# What wraps the model, where the model is in it, and why it must stay as it is for fuse, synchronization and domains.
WRAPPERS: dict[str, tuple[Callable[[nn.Module], Any], str, tuple[str, str, str]]] = {
    "compiled": (compiled, "_orig_mod.", ("", "", "")),
    "compiled and called": (compiled_and_called, "_orig_mod.", ("", "", "")),
    "compiled in place": (compiled_in_place, "", ("", "", "")),
    "GraphModule": (torch.fx.symbolic_trace, "", ("", "", "")),
    "DataParallel": (nn.DataParallel, "module.", ("", "", "")),
    "DistributedDataParallel": (nn.parallel.DistributedDataParallel, "module.", ("", "", "")),
    "AveragedModel": (AveragedModel, "module.", (AVERAGED, AVERAGED, AVERAGED)),
    "fully_shard": (sharded, "", (SHARDED, "", SHARDED)),
    "fully_shard of each": (sharded_layer_by_layer, "", (SHARDED, SHARDED, SHARDED)),
}
CHANGING = ("fuse", "convert_to_synchronized", "convert_to_domains")
ALIKE = (
    "recalibrate",
    "adapt",
    "adapting",
    "paused_statistics",
    "param_groups",
    "save_memory",
    "pool_statistics",
    "accumulate_gradients",
    "forward_together",
    *CHANGING,
)


def told(result: Any, prefix: str) -> str:
    """The result in words, with the names that the layers have in the plain model."""
    return str(result).replace(prefix, "") if prefix else str(result)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor:UserWarning")  # of the last layer
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # inside the compiler
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ALIKE)
def test_what_is_wrapped_is_passed_by(name: str, wrapper: str) -> None:
    wrap, prefix, fixed = WRAPPERS[wrapper]
    plain, wrapped = network(), wrap(network())
    why = fixed[CHANGING.index(name)] if name in CHANGING else ""
    if why and name == "fuse":
        assert fuse(wrapped).left == {f"{prefix}1": why}
    elif why:
        kind = type(wrapped).__name__
        start = {
            "convert_to_synchronized": f"{kind} has no batch norm to synchronize",
            "convert_to_domains": f"{kind} has no layer with running statistics",
        }[name]
        end = ": nothing can differ by domain." if name == "convert_to_domains" else "."
        with pytest.raises(NormwiseError) as error:
            OPERATIONS[name](wrapped)
        assert str(error.value) == f"{start} ({prefix}1: {why}){end}"
    else:
        assert told(OPERATIONS[name](wrapped), prefix) == told(OPERATIONS[name](plain), "")
    for training in (True, False):  # afterwards it runs, and as the plain model does
        plain.train(training)
        wrapped.train(training)
        torch.testing.assert_close(wrapped(X), plain(X))
    found = {key.replace(prefix, "") if prefix else key: value for key, value in wrapped.named_buffers()}
    for key, value in plain.named_buffers():
        if not why or "skipped" not in key:
            torch.testing.assert_close(found[key], value)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("shard", [sharded, sharded_layer_by_layer])
def test_an_error_in_a_sharded_model_leaves_it_usable(shard: Callable[[nn.Module], nn.Module]) -> None:
    plain, model = network(), shard(network())
    for called in (False, True):
        if called:
            model(X).square().mean().backward()
            plain(X).square().mean().backward()
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            recalibrate(model, [X, X[..., 1:]])
        torch.testing.assert_close(model(X), plain(X))
    assert recalibrate(model, [X]).recalibrated.keys() == recalibrate(plain, [X]).recalibrated.keys()
    torch.testing.assert_close(model(X), plain(X))
    for part in sharded_parts(model):
        part.reshard()
    for parameter, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert isinstance(parameter.grad, DTensor)
        torch.testing.assert_close(parameter.grad.full_tensor(), other.grad)


@pytest.mark.usefixtures("one_process")
def test_a_layer_that_is_wrapped_itself() -> None:
    layer = nn.BatchNorm2d(3)
    why = "torch.compile has compiled this very layer: do this before that"
    with pytest.raises(NormwiseError) as error:
        nt.convert_to_domains(compiled(layer), ["day"])
    assert str(error.value) == (
        f"OptimizedModule has no layer with running statistics (_orig_mod: {why}): nothing can differ by domain."
    )
    parallel = nn.parallel.DistributedDataParallel(network())
    why = "DistributedDataParallel knows no parameters that come now: do this to the model before"
    with pytest.raises(NormwiseError) as error:
        nt.convert_to_domains(parallel, ["day"], own_affine=True)
    assert str(error.value) == (
        f"DistributedDataParallel has no layer with running statistics (module.1: {why}): nothing can differ by domain."
    )
