"""Metrics of microscopy: known answers, the reference library, invariances, bad input."""

import math

import pytest
import torch

from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.microscopy.metrics import (
    fit_affine,
    lag_one,
    nrmse,
    psnr,
    psnr_affine,
    resolution_scaled,
    skeleton_match,
    ssim,
)
from sciinstruct.operators.microscopy.resolution import (
    decorrelation_resolution,
    fourier_ring_correlation,
    split_counts,
)
from sciinstruct.operators.sim import widefield_transfer


def images(generator, n=3, side=24):
    return torch.rand(n, 1, side, side, generator=generator, dtype=torch.float64)


def test_psnr_of_a_known_error():
    truth = torch.linspace(0, 2, 16, dtype=torch.float64).reshape(1, 4, 4)
    wrong = truth + torch.tensor([0.02, 0.2]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(psnr(wrong, truth), torch.tensor([40.0, 20.0], dtype=torch.float64), rtol=1e-6, atol=0)
    assert float(psnr(wrong, truth, data_range=20.0)[1]) == pytest.approx(40, rel=1e-6)
    assert psnr(truth[None], truth).isinf().all()


def test_psnr_and_ssim_equal_skimage(generator):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a, b = images(generator), images(generator)
    for i in range(3):
        one, two = a[i, 0].numpy(), b[i, 0].numpy()
        assert float(psnr(a, b, data_range=1.0)[i]) == pytest.approx(peak_signal_noise_ratio(two, one, data_range=1.0))
        expected = structural_similarity(
            two, one, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(ssim(a, b, data_range=1.0)[i]) == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(ssim(b, b), torch.ones(3, dtype=torch.float64))


def test_affine_fit_finds_scale_and_offset(generator):
    truth = images(generator)
    scale, offset = torch.tensor([2.0, 0.1, -3.0]).double(), torch.tensor([5.0, 0.0, 1.0]).double()
    fit = fit_affine((truth - offset.reshape(3, 1, 1, 1)) / scale.reshape(3, 1, 1, 1), truth)
    torch.testing.assert_close(fit.scale, scale)
    torch.testing.assert_close(fit.offset, offset)
    torch.testing.assert_close(fit.image, truth)


def test_affine_psnr_is_blind_to_brightness_and_never_below_plain(generator):
    truth, image = images(generator), images(generator)
    torch.testing.assert_close(psnr_affine(7 * image - 3, truth), psnr_affine(image, truth))
    assert (psnr_affine(image, truth) >= psnr(image, truth)).all()
    flat = torch.zeros_like(truth)  # nothing to scale: the best is the truth's mean
    span, power = truth.amax((1, 2, 3)) - truth.amin((1, 2, 3)), truth.flatten(1).var(1, correction=0)
    torch.testing.assert_close(psnr_affine(flat, truth), 10 * (span.square() / power).log10())


def test_nrmse_of_a_scaled_copy(generator):
    truth = images(generator)
    torch.testing.assert_close(nrmse(1.3 * truth, truth), torch.full((3,), 0.3, dtype=torch.float64))


def test_resolution_scaled_scores(generator):
    """The truth explains its own image; noise of known size gives its own error and the Pearson it must."""
    blur = GaussianBlur(1.5, (64, 64))
    truth = images(generator, 2, 64)
    clean = blur(truth)
    exact = resolution_scaled(truth, 3 * clean + 2, blur)
    torch.testing.assert_close(exact.pearson, torch.ones(2, dtype=torch.float64))
    assert exact.error.max() < 1e-12
    sigma = 0.05
    noise = sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    noisy = resolution_scaled(truth, clean + noise, blur)
    n = 64 * 64
    assert ((noisy.error / sigma - 1).abs() < 4 / math.sqrt(2 * n)).all()
    power = clean.flatten(1).var(1)
    assert ((noisy.pearson - (power / (power + sigma**2)).sqrt()).abs() < 4 / math.sqrt(n)).all()
    assert resolution_scaled(torch.zeros_like(truth), clean, blur).pearson.tolist() == [0, 0]


def test_lag_one_of_white_noise_and_of_a_moving_mean(generator):
    white = torch.randn(4, 1, 128, 128, generator=generator, dtype=torch.float64)
    assert (lag_one(white).abs() < 4 / 128).all()
    # x_i + a x_{i-1} along rows has autocorrelation a/(1 + a^2) there, and none along columns
    a = 0.5
    moving = white + a * white.roll(1, -1)
    found = lag_one(moving)
    assert ((found[:, 0] - a / (1 + a**2)).abs() < 4 * math.sqrt(2) / 128).all()
    assert (found[:, 1].abs() < 4 * math.sqrt(2) / 128).all()


def test_lag_one_of_stripes():
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    torch.testing.assert_close(lag_one(stripes), torch.tensor([[-1.0, 1.0]]))


def bars(*rows, side=32):
    """Lines three pixels thick."""
    image = torch.zeros(1, side, side)
    for row in rows:
        image[0, row - 1 : row + 2, 4:-4] = 1
    return image


def test_skeletons_within_and_beyond_the_tolerance():
    truth = bars(8, 20)
    same, shifted, half, extra = truth, bars(10, 22), bars(8), bars(8, 14, 20)
    found = skeleton_match(torch.stack([same, shifted, half, extra]), truth, tolerance=1.0)
    torch.testing.assert_close(found.precision, torch.tensor([1, 0, 1, 2 / 3]))
    torch.testing.assert_close(found.recall, torch.tensor([1, 0, 0.5, 1]))
    near = skeleton_match(shifted[None], truth, tolerance=2.0)
    assert near.precision.tolist() == near.recall.tolist() == [1]


def test_skeletons_where_nothing_is_found():
    found = skeleton_match(torch.zeros(1, 1, 32, 32), bars(8), tolerance=1.0, threshold=0.5)
    assert found.precision.isnan().all() and found.recall.tolist() == [0]


def test_threshold_decides_what_is_a_filament():
    faint = bars(8) + 0.3 * bars(20)
    low, high = (skeleton_match(faint[None], bars(8, 20), tolerance=1.0, threshold=t) for t in (0.2, 0.5))
    assert low.recall.tolist() == [1] and high.recall.tolist() == [0.5]


def test_halves_of_poisson_counts_are_independent_and_add_up(generator):
    counts = torch.poisson(torch.full((200_000,), 6.0, dtype=torch.float64), generator=generator)
    a, b = split_counts(counts, generator)
    assert torch.equal(a + b, counts)
    se = 4 / math.sqrt(len(counts))
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < se
    assert float(a.mean()) == pytest.approx(3, abs=se * math.sqrt(3))
    assert float(a.var()) == pytest.approx(3, abs=se * math.sqrt(3 + 2 * 9))  # fourth cumulant of the law: its rate


def field(generator, transfer, noise, n=4):
    """White scene through a transfer function, seen twice with white noise."""
    spectrum = torch.fft.fft2(torch.randn(n, 1, *transfer.shape, generator=generator, dtype=torch.float64)) * transfer
    scene = torch.fft.ifft2(spectrum).real
    return [scene + noise * torch.randn(scene.shape, generator=generator, dtype=scene.dtype) for _ in "ab"]


def test_ring_correlation_is_signal_over_signal_and_noise(generator):
    """S/(S + N) at every frequency; it falls to 1/7 where S/N = 1/6."""
    sigma, noise, side = 1.2, 0.4, 192
    found = fourier_ring_correlation(*field(generator, GaussianBlur(sigma, (side, side)).transfer, noise), pixel_um=0.1)
    power = torch.exp(-((2 * math.pi * sigma * 0.1 * found.frequency) ** 2))
    # standard error (1 - c^2)/sqrt(n), n samples of half a plane less what the taper takes; bias by the rings' width
    samples = 3 * math.pi * torch.arange(len(power)).clamp(min=2) * (1 - 1 / 8) ** 2
    expected = power / (power + noise**2)
    tolerance = 5 * (1 - expected**2 + 0.02) / samples.sqrt() + 0.01
    assert ((found.correlation - expected).abs() < tolerance)[:, 4:].all()
    crossing = math.sqrt(math.log(6 / noise**2)) / (2 * math.pi * sigma * 0.1)
    assert found.frequency[-1] == pytest.approx(5.0)
    torch.testing.assert_close(found.resolution_um * crossing, torch.ones(4).double(), rtol=0, atol=0.08)


def test_ring_correlation_in_quantities(generator):
    from astropy import units

    a, b = field(generator, GaussianBlur(1.2, (64, 64)).transfer, 0.3)
    torch.testing.assert_close(
        fourier_ring_correlation(a, b, 65 * units.nm).resolution_um, fourier_ring_correlation(a, b, 0.065).resolution_um
    )


def test_ring_correlation_of_equals_and_of_strangers(generator):
    a, b = (torch.randn(2, 1, 96, 64, generator=generator, dtype=torch.float64) for _ in "ab")
    same = fourier_ring_correlation(a, a, 0.1)
    torch.testing.assert_close(same.correlation, torch.ones_like(same.correlation))
    assert same.resolution_um.isnan().all()  # the pixels limit it
    strangers = fourier_ring_correlation(a, b, 0.1)
    assert strangers.correlation[:, 8:].abs().max() < 5 / math.sqrt(math.pi * 3 * 8 * 0.75)
    assert (strangers.resolution_um > 0.3).all()


@pytest.mark.parametrize("cutoff", [0.15, 0.25, 0.35])
def test_decorrelation_finds_the_cut_off_of_the_optics(cutoff, generator):
    points = (torch.rand(2, 1, 256, 256, generator=generator, dtype=torch.float64) > 0.98) * 3e4
    seen = torch.fft.ifft2(torch.fft.fft2(points) * widefield_transfer(cutoff, (256, 256))).real.clamp(min=0)
    y = torch.poisson(seen + 5, generator=generator)
    found = decorrelation_resolution(y, 0.1) / 0.1 * cutoff
    assert ((found > 0.95) & (found < 1.2)).all()
    halves = fourier_ring_correlation(*split_counts(y, generator), 0.1)
    assert ((halves.resolution_um / 0.1 * cutoff - 1).abs() < 0.1).all()


def test_noise_alone_has_no_resolution(generator):
    assert decorrelation_resolution(torch.randn(3, 1, 64, 80, generator=generator), 0.1).isnan().all()


def test_bad_images_are_refused(generator):
    a = images(generator)
    with pytest.raises(ValueError, match="truth must be one image"):
        psnr(a, a[:, :, 1:])
    with pytest.raises(ValueError, match="one image or 3"):
        nrmse(a, a[:2])
    with pytest.raises(ValueError, match="image must be finite"):
        psnr_affine(a * float("nan"), a)
    with pytest.raises(ValueError, match="give data_range"):
        psnr(a, torch.ones_like(a))
    with pytest.raises(ValueError, match="data_range must be positive"):
        ssim(a, a, data_range=0.0)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(a[..., :8], a[..., :8])
    with pytest.raises(ValueError, match="residuals must be finite"):
        lag_one(a / 0)
    with pytest.raises(ValueError, match="tolerance must be zero or more"):
        skeleton_match(a, a, tolerance=-1.0)
    with pytest.raises(ValueError, match="counts must be whole"):
        split_counts(a)
    with pytest.raises(ValueError, match="16 pixels"):
        fourier_ring_correlation(a[..., :8, :8], a[..., :8, :8], 0.1)
    with pytest.raises(ValueError, match="pixel_um must be positive"):
        decorrelation_resolution(a, 0.0)
