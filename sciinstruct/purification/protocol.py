"""The attacks a claim of robustness has to stand, and what a set of attacks lacks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from sciinstruct.purification.attacks.budget import Budget
from sciinstruct.purification.attacks.pgd import PGD
from sciinstruct.purification.attacks.square import SquareSearch
from sciinstruct.purification.traits import Traits

Attack = PGD | SquareSearch

STEPS, DRAWS, RESTARTS, REPEATS = 30, 10, 3, 10
"""The least a claim needs: ascent steps, purifications per step, restarts, purifications in the final count."""
_CROSSING = 2.0  # steps times step, in budgets: from one side of it to the other
_BEYOND = 3.0  # the larger budget, under which nothing should be left
_BLIND = " (purifier as the identity)"
_IDENTITY = 0.98  # cosine above which the exact gradient is the identity's


@dataclass(frozen=True)
class Protocol:
    """Attacks on one budget, one attack far beyond it, and how often each attacked image is purified in the count.

    Parameters
    ----------
    attacks : mapping of str to PGD or SquareSearch
        By name. One whose `known_seed` is set is told apart and does not count in the minimum.
    beyond : PGD, optional
        With a larger budget: a model that survives it has masked gradients, or was attacked too weakly.
    repeats : int
        Purifications of each attacked image in the final count.

    Raises
    ------
    ValueError
        If there is no attack, attacks have several budgets, `beyond` is not larger, or `repeats` is not positive.
    """

    attacks: Mapping[str, Attack]
    beyond: PGD | None = None
    repeats: int = 20

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError("attacks must hold at least one")
        if "none" in self.attacks:
            raise ValueError('"none" is the name of the untouched images; call the attack something else')
        first = self.budget
        for name, attack in self.attacks.items():
            if not _same(attack.budget, first):
                raise ValueError(
                    f"all attacks must have one budget: {name!r} has {attack.budget.norm} {attack.budget.size:g}, the "
                    f"first {first.norm} {first.size:g} (or another unit); evaluate each budget by itself"
                )
        if self.beyond is not None and not self.beyond.budget.size > first.size:
            raise ValueError(f"beyond must have a budget larger than {first.size:g}, got {self.beyond.budget.size:g}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be positive, got {self.repeats}")

    @classmethod
    def standard(cls, budget: Budget, *, repeats: int = 20, queries: int = 500) -> "Protocol":
        """From weak to strong: transfer, BPDA, surrogate, exact with two losses and restarts, random search.

        Parameters
        ----------
        budget : Budget
            What the attacker may change.
        repeats : int
            As the class.
        queries : int
            Of the random search.
        """
        exact = PGD(budget, "exact", steps=STEPS, draws=DRAWS, restarts=RESTARTS)
        wide = replace(budget, size=_BEYOND * budget.size)
        attacks: dict[str, Attack] = {
            "transfer": PGD(budget, "transfer", steps=40, draws=1),
            "bpda": PGD(budget, "bpda", steps=50, draws=15, step=0.25),
            "surrogate": PGD(budget, "surrogate", steps=50, draws=DRAWS),
            "exact": exact,
            "exact, margin": replace(exact, loss="margin"),
            "square": SquareSearch(budget, queries=queries),
            "exact, seed known": replace(exact, draws=1, restarts=1, known_seed=0),
        }
        return cls(attacks, replace(exact, budget=wide, restarts=1), repeats)

    @property
    def budget(self) -> Budget:
        """What the attacker may change."""
        return next(iter(self.attacks.values())).budget

    def possible(self, traits: Traits) -> dict[str, Attack]:
        """The attacks that this model gives what they need; BPDA in place of exact ones where that is all there is."""
        if not traits.classifier_gradient:
            return {name: attack for name, attack in self.attacks.items() if isinstance(attack, SquareSearch)}
        if traits.purifier_gradient:
            return dict(self.attacks)
        return {f"{name}{_BLIND if blunt(a) is not a else ''}": blunt(a) for name, a in self.attacks.items()}

    def lacks(self, traits: Traits) -> list[str]:
        """What a claim about a model of these traits would need besides, one sentence each; empty if nothing."""
        return list(_lacks(self, traits))


def counted(attack: Attack) -> bool:
    """Whether an attack counts in the minimum: it does unless it was told the seed."""
    return isinstance(attack, SquareSearch) or attack.known_seed is None


def blunt(attack: Attack) -> Attack:
    """BPDA in place of an exact attack, other attacks as they are: for a purifier without a gradient."""
    if isinstance(attack, PGD) and attack.gradient == "exact":
        return replace(attack, gradient="bpda")
    return attack


def notes(traits: Traits) -> list[str]:
    """What a reader must know about a model of these traits, one sentence each."""
    found = []
    if not traits.classifier_gradient:
        found.append(
            "The classifier gives no gradient: only attacks that ask for predictions were run. The accuracy is an "
            "upper bound; a classifier with a gradient may lose far more."
        )
    elif not traits.purifier_gradient:
        found.append(
            "The purifier gives no gradient: it was attacked as if it were the identity. The accuracy is an upper "
            "bound."
        )
    elif traits.changes and traits.likeness > _IDENTITY:
        found.append(
            f"The exact gradient is that of the identity (cosine {traits.likeness:.3f}), as through one step of Adam: "
            "the exact attack is BPDA in disguise, and the surrogate's is the one that counts."
        )
    return found


def _lacks(protocol: Protocol, traits: Traits) -> Iterator[str]:
    able = [attack for attack in protocol.possible(traits).values() if counted(attack)]
    climbs = [attack for attack in able if isinstance(attack, PGD)]
    if not any(isinstance(attack, SquareSearch) for attack in able):
        yield "no attack without gradients (SquareSearch), which masked gradients cannot stop"
    if traits.random and protocol.repeats < REPEATS:
        yield f"repeats must be at least {REPEATS} for a purifier that draws noise, got {protocol.repeats}"
    if traits.classifier_gradient:
        yield from _lacking_climbs(climbs, traits)
        if protocol.beyond is None:
            yield "no attack beyond the budget, which tells a robust model from one with masked gradients"


def _lacking_climbs(climbs: list[PGD], traits: Traits) -> Iterator[str]:
    wanted = "exact" if traits.purifier_gradient else "bpda"
    strong = [a for a in climbs if a.gradient == wanted and a.steps >= STEPS]
    if not strong:
        yield f"no {wanted} attack of {STEPS} steps: transfer, BPDA and surrogates alone flatter a purifier"
    elif sum(a.restarts for a in strong) < RESTARTS:
        yield f"fewer than {RESTARTS} restarts of the {wanted} attacks"
    if strong and all(a.loss == "cross_entropy" for a in strong):
        yield "no attack on the margin: cross-entropy alone misses images that a sure classifier hides"
    if traits.changes and traits.purifier_gradient and not any(a.gradient == "surrogate" for a in climbs):
        yield "no surrogate attack, the stronger one where the exact gradient is rough or that of the identity"
    for a in climbs:
        if traits.random and a.gradient != "transfer" and a.draws < DRAWS:
            yield f"the {a.gradient} attack averages {a.draws} purifications per step, fewer than {DRAWS}"
        if a.steps * a.step < _CROSSING:
            yield f"{a.steps} steps of {a.step:g} of the budget cannot cross it in the {a.gradient} attack"


def _same(one: Budget, other: Budget) -> bool:
    units = torch.as_tensor(one.unit), torch.as_tensor(other.unit)
    alike = units[0].shape == units[1].shape and torch.equal(units[0].double(), units[1].double().to(units[0].device))
    return one.size == other.size and one.norm == other.norm and alike
