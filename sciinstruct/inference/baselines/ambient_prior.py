"""A denoiser of images of which only some pixels are there, and the prior that samples with it."""

from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.core import expand_sigma
from sciinstruct.diffusion import default_solver
from sciinstruct.diffusion.edm import EDMPrecond
from sciinstruct.priors.base import Prior


class MaskedDenoiser(EDMPrecond):
    r"""`EDMPrecond` for images with holes: :math:`E[x_0 | M(x_0 + \sigma n), M]`.

    Seen pixels are preconditioned for their noise level, hidden ones as if theirs were infinite: nothing is passed on,
    and the network's answer is scaled to the standard deviation of the data. The network has the mask beside the image:
    twice the channels in.
    """

    def forward(self, x: Tensor, sigma: Tensor | float, seen: Tensor | None = None) -> Tensor:
        """Expectation of the clean image (B, C, H, W); what x holds where `seen` is 0 does not matter."""
        sigma = expand_sigma(sigma, x)
        seen = torch.ones_like(x) if seen is None else seen.to(x)
        total = (sigma**2 + self.sigma_data**2).sqrt()
        skip = seen * (self.sigma_data / total) ** 2
        out = self.sigma_data * torch.where(seen > 0, sigma / total, torch.ones_like(total))
        c_noise = (sigma.log() / 4).flatten().expand(len(x))
        return skip * x + out * self._network(torch.cat([seen * x / total, seen], 1), c_noise).to(x.dtype)


class AmbientPrior(Prior):
    """What Ambient training on masked images gives.

    Parameters
    ----------
    denoiser : MaskedDenoiser
        Trained; its parameters are frozen here.
    masks : Tensor, shape (m, C, H, W)
        Masks it was trained with, to sample with.
    sigma_range, scale, shift
        As of every prior. The lowest level is the noise of the data: below it nothing was learned.

    Notes
    -----
    `denoise` shows the network a whole image, which training never did. `sample` does not: every image keeps one mask
    of the training from the first level to the last (Daras et al. 2023, "fixed mask sampler"). What the mask hides is
    then a conditional mean, too smooth.
    """

    def __init__(
        self,
        denoiser: MaskedDenoiser,
        masks: Tensor,
        sigma_range: tuple[float, float],
        scale: float,
        shift: float,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.register_buffer("masks", masks)
        self.event_shape, self.sigma_range = tuple(masks.shape[1:]), sigma_range
        self.scale, self.shift = scale, shift

    masks: Tensor

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """As if every pixel had been seen in training together with all others."""
        self.check(x)
        return self.denoiser(x, sigma)

    def sample(
        self,
        n: int,
        *,
        solver: Callable[..., Tensor] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw `n` images, each under a mask of its own; arguments as of every prior."""
        index = torch.randint(len(self.masks), (n,), generator=generator, device=device)
        seen = self.masks[index].to(device, dtype)
        run = solver if solver is not None else default_solver(self.sigma_range)
        noise = torch.randn(n, *self.event_shape, generator=generator, dtype=dtype, device=device)
        with torch.no_grad():
            start = self.sigma_range[1] * noise
            return run(lambda x, sigma: self.denoiser(x, sigma, seen), start, generator=generator)
