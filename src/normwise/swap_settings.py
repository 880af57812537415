"""The arguments of ``swap``, checked in the same way for every framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from normwise.errors import NormwiseError, UnknownName

KINDS = ("group", "layer", "instance", "ghost", "renorm", "sync", "domains")
"""The targets that both frameworks have, besides their own layers and normwise's."""
OWN = ("torch", "keras")
"""The targets that are a framework's own layers; each framework has one of them."""
APPLY = {
    "num_groups": ("group",),
    "virtual_batch_size": ("ghost",),
    "num_splits": ("ghost",),
    "domains": ("domains",),
}
"""The settings that both frameworks have -> the targets that they are for."""


def checked(
    to: str | Iterable[str], given: Mapping[str, Any], targets: Iterable[str], apply: Mapping[str, tuple[str, ...]]
) -> tuple[str, dict[str, Any]]:
    """The target and the settings; names of domains in the place of a target are settings too.

    Args:
        to: the target, or the names of domains.
        given: the settings by name, None where one was not given.
        targets: those that the framework has.
        apply: its settings -> the targets that they are for.

    Raises:
        UnknownName: there is no such target.
        NormwiseError: a setting that the target does not know, lacks, or cannot use.
        TypeError: no name and no names, such as a class.

    Example:
        >>> given = {"num_groups": None, "virtual_batch_size": None, "num_splits": None, "domains": None}
        >>> checked(["day", "night"], given, KINDS, APPLY)[1]["domains"]
        ['day', 'night']
    """
    settings = dict(given)
    if not isinstance(to, str):
        if isinstance(to, type) or not isinstance(to, Iterable):
            what = f"the class {to.__name__}" if isinstance(to, type) else repr(to)
            raise TypeError(f"to must be the name of a target of swap, received {what}: pass for example 'group'.")
        if settings["domains"] is not None:
            raise NormwiseError("swap was given domains twice, as to= and as domains=: give them once.")
        to, settings["domains"] = "domains", list(to)
    known = tuple(targets)
    if to in OWN and to not in known:
        own = next(each for each in OWN if each in known)
        raise NormwiseError(f"swap to {to!r} is for a model of that framework: for this one, pass to={own!r}.")
    if to not in known:
        raise UnknownName("target of swap", to, known)
    for name, value in settings.items():
        if value is not None and to not in apply[name]:
            words = " and ".join(f"to={each!r}" for each in apply[name])
            raise NormwiseError(f"{name} is a setting of swap for {words}, received to={to!r}: leave it out.")
    domains, groups = settings["domains"], settings["num_groups"]
    if to == "domains" and domains is None:
        raise NormwiseError("swap to domains needs their names: pass for example domains=['day', 'night'].")
    if isinstance(domains, str):
        raise NormwiseError(f"domains must be a list of names, received {domains!r}: pass [{domains!r}].")
    if to == "ghost" and (settings["virtual_batch_size"] is None) == (settings["num_splits"] is None):
        raise NormwiseError("swap to ghost norms needs either virtual_batch_size or num_splits: pass one of them.")
    if groups is not None and (not isinstance(groups, int) or groups < 1):
        raise NormwiseError(
            f"num_groups must be a whole number of at least 1, received {groups!r}: pass for example 8."
        )
    return to, settings
