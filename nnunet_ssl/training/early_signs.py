"""Early signs that a training collapses, in the log once each, with the remedy.

They are read off what is logged anyway: the share of the validation patches that each class is predicted in, nnU-Net's
pseudo Dice (0 where a class is there and missed, NaN where neither label nor prediction has it), and the agreement of
two networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SHARE = "predicted_share"
EPOCHS = 3  # in a row: one may be chance
ALL = 0.98  # share of the voxels that is all of them
SAME = 0.9999  # agreement that is none of two networks with draws of their own
Dice = Sequence[Sequence[float]]  # of each epoch, by class


def signs(terms: Mapping[str, Sequence[float]], dice: Dice) -> dict[str, str]:
    """What to warn of after an epoch, by a key that is the same in all epochs.

    Args:
        terms: values per epoch by name, `predicted_share[CLASS]` in the order of the classes among them.
        dice: nnU-Net's pseudo Dice.
    """
    found = {}
    for number, (name, shares) in enumerate(_shares(terms).items()):
        recent = [(share, row[number]) for share, row in zip(shares, dice, strict=False)][-EPOCHS:]
        if len(recent) < EPOCHS:
            continue
        if max(shares[:-EPOCHS], default=0) > 0 and all(share == each == 0 for share, each in recent):
            found[f"lost {name}"] = (
                f"the network finds no {name} any more (share of the validation patches 0 for {EPOCHS} epochs, "
                f"{max(shares[:-EPOCHS]):.2g} before), and pseudo-labels will lack it. Lower the method's weight, or "
                "let it begin later; see predicted_share and pseudo_foreground or admitted in progress.png."
            )
        if all(share >= ALL and each < 0.9 for share, each in recent):
            found[f"only {name}"] = (
                f"the network calls nearly every voxel {name} (share of the validation patches at least {ALL:g} for "
                f"{EPOCHS} epochs). Lower the method's weight or initial_lr, and train anew."
            )
    agreement = terms.get("agreement", ())
    if len(agreement) >= EPOCHS and min(agreement[:EPOCHS]) >= SAME:
        found["agreement"] = (
            f"both networks said the same from the first epoch on (agreement {min(agreement[:EPOCHS]):.5f}): they "
            "teach each other nothing. Begin with other weights in each (no -pretrained_weights in both, another seed)."
        )
    return found


def signs_of_phase(terms: Mapping[str, Sequence[float]], dice: Dice, phase: int) -> dict[str, str]:
    """The same before the first step of a phase, whose teacher or pseudo-labels come from the network as it is."""
    if not dice:
        return {}
    lacking = [
        name for (name, shares), last in zip(_shares(terms).items(), dice[-1], strict=False) if shares[-1] == last == 0
    ]
    return {
        f"phase {phase} without {name}": (
            f"phase {phase} begins with a network that finds no {name} in the validation patches, so that its "
            "pseudo-labels lack it. Let the labels teach for longer (a larger start, or more epochs)."
        )
        for name in lacking
    }


def _shares(terms: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """By class."""
    start = f"{SHARE}["
    return {name[len(start) : -1]: values for name, values in terms.items() if name.startswith(start) and values}
