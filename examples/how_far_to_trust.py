"""
How far can you trust it?
=========================

A right posterior and a popular approximation, on the same hundred problems with known truths: what a calibration study
sees, and what an image and a chi-square do not show. The problem is an image whose middle was not measured.

``python examples/how_far_to_trust.py FOLDER`` also saves the pictures there.
"""

import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from sciinstruct.calibration import run_study
from sciinstruct.calibration.bands import ecdf, ecdf_band
from sciinstruct.calibration.ranks import LEVELS, coverage_from_ranks
from sciinstruct.inference.baselines.dps import DPS
from sciinstruct.jobs.calibration import Exact
from sciinstruct.priors.problems import ExactProblem, fields_16

torch.set_num_threads(1)  # problems this small gain nothing from more
N, S = 100, 64

# %%
# Two methods, one hundred problems
# ---------------------------------
# Each seed draws an image from the prior, hides its middle, adds noise, and asks the method for 64 samples. "Exact"
# draws from the posterior itself, which is known here; DPS is diffusion posterior sampling with its defaults.


def masked(seed: int) -> ExactProblem:
    return fields_16("mask", seed)


hidden = torch.zeros(1, 16, 16, dtype=torch.bool)
hidden[:, 4:13, 4:13] = True
regions = {"hidden": hidden, "seen": ~hidden}

studies = {}
with tempfile.TemporaryDirectory() as folder:
    for name, solver in {"exact": Exact(), "DPS": DPS()}.items():
        study = run_study(solver, masked, folder=Path(folder) / name, n=N, samples=S, regions=regions)
        studies[name] = study
        held = {r: float(coverage_from_ranks(study.report.pixel_ranks[r], [0.95])) for r in regions}
        print(f"{name}: {study.report.verdict}")
        print(f"    95 % intervals hold {held['hidden']:.1%} of hidden pixels, {held['seen']:.1%} of seen ones")

# %%
# One reconstruction of each
# --------------------------
# Nothing here warns of the second: its mean is close to the truth, its samples look alike.

figure, panels = plt.subplots(2, 5, figsize=(10.5, 4.3), layout="constrained")
for row, (name, study) in zip(panels, studies.items()):
    truth, samples = study.truth[3, 0], study.samples[3, :, 0]
    images = [truth, samples.mean(0), samples.std(0), samples[0], samples[1]]
    for panel, image, title in zip(row, images, ("truth", "mean", "standard deviation", "a sample", "another")):
        spread = title == "standard deviation"
        low, high = (0, 0.7) if spread else (float(truth.min()), float(truth.max()))
        panel.imshow(image, vmin=low, vmax=high, cmap="cividis" if spread else "inferno")
        panel.set(xticks=[], yticks=[], title=title if name == "exact" else "")
    row[0].set_ylabel(name, fontsize=12)
one = figure

# %%
# What the study sees
# -------------------
# Left: how often intervals hold the true pixel. Middle and right: the distribution of the truth's rank, minus that of a
# right method; the grey band holds 95 % of right methods. The middle ranks the distance to the sample mean (TARP), the
# right one the log-likelihood: a method that fits the noise, or ignores the data, shows there and in no picture.

figure, panels = plt.subplots(2, 3, figsize=(10.5, 6.4), layout="constrained")
band = ecdf_band(N, S)
for row, (name, study) in zip(panels, studies.items()):
    report = study.report
    row[0].plot((0, 1), (0, 1), color="0.6", lw=1)
    for region, style in (("hidden", "-"), ("seen", "--")):
        row[0].plot(LEVELS, coverage_from_ranks(report.pixel_ranks[region]), style, color="C0", label=region)
    row[0].set(xlabel="level of the interval", ylabel=f"{name}\nshare of truths inside", xlim=(0, 1), ylim=(0, 1))
    row[0].legend(frameon=False)
    for panel, quantity in zip(row[1:], ("TARP, mean", "log likelihood")):
        p = report.numbers["p_values"][quantity]
        panel.fill_between(band.z, band.low - band.z, band.high - band.z, color="0.87")
        panel.plot(band.z, ecdf(report.ranks[quantity], band.z) - band.z, color="C0" if p > 0.05 else "C3")
        panel.axhline(0, color="0.6", lw=1)
        shown = "p < 0.001" if p < 0.001 else f"p = {p:.2f}"
        panel.set(title=f"{quantity}: {shown}", xlabel="rank of the truth", ylabel="ECDF - uniform")
seen = figure

# %%
# How wide should the intervals have been?
# ----------------------------------------
# Conformal intervals answer that with held-out truths: a factor of one says that the method was right on average.
# Their coverage is conformal by construction; it is no evidence that the posterior is right.

from sciinstruct.calibration import conformal_pixels  # noqa: E402

for name, study in studies.items():
    found = conformal_pixels(study.samples.double(), study.truth, alpha=0.1)
    print(f"{name}: own 90 % intervals hold {found.posterior_coverage:.0%}, conformal factor {found.scale:.2f}")

if len(sys.argv) > 1:
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    one.savefig(Path(sys.argv[1]) / "one_reconstruction.png", dpi=110)
    seen.savefig(Path(sys.argv[1]) / "what_the_study_sees.png", dpi=110)
plt.show()
