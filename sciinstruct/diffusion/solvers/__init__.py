"""Diffusion solvers: from noise at the largest level to samples, called as ``solver(denoise, x, generator=g)``.

Examples
--------
A unit Gaussian, whose denoiser is ``x / (1 + sigma**2)``:

>>> import torch
>>> from sciinstruct.diffusion import SASolver, log_uniform, tau_band
>>> solver = SASolver(log_uniform(39, 0.01, 50.0), 2, 2, tau_band(0.5, 5.0, 1.0))
>>> solver.evaluations
40
>>> g = torch.Generator().manual_seed(0)
>>> x = solver(lambda x, sigma: x / (1 + sigma**2), 50 * torch.randn(10_000, 1, generator=g), generator=g)
>>> round(x.std().item(), 1)
1.0
"""

from sciinstruct.diffusion.solvers.ancestral import Ancestral
from sciinstruct.diffusion.solvers.base import Denoise, DiffusionSolver, Generators, draw_noise
from sciinstruct.diffusion.solvers.dpmpp import DPMpp2M
from sciinstruct.diffusion.solvers.euler import Euler
from sciinstruct.diffusion.solvers.heun import Heun
from sciinstruct.diffusion.solvers.sa import SASolver, default_solver, tau_band

__all__ = [
    "Ancestral",
    "DPMpp2M",
    "Denoise",
    "DiffusionSolver",
    "Euler",
    "Generators",
    "Heun",
    "SASolver",
    "default_solver",
    "draw_noise",
    "tau_band",
]
