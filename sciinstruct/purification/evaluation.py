"""How robust a purified model is: the worst of all attacks for every image, with error bars and costs."""

import time
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct import __version__
from sciinstruct.core import make_generator, track
from sciinstruct.purification.attacks.budget import Budget
from sciinstruct.purification.base import Purifier
from sciinstruct.purification.choice import check_labels
from sciinstruct.purification.model import PurifiedModel
from sciinstruct.purification.protocol import Attack, Protocol, blunt, counted, notes
from sciinstruct.purification.simple import Rounds
from sciinstruct.purification.traits import Traits, probe

if TYPE_CHECKING:
    import xarray

COUNTS = ("single", "vote", "worst")
NONE = "none"


class _Trial(NamedTuple):
    """What is left of every image after one attack."""

    name: str
    image: Tensor  # (B, C, H, W)
    right: Tensor  # (3, B), by COUNTS
    seconds: float  # of the attack, per image


def evaluate(
    model: PurifiedModel,
    image: Tensor,
    labels: Tensor,
    protocol: Protocol,
    *,
    validation: Tensor | None = None,
    draft: bool = False,
    generator: torch.Generator | int | None = None,
    progress: bool = False,
) -> "xarray.Dataset":
    r"""Attack a purified model in every way of the protocol and count, image by image, the worst of them.

    Parameters
    ----------
    model : PurifiedModel
        Attacked; left as it is. An adversarially trained classifier behind `Identity` is the comparison to make.
    image : Tensor, shape (B, C, H, W)
        Test images, in physical units.
    labels : Tensor, shape (B,)
        Their classes.
    protocol : Protocol
        ``Protocol.standard(budget)`` is one that suffices. Attacks for which the model has no gradient are left out,
        and the result says so.
    validation : Tensor, shape (V, C, H, W), optional
        The images that sigma and other settings were chosen on. If one of them is attacked here, it is refused.
    draft : bool
        Accept a protocol that would flatter the model; the result tells what it lacks.
    generator : torch.Generator or int, optional
        Source of all randomness, on the images' device. Its seed is in the attributes.
    progress : bool
        Show bars.

    Returns
    -------
    xarray.Dataset
        ``right`` (attack, count, image): share of the draws that are right ("single"), whether their majority is
        ("vote"), whether all are ("worst"); attack "none" is the image untouched. ``accuracy`` and ``accuracy_error``
        (attack, count). ``robust`` and ``robust_error`` (count): the headline, the smallest of ``right`` over "none"
        and all attacks that do not know the seed, averaged over the images. ``rescored`` and its error (count): the
        images behind the headline's "single" judged by fresh draws; where it is higher, the difference is the luck of
        choosing the smallest of several counts. ``beyond`` and ``beyond_error``: single accuracy under the larger
        budget. ``worst_image`` (image, channel, y, x): what the headline's "single" was counted on. ``distance``
        (attack, image): size of the change over that of the budget. ``seconds``, ``calls_forward`` and
        ``calls_backward``: of one prediction, per image. ``attack_seconds`` (attack): per image. Attributes: threat
        model, purifier, seed, versions, ``draft``, and lines that a reader must see: ``faults``, why the
        headline is too high, and ``notes``.

    Raises
    ------
    TypeError, ValueError
        If images, labels or `validation` are bad, or the protocol would flatter the model and `draft` is false.

    Notes
    -----
    Errors are binomial over the images, :math:`\sqrt{p (1 - p)/B}` with :math:`p` drawn half a count to the middle, so
    that 0 and 1 have an error; for shares of draws they are an upper bound.

    The minimum is the attacker's best choice per image, and "none" is among the choices: robust accuracy cannot exceed
    clean accuracy.
    """
    model.purifier.check(image)
    check_labels(image, labels)
    image, source = image.detach(), make_generator(generator, image.device)
    seed = source.initial_seed()
    _check_validation(image, validation)
    traits = probe(model, image, labels)
    lacking = protocol.lacks(traits)
    if lacking and not draft:
        raise ValueError(
            f"the protocol would flatter this model: {'; '.join(lacking)}. Start from Protocol.standard, or pass "
            "draft=True and the result says so"
        )
    clean = _judged(model, NONE, image, labels, protocol.repeats, source)
    seconds, clean = clean.seconds, clean._replace(seconds=0.0)
    attacks = protocol.possible(traits)
    trials = [clean]
    for name, attack in track(list(attacks.items()), progress=progress, description="attacks"):
        trials.append(_attacked(model, name, attack, image, labels, protocol.repeats, source, progress))
    rest = {
        "rescored": _rescored(model, trials, attacks, labels, protocol.repeats, source),
        "beyond": _beyond(model, protocol, traits, image, labels, source),
    }
    found = _dataset(trials, attacks, protocol.budget, image, rest)
    calls = model.purifier.calls
    costs: dict[str, Any] = {"seconds": seconds, "calls_forward": calls.forward, "calls_backward": calls.backward}
    faults = [f"Draft: {text}." for text in lacking] + _faults(found, traits)
    return found.assign(**costs).assign_attrs(
        purifier=describe(model.purifier),
        threat=_threat(protocol.budget),
        repeats=protocol.repeats,
        classes=traits.classes,
        seed=seed,
        draft=int(bool(lacking)),
        faults="\n".join(faults),
        notes="\n".join(notes(traits) + _remarks(found, traits, validation is not None)),
        sciinstruct=__version__,
        torch=str(torch.__version__),
    )


