"""The frame of an experiment: grids of arms, training at every rate, tables and figures.

An experiment names its axes once, in a ``Grid``; its trials, its arms, the legends and the labels of rows follow.
``Settings`` inherits ``Training``, or ``DenseTraining``, which trains at every rate. An ``Arm`` answers with what it
measured at the rate that was best on validation images, so that no rate is picked on test images by mistake. ``table``
and the figures write the standard captions. Each experiment may still write its own.
"""

from normwise.lab.design.arms import Arm, Arms, gap, obstacle
from normwise.lab.design.figures import GUESSING, SPREAD, across, by_measure, by_rate, by_step, figure, line, panel
from normwise.lab.design.grid import WITH_AND_WITHOUT, Grid
from normwise.lab.design.tables import average, geometric, table
from normwise.lab.design.training import (
    DenseTraining,
    Looks,
    Measures,
    OneNetwork,
    Rates,
    SideBySide,
    Stacks,
    Training,
    by_pair,
    on_both,
)

__all__ = [
    "GUESSING",
    "SPREAD",
    "WITH_AND_WITHOUT",
    "Arm",
    "Arms",
    "DenseTraining",
    "Grid",
    "Looks",
    "Measures",
    "OneNetwork",
    "Rates",
    "SideBySide",
    "Stacks",
    "Training",
    "across",
    "average",
    "by_measure",
    "by_pair",
    "by_rate",
    "by_step",
    "figure",
    "gap",
    "geometric",
    "line",
    "obstacle",
    "on_both",
    "panel",
    "table",
]
