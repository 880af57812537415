"""Command lines whose files are wrong: one sentence on standard error, exit code 3, and nothing written."""

from __future__ import annotations

import os
import pickle
import shlex
import sys
import warnings
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from normwise.cli import main

pytest.importorskip("torch", reason="the models here are PyTorch's")

import torch
from torch import nn

IN_THE_NETWORK = "nets.py:net on {} failed: "
ITERABLE = (
    IN_THE_NETWORK + "recalibrate needs an iterable of batches, received {}: pass a data loader, or a list with one "
    "batch in it."
)
MORE = (
    "{!r} holds more than weights, pickled objects{} that can run code when they are read, and was not read: where it "
    "comes from, save the state_dict alone, with torch.save."
)
NONE_OF = {
    "keras": "{!r} is no .keras file, or a damaged one: write it with model.save().",
    "npz": "{!r} is no .npz file, or a damaged one: write it with numpy.savez.",
}

MODELS: list[tuple[str, str]] = [
    ("nots.py:net", "there is no file 'nots.py': did you mean 'nets.py'?"),
    ("elsewhere.py:net", "there is no file 'elsewhere.py': give the path of the file with the function in it."),
    ("no/nets.py:net", "there is no file 'no/nets.py': give the path of the file with the function in it."),
    ("nots:net", "there is no module 'nots', neither in {folder} nor among the installed modules: write the module's "
                 "name as in an import statement."),
    ("torch.nots:net", "there is no module 'torch.nots', neither in {folder} nor among the installed modules: write "
                       "the module's name as in an import statement."),
    ("needs.py:net", "needs.py could not be imported: ModuleNotFoundError in line 1 of needs.py: No module named "
                     "'no_such_library'."),
    ("syntax.py:net", "syntax.py could not be imported: SyntaxError in line 1 of syntax.py: '(' was never closed."),
    ("exits.py:net", "exits.py called sys.exit('bye') when normwise imported it: put the code that does so under "
                     "`if __name__ == '__main__':`."),
    ("broken.py:net", "broken.py could not be imported: IndexError in line 2 of broken.py: list index out of range."),
    ("nets.py:nett", "unknown name 'nett' in nets.py: did you mean 'net'? Known: Narrow, batches, chatty, empty, "
                     "fails, generator, leaves, nans, net, nothing, number, wide."),
    ("nets.py:number", "nets.py:number must be a model or a function that returns one, received an int: write the "
                       "name of one."),
    ("nets.py:wide", "nets.py:wide needs the arguments 'width', 'depth', and normwise calls it without arguments: give "
                     "defaults, or name "
     "a function that needs none."),
    ("torch.nn:BatchNorm1d", "torch.nn:BatchNorm1d needs the argument 'num_features', and normwise calls it without "
     "arguments: give defaults, or name a function that needs none."),
    ("nets.py:nothing", "nets.py:nothing must return a torch.nn.Module, received NoneType: return the model itself."),
    ("nets.py:generator", "nets.py:generator must return a torch.nn.Module, received generator: return the model "
                          "itself."),
    ("nets.py:batches", "nets.py:batches must return a torch.nn.Module, received list: return the model itself."),
    ("nets.py:fails", "nets.py:fails() failed: ValueError in line 36 of nets.py: no such thing."),
    ("nets.py:leaves", "nets.py:leaves() called sys.exit(3), which would end normwise: let the function return "
                       "instead."),
    ("torch.nn:Identity", "torch.nn:Identity: nothing recalibrated: the model has no batch norm; nothing was written."),
    ("nets.py:Narrow", "nets.py:Narrow on rows.npz failed: RuntimeError in line 24 of nets.py: shape '[7, 30]' is "
                       "invalid for input of size 192; Narrow was called with (Tensor), of a batch that is a float32 "
                       "tensor of shape (64, 3): let DATA give batches as the model takes them, or give "
                       "--forward a function of the model and a batch."),
]  # fmt: skip
KERAS_MODELS: list[tuple[str, str]] = [
    ("no.keras", "there is no file 'no.keras': give the path of the model."),
    ("damage.keras", "there is no file 'damage.keras': did you mean 'damaged.keras'?"),
    ("damaged.keras", NONE_OF["keras"].format("damaged.keras")),
    ("nothing.keras", NONE_OF["keras"].format("nothing.keras")),
    ("other.keras", "'other.keras' is no .keras file, or a damaged one: it lacks config.json; write it with "
                    "model.save()."),
    ("folder.keras", "'folder.keras' is a folder: give the path of the model."),
]  # fmt: skip
DATA: list[tuple[str, str]] = [
    ("rows_.npz", "there is no file 'rows_.npz': did you mean 'rows.npz'?"),
    ("2024.npz", "there is no file '2024.npz': give the path of the data."),
    ("folder.npz", "'folder.npz' is a folder: give the path of the data."),
    ("text.npz", NONE_OF["npz"].format("text.npz")),
    ("nothing.npz", NONE_OF["npz"].format("nothing.npz")),
    ("short.npz", NONE_OF["npz"].format("short.npz")),
    ("flipped.npz", "the array 'images' of 'flipped.npz' is damaged: Bad CRC-32 for file 'images.npy'; write it "
                    "again."),
    ("renamed.npz", "'renamed.npz' is one array, as numpy.save writes it: save it with numpy.savez."),
    ("empty.npz", "'empty.npz' must hold arrays, received a file that holds nothing: use numpy.savez."),
    ("other.npz", "'other.npz' must hold arrays, received a file that holds 'readme.txt', which is no array: use "
                  "numpy.savez."),
    ("objects.npz", "the array 'images' of 'objects.npz' holds Python objects, which are not read because reading them "
                    "runs code: save numbers."),
    ("scalar.npz", "the array 'images' of 'scalar.npz' must have one row per sample, received a single number: save an "
                   "array with rows."),
    ("norows.npz", "the array 'images' of 'norows.npz' must have one row per sample, received an array of shape (0, "
                   "3): save an array with rows."),
    ("words.npz", "the array 'images' of 'words.npz' must hold numbers, received <U1: save numbers."),
    ("page.npz", "'page.npz' is a web page, as a failed download leaves one: download the file again."),
    ("data.py:batches", "there is no file 'data.py': give the path of the file with the function in it."),
    ("nets.py:number", ITERABLE.format("nets.py:number", "int")),
    ("nets.py:nothing", ITERABLE.format("nets.py:nothing", "NoneType")),
    ("nets.py:empty", "nets.py:empty holds no batches: give it at least one."),
    ("nets.py:fails", "nets.py:fails() failed: ValueError in line 36 of nets.py: no such thing."),
    ("nets.py:nans", "nets.py:net: 0 of 1 batch norms recalibrated with 4 samples in 1 batch; layer '1' skipped: "
                     "all its inputs were NaN or inf; nothing was written."),
]  # fmt: skip
WEIGHTS: list[tuple[str, str]] = [
    ("nots.pt", "there is no file 'nots.pt': give the path of the weights."),
    ("folder.pt", "'folder.pt' is a folder: give the path of the weights."),
    ("damaged.pt", "'damaged.pt' is no .pt file, or a damaged one: write it again."),
    ("damaged.safetensors", "'damaged.safetensors' is no .safetensors file, or a damaged one: write it again."),
    ("whole.pt", MORE.format("whole.pt", " (torch.nn.modules.linear.Linear)")),
    ("old.pt", MORE.format("old.pt", " (torch.nn.modules.linear.Linear)")),
    ("evil.pt", MORE.format("evil.pt", " (posix.system)")),
    ("evil.pth", MORE.format("evil.pth", " (posix.system)")),
    ("hyper.ckpt", MORE.format("hyper.ckpt", " (fractions.Fraction)")),
    ("pickled.bin", MORE.format("pickled.bin", "")),
    ("script.pt", "'script.pt' is a TorchScript program, and code in it is not run: where it comes from, save the "
                  "state_dict alone, with torch.save."),
    ("flipped.pt", "'flipped.pt' is damaged, 'shapes/data/0' in it has another checksum: write it again."),
    ("short.pt", "'short.pt' is no .pt file, or a damaged one: write it again."),
    ("pointer.pt", "'pointer.pt' is a Git LFS pointer and not the file itself: fetch that with `git lfs pull`."),
    ("page.safetensors", "'page.safetensors' is a web page, as a failed download leaves one: download the file again."),
    ("list.pt", "'list.pt' must hold a state_dict, received list: save model.state_dict()."),
    ("epoch.pt", "'epoch.pt' must hold a state_dict, received a dict with 'epoch', 'scores' and no weights: save "
                 "model.state_dict()."),
    ("hollow.pt", "'hollow.pt' must hold a state_dict, received a dict with nothing in it: save model.state_dict()."),
    ("other.pt", "'other.pt' does not fit Sequential: it lacks 6 of 6 names ('0.weight', '0.bias', '1.weight' and 3 "
                 "more), and it has 1 that the model does not have ('a')."),
    ("near.pt", "'near.pt', under 'model.module', does not fit Sequential: it lacks 1 of 6 names ('1.running_mean'), "
                "and it has 1 that the model does not have ('1.runing_mean'); the nearest names are '1.runing_mean' "
                "for '1.running_mean'."),
    ("shapes.pt", "'shapes.pt' does not fit Sequential: 1 of its tensors has another shape ('0.weight' is [5, 3] there "
                  "and [4, 3] in the model)."),
    ("two.pt", "'two.pt' holds 2 sets of weights that fit Sequential ('student', 'teacher'): choose one, for example "
               "--weights two.pt:student."),
    ("two.pt:studnet", "unknown key of weights 'studnet' in 'two.pt': did you mean 'student'? Known: student, "
                       "teacher."),
    ("two.pt:ema", "unknown key of weights 'ema' in 'two.pt'; known: student, teacher."),
    ("nots.pt:ema", "there is no file 'nots.pt': give the path of the weights."),
]  # fmt: skip
OUT: list[tuple[str, str]] = [
    ("no/new.pt", "there is no folder 'no' for 'new.pt': make it first."),
    ("folder.pt", "'folder.pt' is a folder: give the path of a file to write."),
    ("/proc/new.pt", "the folder '/proc' cannot be written to: No such file or directory; name another."),
]  # fmt: skip
RUN: list[tuple[str, str]] = [
    ("lab run --out nets.py", "'nets.py' is a file: give the path of a folder."),
    ("lab run --out nets.py/below", "'{place}/nets.py' is a file: give the path of a folder."),
    ("lab run --out /proc/report", "the folder '/proc' cannot be written to: No such file or directory; name another."),
    ("lab run --keep rows.npz", "'rows.npz' is a file: give the path of a folder."),
    ("lab run --device xpu:7", "no device 'xpu:7' is on this machine: leave --device out, and the trials run on the "
                               "processor."),
    ("lab run --data mnist --data-dir nots", "the folder 'nots' of --data-dir is not there: name the one with mnist's "
                                             "files."),
    ("lab run --data svhn --data-dir folder", "the folder 'folder' holds no file 'train_32x32.mat': put the original "
                                              "file there."),
    ("lab compare nots.py:net --data classes.npz", "there is no file 'nots.py': did you mean 'nets.py'?"),
    ("lab compare nets.py:net --data text.npz", NONE_OF["npz"].format("text.npz")),
    ("lab compare nets.py:net --data flipped.npz", "'flipped.npz' must hold the arrays x and y, received a file "
     "that holds images: write it with numpy.savez(file, x=inputs, y=targets)."),
    ("lab compare nets.py:wide --data classes.npz", "nets.py:wide needs the arguments 'width', 'depth', and normwise "
                                                    "calls it "
     "without arguments: give defaults, or name a function that needs none."),
    ("lab compare nets.py:net --data classes.npz --out rows.npz", "'rows.npz' is a file: give the path of a folder."),
    ("info --why 99999999999999999999x9", "this machine has no memory for a tensor of shape "
     "99999999999999999999x9: give a smaller shape."),
]  # fmt: skip