def describe(purifier: Purifier) -> str:
    """Name and plain settings of a purifier, ``ScoreOpt(sigma=0.5, ...)``."""
    if isinstance(purifier, Rounds):
        return f"Rounds({', '.join(describe(one) for one in purifier.purifiers)})"
    kept = {f.name: getattr(purifier, f.name) for f in fields(purifier)}
    plain = {k: v for k, v in kept.items() if v is not None and isinstance(v, bool | int | float | str | tuple)}
    return f"{type(purifier).__name__}({', '.join(f'{k}={v}' for k, v in plain.items())})"


def binomial_error(share: Tensor, n: int) -> Tensor:
    """Standard error of a share of `n` images, not zero at 0 and 1."""
    middle = (n * share + 0.5) / (n + 1)
    return (middle * (1 - middle) / n).sqrt()


def _check_validation(image: Tensor, validation: Tensor | None) -> None:
    if validation is None:
        return
    if not isinstance(validation, Tensor) or validation.shape[1:] != image.shape[1:]:
        raise ValueError(f"validation must hold images of shape {tuple(image.shape[1:])}")
    seen = {one.numpy().tobytes() for one in validation.detach().to(image.dtype).cpu()}
    both = sum(one.numpy().tobytes() in seen for one in image.cpu())
    if both:
        raise ValueError(
            f"{both} of the attacked images are among those that settings were chosen on: the accuracy would be "
            "flattered; attack others"
        )


def _judged(
    model: PurifiedModel, name: str, image: Tensor, labels: Tensor, repeats: int, source: torch.Generator
) -> _Trial:
    """Count an attacked image's predictions over fresh draws; seconds are those of one prediction."""
    start = time.perf_counter()
    outcome = model.predict(image, repeats, generator=source).outcome(labels)
    seconds = (time.perf_counter() - start) / (repeats * len(image))
    return _Trial(name, image, torch.stack([count.double() for count in outcome]), seconds)


def _attacked(
    model: PurifiedModel,
    name: str,
    attack: Attack,
    image: Tensor,
    labels: Tensor,
    repeats: int,
    source: torch.Generator,
    progress: bool,
) -> _Trial:
    start = time.perf_counter()
    found = attack.attack(model, image, labels, generator=source, progress=progress)
    seconds = (time.perf_counter() - start) / len(image)
    if counted(attack):
        return _judged(model, name, found.image, labels, repeats, source)._replace(seconds=seconds)
    # judged by the noise of the known seed alone, as the attack itself did
    return _Trial(name, found.image, (found.margin <= 0).double().expand(len(COUNTS), -1), seconds)


def _in_minimum(trials: Iterable[_Trial], attacks: dict[str, Attack]) -> list[_Trial]:
    return [trial for trial in trials if trial.name == NONE or counted(attacks[trial.name])]


def _rescored(
    model: PurifiedModel,
    trials: list[_Trial],
    attacks: dict[str, Attack],
    labels: Tensor,
    repeats: int,
    source: torch.Generator,
) -> Tensor:
    """Accuracies (3,) of the worst image of each row, by fresh draws."""
    image = _worst_images(_in_minimum(trials, attacks))
    return _judged(model, "", image, labels, repeats, source).right.mean(1)


