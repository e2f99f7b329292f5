"""Simulated cells: determinism, normalisation, geometry, statistics of the structures, bad input."""

import math

import pytest
import torch

from sciinstruct.datasets import cells
from sciinstruct.datasets._cell_field import FWHM, Field, Paths
from sciinstruct.datasets._chains import STEP, Starts, draw_starts, grow, grow_in_disc, place_labels
from sciinstruct.datasets._streams import Streams
from sciinstruct.datasets.cells import draw_structures, simulate_cells

KINDS = list(cells._KINDS)
FIELD = Field(64, 0.0313)


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


def test_chain_headings_decorrelate_over_twice_the_persistence_length(generator):
    """<cos(heading(s) - heading(0))> = exp(-s / (2 lp)) in the plane, and <R^2> is the worm-like chain's."""
    n, steps, lp = 4000, 2000, 20.0
    zero = torch.zeros(n)
    starts = Starts(torch.zeros(n, 2), zero, zero, zero > 0, zero.long(), torch.tensor([n]))
    points, heading = grow(starts, lp, torch.randn(n, steps, generator=generator))
    for s in (2.0, 10.0, 20.0):
        cos = torch.cos(heading[:, round(s / STEP) - 1])
        assert abs(cos.mean() - math.exp(-s / (2 * lp))) < 4 * cos.std() / math.sqrt(n)
    s, p = (steps - 1) * STEP, 2 * lp  # between the middles of the first and the last step
    squared = (points[:, -1] - points[:, 0]).square().sum(1)
    expected = 2 * p * s * (1 - p / s * (1 - math.exp(-s / p)))
    assert abs(squared.mean() - expected) < 4 * squared.std() / math.sqrt(n) + 0.005 * expected  # steps of 10 nm


def draw(density=1.2, n=1500, **kwargs):
    streams = Streams(range(n), torch.device("cpu"))
    settings = {"shortest": 2.0, "tail": 6.0, "direction": None, **kwargs}
    return streams, draw_starts(FIELD, streams, torch.full((n,), density), **settings)


