"""The three callbacks in a real ``Trainer`` of Lightning's: when they act, what sees it, and what the logger gets."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from normwise.errors import NormwiseError, NothingChanged, UnhealthyModel, UnknownName

pytest.importorskip("lightning", reason="Lightning is not installed; the extra `lightning` brings it")

import lightning.pytorch as lightning  # only where it is there
from lightning.pytorch.loggers import CSVLogger  # as above

from normwise.callbacks.lightning import Examine, MonitorStatistics, RecalibrateStatistics  # as above

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*dataloader' does not have many workers",  # these are tiny
    "ignore:.*`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning's own
    "ignore:You defined a `validation_step` but have no",
    "ignore:The number of training batches",
)
X = 3 + 2 * torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :1] - X[:, 1:2]
MEAN = X.double().mean(0)


class Model(lightning.LightningModule):
    """The model that Lightning trains; it notes whether the statistics are the data's where the validation begins."""

    def __init__(self, momentum: float = 0.4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.BatchNorm1d(4, momentum=momentum), nn.Linear(4, 1))
        self.validated: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y

    def training_step(self, batch: Any, _: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.validated.append(recalibrated(self))
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-3)


def recalibrated(model: Model) -> bool:
    mean = model.net[0].running_mean
    assert isinstance(mean, Tensor)
    return bool(torch.allclose(mean.double(), MEAN, atol=1e-5))


def loader(batch_size: int = 32) -> Any:
    return DataLoader(TensorDataset(X, Y), batch_size)


def fit(model: Model, folder: Path, *callbacks: Any, epochs: int = 3, validate: bool = True, **settings: Any) -> Any:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[*callbacks],
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"enable_checkpointing": False, "num_sanity_val_steps": 0, **settings},
    )
    trainer.fit(model, loader(), loader(96) if validate else None)
    return trainer


def logged(folder: Path, name: str) -> list[float]:
    (file,) = folder.rglob("metrics.csv")
    with file.open(encoding="utf-8") as lines:
        return [float(row[name]) for row in csv.DictReader(lines) if row.get(name)]


@pytest.mark.parametrize(("every", "when"), [(1, [True] * 5), (2, [False, True, False, True, True])])
def test_validations_see_recalibrated_statistics(tmp_path: Path, every: int, when: list[bool]) -> None:
    model = Model()
    callback = RecalibrateStatistics(loader(), every=every)
    fit(model, tmp_path, callback, epochs=5, num_sanity_val_steps=1)
    assert model.validated == [False, *when]  # the first is the one before the training
    assert callback.report is not None
    assert list(callback.report.recalibrated) == ["net.0"]


def test_of_several_validations_in_an_epoch_the_last_counts(tmp_path: Path) -> None:
    model = Model()
    fit(model, tmp_path, RecalibrateStatistics(loader()), epochs=1, val_check_interval=1)
    assert model.validated == [False, False, True]


def test_training_is_as_without_the_callbacks(tmp_path: Path) -> None:
    found = []
    for name, callbacks in {
        "without": [],
        "with": [RecalibrateStatistics(loader()), MonitorStatistics(loader()), Examine(loader(), loss=nn.MSELoss())],
    }.items():
        model = Model()
        fit(model, tmp_path / name, *callbacks)
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_it_recalibrates_at_the_end_where_training_stopped_before(tmp_path: Path) -> None:
    model = Model()
    fit(model, tmp_path, RecalibrateStatistics(loader(), every=9), epochs=20, max_steps=4, validate=False)
    assert recalibrated(model)


def test_checkpoints_have_the_new_statistics(tmp_path: Path) -> None:
    save = lightning.callbacks.ModelCheckpoint(tmp_path / "saved", filename="best", monitor="normalization_errors")
    fit(
        Model(), tmp_path, RecalibrateStatistics(loader()), Examine(loader()), save, epochs=1, enable_checkpointing=True
    )
    state = torch.load(tmp_path / "saved/best.ckpt", weights_only=True)["state_dict"]
    assert torch.allclose(state["net.0.running_mean"].double(), MEAN, atol=1e-5)


def test_the_logger_gets_the_drift(tmp_path: Path) -> None:
    fit(Model(0.0), tmp_path / "a", MonitorStatistics(loader()), epochs=2)
    expected = float((X.double() / (1 + 1e-5) ** 0.5).mean(0).square().mean().sqrt())
    assert logged(tmp_path / "a", "drift") == pytest.approx([expected] * 2, rel=1e-4)
    assert logged(tmp_path / "a", "net.0/drift") == pytest.approx([expected] * 2, rel=1e-4)
    assert logged(tmp_path / "a", "dead_channels") == logged(tmp_path / "a", "net.0/dead") == [0.0] * 2
    fit(Model(), tmp_path / "b", RecalibrateStatistics(loader()), MonitorStatistics(loader(), per_layer=False))
    assert logged(tmp_path / "b", "drift") == pytest.approx([0.0] * 3, abs=1e-5)
    assert logged(tmp_path / "b", "net.0/drift") == []


def test_data_that_are_not_finite_are_said(tmp_path: Path) -> None:
    nothing = [X * torch.nan]
    with pytest.warns(UserWarning, match="^MonitorStatistics has nothing to log: "):
        fit(Model(), tmp_path / "a", MonitorStatistics(nothing))
    with pytest.warns(NothingChanged, match="all its inputs were NaN or inf"):
        fit(Model(), tmp_path / "b", RecalibrateStatistics(nothing))


@pytest.mark.parametrize("validate", [True, False])
def test_examine_warns_with_the_diagnosis_and_logs_how_much_is_wrong(tmp_path: Path, validate: bool) -> None:
    examine = Examine(loader(), every=2)
    with pytest.warns(UnhealthyModel) as caught:
        fit(Model(1e-4), tmp_path, examine, validate=validate)
    heard = [str(each.message) for each in caught if each.category is UnhealthyModel]
    assert [message.splitlines()[0] for message in heard] == [
        f"after epoch {epoch}: 1 error (1 normalization layer, 96 samples)" for epoch in (2, 3)
    ]
    assert heard[1] == f"after epoch 3: {examine.diagnosis}"
    assert str(logged(tmp_path, "normalization_errors")) == "[nan, 1.0, 1.0]"


def test_examine_is_silent_on_a_healthy_model(tmp_path: Path) -> None:
    examine = Examine(loader(), loss=nn.functional.mse_loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnhealthyModel)
        fit(Model(), tmp_path, RecalibrateStatistics(loader()), examine, epochs=1)
    assert examine.diagnosis is not None
    assert examine.diagnosis.healthy
    assert list(examine.diagnosis.facts.gradients) == ["net.1"]  # the input of the first layer is the data
    assert logged(tmp_path, "normalization_errors") == [0.0]


def test_what_would_fail_later_is_refused_at_once() -> None:
    for callback in (RecalibrateStatistics, MonitorStatistics, Examine):
        with pytest.raises(NormwiseError) as caught:
            callback(iter([X]))
        assert str(caught.value) == (
            f"{callback.__name__} goes through its data more than once, received list_iterator, which can be gone "
            "through once: pass a DataLoader, or list(...) of it."
        )
        with pytest.raises(NormwiseError) as caught:
            callback([X], every=0)
        assert str(caught.value) == "every is a number of epochs, 1 or more, received 0: pass 1 for every epoch."
    with pytest.raises(UnknownName, match=r"^unknown check 'stale'"):
        Examine([X], only=["stale"])
    with pytest.raises(NormwiseError, match=r"^flat_below is a range of outputs, 0 or more, received -1"):
        MonitorStatistics([X], flat_below=-1)
