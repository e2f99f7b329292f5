"""Joint training of a prior and a posterior from corrupted data: its terms, its door, its interruptions."""

import math

import pytest
import torch

from sciinstruct.core import GaussianNoise, Operator, PriorError, SolverError
from sciinstruct.inference import PPM, Mixture
from sciinstruct.inference.amortized import AmortizedPPM
from sciinstruct.inference.blur_simulator import BlurSimulator
from sciinstruct.inference.flowdiff import FlowDiff
from sciinstruct.inference.flowdiff_checks import chi2_warning, chi_square
from sciinstruct.inference.flowdiff_gaussian import Gaussian
from sciinstruct.inference.flowdiff_result import load_prior, load_reconstructor
from sciinstruct.inference.flowdiff_target import GaussianTarget, LearnedTarget
from sciinstruct.inference.simulator import MaskSimulator, OperatorSimulator
from sciinstruct.operators import Convolution, ImageMask
from sciinstruct.operators.interferometry.visibility import VisibilityOperator
from sciinstruct.operators.kernels import gaussian_kernel
from sciinstruct.operators.masks import random_mask
from sciinstruct.operators.microscopy import Optics, PoissonGaussianNoise, WidefieldBlur
from sciinstruct.priors import GaussianMixture, NetworkPrior
from sciinstruct.priors.problems.base import MatrixOperator

F64 = torch.float64
A = torch.tensor([[1.0, 0.3], [0.0, 0.8]])
QUICK = {"steps": 8, "batch": 16, "warmup": 2}


def seeded(n=0):
    return torch.Generator().manual_seed(n)


def vector_law(sigma=0.5):
    return OperatorSimulator(MatrixOperator(A), GaussianNoise(sigma))


def vector_data(n=200, sigma=0.5):
    g = seeded(7)
    x = torch.randn(n, 2, generator=g) * torch.tensor([2.0, 1.0]) + 1
    return vector_law(sigma).simulate(x, g)


def half_masks(n, generator):
    return torch.rand(n, 1, 8, 8, generator=generator) < 0.5


def image_data(n=64):
    law, g = MaskSimulator((1, 8, 8), 0.1, half_masks), seeded(8)
    x = torch.randn(n, 1, 1, 1, generator=g) + torch.linspace(0, 1, 8)
    return law, law.simulate(x.expand(n, 1, 8, 8), g)


def two_modes():
    means = torch.tensor([[-0.4, 0.0], [0.4, 0.2]], dtype=F64)
    return GaussianMixture(means, 0.02 * torch.eye(2, dtype=F64)[None], sigma_range=(0.01, 20.0))


def its_gaussian():
    prior = two_modes()
    x = prior.means
    return Gaussian(x.mean(0), 0.02 * torch.eye(2, dtype=F64) + torch.cov(x.T, correction=0))


def test_the_gaussian_target_is_the_average_of_its_bound():
    target = GaussianTarget(its_gaussian(), (2,), (0.01, 20.0), 1.0, 0.0)
    points = torch.tensor([[0.3, -0.1], [-0.5, 0.4]], dtype=F64)
    bound = target.prior.neg_log_bound(points.repeat_interleave(20000, 0), 8, sigma_data=0.5, generator=seeded())
    found = bound.reshape(2, -1)
    difference = found[0] - found[1]
    exact = target.neg_log_prob(points)
    error = float(difference.std()) / 20000**0.5
    assert abs(float(difference.mean() - (exact[0] - exact[1]))) < 4 * error


