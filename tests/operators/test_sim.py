"""Structured illumination: what the frames of a microscope must satisfy."""

import math

import pytest
import torch

from sciinstruct.operators.sim import StructuredIllumination, widefield_transfer

SHAPE = (24, 32)


def _image(generator):
    return torch.rand(2, 1, *SHAPE, generator=generator, dtype=torch.float64)


def _widefield(x, cutoff):
    return torch.fft.ifft2(torch.fft.fft2(x) * widefield_transfer(cutoff, SHAPE)).real


def test_mean_over_phases_is_the_wide_field_image(generator):
    x = _image(generator)
    frames = StructuredIllumination(0.2, SHAPE, phases=5)(x).unflatten(1, (3, 5))
    torch.testing.assert_close(frames.mean(2), _widefield(x, 0.2).expand(-1, 3, -1, -1), rtol=0, atol=1e-14)


def test_frames_vanish_beyond_the_cutoff(generator):
    frames = StructuredIllumination(0.2, SHAPE)(_image(generator))
    ky, kx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in SHAPE)
    beyond = torch.hypot(ky[:, None], kx) >= 0.2
    assert torch.fft.fft2(frames).abs()[..., beyond].max() < 1e-12


def test_without_modulation_every_frame_is_wide_field(generator):
    x = _image(generator)
    frames = StructuredIllumination(0.2, SHAPE, modulation=0.0)(x)
    torch.testing.assert_close(frames, _widefield(x, 0.2).expand(-1, 9, -1, -1), rtol=0, atol=1e-14)


def test_stripes_move_a_wave_beyond_the_cutoff_to_where_it_is_seen():
    """A wave at k beyond the cut-off: wide field is blind, a frame shows the difference wave at half the modulation."""
    k, stripes, cutoff, m = 10 / 32, 6 / 32, 0.25, 0.8
    columns = torch.arange(32, dtype=torch.float64)
    x = torch.cos(2 * math.pi * k * columns).expand(1, 1, *SHAPE).contiguous()
    assert _widefield(x, cutoff).abs().max() < 1e-14
    op = StructuredIllumination(cutoff, SHAPE, angles=1, phases=1, stripes=stripes / cutoff, modulation=m)
    gain = float(widefield_transfer(cutoff, SHAPE)[0, 4])  # difference: 4 cycles per 32 pixels; the sum wave is cut off
    expected = (m / 2 * gain * torch.cos(2 * math.pi * 4 / 32 * columns)).expand(1, 1, *SHAPE)
    torch.testing.assert_close(op(x), expected.contiguous(), rtol=0, atol=1e-13)


def test_nine_frames_see_more_of_the_image_than_one():
    """Rank of the operator: wide field passes the disc below the cut-off, SIM nearly the disc of radius 1.9 times."""
    shape, cutoff = (16, 16), 0.2

    def rank(modulation):
        values = torch.linalg.svdvals(StructuredIllumination(cutoff, shape, modulation=modulation).to_dense())
        return int((values > 1e-6 * values[0]).sum())

    disc = int((widefield_transfer(cutoff, shape) > 0).sum())
    assert rank(0.0) == disc
    assert rank(0.9) > 2 * disc


def test_transfer_is_the_autocorrelation_of_the_pupil():
    """Normalised overlap of two discs of radius cutoff/2, by counting area on a fine grid; 1 and 0 at the ends."""
    transfer = widefield_transfer(0.4, (1, 40))[0]
    axis = torch.linspace(-0.5, 0.5, 2001, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    disc = torch.hypot(y, x) <= 0.2
    for mode in (4, 8, 12):
        shifted = torch.hypot(y, x - mode / 40) <= 0.2
        overlap = float((disc & shifted).sum() / disc.sum())
        assert float(transfer[mode]) == pytest.approx(overlap, abs=1e-3)
    assert float(transfer[0]) == 1 and float(transfer[16]) == 0


def test_light_is_kept(generator):
    """Averaged over phases, the camera collects the image's flux: its pixels are averages."""
    x = _image(generator)
    frames = StructuredIllumination(0.2, SHAPE, camera=2)(x)
    assert frames.shape == (2, 9, 12, 16)
    torch.testing.assert_close(frames.mean((1, 2, 3)), x.mean((1, 2, 3)), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("cutoff", "options"),
    [
        (0.0, {}),
        (float("nan"), {}),
        (0.4, {"stripes": 1.5}),
        (0.2, {"modulation": 1.1}),
        (0.2, {"phases": 0}),
        (0.2, {"camera": 5}),
    ],
)
def test_bad_arguments(cutoff, options):
    with pytest.raises(ValueError, match="cutoff|modulation|phases|factor"):
        StructuredIllumination(cutoff, SHAPE, **options)
