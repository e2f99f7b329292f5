"""Noise levels, schedules and solvers of diffusion models; networks and their training."""

# grids and schedules
from sciinstruct.diffusion.grids import flow_time, from_timesteps, karras, log_uniform, uniform_time, vp_time
from sciinstruct.diffusion.schedules import DiscreteVP, FlowSchedule, GeometricVE, LinearVP, Schedule, VPSchedule

# solvers
from sciinstruct.diffusion.solvers import (
    Ancestral,
    DiffusionSolver,
    DPMpp2M,
    Euler,
    Heun,
    SASolver,
    default_solver,
    tau_band,
)

__all__ = [
    # grids and schedules
    "DiscreteVP",
    "FlowSchedule",
    "GeometricVE",
    "LinearVP",
    "Schedule",
    "VPSchedule",
    "flow_time",
    "from_timesteps",
    "karras",
    "log_uniform",
    "uniform_time",
    "vp_time",
    # solvers
    "Ancestral",
    "DPMpp2M",
    "DiffusionSolver",
    "Euler",
    "Heun",
    "SASolver",
    "default_solver",
    "tau_band",
]
