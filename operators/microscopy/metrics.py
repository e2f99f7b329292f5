"""Agreement of images with a truth, with the data, and of filaments with filaments.

Every function takes a batch (B, ...) and gives one number per image. `truth` is one image for all, (...) or
(1, ...), or one for each.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive
from sciinstruct.core.operator import Operator


class AffineFit(NamedTuple):
    """Images brought to the brightness of a truth.

    Attributes
    ----------
    image : Tensor, shape (B, ...)
        ``scale * image + offset``.
    scale, offset : Tensor, shape (B,)
        Of least squared error.
    """

    image: Tensor
    scale: Tensor
    offset: Tensor


class ResolutionScaled(NamedTuple):
    """A reconstruction blurred back, against the data; each entry (B,).

    Attributes
    ----------
    pearson : Tensor
        RSP: Pearson correlation with the data, at most 1.
    error : Tensor
        RSE: root-mean-square difference from the data in their unit, once scale and offset are fitted.
    """

    pearson: Tensor
    error: Tensor


class SkeletonMatch(NamedTuple):
    """Centre lines found, against those that are there; each entry (B,), NaN where there is nothing to count.

    Attributes
    ----------
    precision : Tensor
        Fraction of the image's skeleton that lies within the tolerance of the truth's.
    recall : Tensor
        Fraction of the truth's skeleton that lies within the tolerance of the image's.
    """

    precision: Tensor
    recall: Tensor


def psnr(image: Tensor, truth: Tensor, *, data_range: float | None = None) -> Tensor:
    r"""Peak signal-to-noise ratio in dB, :math:`10 \log_{10}(\text{range}^2/\text{MSE})`, (B,).

    Parameters
    ----------
    image, truth : Tensor, shapes (B, ...) and (...), (1, ...) or (B, ...)
        In one unit.
    data_range : float, optional
        The peak, in that unit. Default: largest minus smallest value of each truth. Numbers with different ranges do
        not compare.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, `data_range` is not positive, or a truth is constant.
    """
    truth = _matched(image, truth)
    return 10 * (_range(truth, data_range).square() / (image - truth).square().flatten(1).mean(1)).log10()


def fit_affine(image: Tensor, truth: Tensor) -> AffineFit:
    """Scale and offset of least squared error from each image to its truth; errors as for `psnr`."""
    truth = _matched(image, truth)
    a, b = image.flatten(1), truth.flatten(1)
    centred = a - a.mean(1, keepdim=True)
    power = centred.square().sum(1)
    scale = torch.where(power > 0, (centred * b).sum(1) / power, 0.0)  # a constant image can only be moved
    offset = b.mean(1) - scale * a.mean(1)
    return AffineFit((scale[:, None] * a + offset[:, None]).reshape(image.shape), scale, offset)


def psnr_affine(image: Tensor, truth: Tensor, *, data_range: float | None = None) -> Tensor:
    """`psnr` after `fit_affine`, for reconstructions whose brightness means nothing; at least `psnr`."""
    return psnr(fit_affine(image, truth).image, truth, data_range=data_range)


def nrmse(image: Tensor, truth: Tensor) -> Tensor:
    """Root-mean-square error over the root-mean-square of the truth, (B,); errors as for `psnr`."""
    truth = _matched(image, truth)
    return (image - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)


def ssim(image: Tensor, truth: Tensor, *, data_range: float | None = None) -> Tensor:
    """Structural similarity (Wang et al. 2004) with Gaussian windows of 1.5 pixels, mean over channels, (B,).

    Parameters and errors as for `psnr`, images (B, C, H, W) or (B, C, Z, H, W) of 11 pixels a side or more.
    """
    from skimage.metrics import structural_similarity

    truth = _matched(image, truth)
    if image.ndim < 4 or min(image.shape[2:]) < 11:
        raise ValueError(f"ssim needs images (B, C, H, W) of 11 pixels a side or more, got {tuple(image.shape)}")
    ranges = _range(truth, data_range)
    values = [
        structural_similarity(
            a.double().cpu().numpy(), b.double().cpu().numpy(), data_range=float(r), channel_axis=0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
        for a, b, r in zip(image, truth, ranges)
    ]  # fmt: skip
    return torch.tensor(values, dtype=image.dtype, device=image.device)


def resolution_scaled(image: Tensor, y: Tensor, operator: Operator) -> ResolutionScaled:
    """How well a reconstruction explains the data at the data's own resolution, whatever truth there is.

    Parameters
    ----------
    image : Tensor, shape (B, *domain_shape)
        Reconstructions.
    y : Tensor, shape (*range_shape), (1, *range_shape) or (B, *range_shape)
        Data, background included.
    operator : Operator
        The instrument.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, or the data are constant.

    Notes
    -----
    The two scores of Culley et al. 2018 (SQUIRREL, Nature Methods 15, 263), with the instrument's operator in place of
    a fitted Gaussian. A reconstruction of the noise scores well: judge with the whiteness of the residuals.
    """
    seen = operator(image)
    y = _matched(seen, y)
    _range(y, None)
    fitted = fit_affine(seen, y)
    a, b = (v.flatten(1) - v.flatten(1).mean(1, keepdim=True) for v in (seen, y))
    norms = a.norm(dim=1) * b.norm(dim=1)
    pearson = torch.where(norms > 0, (a * b).sum(1) / norms, 0.0)
    return ResolutionScaled(pearson, (fitted.image - y).square().flatten(1).mean(1).sqrt())


def lag_one(residuals: Tensor) -> Tensor:
    r"""Autocorrelation of whitened residuals between neighbours, along rows and along columns, (B, 2).

    Each is :math:`\sum r_i r_{i+1} / \sum r_i^2` per pair, the mean taken off; white residuals give 0 with standard
    deviation :math:`n^{-1/2}` for n pixels. Structure that a fit missed makes it positive, overfitting negative.

    Parameters
    ----------
    residuals : Tensor, shape (B, ..., H, W)
        As a noise model's `whiten` gives them, put back into the image's shape.

    Raises
    ------
    ValueError
        If there are fewer than two rows or columns, or a value is not finite.
    """
    if residuals.ndim < 3 or min(residuals.shape[-2:]) < 2:
        raise ValueError(f"residuals must have shape (B, ..., H, W) of 2 x 2 or more, got {tuple(residuals.shape)}")
    check_finite("residuals", residuals)
    r = residuals.flatten(1, -3) if residuals.ndim > 3 else residuals[:, None]
    r = r - r.mean((1, 2, 3), keepdim=True)
    power = r.square().mean((1, 2, 3))
    along_columns = (r[..., 1:, :] * r[..., :-1, :]).mean((1, 2, 3))
    along_rows = (r[..., 1:] * r[..., :-1]).mean((1, 2, 3))
    return torch.stack([along_rows, along_columns], 1) / power[:, None]


def skeleton_match(image: Tensor, truth: Tensor, *, tolerance: float, threshold: float | None = None) -> SkeletonMatch:
    """Precision and recall of the centre lines of filaments.

    Parameters
    ----------
    image, truth : Tensor, shapes (B, 1, H, W) and (1, H, W), (1, 1, H, W) or (B, 1, H, W)
        Bright filaments on dark ground.
    tolerance : float
        Distance at which two lines are one, in pixels: 0.1 um is usual.
    threshold : float, optional
        Brightness above which a pixel belongs to a filament, in the unit of both. Default: that of Otsu (1979), for
        each image its own.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, or `tolerance` is negative.
    """
    truth = _matched(image, truth)
    if image.ndim != 4 or image.shape[1] != 1:
        raise ValueError(f"image must have shape (B, 1, H, W), got {tuple(image.shape)}")
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance must be zero or more pixels, got {tolerance}")
    pairs = [(_skeleton(a[0], threshold), _skeleton(b[0], threshold)) for a, b in zip(image, truth)]
    near = [(_fraction_near(a, b, tolerance), _fraction_near(b, a, tolerance)) for a, b in pairs]
    precision, recall = torch.tensor(near, dtype=image.dtype, device=image.device).reshape(-1, 2).unbind(1)
    return SkeletonMatch(precision, recall)


def _skeleton(image: Tensor, threshold: float | None) -> Tensor:
    from skimage.filters import threshold_otsu
    from skimage.morphology import skeletonize

    pixels = image.detach().double().cpu().numpy()
    level = threshold_otsu(pixels) if threshold is None else threshold
    return torch.from_numpy(skeletonize(pixels > level))


def _fraction_near(lines: Tensor, others: Tensor, tolerance: float) -> float:
    """Fraction of `lines` within `tolerance` of `others`; NaN if there are none, 0 if there are no others."""
    from scipy.ndimage import distance_transform_edt

    if not lines.any():
        return float("nan")
    if not others.any():
        return 0.0
    distance = torch.from_numpy(distance_transform_edt(~others.numpy()))
    return float((distance[lines] <= tolerance).double().mean())


def _matched(image: Tensor, truth: Tensor) -> Tensor:
    """`truth` expanded to `image`, both checked."""
    one = truth.ndim == image.ndim - 1
    truth = truth[None] if one else truth
    if image.ndim < 2 or truth.ndim != image.ndim or truth.shape[1:] != image.shape[1:]:
        raise ValueError(
            f"truth must be one image, or one for each, of shape {tuple(image.shape[1:])}, got shape "
            f"{tuple(truth.shape[one:])}"
        )
    if len(truth) not in (1, len(image)):
        raise ValueError(f"truth must hold one image or {len(image)}, one for each, got {len(truth)}")
    check_finite("image", image)
    check_finite("truth", truth)
    return truth.to(image.dtype).expand_as(image)


def _range(truth: Tensor, data_range: float | None) -> Tensor:
    """One range for each image."""
    if data_range is not None:
        check_positive("data_range", data_range)
        return torch.full((len(truth),), float(data_range), dtype=truth.dtype, device=truth.device)
    flat = truth.flatten(1)
    values = flat.amax(1) - flat.amin(1)
    if not (values > 0).all():
        raise ValueError("a constant truth has no range of its own: give data_range")
    return values
