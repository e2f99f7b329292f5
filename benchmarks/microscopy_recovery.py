"""Simulated wide-field exposures of microtubules: what posterior samples recover, beside Richardson-Lucy at its best.

Run ``python -m benchmarks.microscopy_recovery`` from the root of a checkout. Every exposure (light level, seed) is a
line of docs/benchmarks/microscopy_recovery.jsonl; an interrupted run goes on where it stopped. ``--table`` prints the
table of what is there and writes it beside the lines.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciinstruct import InverseProblem, Likelihood, priors
from sciinstruct.datasets.cells import draw_structures, simulate_cells
from sciinstruct.inference import ImageAnnealing
from sciinstruct.operators.intensity import IntensityMap
from sciinstruct.operators.microscopy import Optics, PoissonGaussianNoise, WidefieldBlur, psnr_affine, richardson_lucy
from sciinstruct.priors import Prior, TiledPrior

OPTICS = Optics(1.41, 525.0)
PIXEL_UM, FACTOR, CAMERA, REACH_UM = 0.0313, 2, 32, 0.5
READ, BACKGROUND = 1.6, 0.5  # e- per camera pixel; e- per latent pixel, a quarter of a camera's
PHOTONS = (15, 60, 240, 600)
LEVELS = np.arange(0.1, 1.0, 0.1)
RL_ITERATIONS = 400
SAMPLES = 32


class Scene(NamedTuple):
    """One exposure with its truth."""

    problem: InverseProblem
    blur: WidefieldBlur
    truth: Tensor  # (1, H, W), relative density
    ridge: Tensor  # (H, W) bool, centre lines
    edge: Tensor  # (H, W) bool, half-way down the flanks
    seen: Tensor  # (H, W) bool, what the camera's field covers


def scene(photons: float, seed: int, tile: Prior) -> Scene:
    """Expose microtubules such that the image's foreground has `photons` electrons per camera pixel in the mean."""
    blur = WidefieldBlur.for_camera(OPTICS, (CAMERA, CAMERA), FACTOR * PIXEL_UM, FACTOR, radius_um=REACH_UM)
    side = blur.domain_shape[-1]
    truth = simulate_cells("microtubules", 1, side, PIXEL_UM, generator=seed).images.double()
    lines = draw_structures("microtubules", 1, side, PIXEL_UM, generator=seed).lines[0]
    seen = blur(truth)
    scale = photons / float(seen[seen > 0.3 * seen.max()].mean())
    operator = blur @ IntensityMap(scale, BACKGROUND, blur.domain_shape)
    noise = PoissonGaussianNoise(READ)
    y = noise.sample(operator(truth), torch.Generator().manual_seed(seed + 1))
    prior = tile if side == tile.event_shape[-1] else TiledPrior(tile, (side, side))
    ridge, edge = flanks(lines, side)
    inside = torch.zeros(side, side, dtype=torch.bool)
    margin = (side - FACTOR * CAMERA) // 2
    inside[margin : side - margin, margin : side - margin] = True
    problem = InverseProblem(prior, Likelihood(operator, noise, y.float()), name=f"microtubules, {photons} photons")
    return Scene(problem, blur, truth[0], ridge, edge, inside)


def flanks(lines: list[Tensor], side: int) -> tuple[Tensor, Tensor]:
    """Pixels on the centre lines, and those half-way down (50 to 80 nm away)."""
    from scipy.ndimage import distance_transform_edt

    ridge = torch.zeros(side, side, dtype=torch.bool)
    for line in lines:
        x, y = (line / PIXEL_UM).long().clamp(0, side - 1).T
        ridge[y, x] = True
    away = torch.from_numpy(distance_transform_edt(~ridge.numpy())) * PIXEL_UM
    return ridge, (away > 0.05) & (away < 0.08)


def crop(x: Tensor, seen: Tensor) -> Tensor:
    """The camera's field of images (..., H, W)."""
    rows, columns = seen.any(1), seen.any(0)
    return x[..., rows, :][..., columns]


