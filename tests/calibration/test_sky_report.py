"""Pictures of interferometric fits: closure phases as the data have them, samples on the same turn."""

import numpy as np
import pytest
import torch

from sciinstruct.calibration import plots
from sciinstruct.calibration.sky import amplitude_figure, model_visibilities, triangle_figure, triangle_fits
from sciinstruct.datasets.blackholes import simulate_blackholes
from sciinstruct.jobs.demo import observe_like_m87
from sciinstruct.operators.interferometry import InterferometryLikelihood

FOV = 128.0


@pytest.fixture(scope="module")
def seen():
    g = torch.Generator().manual_seed(2)
    skies = simulate_blackholes(4, 32, FOV, generator=g).images
    observation = observe_like_m87(skies[:1], FOV, g)
    likelihood = InterferometryLikelihood.from_observation(observation, npix=32, fov=FOV, pulse="rect")
    return likelihood, skies


def test_closure_phases_of_the_truth_agree_with_the_data(seen):
    """Gains cancel: the true sky predicts closure phases within their errors, other skies do not."""
    likelihood, skies = seen
    fits = triangle_fits(likelihood.observation, model_visibilities(likelihood, skies))
    assert 2 <= len(fits) <= 6
    z = np.concatenate([((fit.models - fit.data) / fit.sigma) for fit in fits], axis=1)
    rms = np.sqrt((z**2).mean(1))
    assert rms[0] < 1.5 and (rms[1:] > 3).all()
    assert all((np.abs(fit.models - fit.data) <= 180).all() for fit in fits)
    assert all((np.abs(np.diff(fit.data)) <= 180).all() for fit in fits)


def test_pictures_are_drawn_without_pyplot(seen):
    import sys

    likelihood, skies = seen
    models = model_visibilities(likelihood, skies)
    for figure in (
        triangle_figure(triangle_fits(likelihood.observation, models)),
        amplitude_figure(likelihood.observation, models),
    ):
        uri, width = plots.embed(figure)
        assert uri.startswith("data:image/png;base64,") and 300 < width < 1200
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
