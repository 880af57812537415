"""``torch.jit.trace``: PyTorch's own operators at every size, in both modes, with statistics that move."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from normwise.errors import KernelUnavailable, NormwiseError
from normwise.kernels import choose
from tests.torch.networks_to_fuse import BasicBlock, ResNet
from tests.torch.recorded_layers import NAMES, SAMPLES, batch, made, numbers, put

# PyTorch 2.13 says so of each of its calls; people use them on.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")


def traced(module: nn.Module, *inputs: Any, check: bool = True) -> Any:
    """The trace of a copy, saved and loaded, with the numbers of the module as they are now."""
    before = numbers(module)
    with warnings.catch_warnings():
        if any(
            isinstance(part, nt.GhostBatchNorm1d | nt.GhostBatchNorm2d | nt.GhostBatchNorm3d)
            for part in module.modules()
        ):
            # In training the number of samples is a number; that PyTorch says so is tested below.
            warnings.filterwarnings("ignore", "Using len to get tensor shape")
        found = torch.jit.trace(copy.deepcopy(module), inputs, check_trace=check)
    file = io.BytesIO()
    torch.jit.save(found, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    put(loaded, before)
    return loaded


def operators(found: Any) -> set[str]:
    """The operators that the graph calls, without those of the PyTorch namespaces."""
    kinds = {node.kind().split("::")[0] for node in found.inlined_graph.nodes()}
    return kinds - {"aten", "prim"}


def assert_alike(found: Any, module: nn.Module, batches: list[Tensor], tolerance: float = 1e-4) -> None:
    """Output, gradient and buffers over several batches."""
    for step, x in enumerate(batches):
        results = []
        for one in (found, module):
            torch.manual_seed(step)
            given = x.clone().requires_grad_()
            y = one(given)
            results.append((y.detach(), *torch.autograd.grad(y.pow(3).sum(), given)))
        for mine, right in zip(*results, strict=True):
            torch.testing.assert_close(mine, right, rtol=tolerance, atol=tolerance * max(1.0, float(right.abs().max())))
    buffers = dict(found.named_buffers())
    assert [*buffers] == [*dict(module.named_buffers())]
    for name, right in module.named_buffers():
        assert not buffers[name].requires_grad, name
        torch.testing.assert_close(buffers[name], right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "learning"), [("small", True), ("large", True), ("large", False)])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layer(name: str, training: bool, size: str, learning: bool) -> None:
    layer = made(name, size).train(training)
    with torch.set_grad_enabled(learning):
        found = traced(layer, batch(name, size))
    assert operators(found) == set()
    others = [SAMPLES] * 2 if training and name.startswith("Ghost") else [SAMPLES, SAMPLES + 3, 2]
    assert_alike(found, layer, [batch(name, size, samples) for samples in others])


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    "layer",
    [
        nt.BatchNorm2d(6, activation="relu"),
        nt.BatchNorm2d(6, activation="silu", estimator="pooled"),
        nt.BatchNorm2d(6, estimator="debiased_ema", bias=False),
        nt.BatchNorm2d(6, momentum=None, affine=False),
        nt.BatchNorm2d(6, track_running_stats=False),
        nt.GhostBatchNorm2d(6, virtual_batch_size=4, order="interleaved", activation="gelu"),
        nt.GhostBatchNorm2d(6, virtual_batch_size=5, on_tiny_batch="running"),
        nt.InstanceNorm2d(6),
        nt.BatchRenorm2d(6, schedule=nt.RenormSchedule(warm_up=0, r_full=2, d_full=2)),
        nt.DecorrelatedBatchNorm2d(6, group_size=3, estimator="pooled"),
        nt.PerDomain(nn.BatchNorm2d(6), ["day"], default="day"),
    ],
    ids=str,
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_settings_and_memory_formats(layer: nn.Module, training: bool, memory_format: torch.memory_format) -> None:
    layer = copy.deepcopy(layer).train(training)
    batches = [batch("BatchNorm2d", "large").contiguous(memory_format=memory_format) for _ in range(3)]
    # A correction makes the output depend on how many batches there were: PyTorch's check would see another one.
    found = traced(layer, batches[0], check=not isinstance(layer, nt.BatchRenorm2d))
    assert operators(found) == set()
    assert_alike(found, layer, batches, tolerance=1e-3)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nt.BatchNorm2d(16), (32, 16, 56, 56)),
        (nt.GhostBatchNorm2d(16, num_splits=4), (32, 16, 56, 56)),
        (nt.IterativeNorm2d(16), (32, 16, 14, 14)),
        (nt.BatchRenorm2d(16, momentum=0.1), (32, 16, 56, 56)),
        (nt.InstanceNorm2d(16, track_running_stats=True), (32, 16, 56, 56)),
        (nt.BatchNorm1d(16), (3000, 16)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_traced_training_moves_the_mean(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) + 5
    found = traced(copy.deepcopy(layer), x)
    found(x)
    torch.testing.assert_close(found.running_mean, torch.full((16,), 0.5), rtol=0, atol=0.02)
    assert found.num_batches_tracked == (0 if isinstance(layer, nt.InstanceNorm2d) else 1)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("2d") or name in ("GroupNorm", "LayerNorm")])
def test_a_residual_and_a_mask(name: str, training: bool) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = made(name)

        def forward(self, x: Tensor, residual: Tensor, mask: Tensor) -> Any:
            return self.layer(x, residual, mask=mask)

    def inputs(samples: int) -> tuple[Tensor, ...]:
        x = batch(name, samples=samples)
        return x, torch.randn_like(x), torch.rand(samples, *([6, 5] if name == "LayerNorm" else [5, 5])) > 0.2

    model = Masked().train(training)
    found = traced(model, *inputs(SAMPLES), check=False)
    assert operators(found) == set()
    fixed = training and name.startswith("Ghost")
    for samples in (SAMPLES, SAMPLES if fixed else SAMPLES + 2):
        given = inputs(samples)
        torch.testing.assert_close(found(*given), model(*given), rtol=1e-4, atol=1e-4)
    for key, value in model.named_buffers():
        torch.testing.assert_close(dict(found.named_buffers())[key], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_a_network_after_fuse(training: bool) -> None:
    model = ResNet(BasicBlock, (2, 2))
    report = normwise.fuse(model)
    assert report.fused
    model.train(training)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        found = traced(model, x, check=False)
    assert operators(found) == set()
    for samples in (4, 6):
        x = torch.randn(samples, 3, 32, 32)
        torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-4)
    for key, value in model.named_buffers():
        torch.testing.assert_close(dict(found.named_buffers())[key], value, rtol=1e-4, atol=1e-4)


ELSEWHERE = """
import sys
sys.modules["normwise"] = None  # to import it is an error
import torch
for path in sys.argv[1:]:
    case = torch.load(path + ".pt")
    found = torch.jit.load(path + ".jit")
    torch.testing.assert_close(found(case["x"]), case["y"], rtol=1e-4, atol=1e-4)
    for name, buffer in found.named_buffers():
        torch.testing.assert_close(buffer, case["buffers"][name], rtol=1e-4, atol=1e-4)
