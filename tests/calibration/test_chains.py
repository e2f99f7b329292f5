"""Markov chains and arviz objects: numbers as arviz gives them, thinning that restores uniform ranks."""

import json
import math

import numpy as np
import pytest
import torch

from sciinstruct.calibration.chains import chain_numbers, independent_draws, posterior_from_arviz
from sciinstruct.calibration.report import write_report
from sciinstruct.calibration.study import calibrate

az = pytest.importorskip("arviz")


def walk(shape, memory, generator):
    """Autoregressive chains along axis -2 with unit variance: worth (1 - memory)/(1 + memory) of their draws."""
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    out = noise.clone()
    for i in range(1, shape[-2]):
        out[..., i, :] = memory * out[..., i - 1, :] + (1 - memory**2) ** 0.5 * noise[..., i, :]
    return out


def test_effective_size_of_a_known_chain(generator):
    found = chain_numbers(walk((4, 4000, 3), 0.6, generator))
    assert found.ess == pytest.approx(16000 * 0.4 / 1.6, rel=0.2) and found.rhat < 1.01
    assert found.mcse == pytest.approx((16000 * 0.25) ** -0.5, rel=0.15)


def test_chains_that_disagree_are_seen(generator):
    chains = walk((4, 500, 3), 0.0, generator)
    chains[0] += 2
    assert chain_numbers(chains).rhat > 1.1


def test_dead_entries_do_not_count(generator):
    chains = walk((2, 500, 3), 0.0, generator)
    chains[..., 1] = 7.0
    found = chain_numbers(chains)
    assert found.entries == 3 and math.isfinite(found.rhat) and found.ess > 100  # two entries and the mean


def test_thinning_makes_ranks_uniform_again():
    """Ranks among correlated draws pile up at the ends: 60 pairs of chains of memory 0.95 against exact truths."""
    g = torch.Generator().manual_seed(5)
    chains, truth = walk((60, 2, 1500, 2), 0.95, g), torch.randn(60, 2, generator=g, dtype=torch.float64)
    thinned, numbers = independent_draws(chains)
    assert 8 <= thinned.shape[1] == numbers["thinned_to"] < 100
    report = calibrate(chains.flatten(1, 2), truth, chains=2)
    assert report.n_samples == numbers["thinned_to"] and report.numbers["chains"]["chains"] == 2
    assert "pixel coverage error" not in {v.check for v in report.verdicts if v.status == "fail"}


def test_a_list_of_arviz_objects_is_a_study(generator):
    chains, truth = walk((20, 4, 60, 2), 0.2, generator), torch.randn(20, 2, generator=generator, dtype=torch.float64)
    objects = [az.from_dict(posterior={"theta": one.numpy()}) for one in chains]
    one = az.from_dict(posterior={"theta": chains.permute(1, 2, 0, 3).numpy()}, dims={"theta": ["observation", "k"]})
    found = [calibrate(given, truth) for given in (objects, one)]
    assert found[0].numbers == found[1].numbers == calibrate(chains.flatten(1, 2), truth, chains=4).numbers
    assert "chains" in {verdict.check for verdict in found[0].verdicts}


def test_variables_lie_side_by_side(generator):
    chains = walk((2, 50, 3), 0.0, generator).numpy()
    data = az.from_dict(posterior={"a": chains[..., 0], "b": chains[..., 1:]})
    posterior = posterior_from_arviz(data)
    assert torch.equal(posterior.samples, torch.as_tensor(chains.reshape(100, 3)))
    assert torch.equal(posterior_from_arviz(data, "b").samples, torch.as_tensor(chains[..., 1:].reshape(100, 2)))


def test_a_report_of_an_arviz_object_shows_its_chains(tmp_path, generator):
    good = walk((4, 400, 2), 0.0, generator)
    bad = good.clone()
    bad[0] += 1
    for chains, status in ((good, "pass"), (bad, "fail")):
        paths = write_report(az.from_dict(posterior={"theta": chains.numpy()}), tmp_path)
        content = json.loads(paths.json.read_text())
        rows = {verdict["check"]: verdict for verdict in content["verdicts"]}
        assert rows["solver diagnostics"]["status"] == status
        assert content["run"]["diagnostics"]["rhat"] == pytest.approx(chain_numbers(chains).rhat)
    assert "R-hat" in rows["solver diagnostics"]["meaning"]


@pytest.mark.parametrize(
    "given, text",
    [
        (lambda: az.from_dict(posterior={"a": np.zeros((2, 30, 3))}), "dim 'observation'"),
        (lambda: [az.from_dict(posterior={"a": np.zeros((2, k))}) for k in (30, 31)], "as many chains and draws"),
        (lambda: [az.from_dict(prior={"a": np.zeros((2, 30))})] * 20, "samples must be a tensor, an array"),
    ],
)
def test_objects_that_do_not_fit_are_named(given, text):
    with pytest.raises((ValueError, TypeError), match=text):
        calibrate(given(), torch.zeros(20, 3))


def test_an_unknown_variable_is_named(generator):
    data = az.from_dict(posterior={"a": np.zeros((2, 30))})
    with pytest.raises(ValueError, match="no variable 'b'; it has a"):
        posterior_from_arviz(data, "b")


def test_chains_worth_too_little_are_refused(generator):
    chains = walk((16, 1, 200, 1), 0.999, generator)
    with pytest.raises(ValueError, match="samples per observation, independent ones"):
        calibrate(chains.flatten(1, 2), torch.randn(16, 1, generator=generator, dtype=torch.float64), chains=1)
