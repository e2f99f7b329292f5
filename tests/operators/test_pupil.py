"""Point-spread functions: published widths, the Airy pattern, energy, band limit, focus in depth."""

import math

import pytest
import torch

from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import scalar_pupil, vectorial_pupil
from sciinstruct.operators.microscopy.spread import periodic_spread, pixel_spread, point_spread
from sciinstruct.operators.sim import widefield_transfer


def fwhm(line, pixel_um):
    """Full width at half maximum of a peaked line, um, between linearly interpolated crossings."""
    half, peak = float(line.max()) / 2, int(line.argmax())
    right = next(i for i in range(peak, len(line)) if line[i] < half)
    left = next(i for i in range(peak, -1, -1) if line[i] < half)
    after = right - float((half - line[right]) / (line[right - 1] - line[right]))
    before = left + float((half - line[left]) / (line[left + 1] - line[left]))
    return (after - before) * pixel_um


# NA, index, wavelength; widths in um computed by an independent program (psfmodels 0.3.3)
WIDTHS = [
    (1.40, 1.515, 520, 0.1912, 0.2098),
    (0.80, 1.000, 520, 0.3345, 0.3551),
    (1.20, 1.330, 600, 0.2574, 0.2803),
    (1.49, 1.515, 670, 0.2314, 0.2603),
]


@pytest.mark.parametrize(("na", "index", "wavelength", "scalar", "vectorial"), WIDTHS)
def test_widths(na, index, wavelength, scalar, vectorial):
    optics = Optics(na, wavelength, index)
    for model, width in [(scalar_pupil, scalar), (vectorial_pupil, vectorial)]:
        psf = point_spread(optics, 0.02, (61, 61), model=model)
        assert fwhm(psf[30], 0.02) == pytest.approx(width, rel=0.01)
        assert fwhm(psf[:, 30], 0.02) == pytest.approx(width, rel=0.01)


def test_scalar_is_the_airy_pattern():
    """(2 J1(v) / v)^2 times pi NA^2 / lambda^2, an energy density: shape and height, to 2e-4 of the peak."""
    optics, pixel = Optics(1.4, 520), 0.02
    axis = torch.arange(-40, 41, dtype=torch.float64) * pixel
    v = math.pi * optics.cutoff_per_um * torch.hypot(axis[:, None], axis)
    airy = torch.where(v > 0, 2 * torch.special.bessel_j1(v) / v, 1.0).square()
    peak = math.pi * (optics.cutoff_per_um / 2) ** 2 * pixel**2
    psf = point_spread(optics, pixel, (81, 81), model=scalar_pupil)
    torch.testing.assert_close(psf / peak, airy, rtol=0, atol=2e-4)


def test_reference_library():
    """Whole patterns against psfmodels, in focus: its radial table leaves 0.01 of the peak at this sampling."""
    psfmodels = pytest.importorskip("psfmodels")
    for na, index, wavelength, *_ in WIDTHS:
        ours = point_spread(Optics(na, wavelength, index), 0.02, (61, 61))
        media = {"ns": index, "ni": index, "ni0": index, "ng": index, "ng0": index}
        theirs = psfmodels.vectorial_psf(0.0, nx=61, dxy=0.02, wvl=wavelength / 1000, params={"NA": na, **media})[0]
        theirs = torch.as_tensor(theirs).double()
        assert (ours / ours.max() - theirs / theirs.max()).abs().max() < 0.01


@pytest.mark.parametrize(("index", "depth", "scalar", "vectorial"), [(1.515, 0.0, 0.02, 0.02), (1.38, 3.0, 0.02, 0.07)])
def test_reference_library_in_depth(index, depth, scalar, vectorial):
    """Stacks against psfmodels, whose z counts from the coverslip; it transmits the interface by another rule."""
    psfmodels = pytest.importorskip("psfmodels")
    optics, z = Optics(1.3, 520, 1.515, index), torch.arange(-15, 16) * 0.1
    media = {"NA": 1.3, "ns": index, "ni": 1.515, "ni0": 1.515, "ng": 1.515, "ng0": 1.515}
    for model, theirs, bound in [
        (scalar_pupil, psfmodels.scalar_psf, scalar),
        (vectorial_pupil, psfmodels.vectorial_psf, vectorial),
    ]:
        ours = point_spread(optics, 0.05, (41, 41), z, depth, model=model)
        stack = theirs((z + depth).numpy(), nx=41, dxy=0.05, wvl=0.52, params=media, pz=depth)
        stack = torch.as_tensor(stack).double()
        assert (ours / ours.max() - stack / stack.max()).abs().max() < bound
        assert int(ours[:, 20, 20].argmax()) == int(stack[:, 20, 20].argmax())


