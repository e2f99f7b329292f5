"""The law of the denoiser's errors, the energy that tells stuck images, and annealing where it is exact."""

import math

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, SolverError, randn_like
from sciinstruct.inference import PPM, AnnealedGaussNewton, Particles
from sciinstruct.inference.annealing import dual_solve
from sciinstruct.inference.energy import prior_energy
from sciinstruct.inference.error_law import ErrorLaw, error_laws
from sciinstruct.inference.journal import Journal
from sciinstruct.inference.modes import cluster_images
from sciinstruct.operators import GaussianBlur, PixelMask
from sciinstruct.priors import GaussianField, GaussianPrior, exact_posterior, power_law
from sciinstruct.priors.problems import MatrixOperator

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def dense(law):
    """C as a matrix, from its action on unit vectors."""
    return law.apply(torch.eye(law.scale.numel(), dtype=law.scale.dtype))


@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 5, 7), (2, 4, 4), (9,)])
def test_factor_and_application_are_one_covariance(shape, generator):
    scale = 0.5 + torch.rand(shape, generator=generator, dtype=F64)
    power = None
    if len(shape) == 3:
        white = torch.randn(100, *shape, generator=generator, dtype=F64)
        power = torch.fft.rfft2(white, norm="ortho").abs().square().mean(0)
    law = ErrorLaw(scale, power)
    covariance = dense(law)
    torch.testing.assert_close(covariance, covariance.T)
    assert torch.linalg.eigvalsh(covariance).min() > 0
    rows = torch.randn(3, 4, scale.numel(), generator=generator, dtype=F64)
    factored = law.factor(rows)
    torch.testing.assert_close(factored @ factored.mT, rows @ covariance @ rows.mT)


def test_draws_have_the_covariance(generator):
    scale = 0.5 + torch.rand(1, 4, 4, generator=generator, dtype=F64)
    power = (
        torch.fft.rfft2(torch.randn(9, 1, 4, 4, generator=generator, dtype=F64), norm="ortho").abs().square().mean(0)
    )
    law, n = ErrorLaw(scale, power), 40000
    draws = law.draw(torch.zeros(n, 1, 4, 4, dtype=F64), generator).flatten(1)
    covariance = dense(law)
    size = covariance.diagonal()
    error = (draws.T.cov() - covariance).abs() / (size[:, None] * size).sqrt()
    assert error.max() < 6 * (2 / n) ** 0.5


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_error_law_of_a_stationary_field_is_its_posterior_covariance(sigma):
    """sigma^2 P / (P + sigma^2) per frequency, within the sampling error of 2000 draws."""
    spectrum = power_law((16, 16), 3.0)
    field = GaussianField(spectrum)
    draws = field.sample(2000, generator=seeded(1), dtype=F64)
    (law,) = error_laws(field, draws, [sigma], seeded(2))
    power = spectrum[:, :9]
    exact = sigma**2 * power / (power + sigma**2)
    found = law.power.reshape(16, 9) * law.scale.square().mean()
    assert ((found / exact - 1).abs() < 6 * (2 / 2000) ** 0.5).all()


def test_prior_energy_is_the_divergence_of_a_blob(generator):
    """Against the closed form for a Gaussian prior, up to what lies above the highest level."""
    sd, lowest, highest = torch.tensor([0.3, 1.0, 2.0], dtype=F64), 0.2, 500.0
    prior = GaussianPrior(torch.zeros(3, dtype=F64), torch.diag(sd.square()))
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0]], dtype=F64)
    variance = sd.square() + lowest**2
    exact = 0.5 * (lowest**2 / variance - 1 + (variance / lowest**2).log() + x.square() / variance).sum(1)
    found = torch.stack([prior_energy(prior, x, lowest, highest, seeded(s), groups=64) for s in range(50)])
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - exact).abs() < 4 * error + 1e-3).all()


@pytest.mark.parametrize("instrument", ["mask", "blur"])
def test_annealing_is_exact_for_a_stationary_field(instrument):
    """Mean within 0.1 posterior sds and spread within 7 % of Matheron's exact draws, besides sampling error."""
    shape, n = (1, 8, 8), 400
    field = GaussianField(power_law(shape[1:], 3.0))
    operator = (
        PixelMask(torch.rand(shape, generator=seeded(3)) > 0.5) if instrument == "mask" else GaussianBlur(1.0, shape)
    )
    truth = field.sample(1, generator=seeded(4), dtype=F64)
    clean = operator(truth)
    likelihood = Likelihood(operator, 0.3, (clean + 0.3 * randn_like(clean, seeded(5)))[0])
    problem = InverseProblem(field, likelihood)
    solver = AnnealedGaussNewton(levels=12, fine_levels=24, batch=n)
    x = torch.as_tensor(solver.run(problem, n, generator=seeded(6), dtype=F64).samples)
    exact = exact_posterior(field, likelihood).sample(20000, generator=seeded(7))
    sd = exact.std(0)
    assert (((x.mean(0) - exact.mean(0)) / sd).square().mean().sqrt()) < 0.1 + 2 / n**0.5
    assert ((x.std(0) / sd).mean() - 1).abs() < 0.07


