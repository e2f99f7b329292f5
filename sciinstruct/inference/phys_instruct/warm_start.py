"""Start of the generator: what the teacher's own deterministic sampler makes of a latent, learned by regression."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sciinstruct.core import Denoiser, expand_sigma, track
from sciinstruct.diffusion import SASolver, karras

_STEPS = 24  # of the teacher's sampler: with order three and no noise, amplitudes come out within 0.3 %
_ROWS = 128  # fields that go through the teacher together
_PASSES = 6  # over the pairs
_RATE, _LAST_RATE, _RISE = 5e-4, 1e-5, 50


class Pairs(NamedTuple):
    """Latents and the fields the teacher's sampler makes of them, in the teacher's units."""

    z: Tensor  # (n, *event)
    x: Tensor  # (n, *event)


def solve_pairs(
    teacher: Denoiser,
    n: int,
    generator: torch.Generator,
    *,
    progress: bool = False,
    interrupted: Callable[[], bool] = lambda: False,
) -> Pairs:
    """Draw `n` latents and send them through the teacher's probability flow, 24 calls each.

    `interrupted` is asked between batches; KeyboardInterrupt is raised when it says yes.
    """
    solver = SASolver(karras(_STEPS, *teacher.sigma_range))
    latents, fields = [], []
    for i in track(range(0, n, _ROWS), progress=progress, description="the teacher's answers"):
        shape = (min(_ROWS, n - i), *teacher.event_shape)
        latents.append(torch.randn(shape, generator=generator, device=generator.device))
        with torch.no_grad():
            fields.append(solver(teacher.denoise, teacher.sigma_range[1] * latents[-1]))
        if interrupted():
            raise KeyboardInterrupt
    return Pairs(torch.cat(latents), torch.cat(fields))


def regression(
    network: Denoiser, pairs: Pairs, levels: Sequence[float], batch: int, spread: float, generator: torch.Generator
) -> Tensor:
    r"""Squared error of the generator's calls on random pairs, relative to what the best linear guess would leave.

    Half of the `batch` rows are the first call, :math:`G(s_1 z, s_1) \to x(z)`; the others denoise the same fields at
    the levels of the later calls.

    Parameters
    ----------
    levels : sequence of float
        Of the calls, falling, in the teacher's units.
    spread : float
        Standard deviation of the fields in the teacher's units.
    """
    chosen = torch.randint(len(pairs.x), (batch,), generator=generator, device=generator.device)
    target, noisy = pairs.x[chosen], levels[0] * pairs.z[chosen]
    sigma = target.new_full((batch,), levels[0])
    left = target.new_full((batch,), spread**2)
    first = batch if len(levels) == 1 else max(1, batch // 2)
    if rest := batch - first:
        picks = torch.randint(1, len(levels), (rest,), generator=generator, device=generator.device)
        sigma[first:] = target.new_tensor(levels)[picks]
        noise = torch.randn((rest, *target.shape[1:]), generator=generator, device=generator.device)
        noisy[first:] = target[first:] + expand_sigma(sigma[first:], noise) * noise
        variance = sigma[first:].square()
        left[first:] = spread**2 * variance / (variance + spread**2)
    return ((network.denoise(noisy, sigma) - target).square().flatten(1).mean(1) / left).mean()


def warm_start(
    network: Denoiser,
    pairs: Pairs,
    levels: Sequence[float],
    batch: int,
    spread: float,
    generator: torch.Generator,
    *,
    progress: bool = False,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Teach `network` the `regression`, in place, in a few passes over the pairs.

    A copy of the teacher answers pure noise with something near the mean, from which matching of laws takes thousands
    of steps. `interrupted` is asked after every step; KeyboardInterrupt is raised when it says yes, and `network` is
    then half taught.

    References
    ----------
    Luhman & Luhman 2021 (regression on the sampler's answers); Yin et al. 2024, DMD, section 3.3 (beside the matching).
    """
    steps = max(1, _PASSES * len(pairs.x) // max(1, batch // 2))
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=_RATE, betas=(0.9, 0.99))
    for step in track(range(steps), progress=progress, description="warm start"):
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, steps)
        loss = regression(network, pairs, levels, batch, spread, generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if interrupted():
            raise KeyboardInterrupt


def _rate(step: int, steps: int) -> float:
    """Learning rate: a rise, a plateau, and a fall over the second half."""
    return max(_LAST_RATE, _RATE * min(1.0, (step + 1) / _RISE, 2 * (1 - step / steps)))
