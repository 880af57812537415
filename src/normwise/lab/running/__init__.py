"""Runs experiments: plans them, hands their trials to workers, and stores what they measured."""

from typing import TYPE_CHECKING

from normwise.moved import names_of

if not TYPE_CHECKING:  # a type checker would take every name for one of this package's
    __getattr__ = names_of(__name__)
