"""Images of 16 to 64 pixels a side seen through five instruments: Gaussian fields, and mixtures of them."""

import torch

from sciinstruct.core import LinearOperator
from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.downsample import Downsample
from sciinstruct.operators.interferometry.observation import MICROARCSECOND
from sciinstruct.operators.interferometry.visibility import VisibilityOperator
from sciinstruct.operators.mask import PixelMask
from sciinstruct.operators.sim import StructuredIllumination
from sciinstruct.priors.field import GaussianField, power_law
from sciinstruct.priors.field_mixture import MixtureOfFields
from sciinstruct.priors.problems.base import ExactProblem, linear_problem

FIELD_KINDS = ("mask", "blur", "visibilities")  # those of docs/benchmarks/exact_posteriors.md
INSTRUMENTS = (*FIELD_KINDS, "downsampling", "sim")

_SIDE = 16  # the scale at which all lengths below are written
_CENTRES = ((5.5, 5.5), (5.5, 10.0), (10.0, 6.0), (10.0, 10.5))  # row, column of each class's bump
_FOV_UAS = 128.0
_VISIBILITIES = 32
_NOISE = {"mask": 0.1, "blur": 0.1, "visibilities": 12.0, "downsampling": 0.4, "sim": 0.7}


def bump_fields(side: int = _SIDE) -> MixtureOfFields:
    """Four classes of square images: a bump (amplitude 2, sd 1.5/16 of the side) at one of four places, in a field.

    The field has a k^-3 spectrum and pixel variance 0.25; the classes weigh .35, .3, .2, .15.

    Parameters
    ----------
    side : int
        Pixels on a side: the same scene, sampled more finely.
    """
    pixel = _SIDE / side
    at = (torch.arange(side, dtype=torch.float64) + 0.5) * pixel - 0.5
    y, x = torch.tensor(_CENTRES, dtype=torch.float64).T[..., None]
    profile_y, profile_x = ((-0.5 * ((at - centre) / 1.5).square()).exp() for centre in (y, x))
    means = 2 * profile_y[:, None, :, None] * profile_x[:, None, None, :]
    weights = torch.tensor([0.35, 0.3, 0.2, 0.15])
    return MixtureOfFields(means, power_law((side, side), 3.0, 0.25), weights)


def gaussian_field(side: int) -> GaussianField:
    """Field of zero mean, k^-3 spectrum and pixel variance 1, side x side pixels."""
    return GaussianField(power_law((side, side), 3.0, 1.0))


def mixture_problem(kind: str, side: int, seed: int) -> ExactProblem:
    """`bump_fields` seen through an instrument that leaves the class uncertain for some of the truths.

    Parameters
    ----------
    kind : {'mask', 'blur', 'visibilities', 'downsampling', 'sim'}
        As in `instrument`.
    side : int
        Pixels on a side, a multiple of 16.
    seed : int
        Chooses truth, noise and baselines.

    Raises
    ------
    ValueError
        If `kind` is unknown or `side` is no multiple of 16.
    """
    generator = torch.Generator().manual_seed(seed)
    operator, noise = instrument(kind, side, generator)
    return linear_problem(bump_fields(side), operator, noise, generator, f"{side}x{side} {kind}, seed {seed}")


def gaussian_problem(kind: str, side: int, seed: int) -> ExactProblem:
    """`gaussian_field` seen through an instrument: one mode, exact mean and spread; arguments as `mixture_problem`."""
    generator = torch.Generator().manual_seed(seed)
    operator, noise = instrument(kind, side, generator)
    name = f"{side}x{side} Gaussian {kind}, seed {seed}"
    return linear_problem(gaussian_field(side), operator, noise, generator, name)


def fields_16(kind: str, seed: int) -> ExactProblem:
    """`mixture_problem` at 16x16 pixels."""
    return mixture_problem(kind, _SIDE, seed)


def instrument(kind: str, side: int, generator: torch.Generator) -> tuple[LinearOperator, float]:
    """Operator and noise standard deviation; lengths and noise follow the side, so that all sides show one scene alike.

    Parameters
    ----------
    kind : {'mask', 'blur', 'visibilities', 'downsampling', 'sim'}
        'mask' hides rows and columns from 4/16 to 13/16 of the side, where the bumps are; 'blur' is Gaussian, sd 3/16
        of the side; 'visibilities' are 32 complex ones, uniform within 4 cycles per field of view along each axis (the
        bump's total flux is 28 at 16 pixels); 'downsampling' averages 4x4 blocks; 'sim' is structured illumination with
        a cut-off of 3 cycles per field of view on a camera of 8x8 pixels, fine enough for that cut-off: nine frames,
        and at 16 pixels the three of one direction, fewer data than pixels.
    side : int
        Pixels on a side, a multiple of 16.
    generator : torch.Generator
        Draws the baselines.

    Raises
    ------
    ValueError
        If `kind` is unknown or `side` is no multiple of 16.
    """
    if kind not in INSTRUMENTS:
        raise ValueError(f"kind must be one of {INSTRUMENTS}, got {kind!r}")
    if side < _SIDE or side % _SIDE:
        raise ValueError(f"side must be a multiple of {_SIDE} pixels, got {side}")
    fine, shape, noise = side // _SIDE, (side, side), _NOISE[kind]
    if kind == "mask":
        seen = torch.ones(shape, dtype=torch.bool)
        seen[4 * fine : 13 * fine, 4 * fine : 13 * fine] = False
        return PixelMask(seen), noise * fine
    if kind == "blur":
        return GaussianBlur(3.0 * fine, shape), noise * fine
    if kind == "downsampling":
        return Downsample(4, shape), noise * fine
    if kind == "sim":
        return StructuredIllumination(3 / side, shape, angles=1 if side == _SIDE else 3, camera=side // 8), noise
    cycles = (2 * torch.rand(2, _VISIBILITIES, generator=generator, dtype=torch.float64) - 1) * _SIDE / 4
    u, v = cycles / (_FOV_UAS * MICROARCSECOND)
    return VisibilityOperator(u, v, side, _FOV_UAS, pulse="delta"), noise * fine**2
