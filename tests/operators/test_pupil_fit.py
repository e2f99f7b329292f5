"""Aberrations from a measured point-spread function: those it was made with, and real beads."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from sciinstruct.operators.microscopy.confocal import confocal_spread
from sciinstruct.operators.microscopy.measured_psf import MeasuredPSF, measure_psf
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import scalar_pupil
from sciinstruct.operators.microscopy.pupil_fit import fit_confocal_pupil, fit_widefield_pupil
from sciinstruct.operators.microscopy.spread import point_spread
from sciinstruct.operators.microscopy.zernike import Zernike

PIXEL, STEP = 0.05, 0.2
ABERRATIONS = (Zernike(2, 2, 0.2), Zernike(3, -1, -0.3), Zernike(4, 0, 0.35))


def _measured(spread, optics, blur_um, **options):
    """Nine planes of 19 x 19 pixels, blurred along y, x on a wider window, then cropped; with no noise."""
    z = STEP * (torch.arange(9, dtype=torch.float64) - 4)
    wide = spread(optics, PIXEL, (39, 39), z, model=scalar_pupil, **options).numpy()
    psf = torch.from_numpy(gaussian_filter(wide, [0, blur_um[0] / PIXEL, blur_um[1] / PIXEL]))[:, 10:29, 10:29]
    return MeasuredPSF(psf / psf.sum(), (STEP, PIXEL, PIXEL), ())


@pytest.mark.parametrize("confocal", [False, True])
def test_aberrations_come_back(confocal):
    """The simulation is another program on another grid: the pupil's rim differs by less than a cell in 20, which the
    steepest aberration there, spherical, feels first: 0.35 comes back as 0.342."""
    optics = Optics(1.2, 560.0, 1.33, excitation_nm=488.0, aberrations=ABERRATIONS)
    if confocal:
        measured = _measured(confocal_spread, optics, (0.08, 0.05), pinhole_airy=0.0)
        found = fit_confocal_pupil(measured, optics, model=scalar_pupil)
    else:
        measured = _measured(point_spread, optics, (0.08, 0.05))
        found = fit_widefield_pupil(measured, optics, model=scalar_pupil)
    truth = {(a.n, a.m): a.phase_rad for a in ABERRATIONS}
    for n, m, phase in found.optics.aberrations:
        assert phase == pytest.approx(truth.get((n, m), 0.0), abs=0.02)
    assert found.correlation > 0.9995
    assert found.blur_um == pytest.approx((0.08, 0.05), abs=0.005)
    assert found.shift_um == pytest.approx((0, 0, 0), abs=0.01)
    assert (
        found.psf.shape == measured.psf.shape and (found.psf > -1e-9).all() and abs(float(found.psf.sum()) - 1) < 1e-12
    )


def test_confocal_needs_the_excitation():
    measured = MeasuredPSF(torch.ones(3, 5, 5, dtype=torch.float64) / 75, (0.2, 0.05, 0.05), ())
    with pytest.raises(ValueError, match="excitation_nm"):
        fit_confocal_pupil(measured, Optics(1.2, 560.0, 1.33))


@pytest.mark.slow
def test_real_beads_are_explained(microscopy_dir):
    """Coma and spherical aberration explain what no Gaussian does (0.976 at best, tilted and unequal)."""
    import tifffile

    stack = tifffile.imread(microscopy_dir / "beads_confocal_zstack.tif")
    measured = measure_psf(stack, (0.125, 1 / 44.460534, 1 / 44.460534))
    found = fit_confocal_pupil(measured, Optics(1.4, 520.0, excitation_nm=488.0), model=scalar_pupil)
    assert found.correlation > 0.98
