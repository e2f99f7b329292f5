"""FlowDiff beside its ancestors: Ambient training, and expectation maximisation with diffusion posteriors.

Run ``python -m benchmarks.flowdiff_ancestors --out FOLDER`` from the root of a checkout. The measurements, networks and
metrics are those of `benchmarks.flowdiff_mixture` and `benchmarks.flowdiff_images`, whose results, as they lie in
docs/benchmarks, are FlowDiff's side of the comparison. A run that is in FOLDER is not repeated. Results go to
FOLDER/flowdiff_ancestors.json and, as tables, to the screen.

The budget is FlowDiff's: settings below were chosen so that every run takes as much of a core. As the speed of a core
that is shared wanders, a training step of the same network on clean images (for the mixture: vectors) is timed before
and after every run, FlowDiff's steps too, and cost is told in such steps. How many events passed through it is
told beside it.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import flowdiff_images as images
from benchmarks import flowdiff_mixture as mixture
from sciinstruct.core import Likelihood, atomic_path
from sciinstruct.diffusion.edm import NoiseLevels
from sciinstruct.inference.baselines.ambient import Ambient, AmbientResult, masked_denoiser
from sciinstruct.inference.baselines.ambient_prior import AmbientPrior
from sciinstruct.inference.baselines.em_diffusion import EMDiffusion, EMDiffusionResult
from sciinstruct.inference.flowdiff import FlowDiff
from sciinstruct.inference.flowdiff_learner import Learner, fit_denoiser
from sciinstruct.inference.flowdiff_prior import Network, default_denoiser
from sciinstruct.inference.simulator import MaskSimulator, Simulator
from sciinstruct.priors import Prior, exact_posterior
from sciinstruct.priors.problems.base import MatrixOperator

Method = Ambient | EMDiffusion
Result = AmbientResult | EMDiffusionResult
KNOWN = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
LEVELS = NoiseLevels(0.01, 20.0)
STEPS, PLAIN = 1000, 20  # FlowDiff's, in docs/benchmarks; and steps that are timed
DRAWS, EACH = 4, 100  # of each posterior, of images and of the mixture
AMBIENT = Ambient(steps=1800, batch=32, rate=1e-3, clip=10.0)
EM = EMDiffusion(laps=3, steps=1600, batch=32, rate=1e-3, clip=10.0)
PLAINER = {"EM, no Jacobian": replace(EM, laps=5, steps=2000, solves=0)}
IMAGES: dict[str, dict[str, Method]] = {
    "60 % masked, noise 0.05": {
        "Ambient": replace(AMBIENT, steps=3500),
        "EM": replace(EM, steps=1800),
        **PLAINER,
    },
    "noise 0.2": {
        "Ambient, consistent": AMBIENT,
        "EM": EM,
        "Ambient": replace(AMBIENT, steps=3500, consistent=0.0),
        **PLAINER,
    },
    "9 x 9 blur, noise 0.02": {"EM": EM, **PLAINER},
}
MIXTURE: dict[str, Method] = {
    "Ambient, consistent": Ambient(steps=4000, batch=256),
    "Ambient": Ambient(steps=4000, batch=256, consistent=0.0),
    "EM": EMDiffusion(laps=6, steps=4000, batch=256),
    "EM, no Jacobian": EMDiffusion(laps=6, steps=4000, batch=256, solves=0),
}


def plain_step(event_shape: tuple[int, ...], batch: int) -> float:
    """CPU seconds of one training step on clean events of that shape, now."""
    learner = Learner(default_denoiser(event_shape, 0), rate=1e-3, clip=1.0, ema=0.999)
    g = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(batch, *event_shape, generator=g)
    fit_denoiser(learner, x, LEVELS, 0.0, g)
    return timed(lambda: [fit_denoiser(learner, x, LEVELS, 0.0, g) for _ in range(PLAIN)])[0] / PLAIN


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what came out."""
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def counted(network: Network) -> tuple[Network, list[int]]:
    """The network, and a list of the batches that pass forward through it and its copies."""
    passed: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passed.append(len(output))

    network.register_forward_hook(note)
    return network, passed


