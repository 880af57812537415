"""The recipe for an estimator, followed: the newest batch alone."""

from __future__ import annotations

from pathlib import Path

from tests.docs.following import Copy

ESTIMATOR = '''"""The newest batch."""

from dataclasses import dataclass
from typing import final

from normwise.estimators.estimator import Estimator, RunningStatistics, averaged
from normwise.moments import Moments


@final
@dataclass(frozen=True)
class NewestBatch(Estimator):
    r"""The moments of the newest batch, and nothing of those before.

    .. math:: \\mu = m

    Assumes:
        That the next batch is like the last.

    Bias:
        None.

    References:
        None.

    Example:
        >>> from normwise.estimators import NewestBatch
        >>> NewestBatch()
        NewestBatch()
    """

    def update(self, statistics: RunningStatistics, batch: Moments) -> RunningStatistics:
        """The statistics after one more batch."""
        return averaged(statistics, batch, 1.0)
'''
ITS_TEST = '''"""The newest batch is what is left."""

import numpy as np

from normwise.estimators import NewestBatch
from tests.estimators.streams import after, stream

EXAMINED = NewestBatch()


def test_what_was_before_is_forgotten() -> None:
    batches = [batch for _, batch in stream([8, 8, 8], drift=1.0)]
    np.testing.assert_allclose(after(EXAMINED, batches).mean, batches[-1].mean)
'''
TRIED = """
import torch
from normwise import estimators
from normwise.torch import BatchNorm2d

layer = BatchNorm2d(2, estimator="newest_batch")
x = torch.randn(8, 2, 3, 3)
layer(torch.randn(8, 2, 3, 3))
layer(x)
torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))
assert isinstance(layer.estimator, estimators.NewestBatch)
"""


def test_an_estimator(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "Add an estimator")
    copy.write("src/normwise/estimators/newest_batch.py", ESTIMATOR)
    copy.write("tests/estimators/test_newest_batch.py", ITS_TEST)
    copy.change(
        "src/normwise/commands/statistics.py",
        "ema or debiased_ema (later batches have more)",
        "ema or debiased_ema (later batches have more), newest_batch (the last one alone)",
    )
    exam = ("tests/estimators", "tests/commands/test_help.py", "src/normwise/estimators/newest_batch.py")
    copy.check_tests(*exam, only="newest_batch or names", at_least=13)
    copy.python("-c", TRIED)
    pages = copy.pages()
    assert "`normwise.estimators.NewestBatch`" in pages["docs/estimators/newest_batch.md"]
    assert "- [Newest batch](newest_batch.md): The moments of the newest batch" in pages["docs/estimators/index.md"]
