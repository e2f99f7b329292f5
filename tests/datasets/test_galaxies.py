"""Simulated galaxies and their artefacts: what they are by construction."""

import pytest
import torch

from sciinstruct.datasets.galaxies import KINDS, column_stripes, hot_pixels, satellite_trail, simulate_galaxies


@pytest.fixture(scope="module")
def galaxies():
    return simulate_galaxies(400, generator=torch.Generator().manual_seed(0))


def moments(image):
    """Eigenvalues (n, 2) of the light's second moments, square pixels, rising."""
    axis = torch.arange(image.shape[-1], dtype=torch.float64)
    light = image[:, 0].double() / image.double().sum((1, 2, 3))[:, None, None]
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    centre = [(light * a).sum((1, 2))[:, None, None] for a in (y, x)]
    d = [y - centre[0], x - centre[1]]
    matrix = torch.stack([(light * a * b).sum((1, 2)) for a in d for b in d], 1).reshape(-1, 2, 2)
    return torch.linalg.eigvalsh(matrix)


def test_kinds_are_equal_in_number_and_look_like_themselves(galaxies):
    image, kind = galaxies
    assert image.shape == (400, 1, 16, 16) and torch.bincount(kind).tolist() == [100] * len(KINDS)
    assert (image >= 0).all() and (image.flatten(1).amax(1) >= 0.7 - 1e-5).all() and image.max() <= 1 + 1e-5
    torch.testing.assert_close(galaxies.flux, image.sum((1, 2, 3)))
    ratio = (moments(image)[:, 0] / moments(image)[:, 1]).sqrt()
    edge_on, spiral = ratio[kind == 1], ratio[kind == 2]
    assert edge_on.max() < 0.6 < spiral.median()


def test_mergers_have_two_peaks_and_ellipticals_one(galaxies):
    image, kind = galaxies
    highest = torch.nn.functional.max_pool2d(image, 3, 1, 1)
    peaks = ((image == highest) & (image > 0.25 * image.flatten(1).amax(1)[:, None, None, None])).sum((1, 2, 3))
    assert (peaks[kind == 0] == 1).all()
    assert (peaks[kind == 3] == 2).double().mean() > 0.8


def test_a_seed_repeats_and_the_global_state_is_left():
    state = torch.get_rng_state()
    first, again = (simulate_galaxies(8, 12, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.image, again.image) and first.image.shape == (8, 1, 12, 12)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="npix"):
        simulate_galaxies(8, 0, generator=torch.Generator())


def test_artefacts_are_what_they_say():
    g = torch.Generator().manual_seed(2)
    image = torch.zeros(500, 1, 16, 16, dtype=torch.float64)
    stripes = column_stripes(image, 0.3, g)
    assert (stripes == stripes[:, :, :1]).all()
    assert float(stripes[:, 0, 0].std()) == pytest.approx(0.3, abs=4 * 0.3 / (2 * 8000) ** 0.5)
    hot = hot_pixels(image, 2.0, 0.05, g)
    assert set(hot.unique().tolist()) == {0.0, 2.0}
    assert float((hot > 0).double().mean()) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / image.numel()) ** 0.5)
    trail = satellite_trail(image, 1.0, g)
    bright = (trail > 0.6).sum((1, 2, 3))
    assert (bright >= 8).double().mean() > 0.95 and (trail <= 1).all()
    small, large = moments(trail).T
    assert (small.sqrt() < 0.7).double().mean() > 0.95 and (large > 10).all()  # a line: as thin as its width
