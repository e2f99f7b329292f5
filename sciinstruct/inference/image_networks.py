"""Networks for images that see the measurement: a generator of one pass per sample, and the denoiser that follows it.

Both start from `ImagePosterior`, the exact answer for a mixture of stationary Gaussian fields fitted to the prior, and
learn what is left. What they add is filtered by the covariance that the data leave, so it is small where they are
precise.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sciinstruct.core import expand_sigma
from sciinstruct.diffusion.edm import resolve_precision
from sciinstruct.diffusion.unet import UNet, UNetConfig
from sciinstruct.inference.conditional import ConditionalGenerator, Heads
from sciinstruct.inference.image_posterior import ImagePosterior, Means

_COARSEST = 8  # pixels on a side at which the U-Net stops halving
_LEVELS = 4
_QUICK = 10.0  # times the network's pace: places and probabilities of heads are few numbers, and learned first
_AT_ONCE = 2**20  # numbers in the images of one pass


def _make_unet(shape: tuple[int, ...], inputs: int, outputs: int, width: int, blocks: int) -> UNet:
    sides, levels = shape[-2:], 1
    while levels < _LEVELS and all(side % 2**levels == 0 and side >> levels >= _COARSEST for side in sides):
        levels += 1
    multipliers = tuple(1 if level == 0 else 2 for level in range(levels))
    config = UNetConfig(inputs, outputs, width, multipliers, blocks)
    return UNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _run(network: nn.Module, x: Tensor, c_noise: Tensor) -> Tensor:
    """Run a network in the precision the processor is fast at; its answer in the type of x."""
    narrow = x.dtype == torch.float32 and resolve_precision("auto", x.device) == torch.bfloat16
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=narrow):
        return network(x, c_noise).to(x.dtype)


class ImageGenerator(ConditionalGenerator):
    r"""Heads :math:`x = \mu_k(y) + L_y [s_k + z + a + b \odot z]`, with a and b from a U-Net.

    :math:`\mu_k` and :math:`L_y` are mean and root covariance of `ImagePosterior`, one head per component;
    :math:`x_0 = \mu_k + L_y z` is its draw, r its misfit taken back to the image: the U-Net sees both.
    It starts at zero, as do the images s_k and the corrections to the heads' probabilities.

    Parameters
    ----------
    start : ImagePosterior
    examples : Tensor, shape (n, *range_shape)
        Measurements, at least one.
    channels : int
        Noise images the U-Net sees besides the draw.
    width, blocks : int
        Channels of the U-Net's finest level, a multiple of 16, and residual blocks per level.
    """

    def __init__(self, start: ImagePosterior, examples: Tensor, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.start, self.n_heads = start, len(start.means)
        self.event_shape = tuple(start.means.shape[1:])
        self.noise_shape = (channels, *self.event_shape[-2:])
        self.latent_shape = (start.field.latents + torch.Size(self.noise_shape).numel(),)
        self.blueprint = {"kind": "image", "channels": channels, "width": width, "blocks": blocks}
        maps = start.field.spread(examples[:1]).shape[1]
        c = self.event_shape[0]
        self.network = _make_unet(self.event_shape, 5 * c + channels + maps, 2 * c, width, blocks)
        self.place = nn.Parameter(torch.zeros_like(start.means))
        self.judge = _Judge(start.means.shape, 2 * c + maps, width) if self.n_heads > 1 else None

    def forward(self, y: Tensor, z: Tensor) -> Heads:
        """One draw per head."""
        k, means = self.n_heads, self.start.posterior_means(y)
        rows, component = y.repeat_interleave(k, 0), torch.arange(k, device=y.device).repeat(len(y))
        x = self._bend(rows, means.x.flatten(0, 1), component, z.flatten(0, 1))
        return Heads(x.unflatten(0, (len(y), k)), self.log_weights(y, means))

    def sample(self, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """One image per measurement; only the head that was drawn is run, and not too many images at once."""
        most = max(1, _AT_ONCE // torch.Size(self.event_shape).numel())
        return torch.cat([self._sample(rows, generator) for rows in y.split(most)])

    def _sample(self, y: Tensor, generator: torch.Generator | None) -> Tensor:
        means = self.start.posterior_means(y)
        component = torch.multinomial(self.log_weights(y, means).detach().exp(), 1, generator=generator)[:, 0]
        z = torch.randn(len(y), *self.latent_shape, generator=generator, dtype=means.x.dtype, device=y.device)
        return self._bend(y, means.x[torch.arange(len(y), device=y.device), component], component, z)

    def log_weights(self, y: Tensor, means: Means) -> Tensor:
        """Log-probabilities of the heads given y and what the start says of it, (B, K)."""
        if self.judge is None:
            return means.log_weights
        start, k = self.start, self.n_heads
        moved = (means.x - start.means) / start.sd
        centred = ((start.means - start.centre) / start.sd).expand_as(moved)
        maps = start.field.spread(y)[:, None].expand(-1, k, -1, -1, -1)
        return (means.log_weights + self.judge(moved, torch.cat([moved, centred, maps], 2))).log_softmax(1)

    def _bend(self, y: Tensor, mean: Tensor, component: Tensor, z: Tensor) -> Tensor:
        """Draws of the given components (B,), bent by the network."""
        start = self.start
        white, extra = z.split((start.field.latents, z.shape[1] - start.field.latents), 1)
        x = mean + start.field.draw(y, white)
        pull = start.field.shrink(start.instrument.weighted(start.instrument.misfit(x, y), y), y)
        image = white[:, : torch.Size(self.event_shape).numel()].reshape(x.shape)
        seen = [(picture - start.centre) / start.sd for picture in (mean, x, start.means[component])]
        noise = extra.reshape(-1, *self.noise_shape)
        inputs = torch.cat([*seen, pull / start.sd, image, start.field.spread(y), noise], 1)
        shift, gain = _run(self.network, inputs, x.new_zeros(len(x))).chunk(2, 1)
        return x + start.field.soften(_QUICK * self.place[component] + shift + gain * image, y)


class _Judge(nn.Module):
    """Correction to the log-probability of each head, from what the data moved it by; starts at zero.

    A template per head is what an error of a component's mean calls for; a convolutional network is for the rest.
    """

    def __init__(self, shape: torch.Size, inputs: int, width: int) -> None:
        super().__init__()
        self.template, self.bias = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape[0]))
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, width, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Conv2d(width, width, 3, padding=1)
        )
        self.leave = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.leave.weight)

    def forward(self, moved: Tensor, seen: Tensor) -> Tensor:
        """(B, K, C, H, W) and (B, K, inputs, H, W) -> (B, K)."""
        linear = (self.template * moved).flatten(2).sum(2) + self.bias
        bent = self.leave(F.silu(self.layers(seen.flatten(0, 1))).mean((2, 3)))
        return _QUICK * (linear + bent.reshape(linear.shape))


class ImageAuxiliary(nn.Module):
    r"""Denoiser of what the generator makes, :math:`D_0 + c (D_1 - D_0) + L (a + b w)`, exact for its start.

    :math:`D_0` is the denoiser of `ImagePosterior`, :math:`D_1` the prior's corrected by the data, where matching is to
    lead. w is the whitened distance of x from the posterior mean, L the root of the covariance that data and noise
    leave. a, b and c are images from a U-Net that starts at zero: by the gain b alone the denoiser can follow a
    generator that grows wider or narrower, which is what calibration hangs on. The probabilities of the generator's
    heads are known and not learned twice: a denoiser that followed them late would let them run away.

    Parameters
    ----------
    generator : ImageGenerator
        Whose law this is to follow; not trained with it.
    examples : Tensor, shape (n, *range_shape)
        Measurements, at least one.
    width, blocks : int
        As of `ImageGenerator`.
    """

    generator: ImageGenerator

    def __init__(self, generator: ImageGenerator, examples: Tensor, width: int, blocks: int) -> None:
        super().__init__()
        object.__setattr__(self, "generator", generator)  # not a submodule: not trained, not part of the state
        self.start = start = generator.start
        shape = tuple(start.means.shape[1:])
        maps = start.field.spread(examples[:1]).shape[1]
        self.network = _make_unet(shape, 7 * shape[0] + maps, 3 * shape[0], width, blocks)

    @property
    def reference(self) -> ImagePosterior:
        """Whose terms are known in closed form: they take most of the noise out of the generator's gradient."""
        return self.start

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        """Denoise (B, C, H, W) at sigma (B,) given y (B, *range_shape)."""
        start, s = self.start, expand_sigma(sigma, x)
        prior = start.instrument.prior.denoise(x, sigma)
        with torch.no_grad():
            means = start.posterior_means(y)
            log_weights = self.generator.log_weights(y, means)
            mean = (log_weights.exp()[:, :, None, None, None] * means.x).sum(1)
        own, led = start.denoise(x, prior, sigma, y, log_weights - means.log_weights)
        total = (s.square() + start.sd.square()).sqrt()
        scale = s * start.sd / total
        white = start.field.whiten(x - mean, y, sigma)
        seen = [(image - start.centre) / start.sd for image in (prior, mean)]
        steps = [(led - prior) / scale, (led - own) / scale, (led - mean) / start.sd]
        inputs = torch.cat([(x - start.centre) / total, *seen, *steps, white, start.field.spread(y)], 1)
        shift, gain, lead = _run(self.network, inputs, (s / start.sd).log().flatten() / 4).chunk(3, 1)
        return own + lead * (led - own) + start.field.soften(shift + gain * white, y, sigma)
