"""The code of docs/purification.md runs."""

import re
from dataclasses import replace
from pathlib import Path

import torch

from sciinstruct.priors import IsotropicMixture
from sciinstruct.purification import Protocol

PAGE = Path(__file__).resolve().parents[2] / "docs" / "purification.md"


def test_the_code_of_the_page_runs(monkeypatch, capsys):
    standard = Protocol.standard

    def fewer(budget):
        """As many attacks with fewer restarts' worth of queries, so that the page's own call takes a second."""
        return replace(standard(budget, queries=5), repeats=10)

    monkeypatch.setattr(Protocol, "standard", fewer)
    g = torch.Generator().manual_seed(0)
    prior = IsotropicMixture(0.5 * torch.randn(2, 1, 2, 2, generator=g), 0.01, sigma_range=(1e-3, 10.0))
    image, validation = (prior.sample_exact(n, generator=g, dtype=torch.float32) for n in (6, 12))
    side = (prior.means[1] - prior.means[0]).float().reshape(4)
    middle = float((prior.means.float().mean(0).reshape(4) * side).sum())

    def classifier(x):
        score = x.flatten(1) @ side - middle
        return torch.stack([-score, score], 1)

    names = {"noise": 0.1, "prior": prior, "classifier": classifier, "image": image, "validation": validation}
    names |= {"labels": classifier(image).argmax(1), "validation_labels": classifier(validation).argmax(1)}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(compile(block, "purification.md", "exec"), names)
    assert 0 <= names["found"].robust.min() and names["found"].draft == 0
    assert "wrong at the worst change" in capsys.readouterr().out
