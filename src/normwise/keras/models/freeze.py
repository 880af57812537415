"""The normalization layers of a Keras model keep what they have: moving statistics, affine parameters, or both."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import keras

from normwise.errors import UnsuitableModel
from normwise.frameworks import with_article
from normwise.keras.models.conversion import trace_again
from normwise.keras.models.learning import BEFORE
from normwise.keras.models.transaction import Snapshot
from normwise.recalibration.asked import names_asked
from normwise.reports.freeze_report import AFFINE, STATISTICS, FreezeReport

KINDS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def freeze(
    model: Any, *, statistics: bool = True, affine: bool = True, layers: Collection[str] | None = None
) -> FreezeReport:
    """Let normalization layers keep their moving statistics, their affine parameters, or both.

    A batch norm whose **statistics** are frozen normalizes by them and never changes them, with ``training=True`` too:
    its ``trainable`` is False, which Keras's batch norm and ours understand so. **Affine** parameters that are frozen
    do not learn; those that are not, do, also where the statistics are frozen: the ``trainable`` of each variable says
    so to the model. What was is kept in the layer, and ``unfreeze`` gives it back.

    Functions that ``fit`` compiled before are compiled again; where the optimizer has to be made again by ``compile``,
    the report says so. A model around this one that was compiled has to be
    compiled again by ``compile``, and what else traced it, traced again. Setting ``trainable = True`` by hand makes
    a frozen layer learn. A file keeps ``trainable`` of layers and not of variables: layers whose statistics are
    frozen are so after loading, with parameters that do not learn, and ``unfreeze`` does not know them.

    Args:
        model: any Keras model or layer, changed in place. On any error it is as before.
        statistics: whether to freeze moving statistics, of batch norms.
        affine: whether to freeze gamma and beta, of every normalization layer: group, layer and RMS norms too.
        layers: the paths or names of the only layers to change; None for all.

    Returns:
        which layers were frozen, and what of them; which were skipped, with the reason.

    Raises:
        UnsuitableModel: not a Keras model.
        UnknownName: ``layers`` names what is no normalization layer of the model.
        TypeError: ``layers`` is a string.
        ValueError: neither ``statistics`` nor ``affine``.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(name="bn")], name="model"
        ... )
        >>> print(freeze(model))
        1 of 1 normalization layers frozen
          frozen       model/bn: statistics and affine parameters
        >>> len(model.trainable_variables)
        2
        >>> unfreeze(model).layers
        {'model/bn': ('statistics', 'affine parameters')}
        >>> len(model.trainable_variables)
        4
    """
    return _change(model, "freeze", {STATISTICS: statistics, AFFINE: affine}, layers)


def unfreeze(
    model: Any, *, statistics: bool = True, affine: bool = True, layers: Collection[str] | None = None
) -> FreezeReport:
    """Undo ``freeze``: layers follow ``training`` again, and parameters learn that learned before.

    What ``freeze`` did not freeze is as it is, for example a layer whose ``trainable`` was set to False by hand.

    Args:
        model: any Keras model or layer, changed in place. On any error it is as before.
        statistics: whether moving statistics may move again.
        affine: whether gamma and beta may learn again.
        layers: the paths or names of the only layers to change; None for all.

    Returns:
        which layers were unfrozen, and what of them; which were skipped, with the reason; and whether the optimizer has
        to be given parameters that it does not know.

    Raises:
        UnsuitableModel: not a Keras model.
        UnknownName: ``layers`` names what is no normalization layer of the model.
        TypeError: ``layers`` is a string.
        ValueError: neither ``statistics`` nor ``affine``.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.LayerNormalization(name="ln")], name="model")
        >>> _ = freeze(model)
        >>> print(unfreeze(model))
        1 of 1 normalization layers unfrozen
          unfrozen     model/ln: affine parameters, nothing else: it keeps no moving statistics
    """
    return _change(model, "unfreeze", {STATISTICS: statistics, AFFINE: affine}, layers)


def named_layers(model: Any, kinds: tuple[Any, ...]) -> dict[str, Any]:
    """The layers of these kinds by their paths, in models inside of the model and in wrappers too.

    Of two with the same path the second is ``path (2)``.
    """
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, kinds) and all(layer is not each for each in found.values()):
            path, number = layer.path or layer.name, 2
            name = path
            while name in found:
                name, number = f"{path} ({number})", number + 1
            found[name] = layer
    return found


def chosen_of(norms: dict[str, Any], layers: Collection[str] | None, kind: str) -> dict[str, Any]:
    """Those of the layers to change.

    Args:
        norms: all of them by path.
        layers: paths or names, or None for all.
        kind: what errors call them.

    Raises:
        UnknownName: one of the names is of none.
        TypeError: ``layers`` is a string.
    """
    layers = names_asked(layers, norms, kind, also=[layer.name for layer in norms.values()])
    return {path: each for path, each in norms.items() if layers is None or path in layers or each.name in layers}


def check_keras_model(model: Any, called: str) -> None:
    """Refuse what is no Keras model or layer.

    Raises:
        UnsuitableModel: it is none.
    """
    if not isinstance(model, keras.Layer):
        received = with_article(type(model).__name__)
        raise UnsuitableModel(f"{called} needs a Keras model, received {received}: pass the model itself.")


def _change(model: Any, called: str, asked: dict[str, bool], layers: Collection[str] | None) -> FreezeReport:
    check_keras_model(model, called)
    if not any(asked.values()):
        raise ValueError(f"{called} was asked for nothing: pass statistics=True, affine=True, or both.")
    norms = named_layers(model, KINDS)
    chosen, freezes = chosen_of(norms, layers, "normalization layer"), called == "freeze"
    touched: dict[str, tuple[str, ...]] = {}
    partly: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name, layer in norms.items():
        if name not in chosen:
            skipped[name] = "it was not asked for"
            continue
        reasons = {part: _reason(layer, part, freezes) for part in asked if asked[part]}
        parts = tuple(part for part, reason in reasons.items() if reason is None)
        against = ", ".join(dict.fromkeys(reason for reason in reasons.values() if reason is not None))
        if not parts:
            skipped[name] = against
            continue
        touched[name] = parts
        if against:
            partly[name] = against
    snapshot = Snapshot(model)
    try:
        for name, parts in touched.items():
            _set(norms[name], parts, freezes)
        trace_again(model, touched)
    except BaseException:
        snapshot.restore()
        raise
    remark = _of_optimizer(model) if touched else ""
    return FreezeReport(touched, skipped, {}, partly, "frozen" if freezes else "unfrozen", remark)


def _set(layer: Any, parts: tuple[str, ...], freezes: bool) -> None:
    """Change these parts, and leave the other as it is: the setter of a layer's ``trainable`` changes both."""
    before = vars(layer).setdefault(BEFORE, {})
    parameters = layer._trainable_variables
    learns = [each.trainable for each in parameters]
    trainable = layer.trainable
    if STATISTICS in parts:
        trainable = not freezes and before.pop(STATISTICS)
        if freezes:
            before.setdefault(STATISTICS, layer.trainable)
    if AFFINE in parts:
        if freezes:
            before.setdefault(AFFINE, learns)
            learns = [False] * len(learns)
        else:
            learns = before.pop(AFFINE)
        if not _keeps_statistics(layer):  # by which a file keeps it
            trainable = any(learns)
    layer.trainable = trainable
    for parameter, one_learns in zip(parameters, learns, strict=True):
        parameter.trainable = one_learns
    if not before:
        del vars(layer)[BEFORE]


