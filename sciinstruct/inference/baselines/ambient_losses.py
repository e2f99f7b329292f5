r"""What Ambient training minimises: regression on corrupted data whose answer is the clean expectation.

In the coordinates of `sciinstruct.inference.baselines.coordinates`, data are :math:`z = u + s n`. The network is shown
:math:`x = z + \sqrt{\sigma^2 - s^2} n'` where coordinates are measured and not hidden, which has the noise of level
:math:`\sigma \ge s`, and answers D.

- Hidden from it but measured: z has noise that x does not know of, and regression on z is regression on u.
- Seen: :math:`E[z | x] = (1 - c) E[u | x] + c x` with :math:`c = s^2 / \sigma^2`, so :math:`(1 - c) D + c x` is held
  against z.

Either is divided by its variance under white data. For clean data that is the usual weight.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.diffusion.edm import loss_weight
from sciinstruct.diffusion.grids import log_uniform
from sciinstruct.diffusion.solvers import Ancestral, Denoise
from sciinstruct.inference.baselines.coordinates import Coordinates
from sciinstruct.inference.flowdiff_prior import SIGMA_DATA

Seeing = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``denoise(x, sigma, seen) -> D``: events (B, *event), levels (B,), and which coordinates are seen (B, d)."""

_WALK, _RATIO = 4, 0.8  # steps from the data's noise to a level below it, and from that to the one it is compared with


def show(data: Coordinates, sigma: Tensor, seen: Tensor, noise: Tensor) -> Tensor:
    """Coordinates (B, d) at levels sigma (B,), white `noise` (B, d) added to what the data have; 0 where not `seen`."""
    added = (sigma[:, None].square() - data.noise.square()).clamp_min(0).sqrt()
    return torch.where(seen, data.values + added * noise, torch.zeros_like(noise))


def ambient_loss(
    denoise: Seeing,
    data: Coordinates,
    sigma: Tensor,
    hidden: Tensor,
    noise: Tensor,
    event_shape: tuple[int, ...],
) -> Tensor:
    """Weighted squared error per item, (B,), averaged over coordinates; about 1 for an untrained network.

    Parameters
    ----------
    denoise : callable
    data : Coordinates
        Of B items.
    sigma : Tensor, shape (B,)
        Noise levels, none below the data's.
    hidden : Tensor, shape (B, d), bool
        What is kept from the network though it was measured.
    noise : Tensor, shape (B, d)
        Standard normal.

    References
    ----------
    Daras, Shah, Dagan, Gollakota, Dimakis, Klivans 2023 (hidden); Daras, Dimakis, Daskalakis 2024 (seen).
    """
    measured, s2, level = data.measured, data.noise.square(), sigma[:, None]
    seen = measured & ~hidden
    shown = data.leave(show(data, sigma, seen, noise), event_shape)
    error = data.values - data.enter(denoise(shown, sigma, seen))
    known = ((level.square() - s2).clamp_min(0).sqrt() * error - s2 * noise) / level.square()
    v = SIGMA_DATA**2
    told = (v + level.square()) / (v + s2) * known.square()
    untold = error.square() / (v + s2)
    return torch.where(seen, told, untold * measured).mean(1)


def consistency_loss(
    denoise: Denoise,
    x: Tensor,
    top: float,
    sigma: float,
    generator: torch.Generator | None,
) -> Tensor:
    r"""How far the denoiser is from a martingale below the noise of the data, (B,), unbiased; may be negative.

    The exact denoiser obeys :math:`D(x_\sigma) = E[D(x_{\sigma'}) | x_\sigma]` along its own reverse diffusion: from
    what is known at the data's noise follows what is below it. The upper side is taken as given, or errors below spoil
    what is above. The squared norm of the difference is the product of two estimates of it, each the mean of a draw of
    :math:`x_{\sigma'}` and its mirror image, which leaves little noise.

    Parameters
    ----------
    denoise : callable
        ``denoise(x, sigma)`` of events, one level for all.
    x : Tensor, shape (B, *event)
        Events at noise `top`, the data's.
    sigma : float
        Level below `top`.

    References
    ----------
    Daras, Dagan, Dimakis, Daskalakis 2023, "Consistent diffusion models"; Daras, Dimakis, Daskalakis 2024.
    """
    walk = Ancestral(log_uniform(_WALK + 1, sigma, top), denoise_final=False)
    with torch.no_grad():
        x = walk(denoise, x, generator=generator)
        clean = denoise(x, sigma)
    kept = _RATIO**2
    middle = clean + kept * (x - clean)  # of p(x_low | x_high, x_0 = D), whose standard deviation is `spread`
    spread = _RATIO * sigma * (1 - kept) ** 0.5
    noise = spread * torch.randn((2, *x.shape), generator=generator, dtype=x.dtype, device=x.device)
    lower = denoise(torch.cat([middle + noise, middle - noise]).flatten(0, 1), _RATIO * sigma)
    plus, minus = lower.reshape(2, 2, *x.shape)
    first, second = 0.5 * (plus + minus) - clean
    weight = loss_weight(torch.tensor(sigma), SIGMA_DATA).to(x)
    return weight * (first * second).flatten(1).mean(1)
