"""Forward operators: what an instrument does to an image."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sciinstruct.core.checks import check_event


class Operator(nn.Module, ABC):
    """A differentiable map y = A(x) from images (B, *domain_shape) to data (B, *range_shape)."""

    domain_shape: tuple[int, ...]
    range_shape: tuple[int, ...]

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Compute A(x) for a batch whose shape has been checked."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute A(x), (B, *domain_shape) -> (B, *range_shape); raises ValueError on another shape."""
        check_event("x", x, self.domain_shape)
        return self.apply(x)

    def __matmul__(self, inner: "Operator") -> "Operator":
        """Composition: ``(A @ B)(x) = A(B(x))``."""
        if isinstance(self, LinearOperator) and isinstance(inner, LinearOperator):
            return LinearComposition(self, inner)
        return Composition(self, inner)


class LinearOperator(Operator):
    """An operator with an adjoint. For complex data the inner product is Re<a, b>."""

    @abstractmethod
    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Compute A^T y for a batch whose shape has been checked."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Compute A^T y, (B, *range_shape) -> (B, *domain_shape); raises ValueError on another shape."""
        check_event("y", y, self.range_shape)
        return self.apply_adjoint(y)

    def to_dense(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """Matrix (range size, domain size), one unit image at a time: for small problems and tests."""
        n = torch.Size(self.domain_shape).numel()
        eye = torch.eye(n, dtype=dtype, device=device).reshape(n, *self.domain_shape)
        return self(eye).flatten(1).T


def _check_chain(outer: Operator, inner: Operator) -> None:
    if tuple(outer.domain_shape) != tuple(inner.range_shape):
        raise ValueError(
            f"cannot compose: the outer domain {outer.domain_shape} is not the inner range {inner.range_shape}"
        )


class Composition(Operator):
    """A after B."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__()
        _check_chain(outer, inner)
        self.outer, self.inner = outer, inner
        self.domain_shape, self.range_shape = inner.domain_shape, outer.range_shape

    def apply(self, x: Tensor) -> Tensor:
        """Compute A(B(x))."""
        return self.outer(self.inner(x))


class LinearComposition(LinearOperator):
    """A after B, both linear."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        super().__init__()
        _check_chain(outer, inner)
        self.outer, self.inner = outer, inner
        self.domain_shape, self.range_shape = inner.domain_shape, outer.range_shape

    def apply(self, x: Tensor) -> Tensor:
        """Compute A(B(x))."""
        return self.outer(self.inner(x))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Compute B^T A^T y."""
        return self.inner.adjoint(self.outer.adjoint(y))


class Stack(LinearOperator):
    """Several linear operators on one image; the data are flattened and concatenated, range (m,)."""

    def __init__(self, *operators: LinearOperator) -> None:
        super().__init__()
        if not operators:
            raise ValueError("Stack needs at least one operator")
        if len({tuple(op.domain_shape) for op in operators}) > 1:
            raise ValueError(f"operators must share one domain, got {[op.domain_shape for op in operators]}")
        self.operators = nn.ModuleList(operators)
        self.sizes = [torch.Size(op.range_shape).numel() for op in operators]
        self.domain_shape, self.range_shape = operators[0].domain_shape, (sum(self.sizes),)

    def apply(self, x: Tensor) -> Tensor:
        """Concatenate every operator's data."""
        return torch.cat([op(x).flatten(1) for op in self.operators], 1)

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Sum of the adjoints."""
        parts = y.split(self.sizes, 1)
        pairs = zip(self.operators, parts)
        return torch.stack([op.adjoint(p.reshape(-1, *op.range_shape)) for op, p in pairs]).sum(0)  # type: ignore[operator,misc]


def dot_test(operator: LinearOperator, generator: torch.Generator | None = None, n: int = 3) -> float:
    """Largest relative mismatch of Re<A x, y> and <x, A^T y> over `n` random float64 pairs; 1e-10 or less is right."""
    x = torch.randn(n, *operator.domain_shape, generator=generator, dtype=torch.float64)
    ax = operator(x)
    y = torch.randn(ax.shape, generator=generator, dtype=ax.dtype)
    left = (ax.conj() * y).real.flatten(1).sum(1)
    aty = operator.adjoint(y)
    right = (x * aty).flatten(1).sum(1)
    size = ax.abs().flatten(1).norm(dim=1) * y.abs().flatten(1).norm(dim=1)
    return float(((left - right).abs() / size).max())