def run(method: Method, y: Tensor, law: Simulator) -> tuple[Result, dict[str, float]]:
    """Train, and tell the cost."""
    shape = tuple(law.domain_shape)
    masked = isinstance(method, Ambient) and isinstance(law, MaskSimulator)
    network, passed = counted((masked_denoiser if masked else default_denoiser)(shape, 0))
    before = plain_step(shape, method.batch)
    seconds, result = timed(lambda: method.train(y, law, denoiser=network, generator=2))
    plain = 0.5 * (before + plain_step(shape, method.batch))
    return result, {"seconds": seconds, "plain_steps": seconds / plain, "passed": float(sum(passed))}


def flowdiff_cost(settings: FlowDiff, y: Tensor, law: Simulator) -> dict[str, float]:
    """What FlowDiff's whole run takes, in plain steps, from some of its steps of each kind."""
    n, shape = 10, tuple(law.domain_shape)
    short = replace(settings, steps=4 * n, warmup=n, finish=0.25)
    ticks = [time.process_time()]
    before = plain_step(shape, settings.batch)
    began = time.process_time()
    short.train(y, law, generator=2, callback=lambda step, info: ticks.append(time.process_time()))
    plain = 0.5 * (before + plain_step(shape, settings.batch))
    ends = [ticks[1 + k * n] for k in range(4)] + [ticks[-1]]
    warm, joint, alone = ends[1] - ends[0], (ends[3] - ends[1]) / 2, ends[4] - ends[3]
    finish = round(settings.finish * settings.steps)
    both = settings.steps - settings.warmup - finish
    total = ends[0] - began + (settings.warmup * warm + both * joint) / n + finish * alone / (n - 1)
    passed = settings.batch * (settings.steps + settings.n_t * both)
    return {"plain_steps": total / plain, "passed": float(passed)}


def posterior_mean(result: Result, y: Tensor) -> tuple[Tensor, float]:
    """Posterior means (n, *event), and the variance that too few draws leave in them."""
    if isinstance(result, AmbientResult):
        return result.mean(y), 0.0
    draws = result.sample(y, DRAWS, generator=6)
    return draws.mean(1), float(draws.var(1).mean()) / DRAWS


def score_images(result: Result, law: Simulator, clean: Tensor, truth: Tensor) -> dict[str, Any]:
    """Distances of the prior, and the error of posterior means on images not trained on."""
    y = law.simulate(truth, torch.Generator().manual_seed(5))
    mean, scatter = posterior_mean(result, y)
    error = (mean - truth).square().mean() - scatter
    found: dict[str, Any] = {"prior": images.distances(images.draw(result.prior), clean), "psnr": psnr(error)}
    if isinstance(result.prior, AmbientPrior):
        whole = Prior.sample(result.prior, images.DRAWS, generator=torch.Generator().manual_seed(4))
        found["whole"] = images.distances(result.prior.to_physical(whole), clean)
    return found | chi2_of(result)


def psnr(error: Tensor) -> float:
    """Of a mean squared error, peak 1, in dB."""
    return float(-10 * error.log10())


def chi2_of(result: Result) -> dict[str, float]:
    """Of the last lap's draws, where there are any."""
    return {} if isinstance(result, AmbientResult) else {"chi2": result.curves["chi2"][-1]}


def score_mixture(result: Result) -> dict[str, float]:
    """As `benchmarks.flowdiff_mixture` scores FlowDiff."""
    learned = result.prior.sample(mixture.DRAWS, generator=torch.Generator().manual_seed(15))
    y = mixture.observations(mixture.POSTERIORS, 13)
    operator = MatrixOperator(mixture.MATRIX)
    exact = [exact_posterior(mixture.truth(), Likelihood(operator, mixture.SIGMA, one.double())) for one in y]
    means, sds = (torch.stack([getattr(e, name).flatten() for e in exact]) for name in ("mean", "std"))
    found: dict[str, float] = {"diffusion": mixture.distance(result.prior.to_physical(learned))}
    if isinstance(result, EMDiffusionResult):
        draws = result.sample(y, EACH, generator=14).double()
        found["variance_ratio"] = float(draws.var(1).mean() / sds.square().mean())
        mean = draws.mean(1)
    else:
        mean = result.mean(y).double()
    return found | {"mean_rmse": float((mean - means).square().mean().sqrt())} | chi2_of(result)


def known(name: str) -> dict[str, Any]:
    """FlowDiff's side."""
    return json.loads((KNOWN / name).read_text())


