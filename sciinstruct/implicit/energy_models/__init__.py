"""Energy-based models: densities learned from data, known up to their normaliser, as targets for samplers."""

from sciinstruct.implicit.energy_models.chains import langevin
from sciinstruct.implicit.energy_models.model import EnergyModel
from sciinstruct.implicit.energy_models.objectives import contrastive_loss, diffusion_contrastive_loss
from sciinstruct.implicit.energy_models.training import EnergyTraining

__all__ = ["EnergyModel", "EnergyTraining", "contrastive_loss", "diffusion_contrastive_loss", "langevin"]
