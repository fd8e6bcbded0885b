"""Origins of trainings that no trainer made."""

from pathlib import Path

from nnunet_ssl.data.origin import ORIGIN_FILE, Origin
from nnunet_ssl.files import write_json

CONTENT = {
    "version": "1",
    "trainer": "nnUNetTrainerBCP",
    "dataset": "Dataset007_X",
    "configuration": "2d",
    "plans": "nnUNetPlans",
    "fold": 0,
    "train": ("a", "b", "c"),
    "val": ("v",),
    "hidden": ("h",),
    "unlabeled": ("u1", "u2"),
    "learned": ("a", "b", "c"),
    "plans_fingerprint": "0",
    "num_epochs": 1000,
    "num_iterations_per_epoch": 250,
}


def leave_origin(folder: Path, **changes) -> Origin:
    """Writes the origin of a trained fold into its folder."""
    origin = Origin(**CONTENT | changes)
    write_json(origin.as_dict(), folder / ORIGIN_FILE)
    return origin
