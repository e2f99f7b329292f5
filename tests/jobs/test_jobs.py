"""Whole jobs: the simulated twin is what the likelihood takes it for, runs repeat, stop and go on."""

import os
import signal

import pytest
import torch

from sciinstruct.core import FileFormatError, OutputError, PriorError, SciinstructError
from sciinstruct.datasets.blackholes import simulate_blackholes
from sciinstruct.jobs import interferometry_problem, reconstruct_uvfits, reconstruction, train_from
from sciinstruct.jobs.demo import observe_like_m87, simulated_twin
from sciinstruct.jobs.surroundings import CHECKPOINT
from sciinstruct.operators.interferometry import InterferometryLikelihood


def test_the_truth_fits_the_simulated_data_within_the_noise():
    """Gains, non-closing noise and pixel averages cancel out or are accounted for: chi-square of the truth is 1."""
    chi2, counts = [], {}
    for seed in range(6):
        observation, truth = simulated_twin(32, 128.0, torch.Generator().manual_seed(seed))
        likelihood = InterferometryLikelihood.from_observation(observation, 32, 128.0, pulse="average")
        chi2.append({name: float(value) for name, value in likelihood.chi2(truth[None].double()).items()})
        counts = likelihood.counts
    for term in ("closure_phase", "log_closure_amplitude"):
        mean = sum(c[term] for c in chi2) / len(chi2)
        standard_error = (2 / (counts[term] * len(chi2))) ** 0.5
        assert abs(mean - 1) < 3 * standard_error + 0.03  # 3 %: aliased structure below the pixel


def test_the_twin_has_the_coverage_of_the_real_observation():
    observation, truth = simulated_twin(16, 128.0, torch.Generator().manual_seed(0))
    summary = observation.summary()
    assert summary.scans == 22 and len(summary.stations) == 7
    assert summary.longest_baseline == pytest.approx(8.26e9, rel=0.02)
    assert truth.shape == (1, 16, 16) and float(truth.mean()) == pytest.approx(1, abs=1e-5)


