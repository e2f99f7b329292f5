"""Stripes of structured illumination from raw frames: wave vector, contrast and phase come back, with noise too."""

import math

import pytest
import torch

from sciinstruct.datasets.cells import simulate_cells
from sciinstruct.operators.convolution import Convolution
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.sim_estimation import estimate_stripes
from sciinstruct.operators.microscopy.spread import pixel_spread
from sciinstruct.operators.sim import stripe_patterns

SIDE, PIXEL = 192, 0.0313
OPTICS = Optics(1.41, 525.0)
PSF = pixel_spread(OPTICS, PIXEL, (127, 127))
TURN = torch.tensor([0.3, 1.35, -0.8], dtype=torch.float64)
NUMBER = OPTICS.cutoff_per_um * PIXEL * torch.tensor([0.9, 0.8, 0.85], dtype=torch.float64)
VECTORS = NUMBER[:, None] * torch.stack([TURN.sin(), TURN.cos()], 1)
MODULATION = torch.tensor([0.9, 0.8, 0.85], dtype=torch.float64)
PHASE = torch.tensor([0.4, -2.9, 2.0], dtype=torch.float64)


def _frames(photons=None, modulation=MODULATION, phases=3, angles=3):
    """Frames of periodic optics, mean 1, or counts of that mean."""
    image = simulate_cells("microtubules", 1, SIDE, generator=1).images.double()
    axis = torch.arange(SIDE, dtype=torch.float64)
    patterns = stripe_patterns(VECTORS, axis, axis, phases, modulation, PHASE)[: angles * phases]
    frames = Convolution(PSF, (len(patterns), SIDE, SIDE))(image * patterns)[0].clamp(min=0)
    frames = frames / frames.mean()
    return frames if photons is None else torch.poisson(photons * frames, generator=torch.Generator().manual_seed(0))


def _errors(found):
    """Wave vector in cycles per field, modulation, phase in rad around the circle; each (angles,)."""
    turn = (found.phase - PHASE + math.pi) % (2 * math.pi) - math.pi
    return (found.wave_vectors - VECTORS).norm(dim=1) * SIDE, found.modulation - MODULATION, turn


def test_without_noise_only_the_edges_are_left():
    """The blur is periodic and the stripes are not: the faded edges leave 0.004 cycles, 0.003 and 0.012 rad at most."""
    found = estimate_stripes(_frames(), PSF)
    k, modulation, phase = _errors(found)
    assert k.max() < 0.005 and modulation.abs().max() < 0.004 and phase.abs().max() < 0.015
    assert found.coherence.min() > 0.995


@pytest.mark.parametrize(
    ("photons", "k_error", "m_error", "phase_error"), [(600, 0.002, 0.003, 0.006), (60, 0.006, 0.006, 0.016)]
)
def test_with_photon_noise(photons, k_error, m_error, phase_error):
    """Root mean square errors stated in the docstring, a third larger for the smaller field; three of them allowed, and
    what the edges leave; at 600 photons the wave vector is within a hundredth of a cycle per field."""
    k, modulation, phase = _errors(estimate_stripes(_frames(photons), PSF))
    assert k.max() < (0.01 if photons == 600 else 4 * k_error + 0.005)
    assert modulation.abs().max() < 4 * m_error + 0.004
    assert phase.abs().max() < 4 * phase_error + 0.015


def test_five_phases_and_any_unit():
    three, five = (
        estimate_stripes(_frames(angles=1), PSF),
        estimate_stripes(7 * _frames(phases=5, angles=1), PSF, phases=5),
    )
    for a, b in zip(three, five):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_weak_stripes_are_not_overestimated():
    """Noise in the wide-field band would pull the contrast down, and chance up: 4 standard errors of 0.007 each."""
    weak = torch.full((3,), 0.3, dtype=torch.float64)
    found = estimate_stripes(_frames(60, weak), PSF)
    assert (found.modulation - 0.3).abs().max() < 4 * 4 / 3 * 0.007


def test_frames_without_stripes_are_incoherent():
    flat = _frames(60, torch.zeros(3, dtype=torch.float64), angles=1)
    found, real = estimate_stripes(flat, PSF), estimate_stripes(_frames(60, angles=1), PSF)
    assert found.modulation.max() < 0.1
    assert found.coherence.max() < 0.5 < 0.9 < real.coherence.min()


@pytest.mark.parametrize(
    ("frames", "psf", "options", "error", "words"),
    [
        (torch.ones(9, 32, 32, dtype=torch.int64), torch.ones(3, 3), {}, TypeError, "frames must be a floating"),
        (torch.ones(8, 32, 32), torch.ones(3, 3), {}, ValueError, "frames must be"),
        (torch.ones(9, 32, 12), torch.ones(3, 3), {}, ValueError, "16 pixels"),
        (torch.ones(6, 32, 32), torch.ones(3, 3), {"phases": 2}, ValueError, "at least 3"),
        (torch.full((9, 32, 32), math.nan), torch.ones(3, 3), {}, ValueError, "finite"),
        (torch.ones(9, 32, 32), torch.ones(33, 3), {}, ValueError, "larger than the image"),
        (torch.ones(9, 32, 32), torch.ones(3, 3), {"search": (0.3, 0.1)}, ValueError, "search"),
    ],
)
def test_bad_arguments(frames, psf, options, error, words):
    with pytest.raises(error, match=words):
        estimate_stripes(frames, psf, **options)
