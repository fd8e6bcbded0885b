"""Early stopping: a training ends when its pseudo Dice has not risen for as many epochs as `patience` says."""

from __future__ import annotations

from collections.abc import Sequence


class OutOfPatience(Exception):  # noqa: N818 (no error: the training ends as at its last epoch)
    """Ends nnU-Net's loop before the next epoch."""


def best_epoch(pseudo_dice: Sequence[float], since: int = 0) -> int:
    """The epoch of the highest value from `since` on, the first of several; `since` where none is a number."""
    epochs = range(since, len(pseudo_dice))
    return max(epochs, key=lambda epoch: (pseudo_dice[epoch] == pseudo_dice[epoch], pseudo_dice[epoch], -epoch))


def reason_to_stop(pseudo_dice: Sequence[float], patience: int | None, epochs: int, since: int = 0) -> str:
    """In words, that and why a training ends now; "" where it goes on.

    Args:
        pseudo_dice: nnU-Net's moving average by epoch, of those done.
        patience: in epochs; None or 0 never stops.
        epochs: planned length.
        since: first epoch that counts, that of the last phase: what came before was another training.
    """
    done = len(pseudo_dice)
    if not patience or done >= epochs or done <= since:
        return ""
    best = best_epoch(pseudo_dice, since)
    if done - 1 - best < patience:
        return ""
    return (
        f"stopped early after {done} of {epochs} epochs: the moving pseudo Dice has not risen above the "
        f"{pseudo_dice[best]:.4f} of epoch {best} for {done - 1 - best} epochs (patience: {patience})"
    )
