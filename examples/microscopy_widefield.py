"""
Microtubules under a wide-field microscope
==========================================

One frame of a camera, its objective and its wavelength in; images at twice its resolution out, each of which explains
the frame, and how sure one can be of every pixel.

Without ``--file`` it exposes simulated microtubules, whose truth is known. With one it reads any micrograph: say its
optics with ``--na``, ``--wavelength`` and ``--pixel``, or leave them out where nobody knows them, as of a preview from
the web, and the blur is estimated from the image itself.
"""

# %%
# The frame
# ---------
# Simulated: 32x32 camera pixels of 62.6 nm, objective of NA 1.41, 240 photo-electrons per pixel in the mean over the
# filaments, 2 of background, 1.6 of read noise.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from sciinstruct import priors
from sciinstruct.core import GaussianNoise
from sciinstruct.datasets.cells import simulate_cells
from sciinstruct.datasets.microscopy_files import read_microscopy
from sciinstruct.inference import ImageAnnealing
from sciinstruct.jobs import expose
from sciinstruct.jobs.exposure import haze
from sciinstruct.jobs.microscopy import write_micrograph
from sciinstruct.operators.kernels import gaussian_kernel
from sciinstruct.operators.microscopy import (
    Camera,
    Optics,
    WidefieldBlur,
    lag_one,
    pixel_spread,
    psnr_affine,
    richardson_lucy,
)
from sciinstruct.operators.microscopy.blur_width import estimate_blur_width
from sciinstruct.operators.microscopy.window import psf_reach

parser = argparse.ArgumentParser()
parser.add_argument("--file", type=Path, help="TIFF, PNG or JPEG of one plane")
parser.add_argument("--na", type=float, help="numerical aperture")
parser.add_argument("--wavelength", type=float, default=525.0, help="emission, nm")
parser.add_argument("--pixel", type=float, default=62.6, help="camera pixel in the sample, nm")
parser.add_argument("--factor", type=int, default=2, help="latent pixels to a camera pixel's side")
parser.add_argument("--crop", type=int, nargs=4, metavar=("TOP", "LEFT", "HEIGHT", "WIDTH"))
parser.add_argument("--out", type=Path, default=Path("microscopy-widefield"))
parser.add_argument("--samples", type=int, default=32)
arguments = parser.parse_args()

prior = priors.load("cells-64")
fine_um, factor, truth = prior.card.pixel["pixel_um"], arguments.factor, None
if arguments.file is None:
    optics = Optics(arguments.na or 1.41, arguments.wavelength)
    blur = WidefieldBlur.for_camera(optics, (32, 32), factor * fine_um, factor)
    truth = simulate_cells("microtubules", 1, blur.domain_shape[-1], fine_um, generator=1).images.double()
    seen = blur(truth)
    scale = 240 / seen[seen > 0.3 * seen.max()].mean()
    camera = Camera.scmos()
    counts = camera.expose(blur(scale * truth + 0.5), torch.Generator().manual_seed(2))[0, 0]
    electrons, noise, psf = camera.to_electrons(counts), camera.noise(), blur.psf
    known = {"background": 2.0, "scale": float(scale)}
else:
    frame = read_microscopy(arguments.file)
    electrons, known = torch.as_tensor(frame.values.astype("float64")), {}
    if arguments.crop:
        top, left, height, width = arguments.crop
        electrons = electrons[top : top + height, left : left + width]

# %%
# A file without optics
# ---------------------
# The fall of the image's power spectrum gives the width of the blur, the filaments' own width in it, and the floor the
# noise. The prior's filaments are 1.5 latent pixels wide (standard deviation), which are taken off. What is left should
# be the objective's: 0.22 wavelengths over the aperture, 100 nm for the far red at NA 1.45. It tells the pixel, and
# with it ``--factor``: 3 for a pixel of about 100 nm.

if arguments.file is not None and arguments.na is None:
    whole = torch.as_tensor(frame.values.astype("float64"))
    width = estimate_blur_width(whole)
    sigma = (width.sigma**2 - (1.5 / factor) ** 2) ** 0.5
    print(f"blur: {width.sigma:.2f} camera pixels, of which the optics {sigma:.2f}; noise {width.noise:.2f} counts")
    psf, noise = gaussian_kernel(factor * sigma), GaussianNoise(width.noise)
