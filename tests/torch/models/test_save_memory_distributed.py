"""``save_memory`` in two real processes: DistributedDataParallel, and parameters that ``fully_shard`` takes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import normwise.torch as nt
from normwise.torch.models.memory import recipes
from normwise.torch.models.memory.save_memory import save_memory
from tests.torch.processes import outcomes, work

WORLD = 2
SCENES = ("DistributedDataParallel", "fully_shard", "synchronized")


class Block(nn.Module):
    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, width, 3, padding=1)
        self.norm: Any = norm(width, activation="silu")
        self.last = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.norm(self.convolution(x)))
        return y


def network(norm: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(3, norm), Block(3, norm), nn.Conv2d(3, 2, 1))


def trained(scene: str, rank: int, saving: bool) -> dict[str, Tensor]:
    model = network(nt.SyncBatchNorm if scene == "synchronized" else nt.BatchNorm2d)
    if saving:
        save_memory(model)
    wrapped: Any = model
    if scene == "fully_shard":  # each block by itself: the norm's scale is away when the convolution behind it asks
        mesh = init_device_mesh("cpu", (WORLD,))
        for block in model:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        wrapped = DistributedDataParallel(model)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
    for _ in range(2):
        wrapped(x).square().sum().backward()
    found = {"y": wrapped(x).detach()}
    for name, parameter in model.named_parameters():
        gradient: Any = parameter.grad
        found[name] = gradient.to_local() if scene == "fully_shard" else gradient
    return found


def find(rank: int, world: int) -> dict[str, list[str]]:
    """The names of what differs in any bit with and without, by scene."""
    assert world == WORLD
    recipes.FEWEST_BYTES = 0
    make, found, made = recipes.Again.make, {}, []

    def counted(recipe: recipes.Again) -> Tensor:
        made.append(recipe)
        return make(recipe)

    recipes.Again.make = counted  # type: ignore[method-assign, assignment]  # in this process of the test alone
    for scene in SCENES:
        plain = trained(scene, rank, False)
        assert not made
        saving = trained(scene, rank, True)
        assert len(made) >= 4, len(made)  # two norms, two steps
        made.clear()
        found[scene] = [name for name in plain if not recipes.same_bits(plain[name], saving[name])]
    return found


@pytest.fixture(scope="module")
def differing(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return outcomes("tests.torch.models.test_save_memory_distributed", Path(tmp_path_factory.mktemp("ranks")), WORLD)


@pytest.mark.parametrize("scene", SCENES)
def test_gradients_are_the_same_in_every_process(scene: str, differing: list[Any]) -> None:
    assert [each[scene] for each in differing] == [[], []]


if __name__ == "__main__":
    work(find)
