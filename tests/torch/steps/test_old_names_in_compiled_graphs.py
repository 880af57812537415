"""An estimator that a user wrote with the old names of ``Moments`` is compiled as it was."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.moments import Moments


def test_old_names_compile_to_one_graph_without_a_warning() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def round_trip(mean: Tensor, var: Tensor, count: Tensor) -> Tensor:
        unbiased = Moments(mean, var, count).population_var()
        found: Tensor = Moments.from_population_var(mean, unbiased, count).var
        return found

    var = torch.tensor([1.0, 2.0])
    assert torch.equal(round_trip(torch.zeros(2), var, torch.tensor([4.0, 2.0])), var)
