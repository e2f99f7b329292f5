"""Black-hole imaging scores under InverseBench's rules, beside the same scores without its reflections."""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_event
from sciinstruct.operators.interferometry.closure_terms import ClosurePhaseTerm, LogClosureAmplitudeTerm
from sciinstruct.operators.interferometry.metrics import blur, match
from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.visibility import VisibilityOperator

BLURS_UAS = (0.0, 10.0, 15.0, 20.0)


class InverseBenchScores(NamedTuple):
    """Scores of a batch of B images.

    Attributes
    ----------
    chi2_cp, chi2_logca : float
        Best of the batch after values below 1 are replaced by their inverse: the benchmark's rule.
    chi2_cp_each, chi2_logca_each : Tensor, shape (B,)
        The same chi-squares of every image as they are; 1 is expected at the truth.
    psnr : dict of float to Tensor, shape (B,)
        Peak signal-to-noise ratio in dB at the best shift, by FWHM of the blur in microarcseconds; empty without truth.
        These are true widths: the labels 10, 15, 20 of the benchmark's own evaluator stand for 0, 10, 15.
    """

    chi2_cp: float
    chi2_logca: float
    chi2_cp_each: Tensor
    chi2_logca_each: Tensor
    psnr: dict[float, Tensor]


def inversebench_metrics(
    obs: Observation, images: Tensor, fov_uas: float, truth: Tensor | None = None, pulse: str = "triangle"
) -> InverseBenchScores:
    r"""Score images as InverseBench does (Zheng et al. 2025, black-hole imaging).

    :math:`\chi^2_{cp} = 2\,\mathrm{mean}((1 - \cos r)/\sigma^2)` and
    :math:`\chi^2_{ca} = \mathrm{mean}(r^2/\sigma^2)` over rank-complete closures, all baselines, correlations ignored.
    Closures do not depend on the image's flux, so the benchmark's rescaling to the measured flux changes neither.

    Parameters
    ----------
    obs : Observation
        One row per scan and baseline, as observed.
    images : Tensor, shape (B, 1, N, N)
        Brightness in any unit.
    fov_uas : float
        Side of the images, microarcseconds.
    truth : Tensor, shape (1, N, N) or (1, 1, N, N), optional
        For the PSNR: blurred like the images, and each divided by its own maximum.
    pulse : str
        Shape of a pixel, see `VisibilityOperator`.

    Raises
    ------
    ValueError
        If shapes disagree, or the data have no closures.
    """
    npix = images.shape[-1]
    check_event("images", images, (1, npix, npix))
    vis = VisibilityOperator(obs.u, obs.v, npix, fov_uas, pulse)(images)
    cp, ca = (
        term.residuals(vis, images).square().mean(1)
        for term in (ClosurePhaseTerm(obs, "diag", uv_min=0.0), LogClosureAmplitudeTerm(obs, "diag"))
    )
    psnr = {} if truth is None else {w: _shifted_psnr(images, truth.to(images), w, fov_uas) for w in BLURS_UAS}
    return InverseBenchScores(_reflected_best(cp), _reflected_best(ca), cp, ca, psnr)


def _reflected_best(chi2: Tensor) -> float:
    return float(torch.maximum(chi2, 1 / chi2.clamp_min(1e-12)).min())


def _shifted_psnr(images: Tensor, truth: Tensor, width: float, fov_uas: float) -> Tensor:
    """PSNR (B,) of max-normalised images at the shift of smallest error; periodic, so that is the best correlation."""
    a, b = (blur(x.reshape(-1, *images.shape[-2:]), width, fov_uas) for x in (images, truth))
    a, b = (x / x.amax((-1, -2), keepdim=True) for x in (a, b))
    found = match(a, b)
    n = a[0].numel()
    spread = lambda x: x.var((-1, -2), correction=0)  # noqa: E731
    bias = (a.mean((-1, -2)) - b.mean((-1, -2))).square()
    covariance = found.nxcorr * (spread(a) * spread(b)).sqrt()
    error = (spread(a) + spread(b) - 2 * covariance + bias).clamp_min(torch.finfo(a.dtype).eps / n)
    return -10 * error.log10()
