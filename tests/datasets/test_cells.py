"""Simulated cells: determinism, normalisation, geometry, statistics of the structures, bad input."""

import math

import pytest
import torch

from sciinstruct.datasets import cells
from sciinstruct.datasets.cells import draw_structures, simulate_cells

KINDS = list(cells._KINDS)


def foreground_mean(images):
    images = images[:, 0].double()
    shown = images > cells.FOREGROUND * images.amax((-1, -2), keepdim=True)
    return (images * shown).sum((-1, -2)) / shown.sum((-1, -2))


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_non_negative_with_mean_one_over_the_foreground(kind):
    made = simulate_cells(kind, 12, 32, generator=0)
    assert made.images.shape == (12, 1, 32, 32)
    assert made.images.dtype == torch.float32
    assert torch.isfinite(made.images).all() and made.images.min() >= 0
    torch.testing.assert_close(foreground_mean(made.images), torch.ones(12).double(), atol=1e-5, rtol=0)
    assert {made.kinds[label] for label in made.labels} == {kind}


def test_same_seed_same_images_and_other_seed_other_images():
    first, again, other = (simulate_cells(None, 12, 32, generator=seed) for seed in (5, 5, 6))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("kind", KINDS)
def test_images_do_not_depend_on_the_chunk(kind, monkeypatch):
    whole = simulate_cells(kind, 7, 32, generator=1).images
    monkeypatch.setattr(cells, "_CELLS", 1)
    torch.testing.assert_close(simulate_cells(kind, 7, 32, generator=1).images, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_structures_are_those_of_the_images(kind):
    """Away from the edges the image is the raw labels blurred by a Gaussian of FWHM 100 nm, up to its scale."""
    from scipy.ndimage import gaussian_filter

    image = simulate_cells(kind, 4, 48, generator=2).images[:, 0].double()
    made = draw_structures(kind, 4, 48, generator=2)
    sd = (0.1**2 / (8 * math.log(2)) - (0.0313 / 3) ** 2 / 6) ** 0.5  # spreading over cells adds cell^2 / 6
    for a, raw in zip(image[:, 8:-8, 8:-8], made.raw[:, 0].double().numpy()):
        b = torch.as_tensor(gaussian_filter(raw, sd / (0.0313 / 3), truncate=6))
        b = b.unflatten(0, (48, 3)).unflatten(2, (48, 3)).sum((1, 3))[8:-8, 8:-8]
        scale = (a * b).sum() / (b * b).sum()
        assert (a - scale * b).abs().max() < 0.01 * a.max()  # three points stand for the pixel's integral
    for lines in made.lines:
        assert all(line.shape[1] == 2 and line.min() >= 0 and line.max() <= 48 * 0.0313 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"npix": 4}, "npix must be at least 8"),
        ({"pixel_um": -1.0}, "pixel_um must be positive"),
        ({"pixel_um": 2.0}, "pixel_um must be at most 0.5"),
        ({"weights": "golgi"}, "unknown kinds"),
        ({"weights": {"er": -1.0, "ccp": 2.0}}, "non-negative"),
        ({"weights": {}}, "not all zero"),
        ({"weights": "ccp", "npix": 8, "pixel_um": 0.001}, "too small a field"),
    ],
)
def test_bad_input_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        simulate_cells(**{"weights": None, "n": 2, **arguments})
