"""
Digits from an energy, in one pass
==================================

An energy learned from images of digits is a density without a normaliser in 64 dimensions. Drawing from it takes
hundreds of Langevin steps; a sampler trained on it takes one pass of a network.
"""

# %%
# The energy
# ----------
# Diffusion contrastive divergence needs no chains: noise does their work. The digits are scikit-learn's, 8x8 pixels of
# 17 levels; a little noise makes a density of them.

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from sciinstruct.core.wasserstein import sliced_w2
from sciinstruct.implicit import ImplicitSampler, refine
from sciinstruct.implicit.energy_models import EnergyTraining, langevin

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=500, help="of either training")
parser.add_argument("--out", type=Path, default=Path("energy-model"))
arguments = parser.parse_args()
torch.set_num_threads(1)  # networks this small gain nothing from more

images = torch.as_tensor(load_digits().images).float()[:, None] / 8 - 1
training = EnergyTraining(
    steps=arguments.steps, tau=0.3, noise=0.15, learning_rate=1e-3, width=256, batch=128, proposals=16, hold=2.0
)
began = time.perf_counter()
model = training.train(images, generator=0, name="digits")
model.save(arguments.out / "energy", {"settings": training.settings()})
print(f"energy: {time.perf_counter() - began:.0f} s")

# %%
# The sampler
# -----------
# In 64 dimensions a pilot from far away would miss kinds of digits. It starts from chains that began at data; a second
# half of them is kept aside to compare with.

generator = torch.Generator().manual_seed(0)
noisy = images.flatten(1) + training.noise * model.scale * torch.randn(len(images), 64, generator=generator)
noisy = noisy[torch.randperm(len(noisy), generator=generator)]
chains = refine(model, noisy, model.scale * torch.eye(64), steps=200, generator=generator)
start, aside = chains.chunk(2)
# a tenth of the score network's rate: in 64 dimensions it lags behind a faster generator, and draws become too narrow
settings = ImplicitSampler(steps=arguments.steps, score_steps=3, width=256, learning_rate=1e-4, base="particles")
sampler = settings.train(model, generator=0, start=start)
sampler.save(arguments.out / "sampler")
print(f"sampler: {sampler.diagnostics['seconds']:.0f} s")

# %%
# Side by side
# ------------
# One pass against 200 Langevin steps from noise, by time and by distance to the chains kept aside.

began = time.perf_counter()
one_pass = sampler.sample(1000, 1)
quick = time.perf_counter() - began
began = time.perf_counter()
step = 0.01 * model.scale**2
walked = langevin(model, model.base_draws(1000, generator), steps=200, step=step, generator=generator)
slow = time.perf_counter() - began
print(f"one pass : {1e6 * quick / 1000:8.1f} µs an image, distance {sliced_w2(one_pass, aside):.3f}")
print(f"Langevin : {1e6 * slow / 1000:8.1f} µs an image, distance {sliced_w2(walked, aside):.3f}")
print(f"the two halves of the chains: {sliced_w2(start, aside):.3f}")

rows = {"data": images.flatten(1), "one pass": one_pass, "Langevin, 200 steps": walked}
figure, panels = plt.subplots(3, 12, figsize=(12, 3.4), layout="constrained")
for row, (name, x) in zip(panels, rows.items()):
    for panel, image in zip(row, x):
        panel.imshow(image.reshape(8, 8), cmap="gray", vmin=-1, vmax=1)
        panel.set(xticks=[], yticks=[])
    row[0].set_title(name, loc="left")
plt.show()
