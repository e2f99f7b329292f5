"""Diffusion posterior sampling: its pieces are exact, its limits known."""

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, Operator, SolverError
from sciinstruct.core.likelihood import BaseLikelihood
from sciinstruct.inference.baselines.dps import DPS, ancestral_step, guidance
from sciinstruct.priors import GaussianPrior
from sciinstruct.priors.problems import MatrixOperator, fields_16

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
VARIANCE = torch.tensor([1.0, 0.25], dtype=torch.float64)


class Squares(Operator):
    """A non-linear instrument: squared entries."""

    domain_shape = range_shape = (2,)

    def apply(self, x):
        return x.square()


class NoResiduals(BaseLikelihood):
    """A likelihood that cannot be whitened."""

    domain_shape = (2,)

    def log_prob(self, image):
        return -image.abs().sum(1)

    def chi2(self, image):
        return {}

    def simulate(self, image, generator=None):
        return self


@pytest.fixture
def first_entry():
    """y = x_1 + 0.5 n = 3 under an uncorrelated Gaussian: the second entry is not measured."""
    prior = GaussianPrior(MEAN, torch.diag(VARIANCE))
    return InverseProblem(prior, Likelihood(MatrixOperator(torch.tensor([[1.0, 0.0]])), 0.5, torch.tensor([3.0])))


def test_guidance_is_the_analytic_gradient(first_entry):
    """One whitened residual r = (y - D_1)/0.5: slope -sign(r) dD_1/dx_1 / 0.5, with dD/dx = C/(C + sigma^2)."""
    sigma = 0.8
    x = torch.tensor([[0.0, 0.3], [9.0, -2.0]], dtype=torch.float64)
    clean, slope, norm = guidance(first_entry, x, sigma)
    gain = VARIANCE / (VARIANCE + sigma**2)
    expected = MEAN + gain * (x - MEAN)
    torch.testing.assert_close(clean, expected)
    residual = (3.0 - expected[:, 0]) / 0.5
    torch.testing.assert_close(slope[:, 0], -residual.sign() * gain[0] / 0.5)
    torch.testing.assert_close(slope[:, 1], torch.zeros(2, dtype=torch.float64))
    assert norm == pytest.approx(float(residual.abs().mean()))


def test_ancestral_step_carries_one_level_to_the_next(generator):
    """From clean + sigma n it draws clean + sigma' n', sigma' the next level, and keeps the right share of n."""
    clean = torch.tensor([2.0, -1.0], dtype=torch.float64).expand(200_000, 2)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    x = ancestral_step(clean + 2.0 * noise, clean, 2.0, 1.2, generator)
    error = (x - clean).flatten()
    n = len(error)
    assert abs(float(error.mean())) < 4 * 1.2 / n**0.5
    assert abs(float(error.var()) / 1.44 - 1) < 4 * (2 / n) ** 0.5
    # covariance of old and new noise: sigma'^2 / sigma^2 * sigma
    assert abs(float((error * noise.flatten()).mean()) - 1.44 / 2.0) < 4 * 1.3 / n**0.5


def test_without_guidance_it_samples_the_prior(first_entry, generator):
    """Bias allowed: 3 % of the standard deviation, 6 % of the variance, from the steps."""
    n = 20_000
    x = DPS(zeta=1e-12).run(first_entry, n, generator=generator, dtype=torch.float64).samples
    assert ((x.mean(0) - MEAN).abs() < VARIANCE.sqrt() * (4 / n**0.5 + 0.03)).all()
    assert ((x.var(0) / VARIANCE - 1).abs() < 4 * (2 / n) ** 0.5 + 0.06).all()


def test_guidance_moves_measured_entries_alone(first_entry, generator):
    """The measured entry goes from the prior's mean towards the data, further with more guidance; the other stays."""
    n, means = 4000, []
    for zeta in (0.001, 0.01, 0.1):
        x = DPS(zeta=zeta).run(first_entry, n, generator=generator, dtype=torch.float64).samples
        means.append(float(x[:, 0].mean()))
        assert abs(float(x[:, 1].mean() - MEAN[1])) < 0.5 * (4 / n**0.5 + 0.03)
    assert 0.5 < means[0] < means[1] < means[2] < 3.2


def test_a_field_is_fitted_to_its_noise(generator):
    problem, _, _ = fields_16("blur", 0)
    samples = DPS().run(problem, 16, generator=generator).samples
    assert 0.5 < float(problem.likelihood.chi2(samples)["data"].median()) < 1.5


def test_non_linear_data_are_fitted(generator):
    prior = GaussianPrior(MEAN, torch.diag(VARIANCE))
    problem = InverseProblem(prior, Likelihood(Squares(), 0.1, torch.tensor([1.0, 1.0])))
    samples = DPS(zeta=0.01).run(problem, 64, generator=generator).samples
    free = DPS(zeta=1e-9).run(problem, 64, generator=generator).samples
    assert (samples.square() - 1).abs().median() < 0.5 * (free.square() - 1).abs().median()


def test_physical_units_shape_and_provenance(generator):
    prior = GaussianPrior(torch.zeros(2), torch.eye(2))
    prior.scale, prior.shift = 3.0, 10.0
    problem = InverseProblem(prior, Likelihood(MatrixOperator(torch.eye(2)), 0.1, torch.tensor([12.0, 8.0])))
    seen = []
    result = DPS(zeta=0.003, steps=200).run(
        problem, 6, generator=generator, callback=lambda i, info: seen.append(info["residual"])
    )
    assert result.samples.shape == (6, 2) and result.samples.dtype == torch.float32
    assert (result.samples.mean(0) - torch.tensor([12.0, 8.0])).abs().max() < 1.0
    assert result.attributes["solver"] == "DPS" and result.attributes["settings"] == {"zeta": 0.003, "steps": 200}
    assert len(seen) == 200 and seen[-1] < seen[0]


def test_network_calls_are_those_made(linear_gaussian, generator):
    result = DPS(steps=10).run(linear_gaussian.problem, 3, generator=generator)
    assert linear_gaussian.prior.calls - 16 == 10  # 16 measure the prior's width
    assert result.attributes["network_calls"] == 20  # and as many gradients


def test_same_seed_same_result(first_entry):
    solver = DPS(steps=10)
    first, again, other = (solver.run(first_entry, 4, generator=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("settings", "text"), [({"steps": 1}, "steps"), ({"zeta": 0.0}, "zeta")])
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        DPS(**settings)


def test_bad_number_of_samples(first_entry):
    with pytest.raises(ValueError, match="n_samples"):
        DPS().run(first_entry, 0)


def test_a_likelihood_without_residuals_is_refused(first_entry):
    with pytest.raises(NotImplementedError, match="NoResiduals"):
        DPS(steps=5).run(InverseProblem(first_entry.prior, NoResiduals()), 2, generator=0)


def test_divergence_is_reported_with_its_step(first_entry):
    with pytest.raises(SolverError, match="at step"):
        DPS(zeta=1e38).run(first_entry, 4, generator=0)
