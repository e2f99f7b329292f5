"""How good are the draws of an implicit sampler, and when does it pay? The report of one trained sampler."""

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.calibration.chains import RHAT_GOOD, independent_draws
from sciinstruct.calibration.importance import importance_check
from sciinstruct.calibration.page import staging, write_json, write_page
from sciinstruct.calibration.sampler_measures import ModeFinder, distances, marginal_rows, mode_table, stein_test
from sciinstruct.calibration.sampler_verdicts import sampler_verdicts
from sciinstruct.calibration.summary import versions
from sciinstruct.calibration.verdicts import Verdict, overall
from sciinstruct.core import make_generator
from sciinstruct.core.checks import check_event, check_finite
from sciinstruct.implicit import Sampler, Target
from sciinstruct.implicit.nuts import Chains
from sciinstruct.implicit.pilot import covariance_root
from sciinstruct.implicit.whitened import WhitenedTarget

SCHEMA_VERSION = "1.0"
_VALID_RHAT = 1.05  # chains above it are no reference
_REPEATS = 2  # pairs of sets of exact draws
_FEWEST = 100  # gold draws
_BANK, _TIMED = 2048, 0.1


class Gold(NamedTuple):
    """Draws that a sampler is measured against."""

    sets: list[Tensor]  # two or more, of equal size, independent
    source: str

    @property
    def x(self) -> Tensor:
        """All of them."""
        return torch.cat(self.sets)


@dataclass(frozen=True)
class SamplerPaths:
    """Where the parts of the report are."""

    html: Path
    json: Path


@dataclass(frozen=True)
class SamplerQuality:
    """What `sampler_quality` found.

    Attributes
    ----------
    numbers : dict
        JSON-able: ``stein``, ``distances``, ``modes``, ``marginals``, ``importance``, ``cost``, ``training``. A part
        that could not be measured is ``{"refused": reason}``.
    verdicts : list of Verdict
        Worst first.
    names : list of str
        Of the parameters.
    draws, gold : Tensor, shape (n, parameters)
        Of sampler and reference; the latter None where there is none.
    """

    numbers: dict[str, Any]
    verdicts: list[Verdict]
    names: list[str]
    draws: Tensor = field(repr=False)
    gold: Tensor | None = field(repr=False)

    @property
    def status(self) -> str:
        """The worst verdict."""
        return overall(self.verdicts)

    def content(self) -> dict[str, Any]:
        """Everything found, JSON-able."""
        head = {"schema": "sciinstruct-sampler", "schema_version": SCHEMA_VERSION, "versions": versions()}
        verdicts = [verdict.to_dict() for verdict in self.verdicts]
        return head | {"overall": self.status, "verdicts": verdicts} | self.numbers

    def save(self, folder: str | os.PathLike[str]) -> SamplerPaths:
        """Write ``sampler.html``, which stands alone, and ``sampler.json`` into `folder`, both or none.

        Raises
        ------
        OutputError
            If the folder cannot be written.
        """
        from sciinstruct.calibration.sampler_pictures import sampler_sections

        content, home = self.content(), Path(folder)
        title = f"Implicit sampler of {self.numbers['target']}"
        with staging(home) as stage:
            sections = sampler_sections(self)
            write_page(stage / "sampler.html", "sampler.html.j2", title=title, report=content, sections=sections)
            write_json(stage / "sampler.json", content)
        return SamplerPaths(home / "sampler.html", home / "sampler.json")


