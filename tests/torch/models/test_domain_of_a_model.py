"""The layers that ``with domain(model, ...)`` acts on, its old call, and that it is called as Keras's."""

from __future__ import annotations

import ast
import inspect
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from normwise.errors import NormwiseError, UnknownName
from normwise.torch.layers.domain import domain as domain_of_all

KERAS = Path(normwise.__file__).parent / "keras/layers/domains.py"


def network(*domains: str) -> Any:
    return nn.Sequential(nt.PerDomain(nt.BatchNorm1d(2), domains or ("a", "b")), nn.Linear(2, 2))


def trained(layer: Any) -> list[str]:
    """The domains whose statistics a forward has updated."""
    return [name for name in layer.domains if int(layer.of(name).num_batches_tracked)]


def test_it_is_called_as_keras_domain_is() -> None:
    (theirs,) = [
        [each.arg for each in node.args.args]
        for node in ast.parse(KERAS.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "domain"
    ]
    assert [*inspect.signature(nt.domain).parameters] == theirs == ["model", "name"]
    model = network()
    with nt.domain(model=model, name="b"):
        model(torch.randn(8, 2))
    assert trained(model[0]) == ["b"]


def test_two_models_may_be_in_two_domains_at_once() -> None:
    one, other = network("a", "b"), network("a", "b")
    with nt.domain(one, "a"), nt.domain(other, "b"):
        other(one(torch.randn(8, 2)))
    assert (trained(one[0]), trained(other[0])) == (["a"], ["b"])


def test_a_model_outside_of_the_block_is_not_in_it() -> None:
    one, other = network(), network()
    with nt.domain(one, "a"), pytest.raises(NormwiseError, match=r"normwise\.torch\.domain\(model, 'a'\)"):
        other(torch.randn(8, 2))


def test_the_innermost_block_about_a_layer_counts() -> None:
    inner, outer = network(), network()
    both = nn.Sequential(outer, inner)
    with nt.domain(inner, "a"), nt.domain(both, "b"):
        both(torch.randn(8, 2))
    with nt.domain(both, "b"), nt.domain(inner, "a"):
        both(torch.randn(8, 2))
    assert (trained(outer[0]), trained(inner[0])) == (["b"], ["a", "b"])


def test_an_operation_that_is_given_a_domain_is_the_innermost_of_all() -> None:
    model = network()
    with nt.domain(model, "a"):
        report = normwise.adapt(model, [torch.randn(8, 2)], domain="b")
        assert [*report.adapted] == ["0.domain_b"]
        with domain_of_all("b"):
            assert model[0]._choice(None) == "b"
        assert model[0]._choice(None) == "a"


def test_one_block_may_be_entered_again_and_within_itself() -> None:
    model = network()
    block = nt.domain(model, "b")
    for _ in range(2):
        with block, nt.domain(model, "a"), block:
            assert model[0]._choice(None) == "b"
    with pytest.raises(NormwiseError):
        model[0]._choice(None)


def test_every_layer_must_have_the_domain_before_anything_is_chosen() -> None:
    model = nn.Sequential(network("a", "b"), network("a", "c"))
    with pytest.raises(UnknownName) as unknown:
        nt.domain(model, "b")
    assert str(unknown.value) == "unknown domain 'b'; known: a, c."


def test_no_argument_at_all_is_no_model() -> None:
    old: Any = nt.domain
    with pytest.raises(
        TypeError, match=r"^domain needs a torch\.nn\.Module, received NoneType: pass the model itself\.$"
    ):
        old()


@pytest.mark.parametrize("keyword", [False, True])
def test_a_name_alone_is_for_all_layers_and_warns(keyword: bool) -> None:
    one, other = network(), network()
    old: Any = nt.domain
    with pytest.warns(DeprecationWarning, match="until 0.2") as found:
        block = old(name="b") if keyword else old("b")
    assert str(found[0].message) == (
        "normwise.torch.domain takes the model first, and a name alone until 0.2: write domain(model, 'b')."
    )
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with block:
            other(one(torch.randn(8, 2)))
    assert (trained(one[0]), trained(other[0])) == (["b"], ["b"])
    with pytest.raises(NormwiseError):
        one(torch.randn(8, 2))


def test_threads_choose_for_one_model_without_each_other() -> None:
    model = network()
    model.eval()
    inside, found = threading.Barrier(2), {}

    def run(name: str) -> None:
        with nt.domain(model, name):
            inside.wait(timeout=20)
            found[name] = model[0]._choice(None)
            inside.wait(timeout=20)

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": "a", "b": "b"}


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel, compiled])
def test_a_wrapped_model_is_the_model(wrap: Any) -> None:
    model = wrap(network())
    (layer,) = [module for module in model.modules() if isinstance(module, nt.PerDomain)]
    with nt.domain(model, "b"):
        assert layer._choice(None) == "b"


def test_blocks_for_two_models_compile() -> None:
    torch._dynamo.reset()
    one, other = network(), network()

    def both(x: Tensor) -> Tensor:
        with nt.domain(one, "a"), nt.domain(other, "b"):
            y: Tensor = other(one(x))
        return y

    x = torch.randn(8, 2)
    torch.testing.assert_close(torch.compile(both, backend="aot_eager", fullgraph=True)(x), both(x))
    assert (trained(one[0]), trained(other[0])) == (["a"], ["b"])
