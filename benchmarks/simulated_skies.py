"""Coverage on simulated skies whose truth is known, with the 2017 coverage, station gains and noise.

Run ``python -m benchmarks.simulated_skies`` from the root of a checkout (about half an hour of one core). Forty skies
are drawn from the law the packaged prior was trained on, with fresh seeds (about a fifth of them hold no ring), six are
uniform discs and six double sources. One result a line goes to docs/benchmarks/simulated_skies.jsonl; a run goes on
where the last one stopped, and ``--shard i/n`` shares the skies among processes. ``--table`` writes
docs/benchmarks/simulated_skies.md from the lines.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinstruct import priors
from sciinstruct.calibration.ranks import LEVELS, binomial_band, coverage_from_ranks, randomised_ranks
from sciinstruct.core import InverseProblem, Posterior, atomic_path
from sciinstruct.datasets.blackholes import simulate_blackholes, simulate_other_skies
from sciinstruct.inference import PPM
from sciinstruct.jobs.demo import observe_like_m87
from sciinstruct.operators.interferometry import InterferometryLikelihood, extract_ring

LINES = Path("docs/benchmarks/simulated_skies.jsonl")
PAGE = Path("docs/benchmarks/simulated_skies.md")
NPIX, FINER, FOV, SAMPLES, SNR_MIN = 32, 4, 128.0, 32, 4.0
KINDS = {"training law": 40, "disc": 6, "double": 6}
SOLVER = PPM.for_trained_prior(SAMPLES, steps=12, batch=32)
ASKED = (0.5, 0.8, 0.95)


def skies() -> list[tuple[str, Tensor]]:
    """All truths, (1, 1, 128, 128) each: seeds that no training used."""
    law = simulate_blackholes(KINDS["training law"], FINER * NPIX, FOV, generator=909)
    other = simulate_other_skies(64, FINER * NPIX, FOV, generator=910)
    found = [("training law", image[None]) for image in law.images]
    for kind in ("disc", "double"):
        rows = [i for i, label in enumerate(other.labels.tolist()) if other.kinds[label] == kind]
        found += [(kind, other.images[i][None]) for i in rows[: KINDS[kind]]]
    return found


def study(index: int, kind: str, fine: Tensor, prior: priors.Prior) -> dict[str, Any]:
    """Observe one sky, infer it, and rank the truth among the samples."""
    g = torch.Generator().manual_seed(1000 + index)
    truth = torch.nn.functional.avg_pool2d(fine, FINER)
    observation = observe_like_m87(fine, FOV, g)
    likelihood = InterferometryLikelihood.from_observation(
        observation, npix=NPIX, fov=FOV, pulse="average", snr_min=SNR_MIN
    )
    problem = InverseProblem(prior, likelihood)
    began = time.perf_counter()
    start = SOLVER.family.start.walk(problem, SAMPLES, g)
    walked = Posterior(prior.to_physical(start))
    matched = SOLVER.fit(problem, starts=start, generator=g).posterior(SAMPLES)
    row: dict[str, Any] = {"index": index, "kind": kind, "seconds": time.perf_counter() - began}
    row["chi2_truth"] = {k: float(v) for k, v in likelihood.chi2(truth.float()).items()}
    for name, posterior in (("annealing", walked), ("PPM", matched)):
        row[name] = score(posterior.samples, truth.float(), likelihood, g)
    return row


def score(samples: Tensor, truth: Tensor, likelihood: InterferometryLikelihood, g: torch.Generator) -> dict[str, Any]:
    """Pixel coverage, ranks of ring parameters, ring share and chi-square of one posterior."""
    pixel = randomised_ranks(samples[None], truth, g)
    rings, true_ring = extract_ring(samples, FOV), extract_ring(truth, FOV)
    found: dict[str, Any] = {
        "pixel": coverage_from_ranks(pixel.flatten(), LEVELS).tolist(),
        "ring_share": float(rings.is_ring.float().mean()),
        "true_ring": bool(true_ring.is_ring[0]),
        "chi2": {k: float(v.median()) for k, v in likelihood.chi2(samples).items()},
    }
    if found["true_ring"] and int(rings.is_ring.sum()) >= 8:
        for name, period in (("diameter", None), ("width", None), ("position_angle", 360.0)):
            values, true = getattr(rings, name)[rings.is_ring].double(), getattr(true_ring, name)[0].double()
            if period is not None:  # turns from the truth, in (-180, 180]
                values, true = (values - true + 180) % 360 - 180, torch.zeros_like(true)
            good = torch.isfinite(values)
            if int(good.sum()) >= 8 and bool(torch.isfinite(true)):
                found[name] = float(randomised_ranks(values[good][None, :, None], true[None, None], g))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the study."""
    law = [r for r in rows if r["kind"] == "training law"]
    out = [
        "# Simulated skies",
        "",
        f"`python -m benchmarks.simulated_skies` and then `--table`: {len(law)} skies of the training law, "
        f"{sum(r['kind'] == 'disc' for r in rows)} discs, {sum(r['kind'] == 'double' for r in rows)} doubles; "
        f"{SAMPLES} samples each, closures of signal-to-noise above {SNR_MIN:g}; "
        f"median {sorted(r['seconds'] for r in rows)[len(rows) // 2]:.0f} s per sky on one core.",
        "",
        "Coverage of central intervals (share of truths inside), training law. Band: where 95 % of such studies of a "
        "calibrated method fall (for pixels, one sky counted as one truth).",
        "",
        "| quantity | method | n | " + " | ".join(f"{a:.0%}" for a in ASKED) + " |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("pixel", "diameter", "width", "position_angle"):
        for method in ("annealing", "PPM"):
            out.append(_coverage_row(name, method, law))
        n = len(law) if name == "pixel" else sum(name in r["PPM"] for r in law)
        band = binomial_band(max(n, 1), ASKED)
        out.append(f"| {name} | band | {n} | " + " | ".join(f"{a:.2f}-{b:.2f}" for a, b in band.T) + " |")
    out += ["", "| sky | method | share of samples called a ring | chi2 closure phase | chi2 log amplitude |"]
    out += ["|---|---|---|---|---|"]
    groups = {
        "ring (training law)": [r for r in law if r["PPM"]["true_ring"]],
        "no ring (training law)": [r for r in law if not r["PPM"]["true_ring"]],
        "disc": [r for r in rows if r["kind"] == "disc"],
        "double": [r for r in rows if r["kind"] == "double"],
    }
    for name, members in groups.items():
        for method in ("annealing", "PPM"):
            if members:
                out.append(_kind_row(f"{name}, n = {len(members)}", method, members))
    return "\n".join(out) + "\n"


def _coverage_row(name: str, method: str, law: list[dict[str, Any]]) -> str:
    if name == "pixel":
        all_levels = torch.tensor([r[method]["pixel"] for r in law]).mean(0)
        values = [float(all_levels[LEVELS.index(a)]) for a in ASKED]
        n = len(law)
    else:
        ranks = torch.tensor([r[method][name] for r in law if name in r[method]], dtype=torch.float64)
        n = len(ranks)
        values = coverage_from_ranks(ranks, ASKED).tolist() if n else [float("nan")] * 3
    return f"| {name} | {method} | {n} | " + " | ".join(f"{v:.2f}" for v in values) + " |"


def _kind_row(name: str, method: str, members: list[dict[str, Any]]) -> str:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    share = mean([r[method]["ring_share"] for r in members])
    phase = mean([r[method]["chi2"]["closure_phase"] for r in members])
    amplitude = mean([r[method]["chi2"]["log_closure_amplitude"] for r in members])
    return f"| {name} | {method} | {share:.2f} | {phase:.2f} | {amplitude:.2f} |"


def main() -> None:
    """Run the study, or write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th sky from the i-th")
    parser.add_argument("--kind", help="only skies of this kind")
    parser.add_argument("--table", action="store_true", help="write the table from the lines and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    done = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    if not arguments.table:
        part, parts = (int(v) for v in arguments.shard.split("/"))
        prior = priors.load("blackhole-32")
        for index, (kind, fine) in enumerate(skies()):
            if arguments.kind not in (None, kind):
                continue
            if index % parts == part and index not in {r["index"] for r in done}:
                row = study(index, kind, fine, prior)
                with LINES.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
    rows = sorted((json.loads(line) for line in LINES.read_text().splitlines()), key=lambda r: r["index"])
    with atomic_path(PAGE) as temporary:
        temporary.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
