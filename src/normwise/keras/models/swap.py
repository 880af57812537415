"""Other normalization layers in a Keras model: Keras's own for ours and back, or layers that normalize otherwise."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from normwise.errors import NormwiseError, UnknownName, UnsuitableModel
from normwise.frameworks import refusal
from normwise.keras.layers.batch_normalization import BatchNormalization
from normwise.keras.layers.domains import PerDomainBatchNormalization
from normwise.keras.layers.ghost import GhostBatchNormalization
from normwise.keras.models.conversion import become_keras, become_ours, check_that_they_fit, trace_again
from normwise.keras.models.feeding import ForwardFn, batches_of
from normwise.keras.models.freeze import chosen_of, named_layers
from normwise.keras.models.rebuilding import (
    Rebuilding,
    Replacement,
    adds,
    keras_twin,
    own_objects,
    put_back,
    why_not_rebuilt,
)
from normwise.keras.models.swap_calibration import Calibration
from normwise.kernels.reference_group import number_of_groups
from normwise.recalibration.asked import check_forward_fn
from normwise.reports.swap_report import Swap, SwapReport
from normwise.swap_settings import APPLY, KINDS, checked

TARGETS = ("keras", "normwise", *KINDS)
_FOR = {**APPLY, "domain": ("keras", "group", "layer", "instance", "domains")}
_Theirs = keras.layers.BatchNormalization
_OURS = (BatchNormalization, GhostBatchNormalization, PerDomainBatchNormalization)
_NORMS = (_Theirs, keras.layers.GroupNormalization, keras.layers.LayerNormalization)


class _NotPossible(Exception):
    """Why a layer stays as it is."""


def swap(
    model: Any,
    to: str | Iterable[str] | None = None,
    *,
    layers: Collection[str] | None = None,
    calibrate: Any = None,
    at_most: int | None = None,
    forward_fn: ForwardFn | None = None,
    batch_size: int = 32,
    num_groups: int | None = None,
    virtual_batch_size: int | None = None,
    num_splits: int | None = None,
    domains: Iterable[str] | None = None,
    domain: str | None = None,
) -> SwapReport:
    """Put other normalization layers into the places of a model's: Keras's own, ours, or another kind.

    ``report.model`` is the swapped model. Where only the classes of layers have to change, it is the model that was
    given, changed in place. Else it is a functional or sequential model built once more, with the names, the weights,
    the optimizer and its state of the one that was given, which is as before: the residual and the activation of a
    layer are then an ``Add`` and an ``Activation`` behind it, called ``<layer>_add`` and ``<layer>_activation``.
    On any error nothing is changed.

    Args:
        model: any Keras model or layer.
        to: None for ``"keras"``.

            * ``"keras"``: for each layer of ours ``keras.layers.BatchNormalization``; a file of the model loads where
              normwise is not installed.
            * ``"normwise"``: for each Keras layer ours, in place.
            * ``"group"``, ``"layer"``, ``"instance"``: ``keras.layers.GroupNormalization`` of several groups, of one,
              of one channel each.
            * ``"ghost"``, ``"renorm"``, ``"sync"``: ours that train by virtual batches, with renormalization, or by
              the batches of all replicas; inference stays as it is.
            * ``"domains"`` with ``domains=``, or a list of names: statistics for each domain.
        layers: the names of the only layers to be swapped; None for all.
        calibrate: data as ``recalibrate`` takes them. The report then says how far the model's output for them moved.
            Layers that normalize in another way than before get the scale and shift with which their output has the
            mean and variance per channel that it had in the model before, in the order of their calls.
        at_most: use so many batches; None for all.
        forward_fn: ``forward_fn(model, batch)``, how a batch enters the model, if the rules do not serve.
        batch_size: rows per batch of arrays.
        num_groups: for ``"group"``; if it does not divide the channels, the largest number below it that does is used.
            None for 32, or fewer where groups would have one channel.
        virtual_batch_size: for ``"ghost"``: samples in a virtual batch. This or ``num_splits`` is given.
        num_splits: for ``"ghost"``: into how many virtual batches to split a batch.
        domains: for ``"domains"``: their names.
        domain: for ``"domains"``: the one that is chosen at first, None for the first of them; else whose statistics
            are kept of a layer with several, None for the one that is chosen.

    Returns:
        which layers were swapped for what, which were skipped and why, which no batch reached, and how far the model's
        output moved; and the model.

    Raises:
        UnsuitableModel: no Keras model or layer.
        UnknownName: ``to``, a name in ``layers`` or ``domain`` does not exist.
        TypeError: ``layers`` is a string.
        NormwiseError: a setting that is not for this ``to``, or one that is missing.

    Example:
        >>> norm = BatchNormalization(activation="relu", name="bn")
        >>> model = keras.Sequential([keras.Input((4,)), norm], name="model")
        >>> report = swap(model, to="keras")
        >>> report.swapped["model/bn"].words
        'relu behind it, as bn_activation'
        >>> [layer.name for layer in report.model.layers]
        ['bn', 'bn_activation']
    """
    given = {
        "num_groups": num_groups,
        "virtual_batch_size": virtual_batch_size,
        "num_splits": num_splits,
        "domains": domains,
        "domain": domain,
    }
    target, settings = checked("keras" if to is None else to, given, TARGETS, _FOR)
    if not isinstance(model, keras.Layer):
        raise UnsuitableModel(refusal("swap", "a keras.Model", model))
    check_forward_fn(forward_fn)
    norms = named_layers(model, _NORMS)
    wanted = chosen_of(norms, layers, "normalization layer")
    skipped = {path: "it is not among the layers that were asked for" for path in norms if path not in wanted}
    batches = None
    if calibrate is not None:
        batches = batches_of(calibrate, batch_size, at_most=at_most, called="swap")
    made: dict[str, Replacement] = {}
    words: dict[str, str] = {}
    for path, layer in wanted.items():
        try:
            with own_objects(layer):
                made[path], words[path] = _replacement(layer, target, settings)
            put_back(layer, made[path].layer)
        except _NotPossible as why:
            skipped[path] = str(why)
    calibration = Calibration(batches, at_most, forward_fn)
    calibrated = {path: wanted[path] for path in made if target in ("group", "layer", "instance")}
    calibration.before(model, calibrated)
    was = {path: _class_name(layer) for path, layer in wanted.items()}
    with _all_or_nothing(model, wanted.values()):
        result = _carried_out(model, target, {path: wanted[path] for path in made}, made, words, skipped)
        after = {path: made[path].layer for path in calibrated if path in words}
        calibration.after(result, after)
    swapped = {path: Swap(was[path], _class_name(made[path].layer), said) for path, said in words.items()}
    return SwapReport(
        swapped,
        {path: skipped[path] for path in norms if path in skipped},
        tuple(calibration.not_reached),
        calibration.output_change,
        calibration.uncalibrated_change,
        target,
        result,
    )


def _replacement(layer: Any, to: str, settings: Mapping[str, Any]) -> tuple[Replacement, str]:
    """The replacement of the layer, and the words about it in the report.

    Raises:
        _NotPossible: with the reason.
    """
    kind = type(layer)
    if kind not in (_Theirs, *_OURS):
        if not isinstance(layer, _Theirs):
            raise _NotPossible(f"it is a {kind.__name__}, and no batch normalization")
        raise _NotPossible(f"{kind.__name__} is a class of its own, which may do something else")
    row, words = None, []
    if kind is PerDomainBatchNormalization and to != "domains":
        name = settings["domain"] or layer.domain
        if name not in layer.domains:
            raise UnknownName("domain", name, layer.domains)
        row = layer.domains.index(name)
        words.append(f"the statistics of {name}")
    config, activation = layer.get_config(), getattr(layer, "activation", None)
    if to == "keras":
        if kind is _Theirs:
            raise _NotPossible("it is Keras's own already")
        try:
            check_that_they_fit(layer.path, layer)
        except NormwiseError as error:
            raise _NotPossible(str(error).rstrip(".")) from error
        return Replacement(keras_twin(layer), activation, row), "; ".join([*words, *_lost(layer)])
    if to == "normwise":
        if kind is not _Theirs:
            raise _NotPossible("it is normwise's own already")
        return Replacement(layer), ""
    if to in ("group", "layer", "instance"):
        return _of_samples(layer, to, settings, config, row, words)
    if kind in _OURS and kind is not BatchNormalization:
        raise _NotPossible(
            f"it is a {kind.__name__} already" if _is(kind, to) else f"a {kind.__name__} trains otherwise"
        )
    ours = {name: value for name, value in config.items() if not (to != "renorm" and name.startswith("renorm"))}
    if to == "domains":
        domains = list(settings["domains"])
        ours = {name: value for name, value in ours.items() if name != "estimator"}
        made = PerDomainBatchNormalization.from_config({**ours, "domains": domains})
        if settings["domain"] is not None:
            made.choose(settings["domain"])
        return Replacement(made), f"{', '.join(domains)}, which start from the same statistics"
    if to == "ghost":
        ours.pop("synchronized", None)
        sizes = {name: settings[name] for name in ("virtual_batch_size", "num_splits") if settings[name] is not None}
        return Replacement(GhostBatchNormalization.from_config({**ours, **sizes})), "the same in inference"
    setting = "renorm" if to == "renorm" else "synchronized"
    if getattr(layer, setting, False):
        raise _NotPossible(f"it has {setting}=True already")
    if to == "renorm" and getattr(layer, "estimator", None) is not None:
        raise _NotPossible("it has an estimator, which renormalization does without")
    return Replacement(BatchNormalization.from_config({**config, setting: True})), "the same in inference"


def _of_samples(
    layer: Any, to: str, settings: Mapping[str, Any], config: dict[str, Any], row: int | None, words: list[str]
) -> tuple[Replacement, str]:
    """A layer that normalizes each sample by itself."""
    if not layer.built:
        raise _NotPossible("it is not built, so that its number of channels is not known")
    channels = int(layer.moving_mean.shape[-1])
    groups = {"layer": 1, "instance": channels}.get(to) or number_of_groups(channels, settings["num_groups"])
    if groups == channels and layer.input_spec.ndim == 2:
        raise _NotPossible("its inputs are (N, C), where every group of one channel of a sample is a single value")
    names = {"axis", "epsilon", "center", "scale", "name", "dtype", "trainable"}
    names |= {f"{of}_{what}" for of in ("beta", "gamma") for what in ("initializer", "regularizer", "constraint")}
    made = keras.layers.GroupNormalization.from_config(
        {**{name: value for name, value in config.items() if name in names}, "groups": groups}
    )
    asked = settings["num_groups"]
    words = [*words, f"{_of(groups, 'group')} of {_of(channels // groups, 'channel')}"]
    if asked not in (None, groups):
        words.append(f"{asked} do not divide {channels}")
    return Replacement(made, getattr(layer, "activation", None), row), "; ".join(words)


def _carried_out(
    model: Any,
    to: str,
    wanted: dict[str, Any],
    made: dict[str, Replacement],
    words: dict[str, str],
    skipped: dict[str, str],
) -> Any:
    """The swapped model; what cannot be done goes from ``words`` to ``skipped``."""
    reasons = {path: why_not_rebuilt(model, layer) for path, layer in wanted.items()}
    plain = {path: layer for path, layer in wanted.items() if to == "normwise" or (to == "keras" and _is_plain(layer))}
    if len(plain) < len(wanted) and any(reason is None for reason in reasons.values()):
        in_place = {path: layer for path, layer in plain.items() if reasons[path] is not None}
    else:
        in_place = plain
    others = {path: layer for path, layer in wanted.items() if path not in in_place}
    for path, layer in others.items():
        if reasons[path] is not None:
            skipped[path] = f"{reasons[path]}: build the model with {_instead(layer, to)}, or ship it by model.export"
            words.pop(path)
    kept = {path: layer for path, layer in others.items() if path in words}
    result = model
    if kept:
        rebuilt = _rebuilt(model, kept, made, words)
        # What is inside of other layers is inside of their clones now.
        result, in_place = rebuilt.model, {path: rebuilt.clone_of(layer) for path, layer in in_place.items()}
    for layer in in_place.values():
        become_ours(layer) if to == "normwise" else become_keras(layer)
    trace_again(result, in_place.values())
    for path, layer in in_place.items():
        made[path] = Replacement(layer)
    return result


def _is_plain(layer: Any) -> bool:
    """True if a layer becomes Keras's by a change of its class alone."""
    beyond = layer.activation is not None or layer.estimator is not None or adds(layer)
    return type(layer) is BatchNormalization and not beyond


