"""The examples of the README run, and print what their comments say."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from pathlib import Path

import pytest
import torch

from normwise.kernels import choose, choose_triton
from normwise.kernels.kernel import Call

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_room_has_an_example() -> None:
    """Each section up to the statistics has one block of Python, and the lab's is for a shell."""
    sections = re.split(r"^## ", README, flags=re.MULTILINE)[1:]
    blocks = {text.partition("\n")[0]: re.findall(r"^```(\w+)", text, re.MULTILINE) for text in sections}
    assert [*blocks] == ["Layers", "Doctor", "Whole models", "Statistics", "Lab", "Speed and memory"]
    assert blocks.pop("Lab") == ["sh"]
    assert blocks.pop("Speed and memory") == []
    assert [*blocks.values()] == [["python"]] * 4


def test_examples_print_what_they_say() -> None:
    """Each runs when it is pasted alone; the comment behind a print says what it prints."""
    for example in EXAMPLES:
        scope: dict[str, object] = {}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(example, scope)
        promised = re.findall(r"^print\(.*\)\s+# (.*)$", example, re.MULTILINE)
        found = printed.getvalue().splitlines()
        assert len(found) == len(promised)
        for line, promise in zip(found, promised, strict=True):
            assert promise.startswith(line), f"the README promises {promise!r}, printed was {line!r}"


def test_links_lead_somewhere() -> None:
    """Every relative link and picture."""
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), f"the README links to {target}, which is not there"


STEPS = ("2026-11-29-intel-xeon-2-threads-steps", "2026-11-29-intel-xeon-2-threads-steps-channels-first")


def whole_steps(name: str) -> dict[tuple[str, bool], list[dict[str, float]]]:
    """The ratios of a network in both results: by eager or compiled and by layout (channels last or not)."""
    found: dict[tuple[str, bool], list[dict[str, float]]] = {}
    for result in STEPS:
        for step in json.loads((ROOT / f"benchmarks/results/{result}.json").read_text("utf-8"))["steps"]:
            if step["setting"].startswith(name):
                for how, ratio in step["ratios"].items():
                    found.setdefault((how, "channels last" in step["setting"]), []).append(ratio)
    return found


@pytest.mark.parametrize("name", ["ResNet-50", "MobileNetV2", "M5", "dense"])
def test_numbers_of_speed_stand_in_the_results_that_are_kept(name: str) -> None:
    """Both have the medians, the page the quartiles too, and behind each the most that there is: no norms."""
    speed = README.partition("## Speed and memory")[2]
    page = (ROOT / "docs/speed.md").read_text("utf-8")
    (row,) = re.findall(rf"^\| {name}.*, batch .*$", page, re.MULTILINE)
    found = whole_steps(name)
    for how, bound in (("fused", "no norms"), ("fused and compiled", "no norms, compiled")):
        for last in {last for each, last in found if each == how}:
            ours, most = found[how, last][-1], found[bound, last][-1]
            quartiles = f"[{ours['lower']:.2f}, {ours['upper']:.2f}]"
            assert f"{ours['median']:.2f} {quartiles} of {most['median']:.2f}" in row
            assert f"{ours['median']:.2f} (of {most['median']:.2f})" in speed.replace("\n", " ")


def test_the_page_of_speed_has_the_layers_that_are_kept() -> None:
    page = (ROOT / "docs/speed.md").read_text("utf-8")
    layers = json.loads((ROOT / "benchmarks/results/2026-11-30-amd-epyc-2-threads-layers.json").read_text("utf-8"))
    means = {
        (each["layout"], each["phase"]): each["value"]
        for each in layers["means"]
        if (each["operation"], each["dtype"], each["peer"]) == ("bn+relu", "float32", "PyTorch eager")
    }
    for layout, start in (("first", "bn + relu, float32 | channels first"), ("last", " | channels last")):
        (row, *_) = re.findall(
            rf"^\| {re.escape(start.strip(' |'))}.*$|^\| \| {re.escape(start.strip(' |'))}.*$", page, re.MULTILINE
        )
        for phase in ("forward", "forward+backward", "inference"):
            assert f"| {means[layout, phase]:.2f} [" in row
    first, last = (f"{means[layout, 'forward+backward']:.1f}" for layout in ("first", "last"))
    assert f"{first} times PyTorch's speed with channels first and {last} with channels last" in README.replace(
        "\n", " "
    )
    assert page.index("## Whole training steps") < page.index("## Single layers")


