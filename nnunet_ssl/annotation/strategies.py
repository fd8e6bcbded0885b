"""In which order the cases of a pool are chosen, and the sentence that says why. Ties are broken by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from nnunet_ssl.annotation.scores import CaseScores, distances
from nnunet_ssl.errors import InputError


@dataclass(frozen=True)
class Labeled:
    """The cases that the model may know: names, and descriptors (cases, features), None where there are none."""

    cases: tuple[str, ...]
    descriptors: np.ndarray | None

    def has_like(self, scores: CaseScores) -> bool:
        """Whether one is as near to a case as labeled cases lie to their nearest other one."""
        if self.descriptors is None or len(self.cases) < 2 or scores.distance is None:
            return True
        among = distances(self.descriptors, self.descriptors)
        np.fill_diagonal(among, np.inf)
        return scores.distance <= among.min(1).max()


@dataclass(frozen=True)
class Choice:
    """A case and why it was chosen."""

    scores: CaseScores
    reason: str


def require(strategy: str, scores: Collection[str]) -> None:
    """Raises InputError if there is no such strategy, or the model gives other scores than it needs."""
    if strategy not in STRATEGIES:
        raise InputError(f"--strategy {strategy[:40]}: there is no such strategy; there are {', '.join(STRATEGIES)}.")
    needed = NEEDS.get(strategy)
    if needed and needed not in scores:
        raise InputError(f"--strategy {strategy}: {MISSING[needed]}")


def choose(strategy: str, pool: Sequence[CaseScores], labeled: Labeled, n: int) -> list[Choice]:
    """The first `n` of the pool, or all of it, in the order of a strategy that has its scores (`require`)."""
    choices = list(islice(STRATEGIES[strategy](pool, labeled), n))
    unlike = [choice.scores.distance is not None and not labeled.has_like(choice.scores) for choice in choices]
    return [
        Choice(choice.scores, choice.reason + ("; nothing like it is labeled" if new else "") + ".")
        for choice, new in zip(choices, unlike, strict=True)
    ]


def boostmis(pool: Sequence[CaseScores], labeled: Labeled) -> Iterator[Choice]:
    """The union of the two selectors of BoostMIS, taken in turns: instability, then density-aware entropy."""
    chosen: set[str] = set()
    for pair in zip(unstable(pool), entropy(pool, labeled), strict=True):
        for choice in pair:
            if choice.scores.case not in chosen:
                chosen.add(choice.scores.case)
                yield choice


def unstable(pool: Sequence[CaseScores]) -> Iterator[Choice]:
    """By instability, the largest first."""
    ordered = sorted(pool, key=lambda scores: (-scores.instability, scores.case))
    for place, scores in enumerate(ordered):
        words = f"A small push at the head changes the prediction {_more_than(place, len(pool))}"
        yield Choice(scores, words)


def entropy(pool: Sequence[CaseScores], labeled: Labeled) -> Iterator[Choice]:
    """By density-aware entropy, balanced over classes: in each round every class takes one case.

    A round begins with the largest entropy times density of all classes and cases. Cases in which no class is unsure
    come last.
    """
    classes = list(pool[0].by_class)
    cases = sorted(pool, key=lambda scores: scores.case)
    worth = {
        name: [each.by_class[name].entropy * (1 if each.density is None else each.density) for each in cases]
        for name in classes
    }
    # each class has its cases in order, of which others take some away
    orders = {name: deque(sorted(range(len(cases)), key=lambda i, name=name: (-worth[name][i], i))) for name in classes}
    taken: set[int] = set()
    waiting = list(classes)
    while len(taken) < len(cases):
        for name in waiting:
            while orders[name][0] in taken:
                orders[name].popleft()
        name = min(waiting, key=lambda name: (-worth[name][orders[name][0]], orders[name][0]))
        place = orders[name][0]
        if worth[name][place] == 0 and len(waiting) < len(classes):  # these classes have no case any more
            waiting = list(classes)
            continue
        taken.add(place)
        found = cases[place]
        yield Choice(found, _unsure(found, name) if worth[name][place] else "The model is sure of all there")
        waiting.remove(name)
        waiting = waiting or list(classes)


def mutual_information(pool: Sequence[CaseScores], labeled: Labeled) -> Iterator[Choice]:
    """By the mutual information of the passes, the largest first."""
    ordered = sorted(pool, key=lambda scores: (-scores.mutual_information, scores.case))
    for place, scores in enumerate(ordered):
        words = f"Its predictions by several passes differ {_more_than(place, len(pool))}"
        yield Choice(scores, f"{words} ({scores.mutual_information:.3f} nats)")


def diversity(pool: Sequence[CaseScores], labeled: Labeled) -> Iterator[Choice]:
    """Farthest first: each time the case whose nearest labeled or chosen one is the farthest away."""
    rest = sorted(pool, key=lambda scores: scores.case)
    descriptors = np.array([scores.descriptor for scores in rest])
    apart = distances(descriptors, labeled.descriptors)
    far, nearest = apart.min(1), [f"{labeled.cases[index]} (labeled)" for index in apart.argmin(1)]
    for number in range(len(rest)):
        place = int(far.argmax())
        words = f"The nearest labeled or chosen case, {nearest[place]}, is at {far[place]:.3f}"
        yield Choice(rest[place], words + ("" if number else ", the farthest in the pool"))
        to_new = distances(descriptors, descriptors[place : place + 1])[:, 0]
        new = f"{rest[place].case} (chosen)"
        nearest = [new if now < then else name for now, then, name in zip(to_new, far, nearest, strict=True)]
        far = np.minimum(far, to_new)
        far[place] = -np.inf


def random(pool: Sequence[CaseScores], labeled: Labeled) -> Iterator[Choice]:
    """By chance, the control."""
    for scores in sorted(pool, key=lambda scores: (-scores.random, scores.case)):
        yield Choice(scores, "Drawn by chance, the control")


STRATEGIES: dict[str, Callable[[Sequence[CaseScores], Labeled], Iterator[Choice]]] = {
    "boostmis": boostmis,
    "entropy": entropy,
    "mutual-information": mutual_information,
    "diversity": diversity,
    "random": random,
}
NEEDS = {"boostmis": "instability", "mutual-information": "mutual_information", "diversity": "distance"}
_NO_UNET = "the network has no encoder and decoder of nnU-Net's U-Nets; take entropy, mutual-information or random."
MISSING = {
    "instability": _NO_UNET,
    "distance": _NO_UNET,
    "mutual_information": "one fold without mirroring is a single pass, which cannot differ; name more folds with -f.",
}


def _more_than(place: int, cases: int) -> str:
    others = cases - 1 - place
    if not place:
        return "more than in any other unlabeled case"
    return f"more than in {others} of the {cases - 1} other unlabeled cases" if others else "less than in all others"


def _unsure(scores: CaseScores, name: str) -> str:
    return f"The {name} is uncertain in {scores.by_class[name].unsure:.0%} of its voxels".replace("%", " %")
