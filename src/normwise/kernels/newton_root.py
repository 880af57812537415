r"""The inverse square root of symmetric matrices by Newton's iteration: products of matrices only.

.. math:: P_0 = I, \quad P_{k+1} = \tfrac12 \big(3 P_k - P_k^3 \, \Sigma_N\big), \quad \Sigma_N =
    \frac{\Sigma + \epsilon I}{\operatorname{tr}(\Sigma + \epsilon I)}, \quad
    W = \frac{P_T}{\sqrt{\operatorname{tr}(\Sigma + \epsilon I)}}

As the paper writes them, the steps blow up what rounding made of the matrices that ought to commute: by :math:`10^7`
after nine steps where eigenvalues are a thousand apart. The same steps in pairs do not, and cost as many products:

.. math:: Y_0 = \Sigma_N, \quad Z_0 = I, \quad T_k = \tfrac12 (3 I - Z_k Y_k), \quad Y_{k+1} = Y_k T_k, \quad
    Z_{k+1} = T_k Z_k, \quad P_k = Z_k

References:
    Huang, Zhou, Zhu, Liu and Shao, Iterative normalization: beyond standardization towards efficient whitening, 2019.
    Higham, Functions of matrices, 2008: section 6.3, for the pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def newton_root(matrix: Tensor, eps: float, steps: int) -> Tensor:
    """The inverse square root of ``matrix`` plus ``eps`` on its diagonal, approximated by so many steps.

    Args:
        matrix: (..., size, size), symmetric, without negative eigenvalues.
        eps: added to the eigenvalues.
        steps: T, 1 or more.

    Returns:
        (..., size, size), the inverse square root but for what the steps leave.

    Example:
        >>> newton_root(torch.diag(torch.tensor([4.0, 16.0])), 0.0, 20)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.2500]])
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    shifted = matrix + eps * identity
    trace = (shifted * identity).sum(
        (-2, -1), keepdim=True
    )  # and not a diagonal, which ONNX's older exporter gets wrong
    y = shifted / trace
    z = step = 1.5 * identity - 0.5 * y
    for _ in range(steps - 1):
        y = y @ step
        step = 1.5 * identity - 0.5 * (z @ y)
        z = step @ z
    return z / trace.sqrt()
