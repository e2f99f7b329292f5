"""Amortised posterior matching against closed forms, and what happens when it is asked the wrong thing."""

import pytest
import torch

from benchmarks.amortized import Matrix, linear_gaussian
from sciinstruct.core import GaussianNoise, Likelihood, PriorError, SolverError
from sciinstruct.inference import AmortizedPPM
from sciinstruct.inference.conditional import OneHead, VectorGenerator
from sciinstruct.inference.simulator import OperatorSimulator, Simulator

TINY = AmortizedPPM(steps=6, batch=8, auxiliary_steps=1, auxiliary_batch=8, warmup=3, width=8, blocks=1, heads=2)
Y = torch.tensor([0.3])


class TestTraining:
    def test_same_seed_same_samples_and_another_seed_others(self):
        prior, law = linear_gaussian(0.25)
        first, second, other = (TINY.train(prior, law, generator=seed).sample(Y, 5, generator=1) for seed in (3, 3, 4))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)

    def test_global_random_state_is_left_alone(self):
        prior, law = linear_gaussian(0.25)
        before = torch.random.get_rng_state()
        TINY.train(prior, law, generator=3).sample(Y, 5, generator=1)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_interrupted_and_resumed_equals_uninterrupted(self, tmp_path):
        prior, law = linear_gaussian(0.25)

        def stop(step, info):
            if step == 3:
                raise KeyboardInterrupt

        path = tmp_path / "state.pt"
        with pytest.raises(KeyboardInterrupt):
            TINY.train(prior, law, generator=3, checkpoint=path, callback=stop)
        resumed = TINY.train(prior, law, generator=99, checkpoint=path, resume=True)
        whole = TINY.train(prior, law, generator=3)
        assert torch.equal(resumed.sample(Y, 5, generator=1), whole.sample(Y, 5, generator=1))
        assert resumed.diagnostics == whole.diagnostics

    def test_checkpoint_of_other_settings_is_refused(self, tmp_path):
        prior, law = linear_gaussian(0.25)
        path = tmp_path / "state.pt"
        TINY.train(prior, law, generator=3, checkpoint=path)
        with pytest.raises(SolverError, match="other settings"):
            AmortizedPPM(steps=7).train(prior, law, generator=3, checkpoint=path, resume=True)

    def test_a_given_set_of_measurements_is_all_that_is_seen(self):
        prior, law = linear_gaussian(0.25)
        seen = []

        class Listening(OperatorSimulator):
            def log_prob(self, y, image):
                seen.append(y)
                return super().log_prob(y, image)

        given = torch.tensor([[0.5], [-0.25], [2.0]])
        TINY.train(prior, Listening(law.operator, law.noise), measurements=given, generator=3)
        assert set(torch.cat(seen).flatten().tolist()) <= set(given.flatten().tolist())

    def test_own_networks_are_used_and_not_changed(self):
        prior, law = linear_gaussian(0.25)

        class Shift(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.shift = torch.nn.Parameter(torch.zeros(1))

            def forward(self, y, z):
                return z + self.shift

        network = OneHead(Shift(), latent_shape=(1,))
        trained = TINY.train(prior, law, network=network, generator=3)
        assert float(network.network.shift) == 0
        assert float(trained.network.network.shift) != 0


@pytest.fixture(scope="module")
def trained():
    return TINY.train(*linear_gaussian(0.25), generator=3)


class TestReconstructor:
    def test_leading_dimensions_of_measurements_lead_the_samples(self, trained):
        assert trained.sample(torch.zeros(1), 5).shape == (5, 1)
        assert trained.sample(torch.zeros(3, 1), 5).shape == (3, 5, 1)
        assert trained.sample(torch.zeros(2, 3, 1), 5).shape == (2, 3, 5, 1)

    def test_posterior_carries_provenance(self, trained):
        posterior = trained.posterior(Y, 7, generator=1)
        assert posterior.samples.shape == (7, 1)
        assert posterior.attributes["solver"] == "AmortizedPPM" and posterior.attributes["preserves_bayes"]

    @pytest.mark.parametrize("y", [torch.zeros(2), torch.zeros(3, 2), torch.tensor(0.0)])
    def test_measurements_of_another_shape_are_refused(self, trained, y):
        with pytest.raises(ValueError, match="y must have shape"):
            trained.sample(y, 5)

    def test_bad_values_are_refused(self, trained):
        with pytest.raises(ValueError, match="finite"):
            trained.sample(torch.tensor([float("nan")]), 5)
        with pytest.raises(ValueError, match="at least 1"):
            trained.sample(Y, 0)


class TestMistakes:
    @pytest.mark.parametrize(
        "settings", [{"steps": -1}, {"heads": 0}, {"learning_rate": 0.0}, {"anneal_share": 1.0}, {"anneal_from": -1.0}]
    )
    def test_impossible_settings(self, settings):
        with pytest.raises(ValueError, match=next(iter(settings))):
            AmortizedPPM(**settings)

    def test_noise_levels_upside_down(self):
        with pytest.raises(ValueError, match="sigma_min"):
            AmortizedPPM(sigma_min=2.0, sigma_max=1.0).train(*linear_gaussian(0.25))

    def test_prior_of_another_shape(self):
        prior, _ = linear_gaussian(0.25)
        law = OperatorSimulator(Matrix(torch.eye(2)), GaussianNoise(1.0))
        with pytest.raises(PriorError, match="simulator expects"):
            TINY.train(prior, law)

    def test_something_that_is_no_simulator(self):
        with pytest.raises(TypeError, match="Simulator"):
            TINY.train(linear_gaussian(0.25)[0], lambda x: x)

    def test_measurements_of_another_shape(self):
        with pytest.raises(ValueError, match="measurements"):
            TINY.train(*linear_gaussian(0.25), measurements=torch.zeros(5, 3))

    def test_too_few_latents(self):
        with pytest.raises(ValueError, match="latents"):
            VectorGenerator(torch.zeros(4, 1), torch.randn(4, 3), heads=1, latents=2, width=4, blocks=1)

    def test_a_loss_that_is_not_finite_names_step_and_term(self, tmp_path):
        prior, law = linear_gaussian(0.25)

        class Failing(OperatorSimulator):
            calls = 0

            def log_prob(self, y, image):
                self.calls += 1
                return super().log_prob(y, image) * (float("nan") if self.calls > 2 else 1)

        path = tmp_path / "state.pt"
        with pytest.raises(SolverError, match="data term .* step 2"):
            TINY.train(prior, Failing(law.operator, law.noise), generator=3, checkpoint=path)
        resumed = TINY.train(prior, law, generator=3, checkpoint=path, resume=True)
        assert torch.isfinite(resumed.sample(Y, 5)).all()


def test_operator_and_noise_of_a_likelihood_are_taken():
    prior, law = linear_gaussian(0.25)
    likelihood = Likelihood(law.operator, law.noise, torch.tensor([5.0]))
    samples = [TINY.train(prior, which, generator=3).sample(Y, 5, generator=1) for which in (law, likelihood)]
    assert torch.equal(*samples)
    assert isinstance(law, Simulator)
