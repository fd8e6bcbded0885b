"""Early signs that a training collapses, in the log once each, with the remedy.

They are read off what is logged anyway: the share of the validation patches that each class is predicted in, nnU-Net's
pseudo Dice (0 where a class is there and missed, NaN where neither label nor prediction has it), and the agreement of
two networks. The bounds were set by the curves of some 160 trainings on scans: of a healthy one they warn in none. A
class that is found late flickers, for one to five epochs, with a Dice that is mostly below 0.5; one that a phase begins
anew from is missed for up to eight epochs of 40.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from nnunet_ssl.schedules import Phases

SHARE = "predicted_share"
EPOCHS = 3  # in a row: one may be chance
FOUND = 0.5  # pseudo Dice of a class that has been learned; one that flickers at the beginning has less
FALLEN = 0.01  # of the share that a class had: it is gone but for stray voxels
MISSED = 0.05  # pseudo Dice of a class that is gone
BEGINNING = 4  # the part of a phase, one in so many, in which a network that starts anew may still lack classes
ALL = 0.98  # share of the voxels that is all of them
SAME = 0.001  # disagreement per share of foreground that is none of two networks with draws of their own
Dice = Sequence[Sequence[float]]  # of each epoch, by class


def signs(terms: Mapping[str, Sequence[float]], dice: Dice, phases: Phases) -> dict[str, str]:
    """What to warn of after an epoch, by a key that is the same in all epochs.

    Args:
        terms: values per epoch by name, `predicted_share[CLASS]` in the order of the classes among them.
        dice: nnU-Net's pseudo Dice.
        phases: of the training.
    """
    found = {}
    for name, epochs in _by_class(terms, dice).items():
        if before := _lost(epochs, _settled(phases, len(dice) - 1)):
            found[f"lost {name}"] = (
                f"the network finds no {name} any more (share of the validation patches {epochs[-1][1]:.2g} after "
                f"{EPOCHS} epochs, {before:.2g} before), and pseudo-labels will lack it. Lower the method's weight, or "
                "let it begin later; see predicted_share and pseudo_foreground or admitted in progress.png."
            )
        recent = epochs[-EPOCHS:]
        if len(recent) == EPOCHS and all(share >= ALL and each < 0.9 for _, share, each in recent):
            found[f"only {name}"] = (
                f"the network calls nearly every voxel {name} (share of the validation patches at least {ALL:g} for "
                f"{EPOCHS} epochs). Lower the method's weight or initial_lr, and train anew."
            )
    if (agreement := _same_from_the_start(terms)) is not None:
        found["agreement"] = (
            f"both networks said the same from the first epoch on (agreement {agreement:.6f}): they "
            "teach each other nothing. Begin with other weights in each (no -pretrained_weights in both, another seed)."
        )
    return found


def signs_of_phase(terms: Mapping[str, Sequence[float]], dice: Dice, phase: int) -> dict[str, str]:
    """The same before the first step of a phase, whose teacher or pseudo-labels come from the network as it is."""
    return {
        f"phase {phase} without {name}": (
            f"phase {phase} begins with a network that finds no {name} in the validation patches, so that its "
            "pseudo-labels lack it. Let the labels teach for longer (a larger start, or more epochs)."
        )
        for name, epochs in _by_class(terms, dice).items()
        if epochs and all(share == each == 0 for _, share, each in epochs[-EPOCHS:])
    }


def _lost(epochs: list[tuple[int, float, float]], since: int) -> float:
    """The share that a class had where it has been learned and is gone, else 0."""
    recent, before = epochs[-EPOCHS:], epochs[:-EPOCHS]
    rows = [before[first : first + EPOCHS] for first in range(len(before) - EPOCHS + 1)]
    learned = [row for row in rows if all(each >= FOUND for _, _, each in row)]
    if not learned or recent[0][0] < since:
        return 0.0
    had = max(share for row in learned for _, share, _ in row)
    return had if all(share <= FALLEN * had and each < MISSED for _, share, each in recent) else 0.0


def _settled(phases: Phases, epoch: int) -> int:
    """The first epoch of the phase at hand in which a network that began anew with it should know what it knew."""
    if not (phase := phases.of(epoch)):
        return 0
    start, end = [*phases.starts, phases.epochs][phase - 1 : phase + 1]
    return start + (end - start) // BEGINNING


def _same_from_the_start(terms: Mapping[str, Sequence[float]]) -> float | None:
    """The least agreement of the first epochs that have foreground, if two networks were the same in all of them.

    Where both call all voxels background, as in a beginning, they agree without being the same. A method's loss of this
    name is no share.
    """
    foreground = [sum(shares) for shares in zip(*_shares(terms).values(), strict=False)]
    epochs = [each for each in zip(foreground, terms.get("agreement", ()), strict=False) if each[0] > 0][:EPOCHS]
    if len(epochs) == EPOCHS and all(0 <= 1 - agreement <= SAME * share for share, agreement in epochs):
        return min(agreement for _, agreement in epochs)
    return None


def _by_class(terms: Mapping[str, Sequence[float]], dice: Dice) -> dict[str, list[tuple[int, float, float]]]:
    """Epoch, share and pseudo Dice by class, of the epochs whose patches have the class in label or prediction."""
    return {
        name: [
            (epoch, share, row[number])
            for epoch, (share, row) in enumerate(zip(shares, dice, strict=False))
            if not isnan(row[number])
        ]
        for number, (name, shares) in enumerate(_shares(terms).items())
    }


def _shares(terms: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """By class."""
    start = f"{SHARE}["
    return {name[len(start) : -1]: values for name, values in terms.items() if name.startswith(start) and values}
