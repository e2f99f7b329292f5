"""
Inpainting and deblurring where the answer is known
===================================================

A hole, one pixel in ten, and a camera that shook: three images that lost something, under a prior whose posterior is
known in closed form. So one can see what annealing and posterior matching (PPM) get right, where the image was seen
and where it was not.
"""

# %%
# Three instruments
# -----------------
# The prior is a mixture: a smooth random field with a bump at one of four places. The hole covers all four.

import time

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from sciinstruct.inference import PPM, ImageAnnealing, Mixture
from sciinstruct.operators import Convolution, PixelMask
from sciinstruct.operators.kernels import motion_kernel
from sciinstruct.operators.masks import box_mask, random_mask
from sciinstruct.priors.problems import ExactProblem, bump_fields, mode_shares
from sciinstruct.priors.problems.base import linear_problem

torch.set_num_threads(1)  # images this small gain nothing from more
SIDE, NOISE, DRAWS = 32, 0.2, 256
generator = torch.Generator().manual_seed(1)
box = box_mask((SIDE, SIDE), (18, 18), (8, 8))
pixels = random_mask((SIDE, SIDE), 0.1, generator)
shake = Convolution(motion_kernel(20, side=25, generator=generator), (SIDE, SIDE))
seen = {"hole": box, "one pixel in ten": pixels, "shaken": torch.ones_like(box)}
instruments = {"hole": PixelMask(box), "one pixel in ten": PixelMask(pixels), "shaken": shake}


def compare(name: str, exact: ExactProblem, solver: str, x: Tensor, reference: Tensor) -> None:
    """Print how far samples are from exact ones, in units of their standard deviation, by region."""
    print(
        f"{name}, {solver}: probabilities of the bump's places", [round(p, 2) for p in mode_shares(exact, x).tolist()]
    )
    low, high = torch.quantile(x, torch.tensor([0.05, 0.95], dtype=x.dtype), 0)
    inside = (low <= exact.truth[0]) & (exact.truth[0] <= high)
    sd = reference.std(0)
    off, ratio = (x.mean(0) - reference.mean(0)) / sd, x.std(0) / sd
    for region, where in {"seen": seen[name], "hidden": ~seen[name]}.items():
        if where.any():
            rms, times, held = off[0, where].square().mean().sqrt(), ratio[0, where].mean(), inside[0, where].double()
            print(f"  {region}: mean off by {rms:.2f} sd, sd times {times:.2f}, 90 % intervals hold {held.mean():.0%}")


# %%
# Solve them
# ----------
# Annealing on all three. PPM fits a mixture of Gaussians and costs more: it solves the hole alone, with a fraction of
# the components, steps and rounds that its benchmark takes.

ANNEALING = ImageAnnealing()
SHORT = PPM(Mixture(components=4, rank=32), steps=10, batch=24, groups=3, learning_rate=0.001, weight_rounds=96)
problems: dict[str, ExactProblem] = {}
draws: dict[str, dict[str, Tensor]] = {}
for name, instrument in instruments.items():
    problems[name] = linear_problem(bump_fields(SIDE), instrument, NOISE, generator, name)
    draws[name] = {"exact": problems[name].posterior.sample(DRAWS, generator=generator)}
    for solver, method in {"annealing": ANNEALING, **({"PPM": SHORT} if name == "hole" else {})}.items():
        began = time.perf_counter()
        posterior = method.run(problems[name].problem, DRAWS, generator=generator)
        draws[name][solver] = posterior.samples.double()
        print(f"{name}, {solver}: {time.perf_counter() - began:.0f} s", *posterior.diagnostics.get("warnings", []))
    for solver, x in draws[name].items():
        compare(name, problems[name], solver, x, draws[name]["exact"])

# %%
# What it looks like
# ------------------
# One row per instrument. Means and samples share one scale, standard deviations another.
#
# Where one place of the bump is left, annealing's mean and spread are right to a tenth of a standard deviation. In the
# hole it keeps the right places open, with the wrong probabilities: nothing in it corrects them, and the mean inside is
# off accordingly. Its intervals hold the truth as often as the exact ones.
#
# PPM, cut down to four components and ten steps, does as well in the hole, but misses one of the places and gives
# another too much, and its warning says that the weights are not settled. With the components and rounds of its
# benchmark it weighs such places to a few hundredths, at ten times the cost.

kinds = {"mean": lambda x: x.mean(0)[0], "sd": lambda x: x.std(0)[0], "sample": lambda x: x[0, 0]}
solvers = ("exact", "annealing", "PPM")
figure, panels = plt.subplots(3, 11, figsize=(18, 5.2), layout="constrained")
for panel in panels.flat:
    panel.set(xticks=[], yticks=[], frame_on=False)
for row, (name, found) in zip(panels, draws.items()):
    problem, truth = problems[name].problem, problems[name].truth[0, 0]
    y = problem.likelihood.y
    data = y if name == "shaken" else instruments[name].adjoint(y)
    scale, spread = {"vmin": truth.min(), "vmax": truth.max()}, {"vmin": 0, "vmax": kinds["sd"](found["exact"]).max()}
    row[0].imshow(data[0, 0].where(seen[name], torch.nan), **scale)
    row[1].imshow(truth, **scale)
    row[0].set_ylabel(name)
    for i, (kind, picture) in enumerate(kinds.items()):
        for panel, solver in zip(row[2 + 3 * i :], solvers):
            if solver in found:
                options = {**spread, "cmap": "magma"} if kind == "sd" else scale
                panel.imshow(picture(found[solver]), **options)
titles = ["data", "truth", *(f"{kind}, {solver}" for kind in kinds for solver in solvers)]
for panel, title in zip(panels[0], titles):
    panel.set_title(title, fontsize=9)
figure.savefig("inpainting.png", dpi=110)
plt.show()
