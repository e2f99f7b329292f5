"""The methods posterior matching is compared with, behind the same verb, and each at its best known settings."""

from sciinstruct.inference.baselines.dps import DPS
from sciinstruct.inference.baselines.red_diff import RedDiff

__all__ = ["DPS", "RedDiff"]