def markdown(record: dict[str, dict]) -> str:
    """The tables."""
    mixed, whole = known("flowdiff_mixture.json")["runs"]["4000 steps, batch 256"], known("flowdiff_images.json")
    lines = ["| images | method | sliced W2 | of the way | Frechet | posterior mean, dB | cost | passed | CPU s |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name, rows in record["images"].items():
        priors = whole[name]["priors"]
        ends = [priors[kind]["sliced_w2"] for kind in ("clean", "corrupted")]
        own = {"prior": priors["learned"], "psnr": whole[name]["posterior"]["psnr"], "seconds": whole[name]["seconds"]}
        for method, row in [
            ("FlowDiff", own | rows.get("FlowDiff", {})),
            *((k, r) for k, r in rows.items() if k != "FlowDiff"),
        ]:
            w2 = row["prior"]["sliced_w2"]
            lines.append(
                f"| {name} | {method} | {w2:.4f} | {(w2 - ends[0]) / (ends[1] - ends[0]):.2f} "
                f"| {row['prior']['frechet']:.3f} | {row['psnr']:.2f} {cost(row)}"
            )
    lines += ["", "| mixture | sliced W2 | posterior mean rmse | variance ratio | cost | passed | CPU s |"]
    lines.append("|---|---|---|---|---|---|---|")
    for method, row in {"FlowDiff": mixed | record["mixture"].get("FlowDiff", {}), **record["mixture"]}.items():
        row = row if method != "FlowDiff" else mixed | row
        ratio = f"{row['variance_ratio']:.2f}" if "variance_ratio" in row else ""
        lines.append(f"| {method} | {row['diffusion']:.3f} | {row['mean_rmse']:.3f} | {ratio} {cost(row)}")
    return "\n".join(lines)


def cost(row: dict[str, float]) -> str:
    """Last cells of a line: plain steps, thousands of events through the denoiser, CPU seconds."""
    return f"| {row.get('plain_steps', 0):.0f} | {row.get('passed', 0) / 1000:.0f} k | {row['seconds']:.0f} |"


def image_row(method: str, name: str, corruption: images.Corruption, rows: dict[str, Any]) -> None:
    """One run of one corruption, if it is missing."""
    if method in rows or method not in [*IMAGES[name], "FlowDiff"]:
        return
    pictures = images.digits()
    clean, truth = pictures[: images.TRAINED], pictures[images.TRAINED : images.TRAINED + images.POSTERIORS]
    y = corruption.law.simulate(clean, torch.Generator().manual_seed(1))
    if method == "FlowDiff":
        rows[method] = flowdiff_cost(FlowDiff.for_images(STEPS, n_t=2), y, corruption.law)
    else:
        result, spent = run(IMAGES[name][method], y, corruption.law)
        rows[method] = score_images(result, corruption.law, clean, truth) | spent
    print(name, method, rows[method], flush=True)


def mixture_rows(rows: dict[str, Any], save: Callable[[], None]) -> None:
    """All that is missing of the mixture."""
    y, law = mixture.observations(mixture.OBSERVATIONS, 0), mixture.instrument()
    for method in [*MIXTURE, "FlowDiff"]:
        if method in rows:
            continue
        if method == "FlowDiff":
            rows[method] = flowdiff_cost(mixture.LONG, y, law)
        else:
            result, spent = run(MIXTURE[method], y, law)
            rows[method] = score_mixture(result) | spent
        save()
        print(method, rows[method], flush=True)


def main() -> None:
    """Run the study."""
    laws = images.corruptions()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corruptions", nargs="*", choices=list(IMAGES), default=list(IMAGES))
    parser.add_argument("--methods", nargs="*", help="of the images; all if not given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out / "flowdiff_ancestors.json"
    record: dict[str, dict] = json.loads(out.read_text()) if out.is_file() else {"mixture": {}, "images": {}}

    def save() -> None:
        with atomic_path(out) as path:
            path.write_text(json.dumps(record, indent=1))

    mixture_rows(record["mixture"], save)
    for name in arguments.corruptions:
        for method in arguments.methods or [*IMAGES[name], "FlowDiff"]:
            image_row(method, name, laws[name], record["images"].setdefault(name, {}))
            save()
    print(markdown(record))


if __name__ == "__main__":
    main()
