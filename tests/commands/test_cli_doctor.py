"""`normwise doctor` and `normwise explain`: what they print, their exit codes, and wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from normwise.cli import main
from normwise.doctor.check import left, names, remedy
from normwise.doctor.json_schema import schema
from tests.doctor.test_json_schema import troubles

NETS = """
import torch
from torch import nn

def data():
    torch.manual_seed(1)
    return [torch.randn(64, 8) for _ in range(8)]

def healthy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    for _ in range(8):
        for x in data():
            model(x)
    return model

def stale():
    model = healthy()
    model[1].running_mean += 3
    return model

def without():
    return nn.Linear(8, 2)

def raising():
    yield torch.randn(4, 8)
    raise RuntimeError("the disk is gone")

def empty():
    return []

def pairs():
    model = healthy().eval()
    return [(x, model(x).detach()) for x in data()]

def agreement(outputs, targets):
    return (outputs.argmax(1) == targets.argmax(1)).float().mean()

def step_twice(model, batch):
    for _ in range(2):  # a forward too many, before the one of the step
        y = model(batch[0])
    nn.functional.mse_loss(y, batch[1]).backward()
    torch.optim.SGD(model.parameters(), 0.01).step()

def narrow():
    return [(torch.ones(4, 5), torch.zeros(4))]

def whole():
    return [torch.ones(4, 8, dtype=torch.int64)]

def nans():
    return [torch.full((4, 8), float("nan"))]

def unloaded():
    return healthy().to("meta")

def number():
    return 3

def fails():
    raise ValueError("no such thing")
"""
TAKES = (
    "give the model tensors of the shape and dtype that it needs (its weights are float32): change the batches, or "
    "give --forward a function of the model and a batch."
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    (tmp_path / "nets.py").write_text(NETS, "utf-8")
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Result:
        return CliRunner().invoke(main, [*words])

    return call


def test_a_healthy_model_ends_with_0(run: object) -> None:
    result: Result = run("doctor", "nets.py:healthy", "--data", "nets.py:data")  # type: ignore[operator]  # a fixture
    assert result.exit_code == 0
    assert result.stdout.startswith("healthy: nothing found (1 normalization layer, 512 samples)")


def test_a_stale_one_ends_with_1_names_the_layer_and_writes_a_page(run: object, tmp_path: Path) -> None:
    words = "doctor", "nets.py:stale", "--data", "nets.py:data", "--html", "page.html"
    result: Result = run(*words)  # type: ignore[operator]  # a fixture
    assert result.exit_code == 1
    assert "error stale_running_statistics in layer '1'" in result.stdout
    assert "remedy: normwise.recalibrate(model, batches)" in result.stdout
    assert "stale" in (tmp_path / "page.html").read_text("utf-8").lower()


def test_weights_and_data_are_read_as_by_the_other_commands(run: object, tmp_path: Path) -> None:
    """One of several weights in a checkpoint, and an .npz of pixels that are scaled."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    pixels = torch.randint(0, 256, (512, 8), dtype=torch.uint8)
    for _ in range(60):
        model(pixels[torch.randperm(512)[:64]] / 255)
    stale = {name: value + 3 if name == "1.running_mean" else value for name, value in model.state_dict().items()}
    torch.save({"model": stale, "ema": model.state_dict()}, tmp_path / "last.ckpt")
    np.savez(tmp_path / "rows.npz", x=pixels.numpy())
    words = "doctor", "nets.py:healthy", "--data", "rows.npz", "--scale", "1/255"
    fine: Result = run(*words, "--weights", "last.ckpt:ema")  # type: ignore[operator]  # a fixture
    assert (fine.exit_code, "error stale_running_statistics" in fine.stdout) == (0, False), fine.output
    sick: Result = run(*words, "--weights", "last.ckpt:model")  # type: ignore[operator]  # a fixture
    assert (sick.exit_code, "stale_running_statistics in layer '1'" in sick.stdout) == (1, True), sick.output


def test_the_page_and_the_text_name_once_the_options_that_were_not_given(run: object, tmp_path: Path) -> None:
    words = "doctor", "nets.py:healthy", "--data", "nets.py:data"
    result: Result = run(*words, "--html", "page.html")  # type: ignore[operator]  # a fixture
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("no --source was given") == 1
    needs_loss = "as a whole, where no single layer is far off, because no --loss was given"
    for text in (page, " ".join(result.stdout.split())):
        assert needs_loss in text
        assert not any(word in text for word in ("source_model", "no loss was given", "no train_step was given"))
    assert "Not measured: source" not in page
    assert "Not measured: steps" not in page


def test_a_loss_a_metric_and_a_step_of_training_are_named_like_the_model(run: object) -> None:
    words = "doctor", "nets.py:stale", "--data", "nets.py:pairs", "--json"
    more = "--loss", "torch.nn.functional:mse_loss", "--metric", "nets.py:agreement", "--train-step"
    result: Result = run(*words, *more, "nets.py:step_twice")  # type: ignore[operator]  # as above
    told = json.loads(result.stdout)
    found = {each["check"]: each for each in told["findings"]}
    cost = found["stale_running_statistics"]["cost"]
    assert (cost["of"], cost["remedied"]) == ("metric", 1.0)
    assert cost["now"] < 1
    assert "repeated_updates" in found
    assert not [each for each in told["skipped"] if "was given" in each["reason"] and "--source" not in each["reason"]]


