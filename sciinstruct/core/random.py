"""Randomness as an argument: generators from seeds, noise like a tensor."""

import torch
from torch import Tensor


def make_generator(seed: int | torch.Generator | None, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device`; an int seeds it, None draws a fresh seed, a generator is returned as it is."""
    if isinstance(seed, torch.Generator):
        return seed
    generator = torch.Generator(device=device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(int(seed))
    return generator


def randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise of the shape, dtype and device of `x`."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