def test_taking_the_known_noise_out_leaves_the_gradient_as_it_was():
    reference, prior = GaussianTarget(its_gaussian(), (2,), (0.01, 20.0), 1.0, 0.0), two_modes()
    quiet, n = LearnedTarget(prior, reference, 4), 20000
    slopes = {}
    for name, term in {
        "plain": lambda x: prior.neg_log_bound(x, 4, sigma_data=0.5, generator=seeded(1)),
        "quiet": lambda x: quiet.neg_log_prob(x, seeded(2)),
    }.items():
        x = torch.tensor([[0.1, 0.3]], dtype=F64).repeat(n, 1).requires_grad_()
        (slopes[name],) = torch.autograd.grad(term(x).sum(), x)
    error = (sum(s.var(0) for s in slopes.values()) / n).sqrt()
    assert ((slopes["plain"].mean(0) - slopes["quiet"].mean(0)).abs() < 4 * error).all()
    exact = -prior.score(torch.tensor([[0.1, 0.3]], dtype=F64), 0.01)[0]
    assert ((slopes["quiet"].mean(0) - exact).abs() < 4 * error + 0.02 * exact.norm()).all()
    assert slopes["quiet"].var(0).sum() < slopes["plain"].var(0).sum()


def test_under_its_own_law_the_prior_term_is_free_of_noise():
    reference = GaussianTarget(its_gaussian(), (2,), (0.01, 20.0), 1.0, 0.0)
    x = torch.randn(5, 2, generator=seeded(), dtype=F64)
    found = LearnedTarget(reference.prior, reference, 2).neg_log_prob(x, seeded(3))
    torch.testing.assert_close(found, reference.neg_log_prob(x))


def run_twice(tmp_path, data, law, settings, **options):
    """Histories and results: at one go, and interrupted half-way."""
    whole = settings.train(data, law, generator=4, **options)
    state = tmp_path / "state.pt"

    def stop(step, info):
        if step == settings.steps // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.train(data, law, generator=4, checkpoint=state, callback=stop, **options)
    return whole, settings.train(data, law, generator=99, checkpoint=state, resume=True, **options)


