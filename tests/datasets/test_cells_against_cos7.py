"""Simulated microtubules beside a STORM image of a COS-7 cell, in ratios that need no pixel size."""

import math

import numpy as np
import pytest
import torch

from sciinstruct.datasets.cells import simulate_cells


def skeleton(image, width, cut):
    """Centre lines of ridges about `width` pixels wide and brighter than `cut`; crumbs shorter than 3 widths go."""
    from scipy import ndimage
    from skimage.morphology import skeletonize

    thin = skeletonize(image > cut)
    parts, count = ndimage.label(thin, np.ones((3, 3)))
    return thin & (ndimage.sum(thin, parts, np.arange(count + 1))[parts] > 3 * width)


def orientation(image, width):
    """Orientation of the ridges as the complex number exp(2i angle)."""
    from scipy import ndimage

    gy, gx = ndimage.sobel(image, 0), ndimage.sobel(image, 1)
    xx, yy, xy = (ndimage.gaussian_filter(product, width) for product in (gx * gx, gy * gy, gx * gy))
    tensor = xx - yy + 2j * xy
    return tensor / np.maximum(np.abs(tensor), 1e-12)


def ratios(thin, turned):
    """Line length over the side, coherence |<exp(2i angle)>|, and density times the mean distance to a line."""
    from scipy import ndimage

    side, length = len(thin), thin.sum()
    distance = ndimage.distance_transform_edt(~thin).mean()
    return length / side, abs(turned[thin].mean()), distance * length / side**2


def windows(image, width, cut, side, rim):
    thin, turned = skeleton(image, width, cut), orientation(image, width)
    for i in range(rim, image.shape[0] - side + 1 - rim, side):
        for j in range(rim, image.shape[1] - side + 1 - rim, side):
            part = (slice(i, i + side), slice(j, j + side))
            if thin[part].sum() > side / 2:  # not beyond the cell
                yield ratios(thin[part], turned[part])


@pytest.mark.slow
def test_microtubules_are_as_dense_and_as_aligned_as_in_a_cell(microscopy_dir):
    """Windows that hold about 3.3 times their side of filament, in the cell and in the simulation.

    Filaments in the cell are about ten pixels wide after a slight blur, three in the simulation. The windows of the one
    cell are not independent and the skeletons are rough: 0.05 is allowed on top of the standard errors.
    """
    from PIL import Image
    from scipy import ndimage

    seen = np.asarray(Image.open(microscopy_dir / "cos7_microtubules_storm_cell1.jpg").convert("L"), dtype=float)
    seen = ndimage.gaussian_filter(np.minimum(seen, 60.0), 4.25)
    cell = np.array(list(windows(seen, 10, 8.0, 160, 20)))
    made = simulate_cells("microtubules", 200, 96, generator=torch.Generator().manual_seed(0)).images[:, 0]
    drawn = [ndimage.gaussian_filter(image, 0.5) for image in made.double().numpy()]
    ours = np.array([r for image in drawn for r in windows(image, 3.2, 0.25, 96, 0)])
    assert len(cell) > 30 and len(ours) > 180
    assert cell[:, 0].mean() == pytest.approx(ours[:, 0].mean(), rel=0.15)  # the windows are comparable
    for k in (1, 2):
        error = math.hypot(cell[:, k].std() / math.sqrt(len(cell)), ours[:, k].std() / math.sqrt(len(ours)))
        assert abs(cell[:, k].mean() - ours[:, k].mean()) < 4 * error + 0.05
    spread = [w[:, 0].std() / w[:, 0].mean() for w in (cell, ours)]
    assert 0.7 < spread[0] / spread[1] < 1.4  # density varies from place to place as much as from image to image
