"""Diffusion priors: analytic, trained, wrapped, packaged."""

from sciinstruct.priors.base import Prior

__all__ = ["Prior"]