def test_json_holds_the_findings(run: object) -> None:
    result: Result = run("doctor", "nets.py:stale", "--data", "nets.py:data", "--json")  # type: ignore[operator]  # as above
    found = json.loads(result.stdout)
    assert troubles(found, schema()) == []
    assert [each["check"] for each in found["findings"]] == ["stale_running_statistics"]
    assert found["findings"][0]["layers"] == ["1"]


@pytest.mark.parametrize("words", [("--allow", "stale_running_statistics"), ("--only", "non_finite_statistics")])
def test_a_check_that_is_allowed_or_not_asked_for_does_not_run(run: object, words: tuple[str, ...]) -> None:
    result: Result = run("doctor", "nets.py:stale", "--data", "nets.py:data", *words)  # type: ignore[operator]  # as above
    assert result.exit_code == 0
    assert "stale_running_statistics" not in result.stdout


def test_a_model_without_normalization_says_so(run: object) -> None:
    result: Result = run("doctor", "nets.py:without", "--data", "nets.py:data")  # type: ignore[operator]  # as above
    assert result.exit_code == 0
    assert "the model has no batch norm that runs as a layer" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("nets.py:net", "--data", "nets.py:data"), 2, "unknown name 'net' in nets.py"),
        (("nets.py:healthy", "--data", "nets.py:empty"), 2, "holds no batches"),
        (("nets.py:healthy", "--data", "nets.py:raising"), 2, "the disk is gone"),
        (("nets.py:healthy", "--data", "absent.npz"), 2, "absent.npz"),
        (("nets.py:healthy", "--data", "wrong.npz"), 2, "nets.py:healthy on wrong.npz"),
        (("nets.py:healthy", "--data", "nets.py:data", "--html", "page.pdf"), 2, "page.pdf"),
        (("nets.py:healthy", "--data", "nets.py:data", "--only", "stale"), 2, "unknown check 'stale'"),
        (("nets.py:healthy", "--data", "nets.py:data", "--batch-size", "4"), 2, "--batch-size is for an .npz"),
        (("nets.py:healthy",), 2, "--data"),
        (
            ("nets.py:healthy", "--data", "nets.py:narrow"),
            2,
            "normwise: nets.py:healthy on nets.py:narrow: examine could not run the model on batch 1, a tuple (a "
            "float32 tensor of shape (4, 5), a float32 tensor of shape (4,)): RuntimeError in layer '0' (Linear): "
            "mat1 and mat2 shapes cannot be multiplied (4x5 and 8x16); Sequential was called with (Tensor); " + TAKES,
        ),
        (
            ("nets.py:healthy", "--data", "wrong.npz"),
            2,
            "normwise: nets.py:healthy on wrong.npz: examine could not run the model on batch 1, a float32 tensor of "
            "shape (8, 3): RuntimeError in layer '0' (Linear): mat1 and mat2 shapes cannot be multiplied (8x3 and "
            "8x16); " + TAKES,
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:whole"),
            2,
            "batch 1, an int64 tensor of shape (4, 8): RuntimeError in layer '0' (Linear): expected m1 and m2 to have "
            "the same dtype, but got: long int != float; " + TAKES,
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:nans"),
            2,
            "normwise: examine received NaN or infinite values in batch 1, a float32 tensor of shape (4, 8), which "
            "come into layer '1': leave such samples out, or replace the values.",
        ),
        (
            ("nets.py:unloaded", "--data", "nets.py:data"),
            2,
            "examine needs a model with values, and '0.weight' is on the meta device: load its weights first.",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", "--source", "nets.py:unloaded"),
            2,
            "examine, for source_model, needs a model with values, and '0.weight' is on the meta device: load its "
            "weights first.",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", "--source", "damaged.keras"),
            2,
            "MODEL and --source must be of one framework, received nets.py:healthy and 'damaged.keras': name two "
            "functions that "
            "return PyTorch models, or two .keras files.",
        ),
        (
            ("damaged.keras", "--data", "wrong.npz", "--source", "nets.py:healthy"),
            2,
            "MODEL and --source must be of one framework, received damaged.keras and 'nets.py:healthy': name two "
            "functions that "
            "return PyTorch models, or two .keras files.",
        ),
        (("nets.py:number", "--data", "nets.py:data"), 2, "nets.py:number must return a torch.nn.Module, received int"),
        (("nets.py:fails", "--data", "nets.py:data"), 2, "nets.py:fails() failed: ValueError in line "),
        (
            ("absent.py:net", "--data", "nets.py:data"),
            2,
            "there is no file 'absent.py': give the path of the file with",
        ),
        (("absent.keras", "--data", "wrong.npz"), 2, "there is no file 'absent.keras': give the path of the model."),
        (
            ("damaged.keras", "--data", "wrong.npz"),
            2,
            "'damaged.keras' is no .keras file, or a damaged one: write it with model.save().",
        ),
        (
            ("nets.py:healthy", "--data", "damaged.npz"),
            2,
            "'damaged.npz' is no .npz file, or a damaged one: write it with numpy.savez.",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", "--weights", "damaged.pt"),
            2,
            "'damaged.pt' is no .pt file, or a damaged one: write it again.",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", "--weights", "absent.pt"),
            2,
            "there is no file 'absent.pt': give the path of the weights.",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", "--allow", "wrong_axes"),
            2,
            "unknown check 'wrong_axes': did you mean 'wrong_axis'?",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", "--only", "dead_channels", "--allow", "dead_channels"),
            2,
            "normwise: --allow leaves out every check that --only names: leave out one of the two options.",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", *(f"--allow={name}" for name in names())),
            2,
            "normwise: allow leaves out all checks, received ",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", "--train-step", "step"),
            2,
            "normwise: --train-step is written FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, received 'step': write "
            "FILE.py:FUNCTION, for example nets.py:train_step.",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", "--loss", "netz.py:loss"),
            2,
            "normwise: there is no file 'netz.py': did you mean 'nets.py'?",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:data", "--loss", "nets.py:los"),
            2,
            "normwise: unknown name 'los' in nets.py",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:pairs", "--loss", "math:pi"),
            2,
            "normwise: math:pi must be a function, received a float: write the name of one.",
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:pairs", "--loss", "torch.nn:CrossEntropyLoss"),
            2,
            "normwise: --loss must name a function, received the class CrossEntropyLoss: write loss = "
            "CrossEntropyLoss() in a file of yours, and give --loss FILE.py:loss.",
        ),
        *(
            (
                ("nets.py:fails", "--data", "wrong.npz", option, "nets.py:agreement"),
                2,
                f"normwise: {option} needs targets, and an .npz file holds inputs only: give --data FILE.py:FUNCTION, "
                "whose batches are (inputs, targets).",
            )
            for option in ("--loss", "--metric", "--train-step")
        ),
        (
            ("nets.py:healthy", "--data", "nets.py:pairs", "--loss", "torch:sub"),
            2,
            "loss must return one number for a batch, received a float32 tensor of shape ",
        ),
        *(
            (
                ("nets.py:healthy", "--data", "nets.py:data", "--only", name),
                2,
                f"normwise: no check could be carried out: {name}, because {reason}.",
            )
            for name, reason in {
                "gradients_lost_in_depth": "no --loss was given",
                "missing_updates": "no --train-step was given",
                "repeated_updates": "no --train-step was given",
                "differing_derived_model": "no --source was given",
            }.items()
        ),
    ],
)
def test_wrong_input_is_one_sentence(run: object, words: tuple[str, ...], code: int, sentence: str) -> None:
    np.savez("wrong.npz", x=np.zeros((8, 3), "float32"))
    for name in ("damaged.npz", "damaged.keras", "damaged.pt"):
        Path(name).write_bytes(Path("wrong.npz").read_bytes()[:100])
    result: Result = run("doctor", *words)  # type: ignore[operator]  # as above
    assert result.exit_code == code, result.output
    assert sentence in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("model", "code"), [("healthy", 0), ("stale", 1)])
