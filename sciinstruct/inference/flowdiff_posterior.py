"""The amortised posterior of joint training: a conditional flow behind the Gaussian posterior it starts from."""

import torch
from torch import Tensor, nn

from sciinstruct.core import LinearOperator, PriorError
from sciinstruct.flows.conditions import back_projection, condition_images
from sciinstruct.flows.flow import ConditionalFlow, FlowDraw
from sciinstruct.flows.image_flow import ConditionalImageFlow
from sciinstruct.flows.vector_flow import ConditionalVectorFlow
from sciinstruct.inference.conditional import ConditionalGenerator, Heads, Standardise
from sciinstruct.inference.flowdiff_gaussian import Gaussian
from sciinstruct.inference.flowdiff_prior import SIGMA_DATA
from sciinstruct.inference.flowdiff_start import Start
from sciinstruct.inference.instrument import Instrument
from sciinstruct.inference.simulator import AffineSimulator, OperatorSimulator, Simulator
from sciinstruct.priors.base import Prior

_AT_ONCE = 2**18  # numbers in the events of one pass


class Conditioner(nn.Module):
    """What the flow is told of a measurement: the start's posterior mean, and data or maps of the instrument.

    Parameters
    ----------
    law : Simulator
    start : Start
    examples : Tensor, shape (n, *range_shape)
        For the standardisation of vectors' data.
    """

    def __init__(self, law: Simulator, start: Start, examples: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "law", law)
        self.event_shape, self.seen = tuple(law.domain_shape), start.instrument is not None
        self.encode = Standardise(examples) if len(self.event_shape) == 1 else None

    law: Simulator

    def forward(self, y: Tensor, mean: Tensor) -> Tensor:
        """Condition of the flow: (B, n) for vectors, (B, channels, H, W) for images."""
        unit = mean / SIGMA_DATA
        if self.encode is not None:
            return torch.cat([self.encode(y), unit], 1) if self.seen else self.encode(y)
        parts: list[Tensor | float] = [unit.reshape(-1, *self.event_shape)] if self.seen else [self._back(y)]
        if isinstance(self.law, AffineSimulator) and self.law.maps(y[:1]).shape[1]:
            parts.append(self.law.maps(y))
        return condition_images(self.event_shape, parts, like=mean)

    def _back(self, y: Tensor) -> Tensor:
        """Data as an image of about unit size, where no Gaussian posterior says it better."""
        law = self.law
        if isinstance(law, OperatorSimulator) and isinstance(law.operator, LinearOperator):
            image = back_projection(law.operator, y)
        else:
            image = law.observed(y) if isinstance(law, AffineSimulator) else y
        if image.is_complex() or image.ndim != 4 or tuple(image.shape[-2:]) != self.event_shape[-2:]:
            raise PriorError(
                f"no image to condition on: the data {tuple(y.shape[1:])} are no images like {self.event_shape} and "
                "the operator is not linear; pass flow=... and a Simulator whose observed(y) is an image"
            )
        return (image - image.mean((1, 2, 3), keepdim=True)) / image.std((1, 2, 3), keepdim=True).clamp_min(1e-9)


def default_flow(event_shape: tuple[int, ...], condition_shape: tuple[int, ...], seed: int) -> ConditionalFlow:
    """The package's flow of vectors or images, of a size that a CPU trains."""
    if len(event_shape) == 1:
        return ConditionalVectorFlow(event_shape[0], condition_shape[0], seed=seed)
    return ConditionalImageFlow(
        event_shape,
        condition_shape[0],
        seed=seed,
        steps=4,
        width=48,
        features=24,
        encoder_width=48,
        encoder_blocks=2,
    )


class FlowPosterior(ConditionalGenerator):
    """q(x | y): white numbers through a conditional flow, then through the Gaussian posterior's affine map.

    Parameters
    ----------
    flow : ConditionalFlow
        Of whitened events, given the conditioner's condition.
    start : Start
    conditioner : Conditioner
    """

    def __init__(self, flow: ConditionalFlow, start: Start, conditioner: Conditioner) -> None:
        super().__init__()
        self.flow, self.start, self.conditioner = flow, start, conditioner
        self.event_shape = tuple(flow.event_shape)
        self.latent_shape = self.event_shape

    def forward(self, y: Tensor, z: Tensor) -> Heads:
        """One draw per measurement and z (B, 1, *event)."""
        affine = self.start.condition(y)
        transform = self.flow.condition(self.conditioner(y, affine.mean))
        u, _ = transform.push(z[:, 0])
        return Heads(self._shape(affine.push(u.flatten(1)))[:, None], z.new_zeros(len(y), 1))

    def sample(self, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """One event per measurement, not too many at once."""
        most = max(1, _AT_ONCE // torch.Size(self.event_shape).numel())
        return torch.cat([super(FlowPosterior, self).sample(rows, generator) for rows in y.split(most)])

    def draw_with_log_prob(self, y: Tensor, generator: torch.Generator | None) -> FlowDraw:
        """One draw per measurement and its log-density in nats, differentiable in the flow's parameters."""
        affine = self.start.condition(y)
        u, log_prob = self.flow.rsample_with_log_prob(self.conditioner(y, affine.mean), generator=generator)
        return FlowDraw(self._shape(affine.push(u.flatten(1))), log_prob - affine.log_det)

    def log_prob(self, x: Tensor, y: Tensor, *, frozen: bool = False) -> Tensor:
        """Log-density (B,) of events x (B, *event), in the prior's units, given y (B, *range_shape).

        Parameters
        ----------
        frozen : bool
            Let the gradient reach x alone, not the flow's parameters (Roeder, Wu, Duvenaud 2017).
        """
        affine = self.start.condition(y)
        u, c = self._shape(affine.pull(x.flatten(1))), self.conditioner(y, affine.mean)
        found = self.flow.frozen_log_prob(u, c) if frozen else self.flow.log_prob(u, c)
        return found - affine.log_det

    def _shape(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, *self.event_shape)


def make_posterior(
    law: Simulator,
    gaussian: Gaussian,
    prior: Prior,
    examples: Tensor,
    affine: bool,
    flow: ConditionalFlow | None,
    seed: int = 0,
) -> FlowPosterior:
    """The flow, by default the package's, behind its start.

    Parameters
    ----------
    law : Simulator
    gaussian : Gaussian
        The start, in the units of `prior`.
    prior : Prior
        Gives those units.
    examples : Tensor, shape (at least 2, *range_shape)
        Measurements.
    affine : bool
        Whether data condition the start.
    flow : ConditionalFlow or None
    seed : int
        Of the default flow.
    """
    shape, instrument = tuple(law.domain_shape), None
    if affine:
        centre = gaussian.mean.reshape(shape).to(examples.real.dtype)
        instrument = Instrument(prior, law, centre, examples[:2])
    start = Start(gaussian, instrument, examples)
    conditioner = Conditioner(law, start, examples)
    if flow is None:
        condition = conditioner(examples[:2], start.condition(examples[:2]).mean)
        flow = default_flow(shape, tuple(condition.shape[1:]), seed)
    return FlowPosterior(flow, start, conditioner).to(examples.device, examples.real.dtype)