def _reason(layer: Any, part: str, freezes: bool) -> str | None:
    """Why this part of the layer stays as it is, or None."""
    if not layer.built:
        return "it is not built: no input ever came to it"
    if part == STATISTICS and not _keeps_statistics(layer):
        return "it keeps no moving statistics"
    if part == AFFINE and not layer._trainable_variables:
        return "it has no affine parameters"
    before = vars(layer).get(BEFORE, {})
    if not freezes and part not in before:
        by_hand = not layer.trainable and not before
        return "freeze has not frozen it" + ": set trainable = True on the layer" * by_hand
    if freezes and part in before:
        moves = layer.trainable if part == STATISTICS else any(each.trainable for each in layer._trainable_variables)
        if not moves:
            return f"its {part} are frozen already"
    return None


def _keeps_statistics(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _of_optimizer(model: Any) -> str:
    """The remark on an optimizer that does not fit the variables that learn now; empty where it fits."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return ""
    known = {id(each) for each in optimizer._trainable_variables}
    learning = {id(each) for each in model.trainable_variables}
    if learning - known:
        return (
            f"the optimizer does not know {len(learning - known)} of the parameters that learn now: call compile again "
            "before fit"
        )
    if keras.backend.backend() == "jax" and known != learning:
        return (
            f"on JAX an optimizer takes all parameters that it was built for, and {len(known - learning)} of them do "
            "not learn now: call compile again before fit"
        )
    return ""