@pytest.mark.parametrize("json", ["", " --json"])
def test_the_exit_code_is_the_answer_though_nobody_reads_the_text(
    run: object, tmp_path: Path, model: str, code: int, json: str
) -> None:
    assert callable(run)  # it has written the models
    line = f'("$PYTHON" -m normwise doctor nets.py:{model} --data nets.py:data{json}; echo $? > code) | true'
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, check=True
    )
    assert (done.stderr, (tmp_path / "code").read_text("utf-8").strip()) == (b"", str(code))


@pytest.mark.parametrize("name", names())
def test_every_check_is_explained(run: object, name: str) -> None:
    result: Result = run("explain", name)  # type: ignore[operator]  # as above
    assert result.exit_code == 0
    assert all(part in result.stdout for part in (name, "What it finds:", "Limits:", "Remedy, for layer 'bn':"))
    assert all(line in result.stdout for line in [*remedy(name).splitlines(), left(name)])
    assert "{" not in result.stdout.replace("{'bn'", "")


@pytest.mark.parametrize(
    ("words", "first"),
    [("NaN", "non_finite_statistics"), ("momentum", "inverted_momentum"), ("weight decay", "decayed")],
)
def test_a_symptom_in_the_place_of_a_check_names_the_checks_about_it(run: object, words: str, first: str) -> None:
    result: Result = run("explain", words)  # type: ignore[operator]  # as above
    assert result.exit_code == 2
    assert (
        f"`normwise explain --help` shows all {len(names())}; {words!r} stands in the text of {first}" in result.stderr
    )


def test_words_that_no_check_has_get_no_hint(run: object) -> None:
    result: Result = run("explain", "coffee")  # type: ignore[operator]  # as above
    assert result.stderr.endswith(f"shows all {len(names())}.\n")
