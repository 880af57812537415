"""Every layer has its page: what becomes of what `normwise.torch` and `normwise.keras` export."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import normwise.torch
from docs.same_arguments import SAME
from tests.docs.test_generate import generate

ROOT = Path(__file__).resolve().parents[2]
DOOR = '''"""The room."""

from normwise.torch import functional
from normwise.torch.layers import Norm, freeze

__all__ = ["Norm", "freeze", "functional"]
'''
LAYERS = r'''"""A file."""

class _Norm:
    """Not exported."""

    def __init__(self, x: int, *rest: int, eps: float = 0.1, **kwargs: Any) -> None:
        """Keep them."""

class Norm(_Norm):
    r"""Normalizes ``x``,
    and that is all.

    .. math:: y = x

    Args:
        x: values.

    No argument, though a line of it looks like
    one: it is a sentence.
    """

def freeze():
    """Freezes."""
'''


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "src/normwise/torch"
    folder.mkdir(parents=True)
    for name, text in (("__init__", DOOR), ("layers", LAYERS), ("functional", '"""Functions."""\n')):
        (folder / f"{name}.py").write_text(text)
    return tmp_path


def test_a_layers_page_is_its_docstring_and_the_index_lists_it(clone: Path) -> None:
    pages = generate.pages(clone)
    assert sorted(map(str, pages)) == ["docs/layers/Norm.md", "docs/layers/freeze.md", "docs/layers/index.md"]
    assert pages[Path("docs/layers/Norm.md")] == (
        "<!-- Generated from src/normwise/torch/layers.py by `make docs`; edit it there. -->\n\n"
        "# Norm\n\n```text\nnormwise.torch.Norm(x: int, *rest: int, eps: float = 0.1, **kwargs: Any)\n```\n\n"
        "Normalizes `x`,\nand that is all.\n\n$$\ny = x\n$$\n\n## Args\n\n- `x`: values.\n\n"
        "No argument, though a line of it looks like\none: it is a sentence.\n\n"
        "Read next: [all layers](../layers/index.md), [functions](../functional/index.md), "
        "[operations on whole models](../doors/index.md), [estimators](../estimators/index.md), [speed](../speed.md).\n"
    )
    assert pages[Path("docs/layers/index.md")] == (
        "<!-- Generated from src/normwise/torch/__init__.py by `make docs`; edit it there. -->\n\n"
        "# Layers and functions for PyTorch\n\nYou import these names from `normwise.torch`.\n\n"
        "- [Norm](Norm.md): Normalizes `x`, and that is all.\n- [freeze](freeze.md): Freezes.\n"
        "\nRead next: [functions](../functional/index.md), [operations on whole models](../doors/index.md), "
        "[estimators](../estimators/index.md), [speed](../speed.md).\n"
    )


def test_layers_for_keras_have_a_folder_of_their_own(clone: Path) -> None:
    room = clone / "src/normwise/keras"
    room.mkdir()
    (room / "__init__.py").write_text(DOOR.replace("normwise.torch", "normwise.keras"))
    for name, text in (("layers", LAYERS), ("functional", '"""Functions."""\n')):
        (room / f"{name}.py").write_text(text)
    pages = generate.pages(clone)
    assert "```text\nnormwise.keras.Norm(x: int, " in pages[Path("docs/keras_layers/Norm.md")]
    assert "# Layers and functions for Keras\n" in pages[Path("docs/keras_layers/index.md")]


def test_a_layer_without_a_docstring_is_refused(clone: Path) -> None:
    source = clone / "src/normwise/torch/layers.py"
    source.write_text(LAYERS.replace('    """Freezes."""', "    return 1"))
    with pytest.raises(SystemExit) as error:
        generate.pages(clone)
    assert str(error.value) == f"freeze in {source} has no docstring to make its page from."


def test_a_name_that_is_not_imported_by_name_is_refused(clone: Path) -> None:
    door = clone / "src/normwise/torch/__init__.py"
    door.write_text(DOOR.replace('"Norm", ', '"Norm", "thaw", '))
    with pytest.raises(SystemExit) as error:
        generate.pages(clone)
    assert str(error.value) == f"thaw is in __all__ of {door}, and nothing there imports it by name."


def test_a_page_of_a_layer_that_is_gone_does_not_stay(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(clone, check=False) == 0
    (clone / "docs/layers/Gone.md").write_text("gone")
    capsys.readouterr()
    assert generate.main(clone, check=True) == 1
    assert capsys.readouterr().out == "docs/layers/Gone.md has no source any more; run `make docs`.\n"


def test_everything_that_is_exported_has_a_page_and_an_entry_in_the_index() -> None:
    """By importing the package, which the generator does not do."""
    public = [name for name in normwise.torch.__all__ if not inspect.ismodule(getattr(normwise.torch, name))]
    assert "BatchNorm2d" in public
    index = (ROOT / "docs/layers/index.md").read_text(encoding="utf-8")
    for name in public:
        page = (ROOT / "docs/layers" / f"{name}.md").read_text(encoding="utf-8")
        docstring = inspect.getdoc(getattr(normwise.torch, name))
        assert docstring is not None
        text = generate.markdown(docstring)
        if refers := SAME.search(text):
            linked = refers[0].replace(f"`{refers[1]}`", f"[`{refers[1]}`]({refers[1]}.md)")
            first, heading, rest = text.replace(refers[0], linked).partition("\n## ")
            assert f"\n\n{first}\n## Args\n" in page
            text = heading.strip("\n") + rest
        assert re.search(rf"\n# {name}\n\n(`|```text\n)normwise\.torch\.{name}[`(]", page), name
        assert f"\n\n{text}\nRead next: " in page
        assert f"\n- [{name}]({name}.md): " in index


@pytest.mark.parametrize("folder", ["layers", "keras_layers", "doors", "functional", "callbacks/keras", "testing"])
def test_a_page_explains_every_argument_of_its_call(folder: str) -> None:
    """A reader of BatchNorm2d's page finds its arguments there, and not on the page of BatchNorm1d."""
    explained = 0
    for page in sorted((ROOT / "docs" / folder).glob("*.md")):
        text = page.read_text("utf-8")
        call = re.search(r"```text\n(normwise[\w.]*\(.*?)\n```", text, re.DOTALL)
        names = set(re.findall(r"(?:\(|, |^ +)\**(\w+): ", call[1], re.MULTILINE)) if call else set()
        assert names - set(re.findall(r"^- `\**(\w+)`: ", text, re.MULTILINE)) == set(), page
        explained += len(names)
    assert explained >= 3