CASES = {
    "vectors": lambda: (vector_data(), vector_law(), FlowDiff(**QUICK), {}),
    "images": lambda: (*image_data()[::-1], FlowDiff.for_images(**QUICK), {}),
    "matching": lambda: (
        vector_data(),
        vector_law(),
        FlowDiff(**QUICK),
        {"matching": AmortizedPPM(steps=12, batch=8, warmup=1, auxiliary_batch=16, width=16)},
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_an_interrupted_run_goes_on_bit_for_bit(case, tmp_path):
    data, law, settings, options = CASES[case]()
    whole, resumed = run_twice(tmp_path, data, law, settings, **options)
    assert whole.curves == resumed.curves
    for a, b in zip(whole.prior.parameters(), resumed.prior.parameters()):
        assert torch.equal(a, b)
    for a, b in zip(whole.reconstructor.network.parameters(), resumed.reconstructor.network.parameters()):
        assert torch.equal(a, b)


def test_the_same_seed_gives_the_same_history():
    one, other = (FlowDiff(**QUICK).train(vector_data(), vector_law(), generator=5) for _ in range(2))
    assert one.curves == other.curves
    third = FlowDiff(**QUICK).train(vector_data(), vector_law(), generator=6)
    assert third.curves["objective"] != one.curves["objective"]


def test_the_prior_is_one_and_the_posterior_has_a_density(tmp_path):
    law, y = image_data()
    found = FlowDiff.for_images(**QUICK).train(y, law, generator=1)
    assert isinstance(found.prior, NetworkPrior)
    assert found.prior.to_physical(found.prior.sample(3, generator=seeded())).shape == (3, 1, 8, 8)
    posterior = found.posterior(y[0], 5, generator=2)
    assert posterior.samples.shape == (5, 1, 8, 8)
    assert found.log_prob(posterior.samples, y[:1].expand(5, *y.shape[1:])).shape == (5,)
    assert set(found.report(y[:4], generator=1)) >= {"chi2", "bound_nats_per_number", "identifiability", "warnings"}
    found.save(tmp_path)
    torch.testing.assert_close(
        load_prior(tmp_path).denoise(posterior.samples, 0.5),
        found.prior.denoise(posterior.samples, 0.5),
        rtol=0,
        atol=2e-2,  # float16 weights, and the precision the processor is fast at
    )
    again = load_reconstructor(tmp_path, law)
    torch.testing.assert_close(
        again.sample(y[:2], 3, generator=3), found.reconstructor.sample(y[:2], 3, generator=3), atol=0.05, rtol=0
    )


def test_the_density_is_normalised_and_in_physical_units():
    """Importance weights of a wide Gaussian average to 1, within 4 standard errors."""
    found = FlowDiff(**QUICK).train(vector_data(), vector_law(), generator=1)
    y, n = vector_data()[:1], 20000
    draws = found.reconstructor.sample(y[0], 500, generator=0)
    wide = torch.distributions.MultivariateNormal(draws.mean(0), 2 * torch.cov(draws.T))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = wide.sample((n,))
    weights = (found.log_prob(x, y.expand(n, -1)) - wide.log_prob(x)).exp()
    assert abs(float(weights.mean()) - 1) < 4 * float(weights.std()) / math.sqrt(n)


def test_a_learned_prior_of_vectors_is_used_by_a_solver_and_saved(tmp_path):
    found = FlowDiff(**QUICK).train(vector_data(), vector_law(), generator=1)
    found.save(tmp_path)
    prior = load_prior(tmp_path)
    x = torch.randn(4, 2, generator=seeded())
    assert torch.equal(prior.denoise(x, 0.3), found.prior.denoise(x, 0.3))
    from sciinstruct.core import InverseProblem, Likelihood

    problem = InverseProblem(prior, Likelihood(MatrixOperator(A), 0.5, vector_data()[0]))
    made = PPM(Mixture(components=2), steps=3, weight_rounds=2).run(problem, 8, generator=seeded())
    assert made.samples.shape == (8, 2)


def test_options_run(tmp_path):
    clean = torch.randn(60, 2, generator=seeded()) + 1
    for settings in ({"sticking_the_landing": True}, {"prior_gradient": "sds"}, {"finish": 0.0}, {"warmup": 0}):
        found = FlowDiff(**(QUICK | settings)).train(vector_data(), vector_law(), clean_images=clean, generator=1)
        assert all(math.isfinite(v) for v in found.curves["objective"])


class Rounds(Operator):
    """Not differentiable."""

    domain_shape = range_shape = (2,)

    def apply(self, x):
        return x.round()


class Detached(Rounds):
    """No gradient at all."""

    def apply(self, x):
        return x.detach() * 2


def spoiled(value):
    y = vector_data()
    y[3, 1] = value
    return y


BAD = {
    "NaN": (lambda: (spoiled(float("nan")), vector_law()), ValueError, "measurements must be finite"),
    "constant": (lambda: (torch.ones(50, 2), vector_law()), ValueError, "constant"),
    "mixed": (lambda: ([torch.ones(2), torch.ones(3)], vector_law()), ValueError, "share one shape"),
    "other shape": (lambda: (torch.rand(50, 3), vector_law()), ValueError, "must have shape"),
    "few": (lambda: (vector_data(5), vector_law()), ValueError, "too few"),
    "integers": (lambda: (torch.ones(50, 2).long(), vector_law()), TypeError, "floating"),
    "rounding": (
        lambda: (vector_data(), OperatorSimulator(Rounds(), GaussianNoise(0.5))),
        ValueError,
        "must be differentiable",
    ),
    "detached": (
        lambda: (vector_data(), OperatorSimulator(Detached(), GaussianNoise(0.5))),
        ValueError,
        "must be differentiable",
    ),
    "all noise": (lambda: (0.1 * vector_data(), vector_law(5.0)), PriorError, "noise level is claimed too large"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused_by_name(case):
    make, error, words = BAD[case]
    data, law = make()
    with pytest.raises(error, match=words):
        FlowDiff(**QUICK).train(data, law, generator=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"warmup": 4000},
        {"finish": 1.0},
        {"flow_rate": 0.0},
        {"prior_gradient": "score"},
        {"entropy_weight": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FlowDiff(**wrong)


def test_a_checkpoint_of_other_data_or_settings_is_refused(tmp_path):
    state = tmp_path / "state.pt"
    FlowDiff(**QUICK).train(vector_data(), vector_law(), generator=0, checkpoint=state)
    with pytest.raises(SolverError, match="other measurements"):
        FlowDiff(**QUICK).train(vector_data() + 1, vector_law(), generator=0, checkpoint=state, resume=True)
    with pytest.raises(SolverError, match="other settings"):
        FlowDiff(**(QUICK | {"batch": 8})).train(
            vector_data(), vector_law(), generator=0, checkpoint=state, resume=True
        )


def test_a_loss_that_breaks_down_says_where(tmp_path):
    state = tmp_path / "state.pt"
    with pytest.raises(SolverError, match="at step"):
        FlowDiff(**(QUICK | {"flow_rate": 1e30})).train(vector_data(), vector_law(), generator=0, checkpoint=state)
    assert state.is_file()


@pytest.mark.parametrize("noise", ["gaussian", "masks"])
def test_chi_square_of_exact_posteriors_is_one(noise):
    """Truths are draws of the posterior: 4 standard errors of the mean of n m squared normals over n m."""
    g, n = seeded(9), 4000
    if noise == "gaussian":
        law, x, m = vector_law(), torch.randn(n, 2, generator=g), 2.0
    else:
        law, x, m = image_data()[0], torch.randn(n, 1, 8, 8, generator=g), 32.0
    chi2 = chi_square(law, law.simulate(x, g), x)
    assert abs(float(chi2.mean()) - 1) < 4 * math.sqrt(2.1 / (n * m))


def test_a_chi_square_off_one_is_flagged_with_its_direction():
    assert chi2_warning(1.1) is None
    assert "smaller than claimed" in chi2_warning(0.6)
    assert "larger than claimed" in chi2_warning(1.5)


def corruption(name):
    """Section 7 of the method: one law of measurements each, on 8 x 8 images."""
    whole, shape = ImageMask(torch.ones(1, 8, 8, dtype=torch.bool)), (1, 8, 8)
    if name == "noise":
        return OperatorSimulator(whole, GaussianNoise(0.2))
    if name == "blur":
        return OperatorSimulator(Convolution(gaussian_kernel(1.0, side=5), shape), GaussianNoise(0.01))
    if name == "masks":
        return MaskSimulator(shape, 0.1, lambda n, g: random_mask((n, *shape), 0.4, g))
    if name == "blurs":
        return BlurSimulator(shape, (0.5, 1.0), (0.05, 0.2))
    if name == "microscope":
        optics = WidefieldBlur(Optics(1.2, 600.0), (8, 8), 0.1, "circular")
        return OperatorSimulator(optics, PoissonGaussianNoise(1.6))
    u, v = 2e9 * torch.randn(2, 30, generator=seeded(3), dtype=F64)
    return OperatorSimulator(VisibilityOperator(u, v, 8, 160.0), GaussianNoise(0.5))


@pytest.mark.parametrize("name", ["noise", "blur", "masks", "blurs", "microscope", "visibilities"])
def test_every_corruption_starts_at_a_right_chi_square_and_trains(name):
    law, g = corruption(name), seeded(10)
    x = 5 + torch.randn(100, 1, 1, 1, generator=g) + torch.linspace(0, 4, 8).expand(100, 1, 8, 8)
    y = law.simulate(x, g)
    found = FlowDiff.for_images(4, batch=8).train(y, law, generator=1)
    start = chi_square(law, y[:8], found.reconstructor.sample(y[:8], 1, generator=2)[:, 0])
    assert 0.5 < float(start.mean()) < 1.6
    assert len(found.curves["objective"]) == 2 and found.identifiability is not None
