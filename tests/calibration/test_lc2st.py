"""The local classifier test: a posterior that is right for bright sources and wrong for faint ones."""

import pytest
import torch

from sciinstruct.calibration.lc2st import local_classifier_test


def toy(n, generator):
    """One number with noise 0.5; the posterior given to it is half as wide where the datum is negative."""
    truth = torch.randn(n, 1, generator=generator)
    y = truth + 0.5 * torch.randn(n, 1, generator=generator)
    return truth, y, posterior(y, 8, generator)


def posterior(y, s, generator):
    width = 0.2**0.5 * torch.where(y < 0, 0.25, 1.0)
    return 0.8 * y[:, None] + width[:, None] * torch.randn(len(y), s, 1, generator=generator)


@pytest.mark.slow
def test_it_sees_where_the_posterior_is_wrong(generator):
    pytest.importorskip("sbi.diagnostics.lc2st")
    truth, y, samples = toy(1000, generator)
    found = []
    for datum in (-1.0, 1.0):
        here = torch.tensor([datum])
        found.append(
            local_classifier_test(samples, truth, y, posterior(here[None], 500, generator)[0], here, trials=20)
        )
    assert found[0] <= 0.05 < found[1]


@pytest.mark.parametrize(
    "change, text",
    [
        ({"truth": torch.zeros(20, 2)}, "samples must have shape"),
        ({"features": torch.zeros(19, 1)}, "features must have shape"),
        ({"here_features": torch.zeros(2)}, "here_features must have shape"),
        ({"here": torch.full((5, 1), float("nan"))}, "here must be finite"),
    ],
)
def test_what_does_not_fit_is_named(generator, change, text):
    truth, y, samples = toy(20, generator)
    given = {
        "samples": samples,
        "truth": truth,
        "features": y,
        "here": torch.zeros(5, 1),
        "here_features": torch.ones(1),
    }
    with pytest.raises(ValueError, match=text):
        local_classifier_test(**(given | change))


def test_without_sbi_the_way_out_is_named(generator, monkeypatch):
    import sys

    from sciinstruct.core import SciinstructError

    monkeypatch.setitem(sys.modules, "sbi.diagnostics.lc2st", None)
    truth, y, samples = toy(20, generator)
    with pytest.raises(SciinstructError, match="pip install sbi"):
        local_classifier_test(samples, truth, y, torch.zeros(5, 1), torch.ones(1))