assert "normwise.torch" not in sys.modules
print(len(sys.argv) - 1)
"""


def test_traces_run_where_normwise_cannot_be_imported(tmp_path: Path) -> None:
    paths = []
    for name in NAMES:
        for training in (False, True):
            layer, x = made(name, "large").train(training), batch(name, "large")
            found = traced(layer, x, check=False)
            path = tmp_path / f"{name}-{training}"
            torch.jit.save(found, path.with_suffix(".jit"))
            y = layer(x).detach()
            torch.save({"x": x, "y": y, "buffers": numbers(layer)}, path.with_suffix(".pt"))
            paths.append(str(path))
    command = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, *paths]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(2 * len(NAMES))), done.stderr


def test_virtual_batches_are_traced_for_one_number_of_samples_which_is_said_and_held() -> None:
    layer = nt.GhostBatchNorm2d(6, num_splits=3)
    with pytest.warns(torch.jit.TracerWarning, match="Using len to get tensor shape"):  # type: ignore[attr-defined]  # public
        found = torch.jit.trace(layer, batch("BatchNorm2d"))
    with pytest.raises(RuntimeError, match="split_sizes"):
        found(batch("BatchNorm2d", samples=SAMPLES + 3))
    layer.eval()
    torch.jit.trace(layer, batch("BatchNorm2d"))  # without a warning


@pytest.mark.parametrize("traced_with", [4, 60])
@pytest.mark.parametrize("policy", ["renorm", "running"])
def test_a_policy_for_tiny_batches_looks_at_the_batch_that_comes(policy: str, traced_with: int) -> None:
    layer = nt.BatchNorm1d(6, on_tiny_batch=policy)
    layer(torch.randn(64, 6) + 3)
    found = traced(layer, torch.randn(traced_with, 6), check=False)
    for samples in (60, 4, 1, 33, 31):
        x = torch.randn(samples, 6)
        torch.testing.assert_close(found(x), layer(x), rtol=1e-4, atol=1e-4)
    for key, value in layer.named_buffers():
        torch.testing.assert_close(dict(found.named_buffers())[key], value, rtol=1e-4, atol=1e-4)


def test_a_batch_that_is_not_finite_does_not_enter() -> None:
    layer = nt.BatchNorm2d(6)
    found = traced(layer, batch("BatchNorm2d", "large"))
    x = batch("BatchNorm2d", "large")
    x[0, 2] = torch.nan
    found(x)
    assert found.running_mean.isfinite().all()
    assert found.running_mean[2] == 0
    assert found.num_batches_skipped == 1


@pytest.mark.parametrize("name", NAMES)
def test_scripting_is_refused_in_a_sentence_wherever_the_layer_is(name: str) -> None:
    layer: Any = made(name)
    right = (
        f"torch.jit.script cannot compile {type(layer).__name__}({layer.extra_repr()}), whose Python chooses among "
        "kernels and keeps statistics finite: record the model by torch.jit.trace or torch.export.export instead."
    )
    for model in (layer, nn.Sequential(nn.ReLU(), nn.Sequential(layer))):
        with pytest.raises(NormwiseError) as caught:
            torch.jit.script(model)
        assert str(caught.value) == right


def test_a_traced_layer_within_a_scripted_model() -> None:
    class Model(nn.Module):
        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Any:
            return self.norm(x) if x.sum() > 0 else x

    layer = nt.BatchNorm2d(6, activation="relu").eval()
    x = batch("BatchNorm2d")
    scripted = torch.jit.script(Model(torch.jit.trace(layer, x)))
    torch.testing.assert_close(scripted(x), layer(x))
    torch.testing.assert_close(scripted(-x), -x)


@pytest.mark.parametrize("layer", [nt.BatchNorm2d(6), nt.GroupNorm(2, 6), nt.LayerNorm(5)], ids=str)
def test_kernels_that_were_asked_for_by_name_are_in_no_trace(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", "cpu")
    with pytest.raises(KernelUnavailable) as caught:
        torch.jit.trace(layer, batch("BatchNorm2d"))
    assert str(caught.value) == (
        "NORMWISE_KERNEL=cpu asks for the compiled kernels, which a recording cannot hold, and a call that is recorded "
        "(torch.jit.trace, torch.onnx.export, make_fx) was received: unset NORMWISE_KERNEL."
    )


def test_a_batch_of_several_processes_is_in_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    from normwise.torch.layers import joint_forward

    layer = nt.SyncBatchNorm(6)
    monkeypatch.setattr(joint_forward, "peers_of", lambda *_: object())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(NormwiseError) as caught:
        torch.jit.trace(layer, batch("SyncBatchNorm"))
    assert str(caught.value) == (
        f"SyncBatchNorm({layer.extra_repr()}) joins the batches of several processes, which no recording "
        "(torch.jit.trace, torch.onnx.export, make_fx) can hold: record the model in inference mode, or put a "
        "BatchNorm in its place (normwise.torch.convert_from_synchronized)."
    )


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # the exporter, and what it calls itself, are on their way out
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    ("layer", "operator"),
    [
        (nt.BatchNorm2d(6, activation="relu"), "BatchNormalization"),
        (nt.GhostBatchNorm2d(6, num_splits=3), "BatchNormalization"),
        (nt.InstanceNorm2d(6), "InstanceNormalization"),
        (nt.IterativeNorm2d(6), "MatMul"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_the_older_exporter_to_onnx(
    layer: nn.Module, operator: str, training: bool, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    # The last step looks for functions of users' own, for which it wants the library onnx.
    monkeypatch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda model, _: model)
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using len to get tensor shape")
        warnings.filterwarnings("ignore", "ONNX Preprocess - Removing mutation")  # ONNX knows no statistics that move
        torch.onnx.export(
            nn.Sequential(copy.deepcopy(layer)).train(training),
            (batch("BatchNorm2d", size),),
            file,
            dynamo=False,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            opset_version=17,
        )
    assert operator.encode() in file.getvalue()
    assert b"batch_norm_forward" not in file.getvalue()
