"""Weights from the files that people have: a state_dict, or a checkpoint around one or several, with prefixes or not.

What does not fit as it stands is looked for under the keys of a checkpoint and behind prefixes of the names; what was
taken, and what else could have been, is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normwise.errors import NormwiseError, UnknownName
from normwise.failures import first_words
from normwise.loading import split_key
from normwise.torch.models.checkpoint_files import held_by
from normwise.torch.models.feeding import unwrapped

KEYS = ("", "state_dict", "model", "model_state_dict", "ema", "model_ema")
"""The places in a checkpoint where weights usually stand; the first of these that fits is taken."""
PREFIXES = {"module", "model", "_orig_mod", "net", "network"}
"""The prefixes that DataParallel, training frameworks and torch.compile write before the names."""
_DEEP = 3
_SHOWN = 3

Tell = Callable[[str], None]


def load_weights(model: nn.Module, place: Path, tell: Tell) -> None:
    """Load the weights in a file into a model.

    Args:
        model: it gets all of its weights, or an error is raised and it is of no use any more.
        place: of the file; ``file.pt:key`` where one of several is to be taken.
        tell: gets one sentence, if the weights did not simply stand there.

    Raises:
        NormwiseError: the file cannot be read, or nothing in it fits; the sentence says what differs.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp(), "old.pt")
        >>> torch.save({"model": {f"module.{name}": each for name, each in nn.Linear(2, 2).state_dict().items()}}, path)
        >>> load_weights(nn.Linear(2, 2), path, lambda words: print(words.replace(str(path), "old.pt")))
        read from 'old.pt' the weights under 'model', without the prefix 'module.' of their names.
    """
    path, key = split_key(place)
    read = held_by(path)
    held = sorted((_Weights(where, names) for where, names in _state_dicts(read)), key=lambda each: each.rank)
    if not held:
        raise NormwiseError(f"{str(path)!r} must hold a state_dict, received {_described(read)}.")
    inside = unwrapped(model)
    for target in (model,) if inside is model else (model, inside):
        wanted = _Wanted(target)
        fitting = [each for each in _choices(held, wanted, key) if wanted.fits(each.state)]
        if fitting:
            break
    else:
        target, wanted = inside, _Wanted(inside)
        fitting = [_nearest(held, wanted, path, key)]
    chosen = _chosen(fitting, path, type(target).__name__)
    state = wanted.completed(chosen.state)
    try:
        target.load_state_dict(state)
    except Exception as error:
        raise NormwiseError(
            f"{_named(path, chosen)} does not fit {type(target).__name__}: "
            f"{wanted.difference(state) or first_words(error)}."
        ) from error
    others = [each.label for each in fitting if each is not chosen]
    if chosen.label or others:
        tell(_said(chosen, path, others))


def holds_more(path: Path) -> bool:
    """True if a file holds something besides one ``state_dict``: an optimizer's state, a second set of weights.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp(), "last.pt")
        >>> torch.save({"model": nn.Linear(2, 2).state_dict(), "epoch": 7}, path)
        >>> holds_more(path)
        True
    """
    return not all(isinstance(value, Tensor) for value in held_by(path).values())


class _Weights(NamedTuple):
    """A mapping of names to tensors, and where in the file it stands: ``ema.state_dict``."""

    where: str
    names: Mapping[str, Any]

    @property
    def rank(self) -> int:
        first = self.where.split(".")[0]
        return KEYS.index(first) if first in KEYS else len(KEYS)


@dataclass(frozen=True)
class _Choice:
    """Weights without a prefix of their names."""

    weights: _Weights
    prefix: str

    @property
    def state(self) -> dict[str, Any]:
        names, cut = self.weights.names, len(self.prefix)
        return {name[cut:]: value for name, value in names.items() if name.startswith(self.prefix)}

    @property
    def left_out(self) -> list[str]:
        return [name for name in self.weights.names if not name.startswith(self.prefix)]

    @property
    def label(self) -> str:
        return ".".join(part for part in (self.weights.where, self.prefix.rstrip(".")) if part)

    @property
    def usual(self) -> bool:
        return self.weights.rank < len(KEYS) and {*self.prefix.split(".")[:-1]} <= PREFIXES

    def is_under(self, key: str) -> bool:
        """True if the user's key names it, or what it stands in."""
        places = (self.weights.where, self.prefix.rstrip("."), self.label)
        return not key or any(place == key or place.startswith(f"{key}.") for place in places)


