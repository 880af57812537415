"""The operators: importing this lists all of them in ``benchmarks.doctor.case.FAULTS``."""

from benchmarks.doctor.faults import data, derivation, loops, settings, state

__all__ = ["data", "derivation", "loops", "settings", "state"]
