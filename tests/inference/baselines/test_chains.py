"""Diagnostics of chains whose answer is known."""

import sys

import pytest
import torch

from sciinstruct.inference.baselines.chains import chain_diagnostics


def autoregressive(phi, generator, chains=4, draws=2000):
    """Chains x_t = phi x_{t-1} + sqrt(1 - phi^2) n of unit variance, worth (1 - phi)/(1 + phi) per draw."""
    x = [torch.randn(chains, 1, generator=generator, dtype=torch.float64)]
    for _ in range(draws - 1):
        noise = torch.randn(chains, 1, generator=generator, dtype=torch.float64)
        x.append(phi * x[-1] + (1 - phi**2) ** 0.5 * noise)
    return torch.stack(x, 1)


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_effective_size_of_an_autoregression(phi, generator):
    """Known in closed form; the estimator's own scatter at 8000 draws is allowed 15 %."""
    x = autoregressive(phi, generator)
    found = chain_diagnostics(x)
    expected = 8000 * (1 - phi) / (1 + phi)
    assert abs(found["ess_bulk"] / expected - 1) < 0.15
    assert abs(found["mcse_mean"] * expected**0.5 - 1) < 0.15
    assert found["r_hat"] < 1.01 and found["warnings"] == []
    assert (found["chains"], found["draws"]) == (4, 2000)


def test_a_chain_elsewhere_is_seen(generator):
    x = autoregressive(0.0, generator)
    x[0] += 3.0
    found = chain_diagnostics(x)
    assert found["r_hat"] > 1.1
    assert any("R-hat" in text for text in found["warnings"])


def test_a_chain_of_another_width_is_seen(generator):
    """Equal means: only the folded ranks tell."""
    x = autoregressive(0.0, generator)
    x[0] *= 5.0
    assert chain_diagnostics(x)["r_hat"] > 1.05


def test_the_worst_entry_counts(generator):
    good, bad = autoregressive(0.0, generator), autoregressive(0.9, generator)
    both = chain_diagnostics(torch.stack([good, bad], -1))
    assert both["ess_bulk"] == chain_diagnostics(bad)["ess_bulk"] < chain_diagnostics(good)["ess_bulk"]


def test_a_chain_that_never_moves_is_not_converged(generator):
    x = autoregressive(0.0, generator)
    x[2] = 1.0
    found = chain_diagnostics(x)
    assert found["r_hat"] == float("inf") and found["ess_bulk"] == 1.0 and len(found["warnings"]) == 2


@pytest.mark.parametrize("shape", [(1, 50, 2), (4, 3, 2), (4, 50)])
def test_too_little_is_refused(shape):
    with pytest.raises(ValueError, match="chains must have shape"):
        chain_diagnostics(torch.zeros(shape))


def test_without_arviz_it_says_what_to_install(monkeypatch, generator):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match="pip install"):
        chain_diagnostics(autoregressive(0.0, generator, draws=10))
