"""``swap`` to ``torch.nn`` and back: the same numbers, keys and modules."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.errors import NormwiseError, UnknownName, UnsuitableModel
from normwise.reports.swap_report import Swap
from normwise.torch.models.conversion.domains import convert_to_domains
from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.conversion.swap_calibration import Calibration
from normwise.torch.models.fusion.fuse import fuse
from tests.torch import networks_to_fuse, networks_to_swap
from tests.torch.every_layer import CASES
from tests.torch.networks_to_swap import images

FUSED: dict[str, Callable[[], nn.Module]] = {
    name: getattr(networks_to_fuse, name)
    for name in ("resnet18", "resnet50", "vgg", "mobilenet", "densenet", "Branching")
}
WRITTEN: dict[str, Callable[[], nn.Module]] = {
    name: getattr(networks_to_swap, name)
    for name in ("in_order", "with_a_place", "of_samples", "blocks", "one_block", "dropping", "switching")
}


def prepared(make: Callable[[], nn.Module]) -> Any:
    """The model with scales, shifts and running statistics that are not those at the start."""
    torch.manual_seed(0)
    model = make().double()
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.modules.batchnorm._NormBase) and tensor.dim():
                nn.init.uniform_(tensor, 0.5, 1.5) if name != "bias" else nn.init.normal_(tensor, 0.0, 0.3)
    return model


def assert_same(ours: nn.Module, theirs: nn.Module, steps: int = 2) -> None:
    """Keys, outputs, gradients and running statistics over some steps of training, then inference."""
    models = (ours.train(), theirs.train())
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in models]
    for step in range(steps):
        found = []
        for model, optimizer in zip(models, optimizers, strict=True):
            torch.manual_seed(step)  # for dropout
            optimizer.zero_grad()
            found.append(model(images(step)))
            found[-1].square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
        for (name, ours_), theirs_ in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours_.grad, theirs_.grad, rtol=1e-10, atol=1e-10, msg=name)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images(99)), theirs.eval()(images(99)), rtol=1e-10, atol=1e-10)


def whole_of(model: nn.Module) -> list[Any]:
    """Every module, its class, which objects stand where in it, and every byte of its tensors."""
    found: list[Any] = []
    for name, module in model.named_modules():
        inside = {
            key: [(each, id(item)) for each, item in value.items()] if isinstance(value, dict) else id(value)
            for key, value in vars(module).items()
        }
        found.append((name, id(module), type(module), inside))
    return [*found, *[tensor.numpy().tobytes() for tensor in model.state_dict().values()]]


def of_normwise(model: nn.Module) -> list[str]:
    """Layers of normwise that are in the model."""
    kinds = [name for name, module in model.named_modules() if type(module).__module__.startswith("normwise")]
    return [*kinds, *[name for name, module in model.named_modules() if getattr(module, "activation", None)]]


@pytest.mark.parametrize("name", FUSED)
def test_what_fuse_did_is_undone_to_the_class(name: str) -> None:
    theirs = prepared(FUSED[name])
    ours = copy.deepcopy(theirs)
    parameters = [*ours.parameters()]
    fused = fuse(ours)
    report = swap(ours, to="torch")
    assert {*report.swapped} == {*fused.fused, *fused.swapped}
    assert [(key, type(module)) for key, module in ours.named_modules()] == [
        (key, type(module)) for key, module in theirs.named_modules()
    ]
    assert repr(ours) == repr(theirs)  # inplace=True too
    assert [vars(module).keys() for module in ours.modules()] == [vars(module).keys() for module in theirs.modules()]
    assert all(one is other for one, other in zip(ours.parameters(), parameters, strict=True))
    assert_same(ours, theirs)
    assert {*fuse(ours).fused} == {*fused.fused}


@pytest.mark.parametrize("name", ["resnet18", "vgg", "densenet"])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
def test_what_fuse_did_is_undone_in_copies_too(name: str, way: str) -> None:
    theirs = prepared(FUSED[name])
    ours = copy.deepcopy(theirs)
    fuse(ours)
    if way == "state_dict":
        ours.load_state_dict(ours.state_dict())
    else:
        ours = copy.deepcopy(ours) if way == "deepcopy" else _pickled(ours)
    swap(ours, to="torch")
    assert repr(ours) == repr(theirs)
    assert [type(module) for module in ours.modules()] == [type(module) for module in theirs.modules()]
    assert_same(ours, theirs, steps=1)


def _pickled(model: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("name", WRITTEN)
def test_activations_and_additions_move_into_the_model_and_back(name: str) -> None:
    theirs = prepared(WRITTEN[name])
    ours = copy.deepcopy(theirs)
    hooked: list[str] = []
    for key, module in ours.named_modules():
        module.register_forward_hook(lambda *_, key=key: hooked.append(key))
    names = [key for key, module in ours.named_modules() if hasattr(module, "activation")]
    report = swap(ours, to="torch")
    assert [*report.swapped] == names
    assert report.skipped == {}
    assert of_normwise(ours) == []
    assert_same(ours, theirs)
    assert {*names} <= {*hooked}
    assert [*swap(ours, to="normwise").swapped] == names
    assert_same(ours, theirs)
    assert [type(ours.get_submodule(key)) for key in names] == [type(theirs.get_submodule(key)) for key in names]


def test_a_rewritten_module_is_still_of_its_class_and_its_copies_are() -> None:
    model = prepared(networks_to_swap.blocks)
    swap(model)
    for each in (model, copy.deepcopy(model), nn.Sequential(*(copy.copy(part) for part in model))):
        assert isinstance(each[0], networks_to_swap.Block)
        assert each[0].parts() == 6  # its own method; two activations more than before
        assert_same(copy.deepcopy(each), copy.deepcopy(model), steps=1)
    children = [type(child).__name__ for child in model[0].children()]
    assert children == ["Conv2d", "BatchNorm2d", "BatchNorm2d", "BatchNorm2d", "SiLU", "ReLU"]


def test_two_forwards_in_one_module_are_said_to_need_normwise_in_a_pickle() -> None:
    model = prepared(networks_to_swap.switching)
    words = swap(model).swapped["0.norm"].words
    assert words == (
        "elu behind it in the forward of 0, as norm_activation; the forward differs in training, so a file of the "
        "whole model, unlike all others, needs normwise"
    )
    assert_same(_pickled(model), copy.deepcopy(model), steps=1)
    dropping = prepared(networks_to_swap.dropping)
    assert "needs normwise" not in str(swap(dropping))
    assert [type(part).__name__ for part in dropping[0].children()] == ["BatchNorm2d", "ELU", "Dropout"]


def test_the_way_back_can_be_fused() -> None:
    theirs = prepared(networks_to_swap.blocks)
    ours = copy.deepcopy(theirs)
    swap(ours)
    swap(ours, to="normwise")
    assert fuse(ours).fused["0.bn2"] == "add, relu"
    assert_same(ours, theirs)
    swap(ours)
    assert of_normwise(ours) == []
    assert_same(ours, theirs)


def test_an_activation_takes_the_place_that_is_there() -> None:
    model: Any = networks_to_swap.with_a_place()
    report = swap(model)
    assert report.swapped == {"1": Swap("normwise BatchNorm2d", "torch BatchNorm2d", "mish behind it, as 2")}
    assert [type(module).__name__ for module in model] == ["Conv2d", "BatchNorm2d", "Mish", "Conv2d"]


@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_swapped_or_says_why_not(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    layer = case.make()
    x = case.input().double()
    layer.double()(x)  # what is lazy learns its shape
    ours = nn.Sequential(layer)
    theirs = copy.deepcopy(ours)
    report = swap(ours)
    if report.skipped:
        unlike = [each for part in case.make().modules() if (each := getattr(part, "unlike_torch", None)) is not None]
        assert f"{unlike[0]}, which no layer of torch.nn does" in report.skipped["0"]
        assert type(ours[0]) is type(theirs[0])
        return
    assert type(ours[0]).__module__.startswith("torch.nn")
    assert type(ours[0]) in (nn.GroupNorm, nn.LayerNorm) or isinstance(ours[0], nn.modules.batchnorm._NormBase)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-9, atol=1e-9)
    words = report.swapped["0"].words
    plain = not any(kind in name for kind in ("Ghost", "Renorm", "pooled"))
    assert ("the same in inference; in training" in words) is not plain
    if plain and "Sync" not in name:  # which torch trains on GPUs only
        torch.testing.assert_close(ours.train()(x), theirs.train()(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(_statistics(ours), _statistics(theirs), rtol=1e-9, atol=1e-9)


def _statistics(model: nn.Module) -> list[Tensor]:
    layer = model[0].of("night") if isinstance(model[0], nt.PerDomain) else model[0]  # type: ignore[index]  # a sequence
    return [tensor for name, tensor in layer.named_buffers() if name in ("running_mean", "running_var")]


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("Lazy") and "pooled" not in name])
def test_lazy_layers_stay_lazy(name: str) -> None:
    ours: Any = nn.Sequential(CASES[name].make())
    theirs: Any = nn.Sequential(CASES[name].make())
    swap(ours)
    assert type(ours[0]).__name__ == name
    assert type(ours[0]).__module__.startswith("torch.nn")
    x = CASES[name].input()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert type(ours[0]).__name__ == name.removeprefix("Lazy")
    swap(ours, to="normwise")
    assert type(ours[0]) is type(theirs[0])


def test_statistics_per_domain_become_those_of_one() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 4), nt.BatchNorm1d(4, activation="relu"))
    convert_to_domains(model, ["day", "night"])
    model[1].of("night").running_mean.fill_(2.0)
    keys = [*nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()]
    assert swap(model).skipped == {"1": "it has statistics for day, night: choose with domain="}
    report = swap(model, domain="night")
    assert report.swapped["1"] == Swap(
        "normwise PerDomain", "torch BatchNorm1d", "the statistics of night; relu behind it, as 1_activation"
    )
    assert [*model.state_dict()] == keys
    assert model[1].running_mean.tolist() == [2.0] * 4


def test_layers_in_half_precision_run_in_torch() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nt.BatchNorm2d(4), nt.BatchNorm2d(4)).bfloat16().eval()
    x = images(0, torch.bfloat16)
    before = model(x)
    swap(model)
    torch.testing.assert_close(model(x), before)
    model.half()
    swap(model, to="normwise")
    model[1].running_var.fill_(1e6)
    assert swap(model).skipped == {
        "1": "its running_var does not fit torch.float16, in which torch.nn keeps it: call float() before"
    }


def test_what_cannot_be_followed_is_skipped_with_the_reason() -> None:
    model: Any = nn.Sequential(
        networks_to_swap.Optional(networks_to_swap.batch_norm()),
        networks_to_swap.Masking(networks_to_swap.batch_norm()),
    )
    report = swap(model)
    unfollowed = "0 cannot be followed: its forward takes optional arguments"
    assert report.skipped == {
        "0.norm": f"its activation relu needs a place behind it, and {unfollowed}: build the model with the activation "
        "behind the layer",
        "0.added": f"it is called with more than its input, which torch.nn's layer does not take, and {unfollowed}: "
        "write the addition behind the layer",
        "1.norm": "it is called with mask, which torch.nn's layer does not take",
    }
    assert {*report.swapped} == {"0.plain", "0.block.bn1", "0.block.bn2", "0.block.bn3"}
    model(images(0, torch.float32))


def test_a_layer_alone_has_no_place_for_its_activation() -> None:
    alone = nt.BatchNorm1d(3, activation="relu")
    assert swap(alone).skipped == {
        "": "its activation relu needs a place behind it, and no forward calls it: build the model with the activation "
        "behind the layer"
    }
    plain = nt.BatchNorm1d(3)
    assert str(swap(plain)).endswith("(the model): normwise BatchNorm1d -> torch BatchNorm1d")
    assert type(plain) is nn.BatchNorm1d


def test_only_the_layers_that_are_named() -> None:
    model = prepared(networks_to_fuse.resnet18)
    fuse(model)
    theirs = copy.deepcopy(model)
    report = swap(model, layers=["bn1", "layer1.0.bn1"])
    assert {*report.swapped} == {"bn1"}
    assert report.skipped["layer1.0.bn1"] == "one forward was written for it and for 'layer1.0.bn2': name both"
    assert report.skipped["layer2.0.bn1"] == "it is not among the layers that were asked for"
    assert_same(model, theirs, steps=1)
    assert {*swap(model, layers=["layer1.0.bn1", "layer1.0.bn2"]).swapped} == {"layer1.0.bn1", "layer1.0.bn2"}
    assert type(model.layer1[0]) is networks_to_fuse.BasicBlock
    assert_same(model, theirs, steps=1)


def test_wrapped_models_are_reached() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's compiler says about its own insides
        model = torch.compile(networks_to_swap.one_block(), backend="eager")
    report = swap(model)  # type: ignore[arg-type]  # a module, though typed as a function
    assert [*report.swapped] == ["_orig_mod.bn1", "_orig_mod.bn2", "_orig_mod.bn3"]


def test_a_subclass_of_a_users_own_is_left() -> None:
    class Own(nt.BatchNorm2d):
        pass

    class Theirs(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model = nn.Sequential(Own(3), Theirs(3), nn.BatchNorm2d(3), nt.GroupNorm(1, 3))
    assert dict(swap(model).skipped) == {
        "0": "Own is a class of its own, which may do something else: change it by hand",
        "1": "Theirs is no layer of normwise",
        "2": "it is torch.nn's own already",
    }
    assert dict(swap(model, to="normwise").skipped) == {
        "0": "it is an Own, not exactly a layer of torch.nn",
        "1": "it is a Theirs, and its forward calls mul behind the batch norm, which normwise's layers do not do",
    }


@pytest.mark.parametrize("to", ["torch", "normwise", "group", "ghost", "sync", "domains"])
@pytest.mark.parametrize("name", ["blocks", "resnet18"])
def test_an_error_in_the_middle_leaves_every_byte(to: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = prepared(WRITTEN["blocks"] if name == "blocks" else FUSED[name])
    if to == "normwise":
        swap(model)
    elif name == "resnet18":
        fuse(model)
    before, said = whole_of(model), repr(model)
    known: dict[str, dict[str, Any]] = {"ghost": {"num_splits": 2}, "domains": {"domains": ["a", "b"]}}
    settings = known.get(to, {})

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(Calibration, "after", fail)
    with pytest.raises(RuntimeError, match=r"^in the middle$"):
        swap(model, to=to, **settings)
    assert repr(model) == said
    assert whole_of(model) == before


def test_a_class_in_the_place_of_a_target_is_refused() -> None:
    for wrong, what in ((nn.GroupNorm, "the class GroupNorm"), (3, "3")):
        with pytest.raises(TypeError) as caught:
            swap(nn.Sequential(nn.BatchNorm1d(2)), to=wrong)  # type: ignore[arg-type]  # as a user may
        assert str(caught.value) == (
            f"to must be the name of a target of swap, received {what}: pass for example 'group'."
        )


def test_wrong_calls_are_refused_in_one_sentence() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    for settings, message in [
        (
            {"to": "torhc"},
            "unknown target of swap 'torhc': did you mean 'torch'? Known: domains, ghost, group, instance, "
            "layer, normwise, renorm, sync, torch.",
        ),
        ({"layers": ["1"]}, "unknown normalization layer '1'; known: 0."),
    ]:
        with pytest.raises(UnknownName) as unknown:
            swap(model, **settings)  # type: ignore[arg-type]  # wrong on purpose
        assert str(unknown.value) == message
    for settings, message in [
        ({"num_groups": 4}, "num_groups is a setting of swap for to='group', received to='torch': leave it out."),
        ({"to": "group", "num_groups": 0},
         "num_groups must be a whole number of at least 1, received 0: pass for example 8."),
        ({"to": "domains"}, "swap to domains needs their names: pass for example domains=['day', 'night']."),
        ({"to": "domains", "domains": "day"}, "domains must be a list of names, received 'day': pass ['day']."),
        ({"to": ["a"], "domains": ["a"]}, "swap was given domains twice, as to= and as domains=: give them once."),
        ({"to": "ghost"}, "swap to ghost norms needs either virtual_batch_size or num_splits: pass one of them."),
        ({"to": "group", "calibrate": []}, "swap got no batches to calibrate with: pass at least one."),
    ]:  # fmt: skip
        with pytest.raises(NormwiseError) as error:
            swap(model, **settings)  # type: ignore[arg-type]  # wrong on purpose
        assert str(error.value) == message
    with pytest.raises(UnsuitableModel):
        swap("model")  # type: ignore[arg-type]  # wrong on purpose
    assert str(swap(nn.Linear(2, 2))) == "nothing swapped: the model has no normalization layer"
