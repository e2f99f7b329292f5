"""A tiled prior: what its tiles say where they agree, and one image without seams where they overlap."""

import pytest
import torch

from sciinstruct.priors import GaussianField, TiledPrior, power_law
from sciinstruct.priors.base import Prior

F64 = torch.float64


class _Pixelwise(Prior):
    """Independent pixels of unit variance: the denoiser knows no neighbours."""

    event_shape, sigma_range, scale, shift = (1, 8, 8), (0.01, 50.0), 2.0, 1.0

    def denoise(self, x, sigma):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return x / (1 + sigma.square())


@pytest.mark.parametrize("shape", [(8, 8), (8, 21), (30, 19)])
def test_pixelwise_priors_tile_exactly(shape, generator):
    tiled = TiledPrior(_Pixelwise(), shape)
    x = torch.randn(3, 1, *shape, generator=generator, dtype=F64)
    for sigma in (0.1, torch.tensor([0.3, 1.0, 7.0], dtype=F64)):
        wanted = x / (1 + torch.as_tensor(sigma).reshape(-1, 1, 1, 1).square())
        torch.testing.assert_close(tiled.denoise(x, sigma), wanted)
    torch.testing.assert_close(tiled.to_physical(x), 2 * x + 1)


def test_an_image_of_the_tiles_size_is_the_tile(generator):
    field = GaussianField(power_law((8, 8), 3.0))
    x = torch.randn(2, 1, 8, 8, generator=generator, dtype=F64)
    torch.testing.assert_close(TiledPrior(field, (8, 8)).denoise(x, 0.5), field.denoise(x, 0.5))


def test_tiles_move_from_level_to_level():
    tiled = TiledPrior(_Pixelwise(), (64, 64))
    starts = {tuple(tiled.starts(1, torch.tensor([s]))) for s in (0.1, 0.2, 0.4, 0.8)}
    assert len(starts) > 1
    for some in starts:
        assert some[0] == 0 and some[-1] == 56
        assert all(b - a <= 6 for a, b in zip(some, some[1:]))  # at least a quarter shared


def test_denoised_image_has_no_seams(generator):
    """Steps between pixels on either side of a tile's edge are no larger than anywhere else."""
    tiled = TiledPrior(GaussianField(power_law((16, 16), 3.0)), (64, 64))
    x = torch.randn(40, 1, 64, 64, generator=generator, dtype=F64)
    done = tiled.denoise(x, 1.0)
    steps = done.diff(dim=-1).square().mean((0, 1, 2)).sqrt()
    edges = [s for s in tiled.starts(2, torch.tensor([1.0])) if 0 < s < 48]
    at_edges = steps[[e - 1 for e in edges]].mean()
    assert at_edges / steps[4:-4].mean() == pytest.approx(1.0, abs=0.1)


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="at least the tile's"):
        TiledPrior(_Pixelwise(), (7, 20))
    with pytest.raises(ValueError, match="overlap"):
        TiledPrior(_Pixelwise(), (20, 20), overlap=0.0)
    with pytest.raises(ValueError, match="shape"):
        TiledPrior(_Pixelwise(), (20, 20)).denoise(torch.zeros(1, 1, 8, 8), 1.0)
