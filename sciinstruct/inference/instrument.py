"""What conditioning on a measurement needs of a simulator: misfits, and the transposed map, in the prior's units."""

from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, PriorError
from sciinstruct.inference.simulator import AffineSimulator, Simulator


class Instrument:
    r"""The affine map :math:`x \mapsto A x + b` from the prior's units to data, and the data's precision.

    Parameters
    ----------
    prior : Denoiser
        Its map to physical units must be affine.
    law : AffineSimulator
        The measurements.
    centre : Tensor, shape (*event)
        Where the noise's precision is evaluated, if it depends on the image; in the prior's units.
    examples : Tensor, shape (n, *range_shape)
        Measurements, at least one.

    Raises
    ------
    TypeError
        If `law` is no `AffineSimulator`.
    PriorError
        If prediction is not affine in the prior's units, or the noise does not state its variance.
    """

    def __init__(self, prior: Denoiser, law: Simulator, centre: Tensor, examples: Tensor) -> None:
        if not isinstance(law, AffineSimulator):
            raise TypeError(
                "the built-in networks for images need an AffineSimulator (or a Likelihood), got "
                f"{type(law).__name__}; pass network=... and auxiliary=..."
            )
        self.prior, self.law, self.centre = prior, law, centre
        self.event_shape = tuple(centre.shape)
        self._check(examples[:1])

    def __deepcopy__(self, memo: dict[int, object]) -> "Instrument":
        """The same: prior and simulator are not trained, and may be large."""
        return self

    def _check(self, y: Tensor) -> None:
        first = self._start(y)
        probe, rows = torch.cat([first, 2 * first + 1]), y.expand(2, *y.shape[1:])
        a, b = self.predict(probe, rows)
        middle = self.predict(probe.mean(0, keepdim=True), y)[0]
        tolerance = 1e3 * torch.finfo(first.dtype).eps * float(a.abs().max() + b.abs().max())
        if not torch.allclose(middle, 0.5 * (a + b), rtol=0, atol=tolerance):
            raise PriorError(
                "the built-in networks for images need data that are an affine map of the prior's images; pass "
                "network=... and auxiliary=... for other operators and for priors of log brightness"
            )
        try:
            self.precision(y)
        except NotImplementedError as error:
            raise PriorError(f"the built-in networks for images need the noise's variance: {error}") from error

    def predict(self, x: Tensor, y: Tensor) -> Tensor:
        """Noise-free data of x (B, *event)."""
        return self.law.predict(self.prior.to_physical(x), y)

    def misfit(self, x: Tensor, y: Tensor) -> Tensor:
        """Data minus prediction."""
        return self.law.observed(y) - self.predict(x, y)

    def precision(self, y: Tensor) -> Tensor:
        """One over the variance of each datum."""
        return self.law.precision(y, self.predict(self._start(y), y))

    def pull(self, r: Tensor, y: Tensor) -> Tensor:
        """A^T r, (B, *event), differentiable in r."""
        return torch.func.vjp(lambda x: self.predict(x, y), self._start(y))[1](r)[0]

    def _start(self, y: Tensor) -> Tensor:
        return self.centre.to(y.real).expand(len(y), *self.event_shape).contiguous()

    def weighted(self, r: Tensor, y: Tensor) -> Tensor:
        """A^T V^-1 r."""
        return self.pull(self.precision(y) * r, y)

    def information(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """The map v -> A^T V^-1 A v, for v of one image per measurement; what does not depend on v is found once."""
        start, precision = self._start(y), self.precision(y)
        offset = self.predict(torch.zeros_like(start), y)
        pull = torch.func.vjp(lambda x: self.predict(x, y), start)[1]
        return lambda v: pull(precision * (self.predict(v, y) - offset))[0]

    def noise_shape(self, y: Tensor) -> torch.Size:
        """Shape of one measurement's noise as real numbers."""
        data = self.law.observed(y)[0]
        return torch.view_as_real(data).shape if data.is_complex() else data.shape

    def pull_white(self, white: Tensor, y: Tensor) -> Tensor:
        """A^T V^-1/2 n for white noise n (B, *noise_shape)."""
        complex_data = self.law.observed(y[:1]).is_complex()
        noise = torch.view_as_complex(white.contiguous()) if complex_data else white
        return self.pull(self.precision(y).sqrt() * noise, y)
