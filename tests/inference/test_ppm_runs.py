"""Posterior matching as a program: reproducible, resumable, loud when it cannot go on; generators and annealing."""

import pytest
import torch

from sciinstruct.core import BaseLikelihood, InverseProblem, Likelihood, PriorError, SolverError
from sciinstruct.inference import PPM, AnnealedGaussNewton, Generator, Mixture, Particles
from sciinstruct.priors import GaussianPrior
from sciinstruct.priors.exact import dense_posterior
from sciinstruct.priors.problems import MatrixOperator, reference_mixture

F64 = torch.float64
FAMILIES = {
    "mixture": Mixture(4, None, ()),
    "low rank": Mixture(4, 1),
    "particles": Particles(16),
    "network": Particles(16, auxiliary="network", warmup=5),
    "generator": Generator(Mixture(2, None, ()), width=8, warmup=5),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def problem():
    y = torch.tensor([-0.9], dtype=F64)
    operator = MatrixOperator(torch.tensor([[0.3, 1.0]], dtype=F64))
    return InverseProblem(reference_mixture(), Likelihood(operator, 0.5, y))


def short(family, **settings):
    return PPM(family, **{"steps": 20, "batch": 16, "groups": 4, "anneal_from": 2.0, "weight_rounds": 8, **settings})


@pytest.mark.parametrize("name", FAMILIES)
def test_one_seed_one_answer(problem, name):
    runs = [short(FAMILIES[name]).run(problem, 8, generator=seeded(s), dtype=F64).samples for s in (1, 1, 2)]
    assert torch.equal(*map(torch.as_tensor, runs[:2]))
    assert not torch.equal(*map(torch.as_tensor, runs[1:]))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stop", [3, 15])
def test_resumed_run_equals_the_uninterrupted_one(problem, name, stop, tmp_path):
    """Interrupted while annealing and after it; bit for bit."""
    solver, path = short(FAMILIES[name]), tmp_path / "state"

    def interrupt(step, info):
        if step == stop:
            raise KeyboardInterrupt

    whole = solver.run(problem, 8, generator=seeded(1), dtype=F64)
    with pytest.raises(KeyboardInterrupt):
        solver.run(problem, 8, generator=seeded(1), dtype=F64, checkpoint=path, callback=interrupt)
    seen = []
    resumed = solver.run(
        problem,
        8,
        generator=seeded(1),
        dtype=F64,
        checkpoint=path,
        resume=True,
        callback=lambda step, info: seen.append(step),
    )
    assert seen == list(range(stop + 1, 20))
    assert torch.equal(torch.as_tensor(whole.samples), torch.as_tensor(resumed.samples))
    assert whole.diagnostics["trace"] == resumed.diagnostics["trace"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "foreign", "truncated"])
def test_damaged_checkpoint(problem, content, tmp_path):
    path = tmp_path / "state"
    short(Mixture(2, None, ())).fit(problem, generator=seeded(1), dtype=F64, checkpoint=path)
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(SolverError, match="damaged"):
        short(Mixture(2, None, ())).run(problem, generator=seeded(1), dtype=F64, checkpoint=path, resume=True)


def test_checkpoint_of_another_law(problem, tmp_path):
    path = tmp_path / "state"
    short(Mixture(2, None, ())).fit(problem, generator=seeded(1), dtype=F64, checkpoint=path)
    for other in (Mixture(3, None, ()), Mixture(2, 1), Particles(16)):
        with pytest.raises(SolverError, match="another problem or law"):
            short(other).fit(problem, generator=seeded(1), dtype=F64, checkpoint=path, resume=True)
    torch.save({"something": 1}, path)
    with pytest.raises(SolverError, match="another problem or law"):
        short(Mixture(2, None, ())).fit(problem, generator=seeded(1), dtype=F64, checkpoint=path, resume=True)


def test_missing_checkpoint(problem, tmp_path):
    with pytest.raises(SolverError, match="does not exist"):
        short(Mixture(2)).run(problem, generator=seeded(1), checkpoint=tmp_path / "none", resume=True)


class BreaksLater(Likelihood):
    """Log-likelihood that turns NaN after a number of calls."""

    left = 5

    def log_prob(self, image):
        self.left -= 1
        return super().log_prob(image) * (float("nan") if self.left < 0 else 1.0)


@pytest.mark.parametrize("name", ["mixture", "particles"])
@pytest.mark.parametrize("anneal_from", [None, 2.0])
def test_nan_names_step_and_term(problem, name, anneal_from, tmp_path):
    """The last good state is kept."""
    old = problem.likelihood
    broken = InverseProblem(problem.prior, BreaksLater(old.operator, 0.5, old.y[0]))
    path = tmp_path / "state"
    with pytest.raises(SolverError, match="step 5"):
        short(FAMILIES[name], anneal_from=anneal_from).fit(broken, generator=seeded(1), dtype=F64, checkpoint=path)
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 5
    assert all(torch.isfinite(v).all() for v in saved["family"].values())