def test_gains_do_spoil_the_amplitudes():
    """Else the demo would be easier than it says."""
    sky = simulate_blackholes(1, 64, weights={"m_ring": 1.0}, generator=torch.Generator().manual_seed(0)).images
    one, two = (observe_like_m87(sky, 128.0, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    ratio = (one.vis.abs() / two.vis.abs()).log()
    lmt = (one.station1 == one.stations.index("LM")) | (one.station2 == one.stations.index("LM"))
    assert ratio[lmt].std() > 0.2


def test_a_run_writes_the_whole_report_and_no_leftovers(prior_folder, uvfits, tmp_path, quick):
    result = reconstruct_uvfits(uvfits, tmp_path / "out", prior=str(prior_folder), n_samples=8, progress=False)
    assert {"report.html", "report.json", "posterior.nc", "images.fits"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert not list((tmp_path / "out").glob("*run*")) and not list((tmp_path / "out").glob(".*"))
    assert result.posterior.samples.shape == (8, 1, 16, 16)
    assert result.posterior.attributes["file"] == uvfits.name and result.posterior.attributes["seed"] == 0
    x = result.posterior.coordinates["x"][0]
    assert x[0] == pytest.approx(-x[-1]) and x[0] > 0  # column 0 is East


def interrupt_after(monkeypatch, calls):
    """Send SIGINT to this process when the likelihood has been asked `calls` times."""
    asked, plain = 0, InterferometryLikelihood.log_prob

    def log_prob(self, image):
        nonlocal asked
        asked += 1
        if asked == calls:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, image)

    monkeypatch.setattr(InterferometryLikelihood, "log_prob", log_prob)
    return lambda: asked


def test_an_interrupted_run_goes_on_to_the_same_samples(prior_folder, uvfits, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(reconstruction, "sky_report", lambda *arguments: None)  # the samples alone matter here
    options = {"prior": str(prior_folder), "n_samples": 8, "seed": 5, "progress": False}
    with monkeypatch.context() as patch:
        asked = interrupt_after(patch, 0)
        whole = reconstruct_uvfits(uvfits, tmp_path / "whole", **options).posterior.samples
        total = asked()
    with monkeypatch.context() as patch:
        interrupt_after(patch, total // 2)
        with pytest.raises(KeyboardInterrupt):
            reconstruct_uvfits(uvfits, tmp_path / "part", **options)
    assert (tmp_path / "part" / CHECKPOINT).is_file()
    resumed = reconstruct_uvfits(uvfits, tmp_path / "part", resume=True, **options).posterior.samples
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    assert not (tmp_path / "part" / CHECKPOINT).exists()


def test_resuming_refuses_other_settings_and_missing_runs(prior_folder, uvfits, tmp_path, quick, monkeypatch):
    options = {"prior": str(prior_folder), "n_samples": 8, "progress": False}
    with pytest.raises(SciinstructError, match="nothing to resume"):
        reconstruct_uvfits(uvfits, tmp_path / "none", resume=True, **options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)  # past the start, where the first checkpoint is written
        with pytest.raises(KeyboardInterrupt):
            reconstruct_uvfits(uvfits, tmp_path / "part", **options)
    with pytest.raises(SciinstructError, match="flux was 0.6, now 0.5"):
        reconstruct_uvfits(uvfits, tmp_path / "part", resume=True, flux=0.5, **options)


def test_a_prior_of_something_else_is_refused(prior_folder, tmp_path):
    """A card without a field of view belongs to no sky."""
    import json
    import shutil

    folder = shutil.copytree(prior_folder, tmp_path / "cells")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"pixel": {}}))
    observation, _ = simulated_twin(16, 128.0, torch.Generator().manual_seed(0))
    with pytest.raises(PriorError, match="fov_uas"):
        interferometry_problem(observation, str(folder))


def test_faint_visibilities_are_dropped(prior_folder):
    observation, _ = simulated_twin(16, 128.0, torch.Generator().manual_seed(0))
    counts = [
        sum(interferometry_problem(observation, str(prior_folder), snr_min=cut).likelihood.counts.values())
        for cut in (0.0, 4.0, 20.0)
    ]
    assert counts[0] > counts[1] > counts[2]


def test_output_is_tried_before_the_work(prior_folder, uvfits, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    for out in (blocker, blocker / "below"):
        with pytest.raises(OutputError, match="cannot write"):
            reconstruct_uvfits(uvfits, out, prior=str(prior_folder))


def test_training_from_a_folder_gives_a_prior_that_loads(tmp_path):
    import numpy as np

    from sciinstruct import priors

    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(6):
        np.save(tmp_path / "images" / f"{i}.npy", rng.uniform(0, 2, (20, 24)))
    trained = train_from(tmp_path / "images", tmp_path / "mine", npix=16, steps=2, progress=False, command="as typed")
    loaded = priors.load(str(tmp_path / "mine"))
    assert loaded.event_shape == (1, 16, 16) and trained.card.command == "as typed"


def test_training_from_micrographs_gives_a_prior_that_knows_its_pixel(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "a.npy", rng.uniform(0, 2, (40, 48)))
    options = {"npix": 16, "steps": 2, "progress": False}
    trained = train_from(tmp_path / "images", tmp_path / "mine", pixel_um=0.0313, **options)
    assert trained.card.pixel == {"pixel_um": 0.0313} and trained.card.data == "20 crops of the folder images"
    for data in ("blackholes", "cells"):
        with pytest.raises(ValueError, match="pixel_um belongs"):
            train_from(data, tmp_path / "other", pixel_um=0.0313, **options)


def test_training_refuses_what_it_cannot_read(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("not an image")
    for data, match in [("nowhere", "blackholes"), (tmp_path / "empty", "no images"), (tmp_path / "text", "a.png")]:
        with pytest.raises(FileFormatError, match=match):
            train_from(data, tmp_path / "out", progress=False)
