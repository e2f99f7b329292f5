"""Diffusion solvers: from noise at the largest level to samples, called as ``solver(denoise, x, generator=g)``."""

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