elif arguments.file is not None:
    optics, pixel_um = Optics(arguments.na, arguments.wavelength), arguments.pixel / 1000 / factor
    reach = 2 * psf_reach(optics, pixel_um) + 1
    psf, noise = pixel_spread(optics, pixel_um, (reach, reach)), Camera.scmos().noise()

exposure = expose(electrons, psf, prior, noise, factor=factor, pixel_um=factor * fine_um, **known)
print(
    f"{exposure.scale:.1f} electrons per pixel of a typical structure, {exposure.background.mean():.1f} of background"
)

# %%
# Haze
# ----
# Real frames have light that no structure in focus explains. A few rough images show where: what they leave over more
# than a few pixels goes into the background, twice.

if arguments.file is not None:
    for turn in range(2):
        rough = ImageAnnealing(levels=16).run(exposure.problem, 4, generator=torch.Generator().manual_seed(turn))
        known = {"background": haze(electrons, exposure, rough.samples), "scale": exposure.scale}
        exposure = expose(electrons, psf, prior, noise, factor=factor, pixel_um=factor * fine_um, **known)

# %%
# Posterior samples
# -----------------
# From noise to the image in 30 levels; at each the prior denoises, tile by tile, and the data say which of the clean
# images that could be behind it they allow.

posterior = ImageAnnealing().run(
    exposure.problem, arguments.samples, generator=torch.Generator().manual_seed(0), progress=True
)
report, summary, samples = write_micrograph(
    posterior, exposure, arguments.out, truth=None if truth is None else truth[0].float()
)
print(f"report: {report.html}\nimages: {summary}, {samples}")

# %%
# What it looks like
# ------------------
# Richardson-Lucy, at the iteration nearest to the truth where that is known, is what one would have without a prior.

images = exposure.crop(posterior.samples).double()
panels = {"frame": electrons}
background = exposure.blur(exposure.background[None, None])
kept: list[torch.Tensor] = []
richardson_lucy(
    electrons.double().clamp(min=0)[None, None],
    exposure.blur,
    iterations=120,
    background=background,
    callback=lambda _, x: kept.append(exposure.crop(x)[0]),
)
if truth is None:
    panels["Richardson-Lucy, 40 steps"] = kept[40][0]
else:
    target = exposure.crop(truth)
    scores = [float(psnr_affine(x[None], target)) for x in kept]
    best = max(range(len(kept)), key=scores.__getitem__)
    gain = float(psnr_affine(images.mean(0)[None], target)) - scores[best]
    low, high = torch.quantile(images, torch.tensor([0.05, 0.95]).double(), 0)
    covered = ((low <= target[0]) & (target[0] <= high)).double().mean()
    print(
        f"mean: {gain:+.1f} dB beside Richardson-Lucy at its best ({best + 1} steps); 90 % intervals hold {covered:.1%}"
    )
    panels |= {"Richardson-Lucy at its best": kept[best][0], "truth": target[0, 0]}
panels |= {"mean": images.mean(0)[0], "standard deviation": images.std(0)[0], "one sample": images[0, 0]}
panels["another sample"] = images[1, 0]

figure, axes = plt.subplots(2, 4, figsize=(14, 7), layout="constrained")
for axis, (name, image) in zip(axes.flat, panels.items()):
    axis.imshow(image, cmap="magma")
    axis.set_title(name)
for axis in axes.flat:
    axis.axis("off")
figure.savefig(arguments.out / "overview.png", dpi=110)

# %%
# Is the residual white?
# ----------------------
# Structure left in what the mean does not explain is a sign of wrong optics or background: neighbours' correlation
# should be near zero.

prediction = exposure.problem.likelihood.operator(posterior.mean[None])
residual = exposure.problem.likelihood.noise.whiten(exposure.problem.likelihood.y, prediction)
along = lag_one(residual.reshape(1, *electrons.shape))[0]
print(
    f"residual: mean square {residual.square().mean():.2f}, correlation of neighbours {along[0]:.2f} and {along[1]:.2f}"
)
plt.show()
