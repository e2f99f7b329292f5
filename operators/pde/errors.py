"""Numbers that say how far fields are from solving their equation."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite
from sciinstruct.operators.pde.sine import weak_norm2

if TYPE_CHECKING:
    from sciinstruct.operators.pde.dirichlet import DirichletEquation
    from sciinstruct.operators.pde.equation import Equation

_CHUNK = 256  # fields whose residuals are computed together


ScaleMode = Literal["smaller", "batch", "data"]
SCALE_MODES: tuple[ScaleMode, ...] = ("smaller", "batch", "data")


def relative_residual(equation: "Equation", x: Tensor, scale_mode: ScaleMode = "batch") -> Tensor:
    """Mean squared residual over the squared scale of the equation: the penalty of a distillation, differentiable.

    Parameters
    ----------
    equation : Equation
        Gives residual, magnitude and scale.
    x : Tensor, shape (B, *event_shape)
        Fields in physical units. Computed in float32 at least, whatever autocast says.
    scale_mode : {"smaller", "batch", "data"}
        Divide by the batch's own mean squared magnitude, with a gradient through it (default), by the constant
        ``equation.scale**2``, or by the smaller of them. The first rewards fields that grow, the second fields that
        shrink, the third neither.

    Returns
    -------
    Tensor, shape ()
    """
    if scale_mode not in SCALE_MODES:
        raise ValueError(f"scale_mode must be one of {SCALE_MODES}, got {scale_mode!r}")
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()
        r2 = equation.residual(x).square().mean()
        if scale_mode == "data":
            return r2 / equation.scale**2
        own = equation.magnitude(x).square().mean()
        return r2 / (own if scale_mode == "batch" else own.clamp(max=equation.scale**2))


def sample_errors(equation: "Equation", x: Tensor) -> Tensor:
    """Own-scale error of every field, sqrt(mean r^2 / mean m^2), (B,), float64."""
    r2, m2 = _squares(equation, x)
    return (r2 / m2).sqrt()


def pde_error(equation: "Equation", x: Tensor) -> float:
    """Own-scale error of a set of fields (B, *event_shape): sqrt(mean r^2 / mean m^2), m the samples' own magnitude.

    Computed in float64. Print it beside its value on held-out true data: without that it means nothing.
    """
    r2, m2 = _squares(equation, x)
    return float((r2.mean() / m2.mean()).sqrt())


def pde_error_data(equation: "Equation", x: Tensor) -> float:
    """As `pde_error`, divided by the scale of the data, ``equation.scale``; it falls when fields merely shrink."""
    r2, _ = _squares(equation, x)
    return float(r2.mean().sqrt() / equation.scale)


def magnitude_rms(equation: "Equation", x: Tensor) -> float:
    """Root mean square of the equation's magnitude in these fields: ``equation.scale`` if `x` are true data."""
    _, m2 = _squares(equation, x)
    return float(m2.mean().sqrt())


def weak_error(equation: "DirichletEquation", x: Tensor) -> float:
    r"""Own-scale error in the weak norm, :math:`(\sum \|r\|_{-1}^2 / \sum \|m\|_{-1}^2)^{1/2}`.

    Unlike the strong one it falls under refinement where the coefficient jumps (Darcy).

    Raises
    ------
    TypeError
        If the residual does not live on the interior nodes of a grid with zero boundary values.
    """
    if equation.residual_shape != tuple(n - 2 for n in equation.event_shape[1:]):
        raise TypeError(f"weak_error needs an equation with zero boundary values, got {equation.name}")
    check_finite("x", x)
    x = x.detach().double()
    r2, m2 = (weak_norm2(field, equation.spacing).mean() for field in (equation.residual(x), equation.magnitude(x)))
    return float((r2 / m2).sqrt())


def solve_gap(equation: "Equation", x: Tensor) -> Tensor:
    """Distance of every field from the exact solution for its own coefficient, relative to that, (B,), float64.

    Only what the solver computes counts: a channel that it takes over as it is adds nothing to either norm.
    """
    check_finite("x", x)
    x = x.detach().double()
    exact = equation.solve(equation.coefficient(x))
    solved = equation.solved(exact).flatten(1)
    return (equation.solved(x).flatten(1) - solved).norm(dim=1) / solved.norm(dim=1)


def _squares(equation: "Equation", x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared residual and magnitude per field, (B,) each, without a graph."""
    check_finite("x", x)
    rows = []
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        for part in x.double().split(_CHUNK):
            rows.append([v.flatten(1).square().mean(1) for v in (equation.residual(part), equation.magnitude(part))])
    r2, m2 = (torch.cat(values) for values in zip(*rows))
    return r2, m2
