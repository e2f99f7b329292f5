"""FlowDiff on images of handwritten digits, 16 x 16, seen only noisy, blurred, or with 60 % of the pixels missing.

Run ``python -m benchmarks.flowdiff_images --out FOLDER`` from the root of a checkout. For every corruption the learned
prior is put between two of the same network and number of steps: one trained on the clean images (the upper bound) and
one on the corrupted images as if they were clean (the lower). Training sees 1500 images, each once corrupted;
posteriors meet 200 others. A run that is in FOLDER is not repeated. Results go to FOLDER/flowdiff_images.json and, as
tables, to the screen.

Baselines are scikit-image's, their strength chosen on the truth of the test images: they are as good as they can be.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sciinstruct.core import GaussianNoise, InverseProblem, Likelihood, atomic_path
from sciinstruct.core.wasserstein import sliced_w2
from sciinstruct.diffusion.edm import NoiseLevels
from sciinstruct.diffusion.training import PriorTraining
from sciinstruct.inference.baselines.dps import DPS
from sciinstruct.inference.flowdiff import FlowDiff
from sciinstruct.inference.flowdiff_prior import unet_config
from sciinstruct.inference.flowdiff_result import FlowDiffResult
from sciinstruct.inference.simulator import AffineSimulator, MaskSimulator, OperatorSimulator
from sciinstruct.operators import Convolution, ImageMask
from sciinstruct.operators.kernels import gaussian_kernel
from sciinstruct.operators.masks import random_mask
from sciinstruct.priors import Prior
from sciinstruct.priors.train import train_prior

SHAPE, TRAINED = (1, 16, 16), 1500
LEVELS = NoiseLevels(0.01, 20.0)
DRAWS, POSTERIORS, EACH = 1000, 200, 100
WEIGHTS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)  # of total variation
BALANCES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # of Wiener's filter
KERNEL = gaussian_kernel(1.2, side=9)
FEATURES = 30  # principal components of the clean images, for the Frechet distance


@dataclass(frozen=True)
class Corruption:
    """A law of measurements, what its images look like as they are, and the classical answers to them."""

    law: AffineSimulator
    baselines: dict[str, Callable[[Tensor, float], np.ndarray]]  # of one measurement and a strength
    strengths: dict[str, tuple[float, ...]]

    def as_images(self, y: Tensor) -> Tensor:
        """Corrupted images as if they were clean, (n, 1, 16, 16)."""
        return y[:, :1]


def digits() -> Tensor:
    """All 1797 digits in [0, 1], brought to 16 x 16, in random order."""
    from sklearn.datasets import load_digits

    x = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    x = F.interpolate(x, size=SHAPE[1:], mode="bilinear", align_corners=False)
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def half_hidden(n: int, generator: torch.Generator | None) -> Tensor:
    """Masks that leave 40 % of the pixels."""
    return random_mask((n, *SHAPE), 0.4, generator)


def total_variation(y: Tensor, weight: float) -> np.ndarray:
    """Of a noisy image."""
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(y[0].numpy(), weight=weight)


def wiener(y: Tensor, balance: float) -> np.ndarray:
    """Of a blurred image, periodic at its borders as the blur is."""
    from skimage.restoration import wiener as filtered

    return filtered(y[0].double().numpy(), KERNEL.double().numpy(), balance, clip=False)


def local_wiener(y: Tensor, noise: float) -> np.ndarray:
    """Wiener's filter of a noisy image, its gain from the variance in windows of 3 x 3."""
    from scipy.signal import wiener as filtered

    return filtered(y[0].double().numpy(), 3, noise)


def inpainted(y: Tensor, weight: float) -> np.ndarray:
    """Missing pixels from the biharmonic equation, then total variation."""
    from skimage.restoration import denoise_tv_chambolle, inpaint_biharmonic

    filled = inpaint_biharmonic(y[0].double().numpy(), y[1].numpy() < 0.5)
    return denoise_tv_chambolle(filled, weight=weight)


