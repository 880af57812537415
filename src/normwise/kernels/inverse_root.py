r"""The inverse square root of symmetric matrices by eigendecomposition, with derivatives of every order.

.. math:: W = (\Sigma + \epsilon I)^{-1/2} = Q (\Lambda + \epsilon)^{-1/2} Q^T

It is a smooth function of :math:`\Sigma` everywhere, but PyTorch's derivative of the eigenvectors is not: it divides by
the gaps between eigenvalues. The derivative of W itself has no gaps in it. With :math:`r_i = \sqrt{\lambda_i +
\epsilon}`,

.. math:: dW = Q \big(F \circ Q^T d\Sigma \, Q\big) Q^T, \quad F_{ij} = \frac{r_i^{-1} - r_j^{-1}}{r_i^2 - r_j^2}
    = \frac{-1}{r_i r_j (r_i + r_j)}

so that is what is written here (``_Spread``), and its own derivative follows from it: with :math:`R = W^{-1}`,
:math:`Spread(Z)` solves :math:`R X + X R = -W Z W`. Both are written backward and forward.

References:
    Huang, Yang, Lang and Deng, Decorrelated batch normalization, 2018: the gradient by the eigenvectors, with gaps.
    Daleckii and Krein, 1965.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from normwise.errors import NormwiseError
from normwise.kernels.internals import TransformType, innermost_transform, jit_trace, transforms


def inverse_root(matrix: Tensor, eps: float) -> Tensor:
    """The inverse square root of ``matrix`` plus ``eps`` on its diagonal.

    Args:
        matrix: (..., size, size), symmetric, with no negative eigenvalue but by rounding, which counts as 0.
        eps: added to the eigenvalues.

    Returns:
        (..., size, size); NaN where the matrix has a value that is not finite.

    Raises:
        NormwiseError: forward-mode derivatives of forward-mode derivatives, which PyTorch gets wrong for functions with
            formulas of their own.

    Example:
        >>> inverse_root(torch.diag(torch.tensor([4.0, 16.0])), 0.0)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.2500]])
    """
    _refuse_jvp_of_jvp()
    finite = matrix.isfinite().all(-1).all(-1)[..., None, None]
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    # LAPACK refuses what is not finite, which is no reason to stop a training whose loss scale will be lowered.
    root = _inverse_root(torch.where(finite, matrix, identity), eps)
    return torch.where(finite, root, torch.nan)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.transpose(-1, -2)) / 2


def _refuse_jvp_of_jvp() -> None:
    """PyTorch hands a function's own formula no tangents of the outer level, as if there were none, without warning."""
    if torch.compiler.is_compiling() or innermost_transform() is None:
        return
    levels = transforms() or ()
    if sum(level.key() == TransformType.Jvp for level in levels) > 1:
        raise NormwiseError(
            "decorrelated batch norm has no forward-mode derivative of a forward-mode derivative, and a jvp within a "
            "jvp was received: take one of the two backwards, as torch.func.hessian does, or use IterativeNorm."
        )


def _takes_functions() -> bool:
    """True if the recorder of the call, where there is one, can keep a function with a backward of its own."""
    if torch.compiler.is_compiling() or jit_trace() is not None:
        return False
    if innermost_transform() is None:
        return True
    kinds, types = [level.key() for level in transforms() or ()], TransformType
    # Of more than one derivative PyTorch says itself that functionalize does not know functions.
    return types.Functionalize not in kinds or kinds.count(types.Grad) + kinds.count(types.Jvp) > 1


def _inverse_root(matrix: Tensor, eps: float) -> Tensor:
    if not _takes_functions():
        return _linearized(matrix, eps)
    root: Tensor = _InverseRoot.apply(matrix, eps)[0]  # type: ignore[no-untyped-call]  # torch's own is not
    return root


def _linearized(matrix: Tensor, eps: float) -> Tensor:
    """W as its own value and a tangent that is 0 here: first derivatives are right, second ones are not there.

    Compiled graphs have no others, and ``torch.jit`` keeps no functions with a backward of their own.
    """
    at = matrix.detach()
    root, vectors, spread = _InverseRoot.forward(at, eps)
    return root + _Spread.forward(_symmetric(matrix - at), at, vectors, spread, eps)


def _spread(along: Tensor, matrix: Tensor, vectors: Tensor, spread: Tensor, eps: float) -> Tensor:
    found: Tensor = _Spread.apply(_symmetric(along), matrix, vectors, spread, eps)  # type: ignore[no-untyped-call]  # the same
    return found


class _InverseRoot(Function):
    """W, and what its derivative is made of: Q and r."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        spread = (values.clamp(min=0) + eps).sqrt()
        return (vectors / spread.unsqueeze(-2)) @ vectors.transpose(-1, -2), vectors, spread

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.eps = inputs[1]
        ctx.mark_non_differentiable(output[1], output[2])
        ctx.save_for_backward(inputs[0], output[1], output[2])
        ctx.save_for_forward(inputs[0], output[1], output[2])

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        matrix, vectors, spread = ctx.saved_tensors
        return _spread(given[0], matrix, vectors, spread, ctx.eps), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None, None]:
        matrix, vectors, spread = ctx.saved_tensors
        return _spread(tangents[0], matrix, vectors, spread, ctx.eps), None, None


class _Spread(Function):
    """The derivative of W along a symmetric matrix, which is also its adjoint."""

    generate_vmap_rule = True

    @staticmethod
    def forward(along: Tensor, matrix: Tensor, vectors: Tensor, spread: Tensor, eps: float) -> Tensor:  # noqa: ARG004  # the derivative for it is in the backward
        one, other = spread.unsqueeze(-1), spread.unsqueeze(-2)
        turned = vectors.transpose(-1, -2) @ along @ vectors
        return vectors @ (turned / (one * other * (one + other))).neg() @ vectors.transpose(-1, -2)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004  # not kept: two levels of jvp would lose its derivative
        ctx.eps = inputs[4]
        ctx.save_for_backward(*inputs[:4])
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        along, matrix, vectors, spread = ctx.saved_tensors
        towards = _symmetric(given[0])

        def derivative(z: Tensor) -> Tensor:
            return _spread(z, matrix, vectors, spread, ctx.eps)

        found, root = derivative(along), _inverse_root(matrix, ctx.eps)
        inverse = matrix @ root + ctx.eps * root
        # The solution Y of R Y + Y R = towards; R X + X R = -W Z W then differs by dR and by dW.
        solved = derivative(-inverse @ towards @ inverse)
        by_root = -(solved @ root @ along + along @ root @ solved)
        by_inverse = inverse @ (solved @ found + found @ solved) @ inverse
        return derivative(towards), derivative(by_root + by_inverse), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        along, matrix, vectors, spread = ctx.saved_tensors
        by_along, by_matrix = tangents[:2]

        def derivative(z: Tensor) -> Tensor:
            return _spread(z, matrix, vectors, spread, ctx.eps)

        total = torch.zeros_like(along) if by_along is None else derivative(by_along)
        if by_matrix is None:
            return total
        found = derivative(along)
        root = _inverse_root(matrix, ctx.eps)
        inverse = matrix @ root + ctx.eps * root
        # R X + X R = -W Z W, differentiated by W and R; what is left is R Y + Y R = the right side.
        of_root = derivative(by_matrix)
        of_inverse = -inverse @ of_root @ inverse
        half = -(of_root @ along @ root) - of_inverse @ found
        return total + derivative(-inverse @ (half + half.transpose(-1, -2)) @ inverse)