def test_shifted_images_are_one_cluster_only_if_shifts_do_not_count(generator):
    picture = torch.randn(1, 12, 12, generator=generator, dtype=F64)
    other = torch.randn(1, 12, 12, generator=generator, dtype=F64)
    images = torch.stack([picture, picture.roll((3, 4), (1, 2)), other, picture.roll((6, 1), (1, 2))])
    assert cluster_images(images, shifted=True).tolist() == [0, 0, 1, 0]
    assert len(cluster_images(images).unique()) == 4


def test_solve_with_rows_of_very_different_size(generator):
    """Rows of 1e-3 to 1e6 in single precision, as closures far from the data have: finite, and the data are fitted."""
    rows = torch.randn(3, 40, 64, generator=generator) * torch.logspace(-3, 6, 40)[:, None]
    rows[1, 20:] = rows[1, :20]  # and linearly dependent
    residual = torch.randn(3, 40, generator=generator)
    law = ErrorLaw(torch.ones(64), None)
    move = law.apply(dual_solve(rows, law, residual))
    assert move.isfinite().all()
    left = residual[0] - (rows[0] @ move[0])
    assert left.norm() < residual[0].norm()


def test_starts_without_a_finite_energy_are_an_error():
    x, generator = torch.zeros(4, 2), seeded(1)
    with pytest.raises(SolverError, match="finite misfit"):
        AnnealedGaussNewton()._choose(x, torch.full((4,), float("inf")), 2, generator)


def test_stuck_starts_are_not_chosen():
    """Three of eight lie 50 nats above the rest."""
    x = torch.arange(8.0)[:, None]
    cost = torch.tensor([0.0, 50, 1, 2, 60, 3, float("inf"), 4])
    chosen = AnnealedGaussNewton()._choose(x, cost, 5, seeded(1))
    assert sorted(chosen[:, 0].tolist()) == [0, 2, 3, 5, 7]


def walks_in_the_plane():
    """A problem and a short walk in batches of four: four coarse ones and two fine ones."""
    prior = GaussianPrior(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    likelihood = Likelihood(MatrixOperator(torch.eye(2)[:1]), 0.5, torch.ones(1, dtype=F64))
    return InverseProblem(prior, likelihood), AnnealedGaussNewton(levels=3, fine_levels=3, batch=4)


def interrupted_after(monkeypatch, batches):
    """Let the journal keep `batches` batches and then interrupt."""
    keep, kept = Journal.keep, []

    def once(self, done):
        keep(self, done)
        kept.append(1)
        if len(kept) == batches:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "keep", once)


@pytest.mark.parametrize("batches", [1, 4, 5])
@pytest.mark.parametrize("matched", [False, True])
def test_an_interrupted_walk_goes_on_to_the_same_images(batches, matched, tmp_path, monkeypatch):
    """Within the first stage, at its end, and within the second; alone and as the start of posterior matching."""
    problem, walk = walks_in_the_plane()
    solver = PPM(Particles(8, start=walk), steps=3, batch=8) if matched else walk
    whole = solver.run(problem, 8, generator=seeded(1), dtype=F64).samples
    path = tmp_path / "state"
    with monkeypatch.context() as patch:
        interrupted_after(patch, batches)
        with pytest.raises(KeyboardInterrupt):
            solver.run(problem, 8, generator=seeded(1), dtype=F64, checkpoint=path)
    calls = []
    with monkeypatch.context() as patch:
        keep = Journal.keep
        patch.setattr(Journal, "keep", lambda self, done: (keep(self, done), calls.append(1)))
        resumed = solver.run(problem, 8, generator=seeded(1), dtype=F64, checkpoint=path, resume=True).samples
    assert torch.equal(resumed, whole)
    assert len(calls) == 6 - batches  # nothing done twice


def test_a_walk_of_another_problem_is_refused(tmp_path, monkeypatch):
    problem, walk = walks_in_the_plane()
    path = tmp_path / "state"
    walk.run(problem, 8, generator=seeded(1), dtype=F64, checkpoint=path)
    other = InverseProblem(
        GaussianPrior(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64)),
        Likelihood(MatrixOperator(torch.eye(3)[:2]), 0.5, torch.ones(2, dtype=F64)),
    )
    with pytest.raises(SolverError, match="another problem or law"):
        walk.run(other, 8, generator=seeded(1), dtype=F64, checkpoint=path, resume=True)