def _worst_images(candidates: list[_Trial]) -> Tensor:
    """Of every row the image whose draws are right least often, (B, C, H, W)."""
    worst = torch.stack([trial.right[0] for trial in candidates]).argmin(0)
    rows = torch.arange(len(worst), device=worst.device)
    return torch.stack([trial.image for trial in candidates])[worst, rows]


def _beyond(
    model: PurifiedModel, protocol: Protocol, traits: Traits, image: Tensor, labels: Tensor, source: torch.Generator
) -> Tensor:
    """Single accuracy under the larger budget, NaN where it was not asked for or there is no gradient."""
    if protocol.beyond is None or not traits.classifier_gradient:
        return torch.tensor(torch.nan)
    attack = protocol.beyond if traits.purifier_gradient else blunt(protocol.beyond)
    found = attack.attack(model, image, labels, generator=source)
    return _judged(model, "", found.image, labels, protocol.repeats, source).right[0].mean()


def _dataset(
    trials: list[_Trial], attacks: dict[str, Attack], budget: Budget, image: Tensor, rest: dict[str, Tensor]
) -> "xarray.Dataset":
    import xarray

    right = torch.stack([trial.right for trial in trials])
    accuracy, n = right.mean(2), len(image)
    kept = _in_minimum(trials, attacks)
    robust = torch.stack([trial.right for trial in kept]).amin(0).mean(1)
    distance = torch.stack([budget.measure((trial.image - image).double()) for trial in trials]) / budget.size
    names, by_attack = [trial.name for trial in trials], ("attack", "count")
    columns: dict[str, Any] = {
        "right": (("attack", "count", "image"), right),
        "accuracy": (by_attack, accuracy),
        "accuracy_error": (by_attack, binomial_error(accuracy, n)),
        "robust": (("count",), robust),
        "robust_error": (("count",), binomial_error(robust, n)),
        "rescored": (("count",), rest["rescored"]),
        "rescored_error": (("count",), binomial_error(rest["rescored"], n)),
        "beyond": ((), rest["beyond"]),
        "beyond_error": ((), binomial_error(rest["beyond"], n)),
        "distance": (("attack", "image"), distance),
        "attack_seconds": (("attack",), torch.tensor([trial.seconds for trial in trials])),
        "worst_image": (("image", "channel", "y", "x"), _worst_images(kept)),
        "counted": (("attack",), torch.tensor([any(trial is one for one in kept) for trial in trials])),
    }
    values = {name: (dims, value.cpu().numpy()) for name, (dims, value) in columns.items()}
    return xarray.Dataset(values, {"attack": names, "count": list(COUNTS)})


def _faults(found: "xarray.Dataset", traits: Traits) -> list[str]:
    """What makes the headline too high."""
    beyond, chance = float(found.beyond), 1 / traits.classes
    if not beyond > chance + 2 * float(found.beyond_error):
        return []
    return [
        f"Accuracy {beyond:.2f} is left under the larger budget, chance is {chance:.2f}: gradients are masked, or the "
        "attack is too weak. The headline is too high."
    ]


def _remarks(found: "xarray.Dataset", traits: Traits, validated: bool) -> list[str]:
    """What the numbers themselves should make a reader ask."""
    said = []
    single = found.accuracy.sel(count="single")
    clean, error = float(single.sel(attack=NONE)), float(found.accuracy_error.sel(count="single", attack=NONE))
    better = [str(name) for name in single.attack.values if float(single.sel(attack=name)) > clean + 2 * error]
    if better:
        said.append(f"Accuracy is higher after {', '.join(better)} than without: that attack pushed the wrong way.")
    if traits.changes and not validated:
        said.append("Not told which images settings were chosen on (validation): they may have been tuned on these.")
    return said


def _threat(budget: Budget) -> str:
    unit = torch.as_tensor(budget.unit).double()
    low, high = float(unit.min()), float(unit.max())
    units = "" if low == high == 1 else f" in units of {low:.3g}" + ("" if low == high else f" to {high:.3g}")
    return f"{budget.norm} {budget.size:g}{units}; knows model, purifier and prior, not the noise it draws"
