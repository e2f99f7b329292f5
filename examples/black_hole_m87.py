"""
The black hole of M87, from visibilities to a posterior
=======================================================

From the released UVFITS file of one day to 256 images that fit it, what they agree on, and how sure one can be.

Run it on any file of the release with ``--file``. Without one it observes a simulated twin of known truth instead.
"""

# %%
# The measurement
# ---------------
# A file of the release holds calibrated visibilities every ten seconds. The twin is a ring seen by the same stations at
# the same hours, with the gain errors of an interferometer without a phase reference.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from sciinstruct import jobs, priors
from sciinstruct.inference import PPM
from sciinstruct.jobs.demo import simulated_twin
from sciinstruct.jobs.sky import PEERS, ring_table, sky_report
from sciinstruct.operators.interferometry import (
    Entropy,
    GaussianField,
    InterferometryLikelihood,
    Observation,
    extract_ring,
)

parser = argparse.ArgumentParser()
parser.add_argument("--file", type=Path, help="UVFITS file of the EHT release 2019-D01-01")
parser.add_argument("--out", type=Path, default=Path("black-hole-m87"))
parser.add_argument("--samples", type=int, default=256)
arguments = parser.parse_args()

prior = priors.load("blackhole-32")
fov = prior.card.pixel["fov_uas"]
if arguments.file is None:
    print("no --file: simulating. The real files: github.com/eventhorizontelescope/2019-D01-01, folder uvfits/")
    observation, truth = simulated_twin(32, fov, torch.Generator().manual_seed(1))
else:
    observation, truth = Observation.from_uvfits(arguments.file), None
print(observation.summary())

# %%
# Preparation
# -----------
# Averaging over scans, the zero baselines scaled to the compact flux, 2 % of non-closing error: the noise budget to
# which every chi-square below belongs.

data = observation.scan_average().rescale_zero_baselines(0.6).add_fractional_noise(0.02)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for sign in (1, -1):
    left.plot(sign * data.u / 1e9, sign * data.v / 1e9, ".", color="C0", markersize=3)
left.set(xlabel="u (Gλ)", ylabel="v (Gλ)", title="coverage", aspect="equal")
left.invert_xaxis()
right.errorbar(data.uv_distance / 1e9, data.vis.abs(), data.sigma, fmt=".", markersize=3)
right.set(xlabel="baseline (Gλ)", ylabel="|V| (Jy)", yscale="log", title="amplitudes")

# %%
# Closures and the problem
# ------------------------
# Station phases are unknown and amplitudes poorly known, so only combinations blind to them are compared: closure
# phases and log closure amplitudes, with their full covariance. They see neither position nor total flux. The prior is
# one of log brightness; the likelihood sees its images in physical units.

problem = jobs.interferometry_problem(observation, "blackhole-32", flux=0.6, systematic=0.02)
print(problem.likelihood.counts, problem.likelihood.noise_budget)

# %%
# Two classical images
# --------------------
# Regularised maximum likelihood gives one image each: recipe A asks for smoothness and closeness to a Gaussian, recipe
# B for the most probable image whose logarithm is a smooth random field. They need no training and take seconds, but do
# not say what else would have fitted. They see the closures alone, on finer pixels.

classical_data = InterferometryLikelihood.from_observation(observation, npix=64, fov=fov, terms="closures")
classical = {"recipe A": Entropy(), "recipe B": GaussianField()}
images = {name: recipe.run(classical_data, progress=True).image for name, recipe in classical.items()}

# %%
# The posterior
# -------------
# One particle per sample: each walks from noise to the data, then all are matched to the posterior under the exact
# Kullback-Leibler divergence. A mixture of Gaussians, `PPM()`, is exact where the posterior is Gaussian around its
# modes; under a trained prior it is not. Weights of modes, where there are several, are shares of independent walks.

solver = PPM.for_trained_prior(arguments.samples)
posterior = solver.run(problem, arguments.samples, generator=torch.Generator().manual_seed(0), progress=True)
for warning in posterior.diagnostics.get("warnings", []):
    print("warning:", warning)
print("mode weights:", ", ".join(f"{w:.2f}" for w in posterior.diagnostics["mode_weights"]))

figure, axes = plt.subplots(2, 4, figsize=(11, 5.6), layout="constrained")
edge = fov / 2
look = {"extent": (edge, -edge, -edge, edge), "cmap": "afmhot"}
pictures = {"mean": posterior.mean, "standard deviation": posterior.std}
pictures |= {} if truth is None else {"truth": truth}
pictures |= {name: image[0] for name, image in images.items()}
pictures |= {f"sample {i}": posterior.samples[i] for i in range(8 - len(pictures))}
for ax, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    ax.imshow(picture[0], **look)
    ax.set(title=title, xlabel="East (µas)")

# %%
# Does it fit?
# ------------
# Every sample must fit, not only the mean. Beside ours the chi-squares of the classical images, and, for the released
# files, of eht-imaging's single image; its amplitudes leave out the zero baselines.

peers = PEERS.get(arguments.file.name, {}) if arguments.file else {}
peer = peers.get("eht-imaging", {})
single = {name: classical_data.chi2(image) for name, image in images.items()} | ({"eht-imaging": peer} if peer else {})
print(f"{'term':>24} {'n':>5} {'median':>7} {'16 %':>6} {'84 %':>6}" + "".join(f" {name:>12}" for name in single))
with torch.no_grad():
    for term, values in problem.likelihood.chi2(posterior.samples).items():
        low, middle, high = np.quantile(values, (0.16, 0.5, 0.84))
        others = "".join(f" {float(chi2[term]):12.2f}" if term in chi2 else f" {'-':>12}" for chi2 in single.values())
        print(f"{term:>24} {problem.likelihood.counts[term]:5d} {middle:7.2f} {low:6.2f} {high:6.2f}{others}")

# %%
# The ring
# --------
# Measured on every sample, so that its numbers have intervals; samples that are no ring are counted, not averaged.

for name, quantity in ring_table(posterior.samples, fov, truth).items():
    row = quantity.summary()
    if row["median"] is None:
        print(f"{name:>20}: no sample is a ring")
        continue
    known = "" if row["truth"] is None else f", truth {row['truth']:.3g}"
    low, high = row["interval_95"]
    print(f"{name:>20}: {row['median']:.3g} {row['unit']} (95 %: {low:.3g} to {high:.3g}{known})")

for name, image in images.items():
    ring = extract_ring(image, fov)
    print(f"{name:>20}: diameter {float(ring.diameter):.3g} uas, position angle {float(ring.position_angle):.3g} deg")

# %%
# The report
# ----------
# One page with the posterior and its checks, and the images with sky coordinates as FITS.

report = sky_report(posterior, arguments.out, problem, truth, peers)
print("report:", report.html)
plt.show()