def _rebuilt(model: Any, kept: dict[str, Any], made: dict[str, Replacement], words: dict[str, str]) -> Rebuilding:
    """The model built once more; what stands behind the layers goes into the words."""
    rebuilt = Rebuilding(model, {layer: made[path] for path, layer in kept.items()})
    for path, layer in kept.items():
        behind = rebuilt.added.get(layer, [])
        does = {
            name: "the addition" if "_add" in name.removeprefix(layer.name) else _activation(layer) for name in behind
        }
        said = [f"{what} behind it, as {name}" for name, what in does.items()]
        words[path] = "; ".join(filter(None, [*said, words[path]]))
        if not rebuilt.compiled:
            words[path] += "; " * bool(words[path]) + "the model has to be compiled again"
        elif not rebuilt.state_kept:
            words[path] += "; " * bool(words[path]) + "the optimizer starts again"
    return rebuilt


def _instead(layer: Any, to: str) -> str:
    if to != "keras":
        return "another layer there"
    return "the activation behind the layer" if layer.activation is not None else "a Keras layer"


@contextmanager
def _all_or_nothing(model: Any, layers: Iterable[Any]) -> Iterator[None]:
    """Make the layers of the model what they were if the block ends with any error."""
    before = [(layer, type(layer), dict(vars(layer))) for layer in layers]
    try:
        yield
    except BaseException:
        changed = [layer for layer, kind, _ in before if type(layer) is not kind]  # before they are restored
        for layer, kind, attributes in before:
            layer.__class__ = kind
            vars(layer).clear()
            vars(layer).update(attributes)
        trace_again(model, changed)
        raise


def _lost(layer: Any) -> list[str]:
    """The behaviour in training that a layer of ours has and a Keras layer does not have, in words."""
    words = []
    if isinstance(layer, GhostBatchNormalization):
        words.append("in training it normalizes by the whole batch and not by virtual batches")
    if layer.estimator is not None:
        words.append(f"in training its moving statistics follow Keras's rule and not {layer.estimator!r}")
    if layer.on_tiny_batch != "error":
        words.append(f"in training it knows no on_tiny_batch={layer.on_tiny_batch!r}")
    return [f"the same in inference; {'; '.join(words)}"] if words else []


def _is(kind: type, to: str) -> bool:
    return kind is {"ghost": GhostBatchNormalization, "domains": PerDomainBatchNormalization}.get(to)


def _of(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _activation(layer: Any) -> str:
    return str(getattr(layer.activation, "__name__", layer.activation))


def _class_name(layer: Any) -> str:
    home = type(layer).__module__.partition(".")[0]
    return f"{home} {type(layer).__name__}" if home in ("keras", "normwise") else type(layer).__name__