@pytest.mark.parametrize("result", ["layers", "resnet50-bfloat16"])
def test_the_page_of_speed_says_what_falls_short(result: str) -> None:
    short = (ROOT / "docs/speed.md").read_text("utf-8").partition("## What falls short")[2]
    kept = json.loads((ROOT / f"benchmarks/results/2026-11-30-amd-epyc-2-threads-{result}.json").read_text("utf-8"))
    missed = [target["measured"] for target in kept["targets"] if target["met"] is False]
    assert missed
    assert [measured for measured in missed if measured not in short] == []


def test_the_page_of_speed_and_the_readme_have_the_compiled_layers_that_are_kept() -> None:
    """The mean over a ResNet-50, weighted by how often each shape occurs in it."""
    page = (ROOT / "docs/speed.md").read_text("utf-8").replace("\n", " ")
    kept = json.loads(
        (ROOT / "benchmarks/results/2026-11-30-amd-epyc-2-threads-compiled-layers.json").read_text("utf-8")
    )
    means, shapes = [], []
    for layout in ("first", "last"):
        rows = [
            (row["case"]["shape"]["count"], row["ratios"])
            for row in kept["rows"]
            if row["case"]["layout"] == layout
            and row["case"]["shape"]["network"].startswith("ResNet-50")
            and {"torch.compile", "normwise, compiled"} <= {*row["ratios"]}
        ]
        logs = [
            count * math.log(ratios["torch.compile"]["median"] / ratios["normwise, compiled"]["median"])
            for count, ratios in rows
        ]
        means.append(f"{math.exp(sum(logs) / sum(count for count, _ in rows)):.1f}")
        shapes.append(len(rows))
    assert (
        f"take {means[0]} times as long as normwise's compiled layer with channels first and {means[1]} times" in page
    )
    assert f"on {shapes[0]} and on {shapes[1]} of the 12" in page
    assert f"under `torch.compile` {means[0]} and {means[1]}" in README.replace("\n", " ")


def test_the_page_of_speed_and_the_readme_have_the_memory_that_is_kept() -> None:
    page = (ROOT / "docs/speed.md").read_text("utf-8")
    rows = json.loads((ROOT / "benchmarks/results/save_memory.json").read_text("utf-8"))["rows"]
    assert {"mobilenet_v2", "densenet121", "vgg16_bn", "resnet50", "efficientnet_b0"} == {
        row["network"] for row in rows
    }
    speed = README.partition("## Speed and memory")[2].replace("\n", " ")
    resnet, mobile = ({row["network"]: row for row in rows}[name] for name in ("resnet50", "mobilenet_v2"))
    shares = [f"{row['bytes_kept']['save_memory'] / row['bytes_kept']['PyTorch']:.2f}" for row in (resnet, mobile)]
    steps = [f"{row['step']['save_memory']['median']:.2f}" for row in (resnet, mobile)]
    assert f"ResNet-50 keeps {shares[0]} times" in speed
    assert f"MobileNetV2 {shares[1]} times" in speed
    assert f"takes {steps[0]} and {steps[1]} times as long" in speed
    for row in rows:
        assert row["same_gradients"]
        kept = [
            row["bytes_kept"][name] / row["bytes_kept"]["PyTorch"] for name in ("fused", "save_memory", "checkpoint")
        ]
        peaks = [row["peak"][name] / row["peak"]["PyTorch"] for name in ("save_memory", "checkpoint")]
        steps = [
            "{median:.2f} [{lower:.2f}, {upper:.2f}]".format(**row["step"][name])
            for name in ("save_memory", "checkpoint")
        ]
        assert " | ".join([*(f"{number:.2f}" for number in (*kept, *peaks)), *steps]) in page, row["network"]


def test_what_a_gpu_user_gets_is_what_the_code_does() -> None:
    """PyTorch's operator, until a results file of a real GPU is in the repository; then the sentence is out of date."""
    (sentence,) = re.findall(r"^\*\*On a GPU\*\* (.*?)\*\*On a CPU\*\*", README, re.MULTILINE | re.DOTALL)
    measured = [path for path in (ROOT / "benchmarks/results/gpu").glob("*.json") if path.name != "binaries.json"]
    if measured:
        assert "PyTorch's speed" not in sentence
        return
    assert " ".join(sentence.split()) == (
        "the layers run PyTorch's own operator: you get the corrections, variants, statistics, operations and the "
        "doctor at PyTorch's speed."
    )
    elsewhere = Call(torch.empty(32, 64, 56, 56, device="meta"))
    assert choose.choose(elsewhere) == choose.OTHER_DEVICE
    assert choose.choose(elsewhere, by_batch=False) == choose.OTHER_DEVICE
    assert choose.OTHER_DEVICE.name == "aten"
    in_use, reason = choose_triton.state(asked=False)
    assert not in_use
    assert reason in (choose_triton.OFF, choose_triton.MISSING)