@pytest.mark.parametrize("model", [scalar_pupil, vectorial_pupil])
def test_every_plane_holds_the_same_light(model):
    """On a field of 10 um, from -1 to 1 um of defocus: what lies outside is under 2 %."""
    z = torch.linspace(-1, 1, 5)
    stack = point_spread(Optics(1.3, 520), 0.05, (201, 201), z, model=model)
    sums = stack.sum((1, 2))
    assert (sums / sums[2] - 1).abs().max() < 0.02 and (sums - 1).abs().max() < 0.03


def test_focus_shift_of_a_source_in_depth():
    """3 um deep in an index of 1.38 under an oil objective, the best focus is 0.3 um further than the nominal one."""
    z = torch.linspace(-1, 1.5, 26, dtype=torch.float64)
    stack = point_spread(Optics(1.3, 520, 1.515, 1.38), 0.05, (5, 5), z, depth_um=3.0)
    assert float(z[stack[:, 2, 2].argmax()]) == pytest.approx(0.3, abs=0.05)


def test_without_depth_the_stack_is_symmetric():
    z = torch.tensor([-0.6, -0.2, 0.2, 0.6])
    stack = point_spread(Optics(1.3, 520), 0.05, (41, 41), z)
    torch.testing.assert_close(stack, stack.flip(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(stack, stack.flip(1, 2), rtol=0, atol=1e-12)


def test_matched_media_see_no_depth():
    """The same index on both sides: depth and nominal focus cancel."""
    here, deep = (point_spread(Optics(1.2, 600, 1.33), 0.05, (21, 21), depth_um=p) for p in (0.0, 5.0))
    torch.testing.assert_close(here, deep, rtol=0, atol=1e-14)


@pytest.mark.parametrize("pixel", [0.0313, 0.0626])
@pytest.mark.parametrize("z", [0.0, 0.4])
def test_periodic_pattern_is_band_limited(pixel, z):
    optics, shape = Optics(1.41, 525), (64, 48)
    psf = periodic_spread(optics, pixel, shape, z)
    gain = torch.fft.fft2(torch.fft.ifftshift(psf))
    ky, kx = (torch.fft.fftfreq(n, pixel, dtype=torch.float64) for n in shape)
    beyond = torch.hypot(ky[:, None], kx) >= optics.cutoff_per_um
    assert beyond.any() and gain[beyond].abs().max() < 1e-12
    assert abs(complex(gain[0, 0]) - 1) < 1e-12 and gain.imag.abs().max() < 1e-12


def test_periodic_scalar_transfer_is_the_closed_form():
    """Pupil autocorrelation against 2/pi (arccos r - r sqrt(1 - r^2)), the pixel's sinc divided out."""
    optics, pixel, shape = Optics(0.8, 520, 1.0), 0.06, (72, 60)
    gain = torch.fft.fft2(torch.fft.ifftshift(periodic_spread(optics, pixel, shape, model=scalar_pupil))).real
    ky, kx = (torch.sinc(torch.fft.fftfreq(n, dtype=torch.float64)) for n in shape)
    closed = widefield_transfer(optics.cutoff_per_um * pixel, shape)
    torch.testing.assert_close(gain / (ky[:, None] * kx), closed, rtol=0, atol=2e-3)


def test_pixels_add_their_own_variance():
    """A pixel of side a adds a^2 / 12 per axis: seen as the change of curvature of the transfer function at 0."""
    optics, pixel = Optics(1.4, 520), 0.08
    shape = (257, 257)
    boxed, sampled = pixel_spread(optics, pixel, shape), point_spread(optics, pixel, shape)
    k = 3 / (257 * pixel)
    wave = torch.cos(2 * math.pi * k * pixel * torch.arange(-128, 129, dtype=torch.float64))
    ratio = float((boxed.sum(0) * wave).sum() / boxed.sum() / ((sampled.sum(0) * wave).sum() / sampled.sum()))
    assert -math.log(ratio) / (2 * math.pi**2 * k**2) == pytest.approx(pixel**2 / 12, rel=0.02)


def test_coarse_pixels_share_the_light_of_fine_ones():
    """A pixel three times as large collects the sum of nine, Nyquist or not."""
    optics = Optics(1.4, 520)
    fine, coarse = pixel_spread(optics, 0.07, (27, 27)), pixel_spread(optics, 0.21, (9, 9))
    summed = fine.unflatten(0, (9, 3)).unflatten(-1, (9, 3)).sum((1, 3))
    torch.testing.assert_close(coarse, summed, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixel_um": -0.1}, "pixel_um"),
        ({"pixel_um": float("nan")}, "pixel_um"),
        ({"z_um": [[0.0]]}, "z_um"),
        ({"z_um": []}, "z_um"),
        ({"z_um": float("inf")}, "z_um"),
        ({"depth_um": -1.0}, "depth_um"),
        ({"shape": (0, 5)}, "shape"),
        ({"shape": (5, 5, 5)}, "shape"),
    ],
)
def test_bad_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        point_spread(Optics(1.4, 520), **{"pixel_um": 0.1, "shape": (5, 5), **arguments})