class _Wanted:
    """The tensors that a model's state_dict has to get; a tensor with several names counts once."""

    def __init__(self, model: nn.Module) -> None:
        self.own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        together: dict[Any, list[str]] = {}
        for name, value in self.own.items():
            if name.rpartition(".")[2] == "num_batches_tracked":  # files from before PyTorch 0.4.1 have none
                continue
            alone = is_lazy(value) or value.is_meta or not value.numel()
            together.setdefault(name if alone else (value.data_ptr(), *value.shape, value.stride()), []).append(name)
        self.groups = [*together.values()]

    def prefixes(self, names: Mapping[str, Any]) -> Counter[str]:
        """The prefixes before the model's names, and how often each is there."""
        counted: Counter[str] = Counter()
        for name in names:
            parts = name.split(".")
            for start in range(len(parts)):
                if ".".join(parts[start:]) in self.own:
                    counted["".join(f"{part}." for part in parts[:start])] += 1
        return counted

    def fits(self, state: Mapping[str, Any]) -> bool:
        """True if nothing is missing and every shape is the model's."""
        found = all(any(name in state for name in group) for group in self.groups)
        return found and not self.other_shapes(state)

    def completed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state with every name of a tensor that it has under one of them, as safetensors leaves the others out."""
        more = {}
        for group in self.groups:
            there = [name for name in group if name in state]
            more.update({name: state[there[0]] for name in group if there and name not in state})
        return {**state, **more}

    def other_shapes(self, state: Mapping[str, Any]) -> list[str]:
        return [
            name
            for name, value in self.own.items()
            if name in state and not is_lazy(value) and getattr(state[name], "shape", None) != value.shape
        ]

    def difference(self, state: Mapping[str, Any]) -> str:
        """The differences in names or shapes, counted, with the first ones of each kind and the nearest names."""
        groups = [group for group in self.groups if not any(name in state for name in group)]
        missing, more = [group[0] for group in groups], [name for name in state if name not in self.own]
        words = []
        if missing:
            words.append(f"it lacks {len(missing)} of {len(self.groups)} names ({_few(missing)})")
        if more:
            words.append(f"it has {len(more)} that the model does not have ({_few(more)})")
        if shapes := self.other_shapes(state):
            first = shapes[0]
            there = [*state[first].shape] if isinstance(state[first], Tensor) else type(state[first]).__name__
            words.append(
                f"{len(shapes)} of its tensors {'has' if len(shapes) == 1 else 'have'} another shape ({first!r} is "
                f"{there} there and {[*self.own[first].shape]} in the model)"
            )
        near = [(name, get_close_matches(name, more, n=1)) for name in missing[:_SHOWN]]
        pairs = [f"{found[0]!r} for {name!r}" for name, found in near if found]
        return ", and ".join(words) + (f"; the nearest names are {', '.join(pairs)}" if pairs else "")


def _state_dicts(held: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping of names to tensors, with its place."""
    if not isinstance(held, Mapping) or not all(isinstance(name, str) for name in held):
        return
    if any(isinstance(value, Tensor) for value in held.values()):
        yield where, held
    if depth < _DEEP:
        for name, inner in held.items():
            yield from _state_dicts(inner, f"{where}.{name}" if where else name, depth + 1)


def _choices(held: list[_Weights], wanted: _Wanted, key: str) -> Iterator[_Choice]:
    """All that could be meant: for each mapping its names as they are first, then without a prefix."""
    for weights in held:
        prefixes = wanted.prefixes(weights.names)
        found = [_Choice(weights, prefix) for prefix in ["", *(each for each in prefixes if each)]]
        yield from (each for each in found if each.is_under(key))


def _nearest(held: list[_Weights], wanted: _Wanted, path: Path, key: str) -> _Choice:
    """The choice that has most of the model's names, for the sentence that says how it differs."""
    found = [*_choices(held, wanted, key)]
    if not found:
        labels = {each.label for each in _choices(held, wanted, "")} - {""}
        if not labels:
            raise NormwiseError(
                f"{str(path)!r} holds one set of weights and no key {key!r}: leave out the key, and give {str(path)!r}."
            )
        raise UnknownName("key of weights", key, labels, place=f"in {str(path)!r}")
    return max(found, key=lambda each: len(wanted.own.keys() & each.state.keys()))


def _chosen(fitting: list[_Choice], path: Path, model: str) -> _Choice:
    usual = [each for each in fitting if each.usual]
    if len(fitting) > 1 and not usual:
        labels = [each.label for each in fitting]
        raise NormwiseError(
            f"{str(path)!r} holds {len(labels)} sets of weights that fit {model} ({_few(labels)}): choose one, for "
            f"example --weights {path}:{labels[0]}."
        )
    return (usual or fitting)[0]


def _said(chosen: _Choice, path: Path, others: list[str]) -> str:
    under = f" under {chosen.weights.where!r}" if chosen.weights.where else ""
    words = f"read from {str(path)!r} the weights{under}"
    if chosen.prefix:
        words += f", without the prefix {chosen.prefix!r} of their names"
        if left := chosen.left_out:
            what = "name that does not begin with it" if len(left) == 1 else "names that do not begin with it"
            words += f" and without {len(left)} {what} ({_few(left)})"
    if others:
        named = [each or "the file itself" for each in others]
        words += f"; {_few(named)} would fit as well: choose with --weights {path}:{others[0]}"
    return f"{words}."


def _named(path: Path, chosen: _Choice) -> str:
    return f"{str(path)!r}, under {chosen.label!r}," if chosen.label else repr(str(path))


def _described(held: Any) -> str:
    if not isinstance(held, Mapping):
        return f"{type(held).__name__}: save model.state_dict()"
    keys = f"with {_few([str(each) for each in held])} and no weights" if held else "with nothing in it"
    return f"a {type(held).__name__} {keys}: save model.state_dict()"


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
