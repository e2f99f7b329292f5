"""Priors of images of a few hundred pixels, trained in less than a minute on one core."""

import torch
from torch import Tensor, nn

from sciinstruct.core.checks import check_finite
from sciinstruct.diffusion import PriorTraining
from sciinstruct.diffusion.data import batch_index
from sciinstruct.diffusion.training import fit, init
from sciinstruct.priors import DenoiserPrior

_SD = 0.5  # of the images in the prior's units, as of all trained priors of the package


class _Block(nn.Module):
    """A residual block that knows the noise level."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        self.level = nn.Linear(width, width)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, width) -> (B, width)."""
        return x + self.second(nn.functional.silu(self.first(self.norm(x)) + self.level(level)))


class SmallNetwork(nn.Module):
    """A perceptron over all pixels, with residual blocks and smooth activations: ScoreOpt differentiates it twice.

    Parameters
    ----------
    pixels : int
        Channels times height times width.
    width, blocks : int
        Numbers per layer, and blocks.
    """

    def __init__(self, pixels: int, width: int = 128, blocks: int = 3) -> None:
        super().__init__()
        self.level = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.start, self.end = nn.Linear(pixels, width), nn.Linear(width, pixels)
        self.blocks = nn.ModuleList([_Block(width) for _ in range(blocks)])

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """(B, C, H, W) and (B,) to (B, C, H, W)."""
        level, hidden = self.level(c_noise[:, None]), self.start(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, level)
        out: Tensor = self.end(nn.functional.silu(hidden)).reshape(x.shape)
        return out


def train_small_prior(
    image: Tensor,
    *,
    width: int = 128,
    blocks: int = 3,
    steps: int = 5000,
    batch: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> DenoiserPrior:
    """Train a prior of small images by denoising, in memory.

    Parameters
    ----------
    image : Tensor, shape (N, C, H, W)
        In physical units, with the noise that the images to purify will have: a prior of cleaner images would take
        that noise away with the rest.
    width, blocks
        As `SmallNetwork`.
    steps, batch, seed : int
        Of the training; more than about 1000 pixels want the U-Net of `sciinstruct.priors.train.train_prior`.
    progress : bool
        Show a bar.

    Returns
    -------
    DenoiserPrior
        In units where the images have mean 0 and standard deviation 0.5; frozen.

    Raises
    ------
    ValueError
        If `image` is no batch of finite images that differ.
    SolverError
        If the loss is not finite.
    """
    if image.ndim != 4 or len(image) < 2:
        raise ValueError(f"image must be a batch (N, C, H, W) of at least 2, got shape {tuple(image.shape)}")
    check_finite("image", image)
    shift, scale = float(image.mean()), float(image.std()) / _SD
    if not scale > 0:
        raise ValueError("image must vary, got one value everywhere")
    scaled = (image - shift) / scale
    config = PriorTraining(steps=steps, batch=batch, lr=2e-3, ema=0.998, sigma_data=_SD, precision="float32", seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SmallNetwork(image[0].numel(), width, blocks)
    state = init(network, config)
    fit(state, lambda step: scaled[batch_index(len(scaled), batch, step, seed)], config, progress=progress)
    denoiser = state.averaged().eval().requires_grad_(False)
    levels = config.levels.sigma_min, config.levels.sigma_max
    return DenoiserPrior(denoiser, tuple(image.shape[1:]), levels, scale=scale, shift=shift)