def best_richardson_lucy(it: Scene) -> tuple[float, int]:
    """Largest affine PSNR over iterations, chosen on the truth, and the iteration."""
    likelihood = it.problem.likelihood
    found: list[float] = []
    wanted = crop(it.truth, it.seen)[None]
    richardson_lucy(
        (likelihood.y.double() + READ**2).clamp(min=0),
        it.blur,
        iterations=RL_ITERATIONS,
        background=FACTOR**2 * BACKGROUND + READ**2,
        callback=lambda _, x: found.append(float(psnr_affine(crop(x, it.seen), wanted))),
    )
    return max(found), 1 + int(np.argmax(found))


def one_exposure(photons: float, seed: int, tile: Prior) -> dict[str, Any]:
    """All numbers of one exposure."""
    it, began = scene(photons, seed, tile), time.process_time()
    posterior = ImageAnnealing().run(it.problem, SAMPLES, generator=torch.Generator().manual_seed(seed + 2))
    seconds = time.process_time() - began
    samples, truth = crop(posterior.samples, it.seen).double(), crop(it.truth, it.seen)
    low, high = (torch.quantile(samples, 0.5 + s * torch.as_tensor(LEVELS) / 2, 0) for s in (-1, 1))
    sd, mean = crop(posterior.std, it.seen)[0], crop(posterior.mean, it.seen)[0]
    edge, ridge = crop(it.edge, it.seen), crop(it.ridge, it.seen)
    rl, iteration = best_richardson_lucy(it)
    chi2 = it.problem.likelihood.chi2(posterior.samples)["data"]
    return {
        "photons": photons,
        "seed": seed,
        "psnr": float(psnr_affine(samples.mean(0)[None], truth[None])),
        "psnr_rl": rl,
        "iteration_rl": iteration,
        "coverage": ((low <= truth) & (truth <= high)).double().mean((1, 2, 3)).tolist(),
        "sd_ratio": float(sd[edge].mean() / sd[ridge].mean()),
        "relative_sd_ratio": float((sd / mean)[edge].median() / (sd / mean)[ridge].median()),
        "chi2": float(chi2.mean()),
        "seconds": seconds,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Means over exposures, one line per light level."""
    lines = [
        "| photons | exposures | PSNR, dB | best Richardson-Lucy | gain | 50 % | 90 % | sd edge/ridge "
        "| sd/mean edge/ridge | χ² |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for photons in sorted({r["photons"] for r in records}):
        mine = [r for r in records if r["photons"] == photons]
        gain = np.array([r["psnr"] - r["psnr_rl"] for r in mine])
        error = f" ± {gain.std(ddof=1) / len(gain) ** 0.5:.2f}" if len(gain) > 1 else ""
        cover = np.mean([r["coverage"] for r in mine], 0)
        psnr, rl, ratio, relative, chi2 = (
            np.mean([r[k] for r in mine]) for k in ("psnr", "psnr_rl", "sd_ratio", "relative_sd_ratio", "chi2")
        )
        lines.append(
            f"| {photons} | {len(mine)} | {psnr:.2f} | {rl:.2f} | {gain.mean():.2f}{error} | {cover[4]:.3f} "
            f"| {cover[8]:.3f} | {ratio:.2f} | {relative:.2f} | {chi2:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, default=8, help="of each light level")
    parser.add_argument("--prior", default="cells-64")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/microscopy_recovery.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print and write the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = arguments.out.read_text().splitlines() if arguments.out.is_file() else []
    records = [json.loads(line) for line in lines]
    if not arguments.table:
        tile = priors.load(arguments.prior)
        done = {(r["photons"], r["seed"]) for r in records}
        for seed in range(1000, 1000 + 10 * arguments.exposures, 10):
            for photons in PHOTONS:
                if (photons, seed) in done:
                    continue
                records.append(one_exposure(photons, seed, tile))
                with arguments.out.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
                print(json.dumps(records[-1]), flush=True)
    text = table(records)
    arguments.out.with_suffix(".md").write_text(
        "# Microtubules under a wide-field microscope\n\n"
        f"`python -m benchmarks.microscopy_recovery --exposures {len({r['seed'] for r in records})}`\n\n" + text
    )
    print(text)


if __name__ == "__main__":
    main()
