"""The code that the documentation shows runs, and does what the text says."""

import re
from pathlib import Path

import torch

from sciinstruct.core import InverseProblem, Likelihood, LinearOperator
from sciinstruct.priors import GaussianField, exact_posterior

DOCS = Path(__file__).resolve().parents[1] / "docs"


def run_python_of(page, **names):
    """Run the page's Python blocks one after the other; what they define."""
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


def test_the_operator_page():
    found = run_python_of("add-an-operator.md", y=torch.zeros(32), prior=GaussianField(torch.ones(32, 32)))
    assert isinstance(found["problem"], InverseProblem)
    assert issubclass(found["RowSums"], LinearOperator)


def test_the_solver_page_draws_from_the_exact_posterior(generator):
    operator = run_python_of("add-an-operator.md", y=torch.zeros(32), prior=GaussianField(torch.ones(32, 32)))[
        "RowSums"
    ]
    prior = GaussianField(torch.ones(4, 4))
    likelihood = Likelihood(operator((4, 4)), 1.0, torch.tensor([2.0, -1.0, 0.0, 4.0]))
    solver = run_python_of("add-a-solver.md")["Langevin"](step=5e-3, steps=1500)
    n = 400
    samples = solver.run(InverseProblem(prior, likelihood), n, generator=generator).samples.double()
    exact = exact_posterior(prior, likelihood)
    draws = exact.sample(20000, generator=generator).double()
    error = (samples.mean(0) - draws.mean(0)) / (samples.std(0) * (1 / n + 1 / 20000) ** 0.5)
    assert error.square().mean() < 1 + 4 * (2 / 16) ** 0.5 + 0.1  # 16 pixels, plus what steps of 5e-3 distort
    assert abs(samples.var(0).mean() / draws.var(0).mean() - 1) < 4 * (2 / (16 * n)) ** 0.5 + 0.03


def test_the_page_on_corrupted_data(tmp_path, monkeypatch, generator):
    monkeypatch.chdir(tmp_path)
    images = torch.randn(40, 1, 1, 1, generator=generator) + torch.linspace(0, 2, 12).expand(40, 1, 12, 12)
    measured = torch.rand(images.shape, generator=generator) < 0.4
    found = run_python_of("flowdiff.md", images=images, measured=measured, steps=2)
    assert found["result"].identifiability.identifiable
    assert (tmp_path / "learned" / "prior" / "card.json").is_file()
