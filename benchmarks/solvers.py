"""Accuracy of the diffusion solvers on a Gaussian field, exact: no Monte Carlo, no network.

Run ``python -m benchmarks.solvers`` from the root of a checkout (a few seconds); it prints the tables of
docs/benchmarks/solvers.md.

The field has 128 independent modes of variance P(k) proportional to k^-3, k = 1..128, average 1, not below 1e-3. Its
denoiser x P/(P + sigma^2) is linear, so the variance a solver gives each mode follows from unit impulses, and with it
the divergence KL(solver || field) in nats per mode. Start: pure noise of standard deviation 80; smallest level 0.002.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.diffusion import (
    DiffusionSolver,
    DPMpp2M,
    Euler,
    Heun,
    SASolver,
    default_solver,
    karras,
    log_uniform,
    vp_time,
)

SIGMA_RANGE = (0.002, 80.0)
EVALUATIONS = (6, 10, 16, 24, 40, 80)
Grid = Callable[[int, float, float], Tensor]


def spectrum() -> Tensor:
    """Return the variance of each mode, (128,), float64."""
    power = torch.arange(1, 129, dtype=torch.float64) ** -3
    return (power / power.mean()).clamp(min=1e-3)


def output_variance(solver: DiffusionSolver, power: Tensor) -> Tensor:
    """Exact variance of every mode of the solver's output, started from pure noise at the largest level."""
    impulses = torch.eye(solver.steps + 1, dtype=torch.float64)[:, :, None].expand(-1, -1, len(power))
    draws = iter(impulses[1:])

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return x * (power / (power + sigma**2))

    *_, last = solver.path(denoise, solver.levels[0] * impulses[0], lambda: next(draws))
    return denoise(last, solver.levels[-1]).square().sum(0)


def divergence(variance: Tensor, power: Tensor) -> float:
    """KL(output || field), nats per mode."""
    ratio = variance / power
    return float((0.5 * (ratio - 1 - ratio.log())).mean())


def limit() -> float:
    """Divergence of an exact solver: the start leaves out the field, the final denoise shrinks the finest modes."""
    power, (low, high) = spectrum(), SIGMA_RANGE
    return divergence(power * power / (power + low**2) * high**2 / (power + high**2), power)


def solvers(evaluations: int, grid: Grid) -> dict[str, DiffusionSolver]:
    """Every solver at a budget of `evaluations` calls (Heun, which needs an odd number, at one less)."""

    def levels(n: int) -> Tensor:
        return grid(n, *SIGMA_RANGE)

    full, less = levels(evaluations), levels(evaluations - 1)
    rows: dict[str, DiffusionSolver] = {
        "Euler": Euler(full),
        "Heun": Heun(levels(evaluations // 2)),
        "DPM++2M": DPMpp2M(full),
        "DPM++2M, eta 1": DPMpp2M(full, 1.0),
    }
    for order, tau in ((2, 0.0), (3, 0.0), (2, 0.5), (2, 1.0), (3, 1.0)):
        rows[f"SA {order}/{order}, tau {tau:g}"] = SASolver(less, order, order, tau)
    return rows


def table(grid: Grid, budgets: tuple[int, ...]) -> str:
    """Markdown table of divergences: solvers down, budgets across."""
    power = spectrum()
    columns = {n: solvers(n, grid) for n in budgets}
    lines = ["| evaluations | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    for name in columns[budgets[0]]:
        values = [f"{divergence(output_variance(columns[n][name], power), power):.1e}" for n in budgets]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def default_row() -> str:
    """Divergence of the default solver at each budget."""
    power = spectrum()
    values = [
        f"{n}: {divergence(output_variance(default_solver(SIGMA_RANGE, n), power), power):.1e}" for n in EVALUATIONS
    ]
    return "Default solver (orders 2/2 below 20 evaluations, 3/3 from there on): " + ", ".join(values) + "."


def main() -> None:
    """Print the three tables."""
    torch.set_num_threads(1)
    print("KL(solver || field), nats per mode.\n\n## Log-uniform grid, the default\n")
    print(table(log_uniform, EVALUATIONS))
    print(
        f"\n{default_row()}\n\nAn exact solver would show {limit():.1e}, from the start without the field and from the"
    )
    print("final denoise at 0.002, which shrinks the finest modes; smaller values are errors that cancel these.")
    print("\n## Karras grid (rho = 7)\n")
    print(table(karras, EVALUATIONS))
    print("\n## Grid uniform in the time of the linear VP schedule\n")
    print(table(vp_time, (24, 40, 80, 160)))


if __name__ == "__main__":
    main()
