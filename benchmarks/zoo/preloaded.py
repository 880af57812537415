"""Imported once by the process that all others are forked from, because timm takes seconds."""

from __future__ import annotations

from contextlib import suppress

from benchmarks.zoo import trial
from benchmarks.zoo.architectures import imported_timm

__all__ = ["trial"]

with suppress(Exception):  # the process that needs it says what is missing
    imported_timm()
