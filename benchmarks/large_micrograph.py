"""A camera frame of 2048x2048 pixels: time, memory, and whether seams of the prior's tiles show in a sample.

Run ``python -m benchmarks.large_micrograph`` from the root of a checkout; it shows a bar with the time left, and goes
on from its checkpoint when killed. Writes docs/benchmarks/large_micrograph.json.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from sciinstruct import priors
from sciinstruct.datasets.cells import simulate_cells
from sciinstruct.inference import ImageAnnealing
from sciinstruct.jobs import expose
from sciinstruct.operators.microscopy import Optics, PoissonGaussianNoise, PSFBlur, pixel_spread

REACH = 16  # latent pixels, 0.5 um
PHOTONS, BACKGROUND, READ = 60.0, 2.0, 1.6


def seam_ratio(image: torch.Tensor, starts: list[int], side: int) -> float:
    """RMS step between neighbours across the edges of tiles over that across all other pixels, along the last axis."""
    steps = image.diff(dim=-1).square().mean(tuple(range(image.ndim - 1)))
    edges = sorted({e - 1 for s in starts for e in (s, s + side) if 0 < e < image.shape[-1]})
    elsewhere = torch.ones(len(steps), dtype=torch.bool)
    elsewhere[edges] = False
    return float((steps[edges].mean() / steps[elsewhere].mean()).sqrt())


def main() -> None:
    """Simulate, reconstruct, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=2048, help="camera pixels")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--levels", type=int, default=30)
    parser.add_argument("--prior", default="cells-64")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/large_micrograph.json"))
    arguments = parser.parse_args()
    tile = priors.load(arguments.prior)
    pixel_um = tile.card.pixel["pixel_um"]
    psf = pixel_spread(Optics(1.41, 525.0), pixel_um, (2 * REACH + 1, 2 * REACH + 1))
    side = arguments.side + 2 * REACH
    blur = PSFBlur(psf, (side, side), "valid")
    truth = simulate_cells("microtubules", 1, side, pixel_um, generator=5).images.double()
    noise = PoissonGaussianNoise(READ)
    frame = noise.sample(PHOTONS * blur(truth) + BACKGROUND, torch.Generator().manual_seed(6))[0, 0]
    exposure = expose(frame, psf, tile, noise, background=BACKGROUND, pixel_um=pixel_um)
    solver, began = ImageAnnealing(levels=arguments.levels, batch=1), time.perf_counter()
    posterior = solver.run(
        exposure.problem,
        arguments.samples,
        generator=torch.Generator().manual_seed(7),
        progress=True,
        checkpoint=arguments.out.with_suffix(".ckpt"),
        resume=arguments.out.with_suffix(".ckpt").is_file(),
    )
    seconds = time.perf_counter() - began
    prior, samples = exposure.problem.prior, posterior.samples
    last = solver.ladder(prior, torch.Generator().manual_seed(0))[-1][0]
    starts, tile_side = prior.starts(2, torch.tensor([last])), tile.event_shape[-1]
    record = {
        "side": arguments.side,
        "samples": arguments.samples,
        "levels": arguments.levels,
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
        "seams": seam_ratio(samples, starts, tile_side),
        "seams_of_the_truth": seam_ratio(exposure.scale / PHOTONS * truth, starts, tile_side),
        "chi2": float(exposure.problem.likelihood.chi2(samples)["data"].mean()),
        "threads": torch.get_num_threads(),
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    arguments.out.with_suffix(".ckpt").unlink(missing_ok=True)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
