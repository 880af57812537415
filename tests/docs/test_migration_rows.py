"""Each row of the tables for whoever comes from another package: the old call exists, the new one does the same.

Layers of packages that are not installed here are written as they have them. A row without a trial ends the tests.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
from normwise.torch import BatchNorm2d, domain, functional
from tests.torch.models.test_subclasses_there_and_back import Activated as BatchNormAct2d

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("coming_from_pytorch.md", "coming_from_other_packages.md")
ROW = re.compile(r"^\| (.+?) \| (.+) \|$", re.MULTILINE)


class FrozenBatchNorm2d(nn.Module):
    """The layer of that name as detectron2 and torchvision have it: buffers, none of which counts batches."""

    _version = 3

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, var, weight, bias = (getattr(self, name) for name in ("running_mean", "running_var", "weight", "bias"))
        return nn.functional.batch_norm(x, mean, var, weight, bias, training=False)


X, SKIP = torch.randn(2, 4, 8, 6, 6)


def same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def network(norm: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 3), norm or nn.BatchNorm2d(8), nn.ReLU())


def activated() -> None:
    same(BatchNorm2d(8, activation="relu")(X), torch.relu(nn.BatchNorm2d(8)(X)))


def residual() -> None:
    same(BatchNorm2d(8, activation="relu")(X, SKIP), torch.relu(nn.BatchNorm2d(8)(X) + SKIP))


def plain_average() -> None:
    theirs, ours = nn.BatchNorm2d(8, momentum=None), BatchNorm2d(8, momentum=None)
    exact = BatchNorm2d(8, estimator=normwise.estimators.Pooled())
    for batch in (X, 3 * X + 1):
        for layer in (theirs, ours, exact):
            layer(batch)
    same(ours.running_var, theirs.running_var)
    same(exact.running_var, torch.cat([X, 3 * X + 1]).transpose(0, 1).flatten(1).var(1))


def same_names() -> None:
    for name in ("LazyBatchNorm2d", "GroupNorm", "LayerNorm", "InstanceNorm2d"):
        assert issubclass(getattr(normwise.torch, name), getattr(nn, name))


def as_function() -> None:
    mean, var = torch.zeros(8), torch.ones(8)
    ours = functional.batch_norm(X, mean.clone(), var.clone(), training=True)
    same(ours, nn.functional.batch_norm(X, mean, var, training=True))


def synchronized() -> None:
    model = network()
    assert normwise.convert_to_synchronized(model).layers == ["1"]
    assert isinstance(model[1], normwise.torch.SyncBatchNorm)
    normwise.convert_from_synchronized(model)
    assert [type(layer) for layer in model][1] is nn.BatchNorm2d


def recalibrated() -> None:
    model, batches = network(), [X, SKIP, X + SKIP]
    before = copy.deepcopy(model.state_dict())
    report = normwise.recalibrate(model, itertools.islice(batches, 2))
    assert (report.samples, [*report.recalibrated], report.skipped) == (8, ["1"], {})
    inputs = model[0](torch.cat(batches[:2])).transpose(0, 1).flatten(1)
    same(model[1].running_var, inputs.var(1))
    model.load_state_dict(before)


def frozen() -> None:
    model = network()
    normwise.freeze(model)
    before = copy.deepcopy(model.state_dict())
    model.train()(X)
    same(model[1].running_mean, before["1.running_mean"])
    assert not model[1].weight.requires_grad
    normwise.unfreeze(model)
    model(X)
    assert model[1].weight.requires_grad
    assert not torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])


def folded() -> None:
    model = network()
    model(X)
    model.eval()
    theirs: Any = nn.utils.fusion.fuse_conv_bn_eval
    theirs = theirs(copy.deepcopy(model[0]), copy.deepcopy(model[1]))
    same(normwise.fold(model).model(X), torch.relu(theirs(X)))


def grouped() -> None:
    assert [group["weight_decay"] for group in normwise.param_groups(network(), weight_decay=1e-4)] == [1e-4, 0]


def accumulated() -> None:
    model = network()
    whole = model(torch.cat([X, SKIP])).pow(2).mean()
    (wanted,) = torch.autograd.grad(whole, next(model.parameters()))
    normwise.accumulate_gradients(model, [X, SKIP], lambda model, batch: model(batch).pow(2).mean())
    same(model[0].weight.grad, wanted)


def activated_like_timm() -> None:
    same(BatchNorm2d(8, activation="silu")(X), BatchNormAct2d(8, nn.SiLU())(X))
    model = nn.Sequential(nn.Conv2d(8, 8, 3), BatchNormAct2d(8, nn.SiLU()))
    before = model(X)
    assert normwise.fuse(model).fused == {"1": "silu"}
    same(model(X), before)
    normwise.swap(model, to="torch")
    assert type(model[1]) is BatchNormAct2d
    same(model(X), before)


def with_domains() -> None:
    model = normwise.convert_to_domains(network(BatchNormAct2d(8, nn.SiLU())), ["clean", "strong"]).model
    for name, batch in (("clean", X), ("strong", 3 * X)):
        with domain(model, name):
            model(batch)
    assert type(normwise.convert_from_domains(model, "strong").model[1]) is BatchNormAct2d  # type: ignore[index]


def frozen_like_detectron2() -> None:
    theirs, ours = FrozenBatchNorm2d(8), BatchNorm2d(8)
    assert ours.load_state_dict(theirs.state_dict(), strict=False).missing_keys == ["num_batches_tracked"]
    normwise.freeze(ours)
    same(ours(X), theirs(X))


def in_place() -> None:
    layer = BatchNorm2d(8, activation="leaky_relu:0.2")
    same(layer(X), nn.functional.leaky_relu(nn.BatchNorm2d(8)(X), 0.2))
    model = nn.Sequential(nn.Conv2d(8, 8, 3), layer, nn.Conv2d(8, 8, 3))
    model(X).sum().backward()
    wanted = [each.grad for each in model.parameters()]
    model.zero_grad()
    with normwise.save_memory(model):
        model(X).sum().backward()
    same([each.grad for each in model.parameters()], wanted)
    same(BatchNorm2d(8, activation="leaky_relu")(X), nn.functional.leaky_relu(nn.BatchNorm2d(8)(X), 0.01))


def channels_last() -> None:
    last = X.contiguous(memory_format=torch.channels_last)
    same(BatchNorm2d(8, activation="relu")(last), torch.relu(nn.BatchNorm2d(8)(X)))


# By the beginning of a row's first cell.
TRIALS: dict[str, Callable[[], None]] = {
    "`nn.BatchNorm2d(64)` and `nn.ReLU()`": activated,
    "`relu(bn(x) + skip)`": residual,
    "`nn.BatchNorm2d(64, momentum=None)`": plain_average,
    "`nn.LazyBatchNorm2d()`": same_names,
    "`torch.nn.functional.batch_norm": as_function,
    "`nn.SyncBatchNorm.convert_sync_batchnorm": synchronized,
    "`torch.optim.swa_utils.update_bn": recalibrated,
    "`model.eval()` on every batch norm": frozen,
    "`torch.nn.utils.fusion.fuse_conv_bn_eval": folded,
    "groups of parameters without weight decay": grouped,
    "`loss / steps` over micro-batches": accumulated,
    "`BatchNormAct2d(": activated_like_timm,
    "`convert_sync_batchnorm(": synchronized,
    "`freeze_batch_norm_2d(": frozen,
    "`unfreeze_batch_norm_2d(": frozen,
    "`convert_splitbn_model(": with_domains,
    "`update_bn_stats(": recalibrated,
    "`get_bn_modules(": recalibrated,
    "`FrozenBatchNorm2d.convert_frozen_batchnorm": frozen_like_detectron2,
    "`torchvision.ops.FrozenBatchNorm2d": frozen_like_detectron2,
    "`InPlaceABN(": in_place,
    "`InPlaceABNSync(": synchronized,
    "`ABN(": in_place,
    "`apex.parallel.convert_syncbn_model(": synchronized,
    "`apex.contrib.groupbn.BatchNorm2d_NHWC(": channels_last,
    "its `layer(x, z)`": residual,
}


def rows() -> list[str]:
    """The first cells of all rows of all tables, without those of the headings and of the lines under them."""
    cells = [cell for page in PAGES for cell, _ in ROW.findall((DOCS / page).read_text("utf-8"))]
    return [cell for cell in cells if not cell.startswith("with ")]


@pytest.mark.parametrize("row", rows())
def test_what_a_row_promises_holds(row: str) -> None:
    (check_row,) = [trial for start, trial in TRIALS.items() if row.startswith(start)]
    check_row()


def test_no_trial_is_left_of_a_row_that_is_gone() -> None:
    assert [start for start in TRIALS if not any(row.startswith(start) for row in rows())] == []


def test_the_old_calls_of_pytorch_exist() -> None:
    text = (DOCS / PAGES[0]).read_text("utf-8")
    names = {*re.findall(r"^\|.*?`(?:torch\.)?((?:nn|optim)[.\w]+)\(", text, re.MULTILINE)}
    assert len(names) >= 5
    for name in names:
        assert reduce(getattr, name.split("."), torch) is not None
