"""One stream of random numbers per image, so that an image does not depend on which others are made with it."""

from collections.abc import Sequence

import torch
from torch import Tensor

_STRIDE = 2654435769  # odd, so that 2^32 consecutive images get 2^32 different seeds


def image_seeds(n: int, generator: torch.Generator) -> list[int]:
    """Draw one start and step from it to `n` different seeds of 32 bits (all that a CPU generator looks at)."""
    start = torch.randint(2**32, (1,), generator=generator, device=generator.device).item()
    return [int(start + _STRIDE * i) % 2**32 for i in range(n)]


class Streams:
    """Random numbers for a batch of images, row i always from image i's own generator.

    Every draw takes `counts`, how many rows each image gets (default one); the rows come back in one tensor of
    ``sum(counts)`` rows, image after image, as `owners` says.

    Parameters
    ----------
    seeds : sequence of int
        One seed per image.
    device : torch.device
        Where the numbers are drawn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        self._generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def select(self, rows: Tensor) -> "Streams":
        """Return the streams of some images; they go on where they are."""
        chosen = Streams([], self.device)
        chosen._generators = [self._generators[row] for row in rows.tolist()]
        return chosen

    def owners(self, counts: Tensor) -> Tensor:
        """Return the image of every row, shape (sum(counts),)."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.device), counts)

    def uniform(self, low: float, high: float, counts: Tensor | None = None, shape: Sequence[int] = ()) -> Tensor:
        """Draw float32 numbers uniform in [low, high), shape (rows, *shape)."""
        sizes = self._sizes(counts)
        drawn = [torch.rand(k, *shape, generator=g, device=self.device) for k, g in zip(sizes, self._generators)]
        return low + (high - low) * torch.cat(drawn)

    def log_uniform(self, low: float, high: float, counts: Tensor | None = None) -> Tensor:
        """Draw numbers whose logarithm is uniform, shape (rows,)."""
        return low * (high / low) ** self.uniform(0.0, 1.0, counts)

    def normal(self, counts: Tensor | None = None, shape: Sequence[int] = ()) -> Tensor:
        """Draw standard normal float32 numbers, shape (rows, *shape)."""
        sizes = self._sizes(counts)
        return torch.cat(
            [torch.randn(k, *shape, generator=g, device=self.device) for k, g in zip(sizes, self._generators)]
        )

    def exponential(self, mean: float, counts: Tensor | None = None) -> Tensor:
        """Draw exponential numbers, shape (rows,)."""
        return -mean * torch.log1p(-self.uniform(0.0, 1.0, counts))

    def poisson(self, rate: Tensor, counts: Tensor | None = None) -> Tensor:
        """Draw Poisson counts of the given expectation, int64, shape of `rate`: (rows,)."""
        rates = rate.split(self._sizes(counts))
        return torch.cat([torch.poisson(r, generator=g) for r, g in zip(rates, self._generators)]).long()

    def _sizes(self, counts: Tensor | None) -> list[int]:
        return [1] * len(self) if counts is None else counts.tolist()
