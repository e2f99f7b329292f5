"""The prior: a denoiser one can also draw images from."""

from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.core import Denoiser
from sciinstruct.diffusion import default_solver


class Prior(Denoiser):
    """A denoiser with its diffusion sampler: what users subclass and what the zoo loads."""

    def sample(
        self,
        n: int,
        *,
        solver: Callable[..., Tensor] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw `n` images in the prior's units by solving the diffusion from the largest noise level.

        Parameters
        ----------
        n : int
            Number of images.
        solver : callable, optional
            ``solver(denoise, x, generator=...) -> Tensor`` as in `sciinstruct.diffusion`; default SA-Solver, 40
            evaluations.

        Returns
        -------
        Tensor, shape (n, *event_shape)
        """
        run = solver if solver is not None else default_solver(self.sigma_range)
        noise = torch.randn(n, *self.event_shape, generator=generator, dtype=dtype, device=device)
        with torch.no_grad():
            return run(self.denoise, self.sigma_range[1] * noise, generator=generator)
