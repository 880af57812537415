"""Training of the networks, and what is measured on the way."""

from typing import TYPE_CHECKING

from normwise.moved import names_of

if not TYPE_CHECKING:  # a type checker would take every name for one of this package's
    __getattr__ = names_of(__name__)
