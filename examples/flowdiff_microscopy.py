"""
A prior of filaments nobody has seen sharp
==========================================

Six hundred micrographs of microtubule-like filaments, blurred by the microscope and grainy from the camera, and no
sharp image. From those alone `FlowDiff` learns a diffusion prior and a network of posterior samples. The prior then
fills in pixels that another instrument missed, beside one trained on sharp images and one trained on the micrographs
as if they were sharp.
"""

# %%
# What is measured
# ----------------
# Filaments of up to 40 photo-electrons per pixel of 65 nm, through an objective of NA 1.2, with 1.6 electrons of read
# noise. The report comes before any training: it says which waves leave no trace.

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from sciinstruct.core import InverseProblem, Likelihood
from sciinstruct.datasets.cells import simulate_cells
from sciinstruct.diffusion.edm import NoiseLevels
from sciinstruct.diffusion.training import PriorTraining
from sciinstruct.inference import ImageAnnealing
from sciinstruct.inference.flowdiff import FlowDiff
from sciinstruct.inference.flowdiff_identifiability import identifiability_report
from sciinstruct.inference.flowdiff_prior import unet_config
from sciinstruct.inference.simulator import OperatorSimulator
from sciinstruct.operators import PixelMask
from sciinstruct.operators.masks import random_mask
from sciinstruct.operators.microscopy import Optics, PoissonGaussianNoise, WidefieldBlur
from sciinstruct.priors.train import train_prior

torch.set_num_threads(1)  # images this small gain nothing from more
SIDE, PIXEL, IMAGES, STEPS = 16, 0.065, 600, 250
generator = torch.Generator().manual_seed(0)
sharp = 20 * simulate_cells({"microtubules": 1.0}, IMAGES + 64, SIDE, PIXEL, generator=generator).images
sharp, unseen = sharp[:IMAGES], sharp[IMAGES:]
blur = WidefieldBlur(Optics(1.2, 600.0), (SIDE, SIDE), PIXEL, "circular")
microscope = OperatorSimulator(blur, PoissonGaussianNoise(1.6))
micrographs = microscope.simulate(sharp, generator)
report = identifiability_report(microscope, micrographs)
print(f"directions without a trace: {report.null_share:.0%}, such as {', '.join(report.names()[:2])}")

# %%
# Learn both
# ----------

began = time.perf_counter()
result = FlowDiff.for_images(STEPS, n_t=2).train(micrographs, microscope, generator=1)
print(f"trained in {time.perf_counter() - began:.0f} s;", *result.warnings, sep="\n  ")

# %%
# Posteriors of new micrographs
# -----------------------------
# One pass of the network per sample. Errors and coverage leave out what the microscope cannot see.

seen = microscope.simulate(unseen, generator)
scores = result.report(seen, unseen, generator=2)
print(f"chi-square {scores['chi2']:.2f}, 90 % intervals hold {scores['coverage_90']:.0%} of what can be seen")
samples = result.reconstructor.sample(seen[:3], 64, generator=3)
figure, panels = plt.subplots(3, 6, figsize=(11, 5.6), layout="constrained")
for row, frame, truth, draws in zip(panels, seen, unseen, samples):
    pictures = {"micrograph": frame[0], "truth": truth[0], "mean": draws.mean(0)[0], "sd": draws.std(0)[0]}
    pictures |= {"sample": draws[0, 0], "another": draws[1, 0]}
    for panel, (name, picture) in zip(row, pictures.items()):
        shown = {"vmin": 0, "vmax": float(truth.max())} if name not in ("micrograph", "sd") else {}
        panel.imshow(picture, cmap="magma", **shown)
        panel.set(xticks=[], yticks=[], title=name)
figure.savefig("flowdiff_posterior.png", dpi=110)

# %%
# The prior on another instrument
# -------------------------------
# Half the pixels missing, a little noise, no blur. Between a prior of sharp images, the best there can be, and one of
# micrographs taken for sharp.

config = PriorTraining(steps=STEPS, levels=NoiseLevels(0.01, 20.0), warmup=20)
with tempfile.TemporaryDirectory() as folder:
    trained = {
        name: train_prior(images, config, Path(folder) / name, network=unet_config((1, SIDE, SIDE)))
        for name, images in {"sharp images": sharp, "micrographs": micrographs}.items()
    }
priors = {"sharp images": trained["sharp images"], "FlowDiff": result.prior} | trained
mask = PixelMask(random_mask((SIDE, SIDE), 0.5, generator))
truths = unseen[:4]
data = [mask(truth[None]) + torch.randn(mask.range_shape, generator=generator) for truth in truths]
filled, solver = {}, ImageAnnealing(levels=16)
for name, prior in priors.items():
    problems = [InverseProblem(prior, Likelihood(mask, 1.0, y.reshape(mask.range_shape))) for y in data]
    filled[name] = torch.stack([solver.run(p, 16, generator=generator).samples.mean(0) for p in problems])
    error = float((filled[name] - truths).square().mean().sqrt())
    print(f"prior of {name}: error of the posterior mean {error:.2f} electrons")

# %%
# What it looks like
# ------------------

figure, panels = plt.subplots(4, 5, figsize=(9, 7.4), layout="constrained")
for i, row in enumerate(panels):
    holes = mask.adjoint(data[i].reshape(1, *mask.range_shape))[0, 0]
    pictures = {"measured": holes, "truth": truths[i, 0]} | {name: images[i, 0] for name, images in filled.items()}
    for panel, (name, picture) in zip(row, pictures.items()):
        panel.imshow(picture, cmap="magma", vmin=0, vmax=float(truths[i].max()))
        panel.set(xticks=[], yticks=[], title=name if i == 0 else "")
figure.savefig("flowdiff_inpainting.png", dpi=110)
plt.show()