def recalibrate(**wrong: str) -> str:
    """The command line with something wrong in it."""
    given = {"model": "nets.py:net", "data": "rows.npz", "out": "new.pt", **wrong}
    return shlex.join(
        ["recalibrate", given.pop("model"), *(part for name in given for part in (f"--{name}", given[name]))]
    )


CASES = [
    *((recalibrate(model=model), sentence) for model, sentence in MODELS),
    *((recalibrate(model=model, out="new.keras"), sentence) for model, sentence in KERAS_MODELS),
    *((recalibrate(data=data), sentence) for data, sentence in DATA),
    (
        recalibrate(model="nets.py:Narrow", data="uneven.npz"),
        "the arrays of 'uneven.npz' must have one row per sample, received {{'pixels': 70, 'weight': 3}}: save them "
        "with the same number of rows.",
    ),
    *((recalibrate(weights=weights), sentence) for weights, sentence in WEIGHTS),
    *((recalibrate(out=out), sentence) for out, sentence in OUT),
    *RUN,
]


@pytest.fixture(scope="session")
def weights(built: Path) -> None:
    """Files of weights that do not fit, each in its way."""
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    torch.save({f"{name}.{each}": state[each] for name in ("student", "teacher") for each in state}, built / "two.pt")
    near = {f"module.{name}": value for name, value in state.items()}
    near["module.1.runing_mean"] = near.pop("module.1.running_mean")
    torch.save({"model": near}, built / "near.pt")
    torch.save({**state, "0.weight": torch.zeros(5, 3)}, built / "shapes.pt")
    torch.save({"a": torch.zeros(1)}, built / "other.pt")
    torch.save([1], built / "list.pt")
    torch.save({"epoch": 3, "scores": {"best": 0.5}}, built / "epoch.pt")
    torch.save({}, built / "hollow.pt")
    torch.save(nn.Linear(1, 1), built / "whole.pt")
    torch.save(nn.Linear(1, 1), built / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(Evil(), built / "evil.pt")
    torch.save({"model": state, "extra": Evil()}, built / "evil.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "hyper_parameters": {"rate": Fraction(1, 3)}}, built / "hyper.ckpt")
    (built / "pickled.bin").write_bytes(pickle.dumps(state))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, and its files are still there
        torch.jit.script(nn.Linear(1, 1)).save(built / "script.pt")
    whole = (built / "shapes.pt").read_bytes()
    (built / "short.pt").write_bytes(whole[:-100])
    flipped = bytearray(whole)
    flipped[whole.index(bytes(60))] ^= 1  # in the zeros of the first weight
    (built / "flipped.pt").write_bytes(flipped)
    (built / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "utf-8")
    for name in ("page.safetensors", "page.npz"):
        (built / name).write_text("<!DOCTYPE html>\n<html>", "utf-8")


class Evil:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)  # the fixture of the folder finds what is left there


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(("line", "sentence"), CASES, ids=[line for line, _ in CASES])
def test_a_wrong_file_is_one_sentence(line: str, sentence: str, folder: Path) -> None:
    done = CliRunner().invoke(main, shlex.split(line), prog_name="normwise")
    expected = sentence.format(folder=repr(str(folder)), place=folder)
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", f"normwise: {expected}\n")


@pytest.mark.parametrize("name", ["cudda", "cuda:x", "meta", ""])
@pytest.mark.usefixtures("folder")
def test_what_is_no_device(name: str) -> None:
    done = CliRunner().invoke(main, shlex.split(recalibrate(device=name)), prog_name="normwise")
    sentence = f"--device must be a PyTorch device, received {name!r}: give for example cpu or cuda."
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"normwise: {sentence}\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.usefixtures("folder")
def test_a_device_that_is_not_here() -> None:
    done = CliRunner().invoke(main, shlex.split(recalibrate(device="cuda")), prog_name="normwise")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith("normwise: --device cuda cannot be used here: ")
    assert done.stderr.endswith("; leave it out to use the device of the model.\n")


@pytest.mark.usefixtures("folder")
def test_what_the_users_code_prints_does_not_mix_with_the_report() -> None:
    line = recalibrate(data="nets.py:chatty")
    done = CliRunner().invoke(main, [*shlex.split(line), "--json"], prog_name="normwise")
    Path("new.pt").unlink()
    assert (done.exit_code, done.stderr) == (0, "hello\n")
    assert done.stdout.startswith('{"recalibrated": {"1": ')


@pytest.mark.usefixtures("folder")
def test_a_file_may_be_replaced_by_what_is_made_of_it() -> None:
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict(), "own.pt")
    line = recalibrate(weights="own.pt", out="own.pt")
    done = CliRunner().invoke(main, shlex.split(line), prog_name="normwise")
    state = torch.load("own.pt", weights_only=True)
    Path("own.pt").unlink()
    assert (done.exit_code, done.stderr) == (0, "")
    assert bool((state["1.running_mean"] != 0).all())


def test_a_keras_model_from_a_function_is_told_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = SimpleNamespace(Layer=type("Layer", (), {}))
    monkeypatch.setitem(sys.modules, "keras", keras)  # without its seconds and its backend
    monkeypatch.chdir(tmp_path)
    Path("of_keras.py").write_text("import sys\n\n\ndef net():\n    return sys.modules['keras'].Layer()\n", "utf-8")
    np.savez("rows.npz", x=np.zeros((4, 3), "float32"))
    done = CliRunner().invoke(main, ["doctor", "of_keras.py:net", "--data", "rows.npz"])
    assert (done.exit_code, done.stderr) == (
        2,
        "normwise: of_keras.py:net must return a torch.nn.Module, received Layer: save a Keras model to a .keras file "
        "and give that, or call normwise from Python.\n",
    )
