"""An error at any point of fuse leaves the model, byte for byte, and the random state as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normwise.torch.layers.tracked import TrackedBatchNorm
from normwise.torch.models.fusion import fuse as room
from normwise.torch.models.fusion import survey


class Block(nn.Module):
    """Batch norms that are fused by a new forward, by their order, and only swapped."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.ordered = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU().eval(), nn.BatchNorm1d(3))
        self.rows = [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(self.one(x) + self.ordered(x)) + F.relu(self.two(x)) + self.three(x)
        return y


class Spoilt(BaseException):
    """No Exception, as an interrupt is none."""


def network() -> Any:
    model: Any = nn.Sequential(Block(), Block())
    model(torch.randn(8, 3))
    model[1].three.half()  # whose statistics become other tensors
    model[0].two.register_load_state_dict_post_hook(lambda *_: None)
    model[0].ordered.register_forward_hook(lambda *_: None)
    model[1].three.note = "a note"
    return model


def seen(model: nn.Module) -> list[tuple[str, list[Any]]]:
    """The identity of every object in every module, in order, and every byte."""
    found = []
    for name, module in model.named_modules():
        kept: list[Any] = [type(module), module.training]
        for key, value in vars(module).items():
            inside = [(each, id(item)) for each, item in value.items()] if isinstance(value, dict) else []
            kept += [key, id(value), inside, sorted(value) if isinstance(value, set) else None]
        tensors = (*module._parameters.values(), *module._buffers.values())
        kept += [(each.data_ptr(), each.dtype, each.tolist()) for each in tensors if each is not None]
        found.append((name, kept))
    return found


def break_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int) -> None:
    """The call of this number ends with an error, once it has done its work."""
    real, calls = getattr(owner, name), [0]

    def failing(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        calls[0] += 1
        if calls[0] > at:
            raise Spoilt
        return found

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (survey, "followed_ways"),
        (survey.Survey, "verdict"),
        (room, "rewrite"),
        (room, "class_with_forwards"),
        (room, "become_ours"),
        (room, "_become"),
        (TrackedBatchNorm, "_settle"),
        (nn.Identity, "__init__"),
    ],
)
def test_an_error_anywhere_leaves_everything(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int) -> None:
    model = network()
    before, random = seen(model), torch.get_rng_state()
    with monkeypatch.context() as patch:
        break_at(
            patch,
            owner,
            name,
            at if name not in ("followed_ways", "rewrite", "class_with_forwards", "__init__") else at % 2,
        )
        with pytest.raises(Spoilt):
            room.fuse(model)
    assert seen(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    report = room.fuse(model)
    assert len(report.fused) == 5


def test_an_error_at_the_last_change_of_all_leaves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    before = seen(model)
    monkeypatch.setattr(room, "class_with_forwards", lambda *_, **__: int)  # no class that a module can take
    with pytest.raises(TypeError, match="assignment"):
        room.fuse(model)
    assert seen(model) == before


def test_a_forward_that_draws_while_it_is_followed_moves_no_random_state() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.norm(x) + torch.rand(3))

    random = torch.get_rng_state()
    assert [*room.fuse(Noisy()).left] == ["norm"]
    assert torch.equal(torch.get_rng_state(), random)