def sampler_quality(
    sampler: Sampler,
    target: Target,
    *,
    gold: Tensor | None = None,
    chains: Chains | None = None,
    n: int = 5000,
    names: list[str] | None = None,
    generator: torch.Generator | int | None = None,
) -> SamplerQuality:
    """Measure a trained sampler against its target.

    Parameters
    ----------
    sampler : Sampler
    target : Target
        What it was trained on.
    gold : Tensor, shape (m, dim), optional
        Independent draws of the target in unconstrained coordinates, at least 100. By default the target's exact draws
        or, without any, `chains` thinned to what they are worth, unless their R-hat exceeds 1.05.
    chains : Chains, optional
        From `run_nuts`: what break-even and speed are measured against.
    n : int
        Draws of the sampler in a set, at least 1000.
    names : list of str, optional
        Of the parameters, in the order of ``target.constrain``; the target's own by default.
    generator : torch.Generator or int, optional
        On the CPU; seed 0 by default, so that a report can be repeated.

    Returns
    -------
    SamplerQuality

    Raises
    ------
    ValueError
        If `n`, `gold` or `names` does not fit.
    ImportError
        Without arviz.
    """
    if n < 1000:
        raise ValueError(f"n must be at least 1000, got {n}")
    g = make_generator(0 if generator is None else generator)
    sampler_rng = torch.Generator(sampler.mean.device).manual_seed(int(torch.randint(2**62, (), generator=g)))
    health, merged = (None, None) if chains is None else _chain_health(chains)
    reference, why_not = _gold(target, gold, health, merged, n, g)
    size = n if reference is None else len(reference.sets[0])
    sets = [sampler.sample(size, sampler_rng).cpu() for _ in (reference.sets if reference else [0])]
    x = sampler.sample(n, sampler_rng).cpu()
    found_names, draws = parameters(target, x, names)
    truth = None if reference is None else parameters(target, reference.x, names)[1]
    white = WhitenedTarget(target, sampler.mean.cpu().double(), sampler.root.cpu().double(), math.inf)
    numbers: dict[str, Any] = {
        "target": target.name,
        "dim": target.dim,
        "n_draws": n,
        "reference": {"refused": why_not} if reference is None else {"source": reference.source, "n": len(reference.x)},
        "stein": _stein(x, white, g),
        "distances": {"refused": why_not} if reference is None else _distances(sets, reference, g),
        "modes": _modes(x, target, reference, white),
        "marginals": marginal_rows(found_names, draws, truth),
        "importance": _importance(sampler, target, white, n, found_names, names, g, sampler_rng),
        "chains": health,
        "cost": _cost(sampler, health),
        "training": {k: v for k, v in sampler.diagnostics.items() if k != "curves"},
        "curves": sampler.diagnostics.get("curves", {}),
    }
    return SamplerQuality(numbers, sampler_verdicts(numbers), found_names, draws, truth)


def parameters(target: Target, x: Tensor, names: list[str] | None = None) -> tuple[list[str], Tensor]:
    """Names and values (n, p) of the parameters at unconstrained points (n, dim)."""
    with torch.no_grad():
        made = target.constrain(x)
    parts = made if isinstance(made, dict) else {"x": made}
    flat = {k: v.reshape(len(x), -1) for k, v in parts.items()}
    found = [k if v.shape[1] == 1 else f"{k}[{i}]" for k, v in flat.items() for i in range(v.shape[1])]
    chosen = list(names or target.names or found)
    if len(chosen) != len(found):
        raise ValueError(f"names must name {len(found)} parameters, got {len(chosen)}")
    return chosen, torch.cat(list(flat.values()), 1).detach().cpu()


def _chain_health(chains: Chains) -> tuple[dict[str, Any], Tensor]:
    """Convergence and speed of chains, and their draws thinned to what they are worth."""
    thinned, found = independent_draws(chains.x[None])
    numbers = {
        **{k: found[k] for k in ("chains", "draws", "rhat", "ess")},
        "divergences": chains.divergences,
        "evaluations": chains.evaluations,
        "warmup_seconds": chains.warmup_seconds,
        "seconds": chains.seconds,
        "ess_per_second": found["ess"] / max(chains.seconds, 1e-9),
        "valid": bool(found["rhat"] <= _VALID_RHAT),
        "converged": bool(found["rhat"] <= RHAT_GOOD),
    }
    numbers["rhat"] = found["rhat"] if math.isfinite(found["rhat"]) else None
    return numbers, thinned[0].detach()


def _gold(
    target: Target,
    given: Tensor | None,
    health: dict[str, Any] | None,
    merged: Tensor | None,
    n: int,
    g: torch.Generator,
) -> tuple[Gold | None, str]:
    """Reference draws in independent sets, or why there are none."""
    if given is None and target.exact:
        return Gold([target.sample(n, g).cpu() for _ in range(2 * _REPEATS)], "exact draws"), ""
    if given is not None:
        check_event("gold", given, (target.dim,))
        check_finite("gold", given)
        if len(given) < _FEWEST:
            raise ValueError(f"gold must hold at least {_FEWEST} draws, got {len(given)}")
        return _halves(given.detach().cpu(), n, g, "draws given"), ""
    if health is None or merged is None:
        return None, "no exact draws, gold or chains of this target were given"
    if not health["valid"]:
        said = "a chain never moved" if health["rhat"] is None else f"R-hat {health['rhat']:.2f}"
        return None, f"the chains have not converged ({said}): NUTS is not a valid reference here"
    if len(merged) < _FEWEST:
        return None, f"the chains are worth {len(merged)} independent draws, fewer than {_FEWEST}"
    return _halves(merged.cpu(), n, g, "NUTS chains, thinned"), ""