def corruptions() -> dict[str, Corruption]:
    """The three of the study."""
    whole = ImageMask(torch.ones(SHAPE, dtype=torch.bool))
    blur = Convolution(KERNEL, SHAPE)
    tv = {"total variation": WEIGHTS}
    return {
        "noise 0.2": Corruption(
            OperatorSimulator(whole, GaussianNoise(0.2)),
            {"total variation": total_variation, "Wiener": local_wiener},
            tv | {"Wiener": (0.01, 0.02, 0.04, 0.08)},
        ),
        "9 x 9 blur, noise 0.02": Corruption(
            OperatorSimulator(blur, GaussianNoise(0.02)), {"Wiener": wiener}, {"Wiener": BALANCES}
        ),
        "60 % masked, noise 0.05": Corruption(
            MaskSimulator(SHAPE, 0.05, half_hidden), {"biharmonic + total variation": inpainted},
            {"biharmonic + total variation": (0.001, *WEIGHTS)},
        ),
    }  # fmt: skip


def psnr(found: Tensor, truth: Tensor) -> float:
    """Peak signal to noise, dB, peak 1, of the mean squared error over all images."""
    return float(-10 * (found - truth).square().mean().log10())


def best_baseline(corruption: Corruption, y: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR of every classical method at its best strength."""
    best = {}
    for name, method in corruption.baselines.items():
        scores = []
        for strength in corruption.strengths[name]:
            made = torch.from_numpy(np.stack([method(one, strength) for one in y])).float()[:, None]
            scores.append(psnr(made, truth))
        best[name] = max(scores)
    return best


def frechet(a: Tensor, b: Tensor, basis: Tensor) -> float:
    """Frechet distance of two sets of images in a few principal components."""
    moments = [((x.flatten(1) @ basis).double().mean(0), torch.cov((x.flatten(1) @ basis).double().T)) for x in (a, b)]
    (m0, c0), (m1, c1) = moments
    cross = torch.linalg.eigvals(c0 @ c1).real.clamp_min(0).sqrt().sum()
    return float((m0 - m1).square().sum() + c0.trace() + c1.trace() - 2 * cross)


def principal(clean: Tensor) -> Tensor:
    """Leading principal components in columns."""
    centred = clean.flatten(1) - clean.flatten(1).mean(0)
    return torch.linalg.svd(centred, full_matrices=False).Vh[:FEATURES].T


def distances(samples: Tensor, clean: Tensor) -> dict[str, float]:
    """To the clean images."""
    w2 = sliced_w2(samples, clean, generator=torch.Generator().manual_seed(3))
    return {"sliced_w2": float(w2), "frechet": frechet(samples, clean, principal(clean))}


def draw(prior: Prior) -> Tensor:
    """Physical images of a prior."""
    return prior.to_physical(prior.sample(DRAWS, generator=torch.Generator().manual_seed(4)))


def bounds(corruption: Corruption, clean: Tensor, y: Tensor, steps: int, folder: Path) -> dict[str, Prior]:
    """Priors of the same network and steps: of clean images, and of the corrupted as if clean."""
    config = PriorTraining(steps=steps, batch=32, lr=1e-3, levels=LEVELS, ema=0.999)
    network = unet_config(SHAPE)
    return {
        "clean": train_prior(clean, config, folder.parent / "clean", network=network),  # once for all corruptions
        "corrupted": train_prior(corruption.as_images(y), config, folder / "corrupted", network=network),
    }


def posterior_scores(result: FlowDiffResult, corruption: Corruption, truth: Tensor) -> dict[str, float]:
    """Posterior means and intervals on images not trained on, beside the baselines."""
    y = corruption.law.simulate(truth, torch.Generator().manual_seed(5))
    draws = result.reconstructor.sample(y, EACH, generator=6)
    low, high = torch.quantile(draws, torch.tensor([0.05, 0.95]), 1)
    return {
        "psnr": psnr(draws.mean(1), truth),
        **{f"psnr {name}": value for name, value in best_baseline(corruption, y, truth).items()},
        "coverage_90": float(((low <= truth) & (truth <= high)).double().mean()),
        "chi2": result.report(y, generator=7)["chi2"],
    }


def speed(result: FlowDiffResult, corruption: Corruption, truth: Tensor) -> dict[str, float]:
    """CPU milliseconds per posterior sample: of the flow, and of diffusion posterior sampling with 100 calls."""
    law = corruption.law
    y = law.simulate(truth[:1], torch.Generator().manual_seed(8))
    if isinstance(law, MaskSimulator):
        from sciinstruct.operators import MaskedGaussianNoise

        mask = law.maps(y)[0] > 0
        likelihood = Likelihood(ImageMask(mask), MaskedGaussianNoise(law.sigma, mask), law.observed(y)[0])
    else:
        assert isinstance(law, OperatorSimulator)
        likelihood = Likelihood(law.operator, law.noise, y[0])
    problem, n = InverseProblem(result.prior, likelihood), 64
    result.reconstructor.sample(y[0], n, generator=9)
    began = time.process_time()
    for _ in range(5):
        result.reconstructor.sample(y[0], n, generator=9)
    flow = (time.process_time() - began) / 5
    began = time.process_time()
    DPS(steps=100).run(problem, n, generator=torch.Generator().manual_seed(10))
    return {"flow_ms": 1000 * flow / n, "dps_ms": 1000 * (time.process_time() - began) / n}


def study(name: str, corruption: Corruption, steps: int, out: Path) -> dict:
    """All of one corruption."""
    images = digits()
    clean, truth = images[:TRAINED], images[TRAINED : TRAINED + POSTERIORS]
    y = corruption.law.simulate(clean, torch.Generator().manual_seed(1))
    folder, began = out / name.replace(" ", "_").replace("%", "percent"), time.process_time()
    state = folder / "flowdiff.pt"
    settings = FlowDiff.for_images(steps, n_t=2)
    result = settings.train(y, corruption.law, generator=2, checkpoint=state, resume=state.is_file())
    seconds = time.process_time() - began
    result.save(folder)
    priors = bounds(corruption, clean, y, steps, folder) | {"learned": result.prior}
    posterior = result.reconstructor.sample(y, 1, generator=11)[:, 0]
    return {
        "priors": {kind: distances(draw(prior), clean) for kind, prior in priors.items()},
        "flow": distances(posterior, clean),
        "corrupted images": distances(corruption.as_images(y), clean),
        "posterior": posterior_scores(result, corruption, truth),
        "speed": speed(result, corruption, truth),
        "warnings": result.warnings,
        "seconds": seconds,
        "steps": steps,
    }


def halfway(row: dict, kind: str) -> float:
    """Where the learned prior is, from the clean-data prior (0) to the corrupted-data prior (1)."""
    low, high, found = (row["priors"][p][kind] for p in ("clean", "corrupted", "learned"))
    return (found - low) / (high - low)


def markdown(record: dict[str, dict]) -> str:
    """Both tables."""
    lines = [
        "| corruption | sliced W2: clean, learned, corrupted | of the way | Frechet: clean, learned, corrupted "
        "| of the way | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in record.items():
        cells = []
        for kind in ("sliced_w2", "frechet"):
            cells.append(", ".join(f"{row['priors'][p][kind]:.3f}" for p in ("clean", "learned", "corrupted")))
            cells.append(f"{halfway(row, kind):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} | {row['seconds']:.0f} |")
    lines += [
        "",
        "| corruption | posterior mean, dB | baselines, dB | 90 % intervals | chi-square | flow, ms a sample "
        "| DPS of 100 calls, ms | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in record.items():
        p, s = row["posterior"], row["speed"]
        others = ", ".join(f"{key[5:]} {value:.2f}" for key, value in p.items() if key.startswith("psnr "))
        lines.append(
            f"| {name} | {p['psnr']:.2f} | {others} | {p['coverage_90']:.3f} | {p['chi2']:.2f} | {s['flow_ms']:.2f} "
            f"| {s['dps_ms']:.1f} | {s['dps_ms'] / s['flow_ms']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    known = corruptions()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corruptions", nargs="+", choices=list(known), default=list(known))
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out / "flowdiff_images.json"
    record = json.loads(out.read_text()) if out.is_file() else {}
    for name in arguments.corruptions:
        if name not in record:
            record[name] = study(name, known[name], arguments.steps, arguments.out)
            with atomic_path(out) as path:
                path.write_text(json.dumps(record, indent=1))
            print(markdown({name: record[name]}), flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()
