"""
PPM, RED-diff and DPS against the exact answer
==============================================

Two problems whose posterior is known in closed form, so that one can see what each method gets right: a measurement of
one number of two, which leaves several modes, and an image with a hole where the class of the image is decided.
"""

# %%
# One number of two
# -----------------
# The prior is a mixture of three Gaussians in the plane; the data fix a weighted sum of the coordinates up to noise.

import time

import matplotlib.pyplot as plt
import torch

from sciinstruct.core import Solver
from sciinstruct.inference import PPM, Mixture
from sciinstruct.inference.baselines.dps import DPS
from sciinstruct.inference.baselines.red_diff import RedDiff
from sciinstruct.priors.problems import ExactProblem, fields_16, mixture_2d

torch.set_num_threads(1)  # problems this small gain nothing from more
PUBLISHED = RedDiff(weight=0.25, level_power=1.0)


def compare(exact_problem: ExactProblem, solvers: dict[str, Solver], n: int) -> dict[str, torch.Tensor]:
    """Samples of every solver, in float64, with exact ones first."""
    generator = torch.Generator().manual_seed(0)
    found = {"exact": exact_problem.posterior.sample(n, generator=generator)}
    for name, solver in solvers.items():
        began = time.perf_counter()
        found[name] = solver.run(exact_problem.problem, n, generator=generator).samples.double()
        print(f"{name}: {time.perf_counter() - began:.1f} s")
    return found


def shares(exact_problem: ExactProblem, samples: torch.Tensor) -> torch.Tensor:
    """Share of samples that belong to each mode of the exact posterior."""
    labels = exact_problem.posterior.law.responsibilities(samples).argmax(1)
    return torch.bincount(labels, minlength=len(exact_problem.posterior.weights)) / len(samples)


plane = mixture_2d(1)
law = Mixture(components=32, rank=None, laplace_levels=())
matching = PPM(family=law, steps=600, batch=128, anneal_from=2.5, sigma_min=0.05, sigma_max=30.0)
drawn = compare(plane, {"PPM": matching, "RED-diff": PUBLISHED, "DPS": DPS()}, 1000)

# %%
# Contours enclose 50 and 95 % of the exact posterior, dots are samples; the shaded strip is the measurement with two
# standard deviations of noise. RED-diff has no entropy term: its runs crowd the density's peaks and their shares tell
# where the runs started, not how probable the peaks are. DPS finds the modes, but not their shape.

axis = torch.linspace(-4.5, 4.5, 181, dtype=torch.float64)
grid = torch.cartesian_prod(axis, axis)
density = plane.posterior.log_prob(grid).exp()
ordered = density.sort(descending=True).values
mass = ordered.cumsum(0) / ordered.sum()
heights = [float(ordered[int((mass < level).sum())]) for level in (0.95, 0.5)]
a, y = plane.problem.likelihood.operator.matrix[0], float(plane.problem.likelihood.y)
noise = float(plane.problem.likelihood.noise.sigma)

figure, panels = plt.subplots(1, 4, figsize=(12, 3.4), sharex=True, sharey=True, layout="constrained")
for panel, (name, samples) in zip(panels, drawn.items()):
    strip = ((grid @ a - y).abs() < 2 * noise).reshape(181, 181).T
    panel.contourf(axis, axis, strip, levels=[0.5, 1.5], colors=["0.9"])
    panel.contour(axis, axis, density.reshape(181, 181).T, levels=heights, colors="0.3", linewidths=0.8)
    panel.plot(*samples[:400].T, ".", markersize=3, alpha=0.6, color="C0" if name == "exact" else "C1")
    weights = ", ".join(f"{w:.2f}" for w in shares(plane, samples)[:2])
    panel.set(title=f"{name}: modes {weights}", xlabel="x₁", aspect="equal", xlim=(-4.5, 4.5), ylim=(-4.5, 4.5))
panels[0].set_ylabel("x₂")

# %%
# An image with a hole
# --------------------
# A bump sits at one of four places in a smooth random field. The middle, where the bumps are, was not measured: the
# pixels around it make some places more probable than others, by what the bump's flanks and the field leave there.

hole = fields_16("mask", 1)
law = Mixture(components=16, rank=32, laplace_levels=(0.6, 0.2))
matching = PPM(family=law, steps=200, batch=64, groups=4, weight_rounds=128)
images = compare(hole, {"PPM": matching, "RED-diff": PUBLISHED, "DPS": DPS()}, 500)

seen = hole.problem.likelihood.operator.adjoint(torch.ones(1, *hole.problem.likelihood.operator.range_shape))[0, 0] > 0
data = hole.problem.likelihood.operator.adjoint(hole.problem.likelihood.y)[0, 0].where(seen, torch.nan)

# %%
# Means above, standard deviations below, each row on one scale. PPM's maps follow the exact ones, inside the hole and
# at the measured pixels, whose noise of 0.1 leaves a spread that RED-diff and DPS do not have. RED-diff's runs agree
# with each other inside the hole far more than the data allow.

low, high = float(hole.truth.min()), float(hole.truth.max())
figure, panels = plt.subplots(2, 5, figsize=(12, 5), layout="constrained")
spread = float(images["exact"].std(0).max())
for column, (name, x) in enumerate(images.items(), start=1):
    mean = panels[0, column].imshow(x.mean(0)[0], vmin=low, vmax=high)
    deviation = panels[1, column].imshow(x.std(0)[0], vmin=0, vmax=spread, cmap="magma")
    panels[0, column].set_title(name)
panels[0, 0].imshow(hole.truth[0, 0], vmin=low, vmax=high)
panels[0, 0].set_title("truth")
panels[1, 0].imshow(data, vmin=low, vmax=high)
panels[1, 0].set_title("data")
for panel in panels.flat:
    panel.set(xticks=[], yticks=[])
panels[0, 1].set_ylabel("mean")
panels[1, 1].set_ylabel("standard deviation")
figure.colorbar(mean, ax=panels[0], shrink=0.8)
figure.colorbar(deviation, ax=panels[1], shrink=0.8)

# %%
# Where is the bump? The exact probabilities of the four places, and what each method says; 500 samples alone make them
# uncertain by 0.02.

figure, panel = plt.subplots(figsize=(7, 3.2), layout="constrained")
places = ["upper left", "upper right", "lower left", "lower right"]
for i, (name, x) in enumerate(images.items()):
    weights = hole.posterior.weights if name == "exact" else shares(hole, x)
    panel.bar(torch.arange(4) + 0.2 * (i - 1.5), weights, 0.18, label=name, color="0.3" if name == "exact" else f"C{i}")
panel.set(xticks=range(4), xticklabels=places, ylabel="probability")
panel.legend()
plt.show()
