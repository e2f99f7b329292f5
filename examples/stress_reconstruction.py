"""
How wrong can a reconstruction be?
==================================

A network turns blurred, noisy frames of a microscope into samples of the posterior in one pass. Its error is usually
told for random noise. Here it is asked for the worst measurement error of the same size, beside a linear deconvolution
(Wiener's) under the same test; and what three standard deviations in the worst direction do to a number one would
publish.

``python examples/stress_reconstruction.py FOLDER`` also saves the pictures there.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from sciinstruct.inference.packaged import load_reconstructor
from sciinstruct.jobs.training import cell_images
from sciinstruct.purification.attacks import Budget, StressTest

torch.set_num_threads(1)
WIDTH, NOISE, COUNT, DRAWS = 2.5, 0.1, 6, 2

# %%
# Truths, data, and two reconstructions
# -------------------------------------
# Six simulated structures that neither prior nor network has seen, blurred by 2.5 pixels. `reconstruct` averages a few
# posterior samples with latent noise held fixed, so that it is one differentiable function of the frame.

reconstructor, simulator = load_reconstructor("cells-64-blur")
images, _ = cell_images(64, 400, 7, False)


def brightness(image: Tensor) -> Tensor:
    """Sum of the central 16 x 16 pixels."""
    return image[..., 24:40, 24:40].sum((-3, -2, -1))


full = brightness(images) > brightness(images).median()  # something is there to be measured
truth, others = images[full][:COUNT], torch.cat([images[~full], images[full][COUNT:]])
blank = simulator.pack(torch.zeros_like(truth), WIDTH, NOISE)
clean = simulator.predict(truth, blank)


def samples(frame: Tensor, draws: int) -> Tensor:
    """Posterior samples (B, draws, 1, H, W), the same latent noise in every call."""
    y = simulator.pack(frame, WIDTH, NOISE).repeat_interleave(draws, 0)
    x = reconstructor.network.sample(y, torch.Generator().manual_seed(0))
    return reconstructor.prior.to_physical(x).reshape(len(frame), draws, *truth.shape[1:])


def reconstruct(frame: Tensor) -> Tensor:
    return samples(frame, DRAWS).mean(1)


mean = others.mean()
power = torch.fft.rfft2(others - mean).abs().square().mean((0, 1))
centre = torch.zeros(1, 1, 64, 64)
centre[..., 0, 0] = 1
blur = torch.fft.rfft2(simulator.predict(centre, blank[:1]))
gain = blur.conj() * power / (blur.abs().square() * power + NOISE**2 * 64**2)


def wiener(frame: Tensor) -> Tensor:
    """The best linear reconstruction, for the mean and power spectrum of other structures."""
    return mean + torch.fft.irfft2(torch.fft.rfft2(frame - mean) * gain, s=(64, 64))


methods = {"network": reconstruct, "Wiener": wiener}

# %%
# Worst against random
# --------------------
# Both get measurement errors with the norm of one noise realisation (and half, and a quarter of one), around data
# without noise. "Random" is a draw of noise scaled to that norm; "worst" is found by ascent, so it is a lower bound.


Method = Callable[[Tensor], Tensor]


def distance(method: Method, target: Tensor) -> Method:
    """Root-mean-square error of a reconstruction, one number per frame."""
    return lambda frame: (method(frame) - target).square().mean((1, 2, 3)).sqrt()


found = {}
shares = (0.25, 0.5, 1.0)
for name, method in methods.items():
    for share in shares:
        test = StressTest(Budget.of_noise(share, NOISE, (1, 64, 64)), steps=12, step=0.25, restarts=1, randoms=5)
        one = test.run(distance(method, truth), clean, generator=0)
        found[name, share] = one
        error = float(one.ratio.std()) / COUNT**0.5
        print(
            f"{name}, {share:4.2f} noise norms: no error {float(one.unchanged.mean()):.3f}, "
            f"random {float(one.random.mean()):.3f}, worst {float(one.worst.mean()):.3f}, "
            f"ratio {float(one.ratio.mean()):.2f} ± {error:.2f}"
        )

# %%
# An error of a full noise norm in one direction is no noise: noise of 4096 pixels has 64 times its standard deviation
# as norm, but spread over all directions. Such errors come from the background, the flat field or a wrong blur. What
# the network makes of them is plausible: filaments turn into rows of beads. That is why purification of the *image*
# does not help here: there is nothing unlikely in it to remove, and what the data lost is not in the prior either.

one = found["network", 1.0]
with torch.no_grad():
    g = torch.Generator().manual_seed(1)
    noisy = clean + NOISE * torch.randn(clean.shape, generator=g)
    shown = {
        "truth": truth, "data, random noise": noisy, "network, random noise": reconstruct(noisy),
        "data, worst error": one.data, "network, worst error": reconstruct(one.data),
    }  # fmt: skip
pictures, panels = plt.subplots(3, len(shown), figsize=(2 * len(shown), 6.2), layout="constrained")
for column, (name, image) in zip(panels.T, shown.items()):
    for panel, shot in zip(column, image):
        panel.imshow(shot[0], vmin=0, vmax=1.2, cmap="inferno")
        panel.set(xticks=[], yticks=[])
    column[0].set_title(name, fontsize=9)

# %%
# A number to publish
# -------------------
# The brightness of the central 16 x 16 pixels. For any linear method the worst data error of three standard deviations
# (in one direction, so that noise itself does it once in 370 draws) moves a number by exactly three times its scatter
# under noise. A network that is steeper in some direction than noise shows moves by more: that ratio is the test.


def shift(method: Method, rest: Tensor) -> Method:
    """How far a frame moves the brightness from `rest`."""
    return lambda frame: (brightness(method(frame)) - rest).abs()


test = StressTest(Budget(3.0, "l2", NOISE), steps=12, step=0.25, restarts=1, randoms=1)
g = torch.Generator().manual_seed(2)
noise = NOISE * torch.randn(48, *clean.shape, generator=g)
ratios, bars = {}, {}
for name, method in methods.items():
    with torch.no_grad():
        rest = brightness(method(clean))
        scatter = torch.stack([brightness(method(clean + one)) for one in noise]).std(0)
    worst = test.run(shift(method, rest), clean, generator=0)
    ratios[name], bars[name] = worst.worst / (3 * scatter), (scatter, worst.worst)
    error = float(ratios[name].std()) / COUNT**0.5
    print(f"{name}: worst of three sigma over three scatters {float(ratios[name].mean()):.2f} ± {error:.2f}")

with torch.no_grad():
    drawn = brightness(samples(noisy, 16))
    known = brightness(truth)
print("\nbrightness: truth, estimate ± posterior's error, scatter under noise, shift by the worst three sigma")
for row in zip(known, drawn.mean(1), drawn.std(1), *bars["network"]):
    print("{:8.1f} {:8.1f} ± {:.1f} {:8.1f} {:8.1f}".format(*map(float, row)))

# %%
# Here the network is no steeper than a linear method: three sigma in the worst direction are three scatters. Its
# posterior's error bars are those of the noise, and do not have to be widened for such directions.

numbers, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
place = torch.arange(COUNT)
ax.errorbar(place, drawn.mean(1) - known, drawn.std(1), fmt="o", ms=4, label="estimate, posterior's error")
for i, (name, (scatter, worst_shift)) in enumerate(bars.items()):
    at, colour = place + 0.25 * (i + 1), f"C{i + 1}"
    ax.errorbar(at, 0 * place, 3 * scatter, fmt="none", lw=5, alpha=0.4, color=colour, label=f"{name}, 3 scatters")
    ax.errorbar(at, 0 * place, worst_shift, fmt="none", capsize=4, color=colour, label=f"{name}, worst 3 sigma")
ax.axhline(0, color="0.7", lw=0.8)
ax.set(xlabel="structure", ylabel="brightness - truth")
ax.legend(frameon=False, fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))

if len(sys.argv) > 1:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    pictures.savefig(folder / "worst_reconstructions.png", dpi=110)
    numbers.savefig(folder / "brightness.png", dpi=110)
plt.show()
