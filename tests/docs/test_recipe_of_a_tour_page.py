"""The recipe for a page of the guided tour, followed: what a batch norm without scale and shift has as parameters."""

from __future__ import annotations

from pathlib import Path

from docs import tour
from tests.docs.following import Copy

ENGLISH = """# No scale and shift

A batch norm without scale and shift learns nothing.

## A detail

See [BatchNorm1d](docs/layers/BatchNorm1d.md).

{{figure: Accuracy by rate}}

## In code

{{code}}

## Exercise

How many parameters has the layer?

<details><summary>Answer</summary>

None.

</details>

## What the lab measured

{{measured}}

## Read next

{{next}}
"""
CHINESE = """# 沒有縮放與平移

沒有縮放與平移的批次正規化不學習任何參數。

## 細節

見 [BatchNorm1d](docs/layers/BatchNorm1d.md)。

{{figure: 準確率}}

## 程式碼

{{code}}

## 練習

說出這一層的參數個數。

<details><summary>解答</summary>

沒有。

</details>

## 實驗室量到的結果

{{measured}}

## 接下來

{{next}}
"""
KERAS = """import keras

layer = keras.layers.BatchNormalization(center=False, scale=False)
layer.build((None, 3))
print(len(layer.trainable_variables))
"""
TORCH = """import torch

layer = torch.nn.BatchNorm1d(3, affine=False)
print(len(list(layer.parameters())))
"""
ENTRY = """[[page]]
name = "no_scale_and_shift"
figure = { experiment = "before_or_after_the_activation", name = "accuracy_by_rate" }

[[page.claim]]
experiment = "can_it_represent_the_identity"
says = "the same logits in inference mode"
zh_tw = "推論模式下的 logit 不變。"

"""


def test_a_page_of_the_tour(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "Add a page to the guided tour", more=("docs/learn", tour.KEPT.as_posix()))
    for name, text in (("en.md", ENGLISH), ("zh_tw.md", CHINESE), ("keras.py", KERAS), ("torch.py", TORCH)):
        copy.write(f"docs/learn/source/no_scale_and_shift/{name}", text)
    before = '[[page]]\nname = "where_it_stands"\n'
    copy.change("docs/learn/source/pages.toml", before, ENTRY + before)
    said = copy.python("docs/generate.py")
    for work in (
        "ran no_scale_and_shift/keras",
        "ran no_scale_and_shift/torch",
        "drew docs/learn/figures/no_scale_and_shift.svg",
    ):
        assert work in said
    assert said.count("ran ") == 2
    assert "```text\n0\n```" in (tmp_path / "docs/learn/no_scale_and_shift.md").read_text("utf-8")
    copy.check_tests("tests/docs/test_tour.py", only="no_scale_and_shift or stale or index", at_least=8)
