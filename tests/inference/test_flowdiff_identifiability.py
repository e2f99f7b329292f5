"""What corrupted data cannot tell: null directions by name, and nothing claimed in them."""

import pytest
import torch

from sciinstruct.core import GaussianNoise, LinearOperator
from sciinstruct.inference.flowdiff import FlowDiff
from sciinstruct.inference.flowdiff_identifiability import analyse, describe, identifiability_report
from sciinstruct.inference.simulator import MaskSimulator, OperatorSimulator
from sciinstruct.operators import GaussianBlur, PixelMask
from sciinstruct.priors import GaussianField
from sciinstruct.priors.field import matern
from sciinstruct.priors.problems.base import MatrixOperator


class Grey(LinearOperator):
    """Sum of two channels."""

    domain_shape, range_shape = (2, 4, 4), (1, 4, 4)

    def apply(self, x):
        return x.sum(1, keepdim=True)

    def apply_adjoint(self, y):
        return y.expand(-1, 2, -1, -1)


def vectors(matrix, n=500):
    g = torch.Generator().manual_seed(1)
    law = OperatorSimulator(MatrixOperator(matrix), GaussianNoise(0.3))
    x = torch.randn(n, matrix.shape[1], generator=g) * torch.arange(1, matrix.shape[1] + 1)
    return law, law.simulate(x, g), x


def images(law, shape, n=500):
    g = torch.Generator().manual_seed(2)
    x = GaussianField(matern(shape[1:], 2.0).expand(shape)).sample(n, generator=g)
    return law, law.simulate(x, g), x


def test_a_sum_leaves_the_difference_open_and_names_it():
    law, y, _ = vectors(torch.tensor([[1.0, 1.0]]))
    report = identifiability_report(law, y)
    assert report.null_share == 0.5 and not report.identifiable
    assert report.names()[0] in ("+0.71 x[0] -0.71 x[1]", "-0.71 x[0] +0.71 x[1]")
    assert report.rates.max() == 1 and torch.isinf(report.sweeps.max())
    assert "Nothing is claimed there" in report.warnings()[0]
    torch.testing.assert_close(report.seen(torch.tensor([[1.0, -1.0]])), torch.zeros(1, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(report.seen(torch.ones(1, 2)), torch.ones(1, 2), atol=1e-6, rtol=0)


def test_a_fixed_mask_hides_pixels_that_masks_of_their_own_do_not():
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[1, 2] = mask[4, 4] = False
    law, y, _ = images(OperatorSimulator(PixelMask(mask), GaussianNoise(0.1)), (1, 6, 6))
    fixed = identifiability_report(law, y)
    assert fixed.null_share == 2 / 36 and set(fixed.names()) == {"pixel (1, 2)", "pixel (4, 4)"}
    own = MaskSimulator((1, 6, 6), 0.1, lambda n, g: torch.rand(n, 1, 6, 6, generator=g) < 0.4)
    assert identifiability_report(*images(own, (1, 6, 6))[:2]).identifiable


def test_grey_images_leave_the_channels_difference_open():
    law, y, _ = images(OperatorSimulator(Grey(), GaussianNoise(0.1)), (2, 4, 4))
    report = identifiability_report(law, y)
    assert report.null_share == 0.5
    assert all("+0.71" in name and "-0.71" in name for name in report.names())


def test_a_blur_hides_fine_waves():
    law, y, _ = images(OperatorSimulator(GaussianBlur(2.0, (8, 8)), GaussianNoise(0.05)), (1, 8, 8))
    report = identifiability_report(law, y)
    assert 0.3 < report.null_share < 0.95
    for direction in report.null_directions[:5]:
        power = torch.fft.fft2(direction[0]).abs().square()
        radius = torch.hypot(torch.fft.fftfreq(8)[:, None], torch.fft.fftfreq(8)[None])
        assert float((power * radius).sum() / power.sum()) > 0.25


def test_the_words_for_a_wave():
    wave = torch.cos(2 * torch.pi * torch.arange(8) * 0.25).expand(8, 8)
    assert describe(wave[None]) == "waves around (+0.00, 0.25) cycles per pixel"


def test_the_result_repeats_the_report_and_scores_only_what_is_seen():
    """Coverage with a truth changed along the null direction is the same: nothing is claimed in it."""
    law, y, x = vectors(torch.tensor([[1.0, 1.0]]))
    found = FlowDiff(steps=6, batch=16, warmup=2).train(y, law, generator=0)
    assert found.identifiability is not None and found.identifiability.null_share == 0.5
    assert any("Nothing is claimed there" in said for said in found.warnings)
    assert any("Nothing is claimed there" in s for s in found.posterior(y[0], 4, generator=0).diagnostics["warnings"])
    plain = found.report(y[:50], x[:50], generator=1)
    moved = found.report(y[:50], x[:50] + 100 * torch.tensor([1.0, -1.0]), generator=1)
    assert plain["coverage_90"] == moved["coverage_90"]
    assert plain["psnr_mean"] == pytest.approx(moved["psnr_mean"], abs=1e-3)
    assert plain["identifiability"]["null_directions"] == found.identifiability.names()


def test_a_report_too_large_for_dense_algebra_is_refused():
    law = OperatorSimulator(GaussianBlur(1.0, (40, 40)), GaussianNoise(0.1))
    with pytest.raises(ValueError, match="report on a crop"):
        identifiability_report(law, torch.rand(20, 1, 40, 40))


def test_a_law_that_hardly_varies_somewhere_is_no_fault_of_the_instrument():
    """Vectors along one axis, seen whole: both directions are identified, though one is slow."""
    report = analyse(
        torch.eye(2, dtype=torch.float64)[None], torch.diag(torch.tensor([4.0, 1e-6]).double()), (2,), False
    )
    assert report.identifiable and float(report.shares[0]) > 1 - 1e-5
    assert not any("Nothing is claimed" in said for said in report.warnings())
