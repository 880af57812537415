"""The lab: claims that are taught about batch normalization, re-run on real data, each with a verdict.

``names`` and ``describe`` read files only, so that listing is instantaneous; ``run`` needs the extra ``lab``.

Example:
    >>> from normwise import lab
    >>> "does_it_train_faster" in lab.names()
    True
"""

from normwise.lab.experiment import Description, describe, names
from normwise.lab.progress import Progress, Silence
from normwise.lab.running import run
from normwise.lab.workers import TrialFailed

__all__ = ["Description", "Progress", "Silence", "TrialFailed", "describe", "names", "run"]