def test_nan_of_the_data_is_called_data(problem):
    old = problem.likelihood
    broken = InverseProblem(problem.prior, BreaksLater(old.operator, 0.5, old.y[0]))
    with pytest.raises(SolverError, match="data term"):
        short(Mixture(2, None, ())).fit(broken, generator=seeded(1), dtype=F64)


def test_prior_of_another_shape(problem):
    prior = GaussianPrior(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64))
    with pytest.raises(PriorError, match=r"\(3,\).*\(2,\)"):
        InverseProblem(prior, problem.likelihood)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"batch": 0}, {"groups": 0}, {"groups": 99}, {"anneal_share": 1.0}, {"anneal_share": -0.1}],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="got"):
        short(Mixture(2), **settings)


@pytest.mark.parametrize("levels", [(0.5, 0.1), (-1.0, 10.0), (0.0, 10.0)])
def test_bad_noise_levels(problem, levels):
    with pytest.raises(ValueError, match="sigma_min"):
        short(Mixture(2), sigma_min=levels[0], sigma_max=levels[1]).fit(problem, generator=seeded(1))


def test_bad_annealing_settings():
    for settings in ({"levels": 0}, {"iterations": 0}, {"batch": 0}, {"bottom": 0.0}, {"bottom": 13.0}):
        with pytest.raises(ValueError, match="got"):
            AnnealedGaussNewton(**settings)


def test_too_many_components(problem):
    with pytest.raises(ValueError, match="at most 128"):
        short(Mixture(200)).fit(problem, generator=seeded(1))


def test_posterior_carries_what_a_reader_needs(problem):
    """Weights that sum to one, traces of the run's length, provenance."""
    posterior = short(Mixture(4, None, ())).run(problem, 32, generator=seeded(7), dtype=F64)
    found = posterior.diagnostics
    assert len(posterior.samples) == 32
    assert sum(found["mode_weights"]) == pytest.approx(1)
    assert sum(found["component_weights"]) == pytest.approx(1)
    assert len(found["trace"]["data"]) == 20
    assert posterior.attributes["seed"] == 7 and posterior.attributes["preserves_bayes"]


def gaussian_problem():
    g = seeded(4)
    a = torch.randn(2, 2, generator=g, dtype=F64)
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.7]], dtype=F64)
    prior = GaussianPrior(torch.tensor([0.5, -1.0], dtype=F64), covariance)
    problem = InverseProblem(prior, Likelihood(MatrixOperator(a), 0.6, torch.tensor([0.4, 1.0], dtype=F64)))
    law = dense_posterior(prior, problem.likelihood).law
    return problem, law.means[0].double(), law.dense_covariance(0)


@pytest.mark.parametrize(
    "family",
    [Generator(Mixture(1, None, ()), width=32, warmup=100), Particles(64, auxiliary="network", warmup=100)],
    ids=["generator", "particles"],
)
def test_trained_score_lowers_the_divergence(family):
    """From a sphere at the prior to the posterior: Gaussian KL of the samples' moments falls to a third or less."""
    problem, mean, covariance = gaussian_problem()
    exact = torch.distributions.MultivariateNormal(mean, covariance)

    def divergence(steps):
        solver = PPM(family, steps=steps, batch=64, sigma_min=0.05, sigma_max=20.0, learning_rate=0.01, damping=1e-8)
        x = torch.as_tensor(solver.run(problem, 2000, generator=seeded(1), dtype=F64).samples)
        return float(
            torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(x.mean(0), x.T.cov()), exact)
        )

    assert divergence(150) < divergence(1) / 3


def test_annealed_gauss_newton_on_a_gaussian():
    """Approximate by design: its mean is within 0.1 posterior sds, its sds within 15 %, besides sampling error."""
    problem, mean, covariance = gaussian_problem()
    x = torch.as_tensor(AnnealedGaussNewton(batch=1000).run(problem, 1000, generator=seeded(1), dtype=F64).samples)
    sd = covariance.diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() < (0.1 + 4 / 1000**0.5) * sd).all()
    assert ((x.std(0) / sd - 1).abs() < 0.15 + 4 / 2000**0.5).all()


class NoResiduals(BaseLikelihood):
    """A density without whitened residuals."""

    domain_shape = (2,)

    def log_prob(self, image):
        return -image.abs().sum(1)

    def chi2(self, image):
        return {}

    def simulate(self, image, generator=None):
        return self


def test_a_likelihood_without_residuals_can_start_from_a_sphere():
    """Laplace frames need residuals; spheres and particles do not."""
    problem = InverseProblem(reference_mixture(), NoResiduals())
    assert torch.isfinite(
        torch.as_tensor(short(Particles(8)).run(problem, 4, generator=seeded(1), dtype=F64).samples)
    ).all()
    with pytest.raises(NotImplementedError, match="NoResiduals has no whitened residuals"):
        short(Mixture(2)).run(problem, 4, generator=seeded(1), dtype=F64)