def test_a_page_without_an_argument_leaves_it_out() -> None:
    page = (ROOT / "docs/layers/LazyBatchNorm2d.md").read_text("utf-8")
    assert "- `eps`: " in page
    assert "- `num_features`: " not in page


def test_arguments_of_a_page_that_has_none_end_the_generation(clone: Path) -> None:
    file = clone / "src/normwise/torch/layers.py"
    file.write_text(LAYERS.replace('"""Freezes."""', '"""Freezes; arguments as ``Norm``."""').replace("Args:", "Note:"))
    with pytest.raises(SystemExit) as error:
        generate.pages(clone)
    assert str(error.value) == "docs/layers/freeze.md has the arguments of Norm, whose page has none."


def test_a_layers_page_says_every_default() -> None:
    """By Python's own signature, which the generator does not ask for."""
    layers = [name for name in normwise.torch.__all__ if inspect.isclass(getattr(normwise.torch, name))]
    layers = [name for name in layers if issubclass(getattr(normwise.torch, name), torch.nn.Module)]
    assert len(layers) > 20
    for name in layers:
        page = (ROOT / "docs/layers" / f"{name}.md").read_text(encoding="utf-8")
        called = page.partition("```text\n")[2].partition("```")[0]
        for parameter in inspect.signature(getattr(normwise.torch, name)).parameters.values():
            assert re.search(rf"\b{parameter.name}: ", called), f"{name} takes {parameter.name}"
            if parameter.default is not inspect.Parameter.empty:
                default = re.escape(repr(parameter.default))
                assert re.search(rf"\b{parameter.name}: .* = {default}[,)\n]", called), f"{name}: {parameter.name}"