def test_lengths_are_those_of_chains_that_begin_and_of_chains_that_pass():
    from scipy.stats import kstest

    _, starts = draw()
    born = starts.length[starts.born] - 2
    assert kstest(born.numpy(), "expon", args=(0, 6)).pvalue > 1e-3
    passing = starts.length[~starts.born]  # residual of a length met with weight L: E[L^2] / (2 E[L])
    assert abs(passing.mean() - (6**2 + 8**2) / (2 * 8)) < 4 * passing.std() / math.sqrt(len(passing))
    survival = lambda r: torch.where(r < 2, r / 8, 1 - 0.75 * torch.exp(-(r - 2).clamp_min(0) / 6))
    assert kstest(passing.numpy(), lambda r: survival(torch.as_tensor(r)).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("direction", [None, 0.7])
def test_chains_cover_the_disc_evenly_at_the_stated_density(direction):
    n = 1500
    streams, starts = draw(n=n, direction=None if direction is None else torch.full((n,), direction))
    paths, _ = grow_in_disc(FIELD, streams, starts, persistence=20.0)
    inner = paths.alive & (paths.points.norm(dim=-1) < FIELD.radius / math.sqrt(2))
    area = math.pi * FIELD.radius**2
    length = torch.zeros(2, n).index_add_(
        1, paths.owner, torch.stack((inner.sum(1), (paths.alive & ~inner).sum(1))) * STEP
    )
    density = length.sum(0) / area
    assert abs(density.mean() - 1.2) < 4 * density.std() / math.sqrt(n)
    ratio = (length[0] - length[1]) / (area / 2)
    assert abs(ratio.mean()) < 4 * ratio.std() / math.sqrt(n)


def test_deposit_keeps_sum_and_centroid(generator):
    points = (torch.rand(200, 2, generator=generator, dtype=torch.float64) - 0.5) * 2
    weight = torch.rand(200, generator=generator, dtype=torch.float64)
    owner = torch.arange(200) % 3
    canvas = FIELD.deposit(points, owner, 3, weight)
    axis = FIELD.axis(points.device).double()
    for i in range(3):
        mine, w = points[owner == i], weight[owner == i]
        torch.testing.assert_close(canvas[i].sum(), w.sum())
        centroid = torch.stack(((canvas[i].sum(0) * axis).sum(), (canvas[i].sum(1) * axis).sum())) / w.sum()
        torch.testing.assert_close(centroid, (w[:, None] * mine).sum(0) / w.sum(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pixel", [0.0313, 0.02, 0.065])
def test_a_bead_keeps_its_flux_and_is_100_nm_wide(pixel, generator):
    """Second moment of the image of a point: the Gaussian's variance and the pixel's, pixel^2 / 12, per axis."""
    field = Field(round(1.6 / pixel), pixel)
    points = (torch.rand(400, 2, generator=generator, dtype=torch.float64) - 0.5) * 0.2
    image = field.project(field.deposit(points, torch.arange(400), 400))
    centre = (torch.arange(field.npix).double() + 0.5) * pixel - field.half
    torch.testing.assert_close(image.sum((1, 2)), torch.ones(400).double(), atol=1e-6, rtol=0)
    for axis, profile in enumerate((image.sum(1), image.sum(2))):
        mean = profile @ centre
        torch.testing.assert_close(mean, points[:, axis], atol=1e-5, rtol=0)
        variance = (profile * (centre - mean[:, None]).square()).sum(1) - pixel**2 / 12
        # spreading adds f (1 - f) cell^2 with f the place in the cell: between 0 and 1/4, 1/6 on average
        fwhm = (8 * math.log(2) * variance).sqrt()
        spread = field.step**2 * 0.25 * 8 * math.log(2) / (2 * 0.1)
        assert (fwhm - 0.1).abs().max() < spread
        assert abs(fwhm.mean() - 0.1) < 4 * fwhm.std() / math.sqrt(400) + 1e-4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "siemens_star"])
def test_edges_are_as_bright_as_the_centre(kind):
    """Structures enter from outside and the blur sees them there: no dark rim, no bright rim."""
    n, field = (60, Field(16, 0.3)) if kind == "nuclei" else (400, Field(32, 0.0313))
    streams = Streams(range(1000, 1000 + n), torch.device("cpu"))
    image = field.project(cells._KINDS[kind].draw(field, streams).canvas)
    rim = torch.ones_like(image[0], dtype=torch.bool)
    rim[4:-4, 4:-4] = False
    difference = image[:, rim].mean(1) - image[:, ~rim].mean(1)
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(n)


def test_labels_of_a_microtubule_are_poisson_and_spread_as_stated():
    n, field = 2000, FIELD
    streams = Streams(range(n), torch.device("cpu"))
    points = torch.stack((torch.linspace(-0.995, 0.995, 200), torch.zeros(200)), -1).expand(n, 200, 2)
    paths = Paths(points, torch.ones(n, 200, dtype=torch.bool), torch.arange(n))
    rate, spread = torch.full((n,), 120.0), torch.full((n,), 0.05 * FWHM)
    where, owner = place_labels(field, streams, paths, torch.zeros(n, 200), rate, spread)
    number = torch.bincount(owner, minlength=n).double()
    assert abs(number.mean() - 240) < 4 * math.sqrt(240 / n)
    assert abs(number.var() / 240 - 1) < 4 * math.sqrt(2 / n)
    across = where[:, 1].double()
    assert abs(across.std() / (0.05 * FWHM) - 1) < 4 / math.sqrt(2 * len(across))


def test_star_has_its_sectors_and_loses_contrast_as_the_blur_says():
    made, raw = (
        simulate_cells("siemens_star", 5, 128, generator=0),
        draw_structures("siemens_star", 5, 128, generator=0),
    )
    p = {name: value.double() for name, value in made.parameters.items()}
    for i in range(5):
        r = 0.9 * p["radius"][i]
        angle = torch.arange(4000).double() * (2 * math.pi / 4000)
        x, y = p["x"][i] + r * angle.cos(), p["y"][i] + r * angle.sin()
        sharp = raw.raw[i, 0].double()
        cell = 0.0313 / 3
        bright = sharp[(y / cell).long(), (x / cell).long()] > sharp.max() / 2
        assert int((bright != bright.roll(1)).sum()) == 2 * int(p["spokes"][i])
        just = p["direction"][i] + math.pi / (2 * p["spokes"][i])  # the middle of the sector behind the edge
        column, row = ((p["x"][i] + r * just.cos()) / cell).long(), ((p["y"][i] + r * just.sin()) / cell).long()
        assert sharp[row, column] == sharp.max()
    # half way out the neighbours of a sector are straight enough to see the Gaussian's transfer at their period
    for i in range(5):
        r, spokes = 0.55 * p["radius"][i], p["spokes"][i]
        angle = torch.arange(2000).double() * (2 * math.pi / 2000)
        grid = torch.stack((p["x"][i] + r * angle.cos(), p["y"][i] + r * angle.sin()), -1) / (128 * 0.0313) * 2 - 1
        ring = torch.nn.functional.grid_sample(
            made.images[i : i + 1].double(), grid[None, None], mode="bicubic", align_corners=False
        )[0, 0, 0]
        wave = torch.exp(-1j * spokes * angle)
        contrast = 2 * (ring * wave).mean().abs() / ring.mean()
        period = 2 * math.pi * r / spokes
        transfer = torch.exp(-2 * (math.pi * 0.1 * FWHM / period) ** 2) * torch.sinc(0.0313 / period)
        assert float(contrast / (4 / math.pi * transfer)) == pytest.approx(1.0, abs=0.05)


def test_line_pairs_are_as_far_apart_as_stated():
    made, structures = (
        simulate_cells("line_pairs", 4, 96, generator=1),
        draw_structures("line_pairs", 4, 96, generator=1),
    )
    for i, lines in enumerate(structures.lines):
        direction, gap = made.parameters["direction"][i], float(made.parameters["spacing"][i])
        normal = torch.stack((-direction.sin(), direction.cos()))
        places = torch.stack([line.mean(0) @ normal for line in lines])
        assert all(float((line @ normal).std()) < 1e-5 for line in lines)
        apart = places.sort().values.diff()
        within = apart[apart < 0.44]
        multiple = within / gap
        assert (multiple - multiple.round()).abs().max() < 1e-3 and multiple.max() < 6.5
        torch.testing.assert_close(apart[apart >= 0.44], torch.full_like(apart[apart >= 0.44], 0.45), atol=1e-4, rtol=0)
        # all of the light lies on the lines
        row, column = structures.raw[i, 0].nonzero(as_tuple=True)
        here = (torch.stack((column, row), -1) + 0.5) * (0.0313 / 3) @ normal
        assert (here[:, None] - places).abs().min(1).values.max() < 1.5 * 0.0313 / 3


def test_pits_lie_where_the_geometry_says():
    made = draw_structures("ccp", 6, 64, generator=3)
    for raw, lines in zip(made.raw[:, 0], made.lines):
        cells_ = (raw.nonzero().flip(1) + 0.5) * (0.0313 / 3)
        centres = torch.cat([line for line in lines if line.numel()])
        inside = ((cells_ > 0.11) & (cells_ < 64 * 0.0313 - 0.11)).all(1)  # pits beyond the edge are not listed
        assert torch.cdist(cells_[inside], centres).min(1).values.max() < 0.1 + 0.0313 / 3


def test_kinds_follow_the_weights():
    made = simulate_cells({"beads": 3.0, "ccp": 1.0}, 400, 16, 0.1, generator=0)
    share = float((made.labels == made.kinds.index("beads")).float().mean())
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 400)


def test_pixel_may_carry_its_unit():
    from astropy import units

    plain, quantity = (simulate_cells("ccp", 2, 32, p, generator=0).images for p in (0.04, 40 * units.nm))
    torch.testing.assert_close(plain, quantity)


def test_a_generator_goes_on():
    source = torch.Generator().manual_seed(0)
    first, second = (simulate_cells("ccp", 4, 16, generator=source).images for _ in range(2))
    assert not torch.equal(first, second)


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
        ({"weights": {"er": math.nan}}, "weights must be finite"),
        ({"weights": "ccp", "npix": 8, "pixel_um": 0.001}, "too small a field"),
    ],
)
def test_bad_input_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        simulate_cells(**{"weights": None, "n": 2, **arguments})