def _halves(x: Tensor, n: int, g: torch.Generator, source: str) -> Gold:
    x = x[torch.randperm(len(x), generator=g)][: 2 * n]
    half = len(x) // 2
    return Gold([x[:half], x[half : 2 * half]], source)


def _stein(x: Tensor, white: WhitenedTarget, g: torch.Generator) -> dict[str, Any]:
    w = white.from_target(x[:1000].double())
    scores = white.score(w)
    if int(scores.ok.sum()) < len(w) // 2:
        return {"refused": f"the score is finite at {int(scores.ok.sum())} of {len(w)} draws"}
    return stein_test(w[scores.ok], scores.value[scores.ok], g)._asdict()


def _distances(sets: list[Tensor], gold: Gold, g: torch.Generator) -> dict[str, Any]:
    """In coordinates in which the gold draws have covariance one, so that no parameter's unit counts."""
    everything = gold.x.double()
    mean, root = everything.mean(0), covariance_root(everything)

    def white(x: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(root, (x.double() - mean).T, upper=False).T

    found = distances([white(x) for x in sets], [white(x) for x in gold.sets], g)
    ratios = dict(zip(("sliced_w2_ratio", "mmd_ratio"), found.ratios))
    return {"source": gold.source} | found._asdict() | ratios


def _modes(x: Tensor, target: Target, gold: Gold | None, white: WhitenedTarget) -> dict[str, Any]:
    finder = ModeFinder(target, None if gold is None else gold.x, white)
    if finder.refusal:
        return {"refused": finder.refusal}
    weights, counted, source = finder.weights(None if gold is None else gold.x)
    return mode_table(finder.shares(x), weights, len(x), counted, source)._asdict()


def _importance(
    sampler: Sampler,
    target: Target,
    white: WhitenedTarget,
    n: int,
    names: list[str],
    asked: list[str] | None,
    g: torch.Generator,
    sampler_rng: torch.Generator,
) -> dict[str, Any]:
    """Self-normalised estimates where the weights allow them, otherwise the reason why not."""
    bank = white.from_target(sampler.sample(_BANK, sampler_rng).cpu().double())
    found = importance_check(bank, white.log_prob, n, g)
    numbers: dict[str, Any] = {"trusted": found.trusted, "width": found.width, "n": n}
    shape = (("k_hat", found.k_hat), ("effective", found.effective))
    numbers |= {k: v if math.isfinite(v) else None for k, v in shape}
    if not found.trusted:
        return numbers | {"refused": found.reason}
    _, values = parameters(target, white.to_target(found.x), asked)
    w = found.weights[:, None]
    mean = (w * values).sum(0)
    sd = (w * (values - mean).square()).sum(0).sqrt()
    estimates = [{"name": k, "mean": float(m), "sd": float(s)} for k, m, s in zip(names, mean, sd)]
    log_z = found.log_normalizer + float(white.root.diagonal().log().sum())
    known = {"log_normalizer": log_z, "log_normalizer_error": found.log_normalizer_error}
    return numbers | known | {"log_normalizer_known": target.log_normalizer, "estimates": estimates}


def _cost(sampler: Sampler, health: dict[str, Any] | None) -> dict[str, Any]:
    """Draws per second, training, and from how many draws on the sampler is cheaper than chains."""
    speed = _draws_per_second(sampler)
    spent = sampler.diagnostics.get("seconds", math.nan) + sampler.diagnostics.get("pilot_seconds", 0.0)
    numbers: dict[str, Any] = {"draws_per_second": speed, "training_seconds": spent if math.isfinite(spent) else None}
    if health is None:
        return numbers | {"break_even": {"refused": "no chains to compare with were given"}}
    rival = health["ess_per_second"]
    numbers |= {"nuts_ess_per_second": rival, "times_faster": speed / rival}
    if not health["valid"]:
        return numbers | {"break_even": {"refused": "the chains have not converged: their draws are worth nothing"}}
    if speed <= rival:
        return numbers | {"break_even": {"refused": "chains draw faster: the sampler never pays"}}
    ahead = (spent - health["warmup_seconds"]) / (1 / rival - 1 / speed)
    return numbers | {"break_even": {"draws": max(0, math.ceil(ahead)) if math.isfinite(ahead) else None}}


def _draws_per_second(sampler: Sampler) -> float:
    sampler.sample(1000, 0)
    began, drawn = time.perf_counter(), 0
    while time.perf_counter() - began < _TIMED:
        sampler.sample(20_000, 0)
        drawn += 20_000
    return drawn / (time.perf_counter() - began)
