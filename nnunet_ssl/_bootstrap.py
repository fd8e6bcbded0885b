"""Adds our trainers to the folders that nnU-Net searches, at interpreter start.

``nnunet_ssl.pth`` in site-packages imports this module in every process of the environment, spawned workers
included, so that ``nnUNetv2_train ... -tr nnUNetTrainerBCP`` works with no variable set by the user.
The user's own folders in ``nnUNet_extTrainer`` stay and come first.

In nnU-Net's commands, and nowhere else, a refusal of ours that nobody catches is printed without its traceback. They
import our trainers late, and with several GPUs in other processes only, so that this is the place to say so.
"""

import os
import sys

import nnunet_ssl


def trainers_folder() -> str:
    """The folder with our trainers: inside the package (wheel) or beside it (checkout)."""
    for root in nnunet_ssl.__path__:
        folder = os.path.join(root, "trainers")
        if os.path.isdir(folder):
            return folder
    return ""


def _append(variable: str, folder: str) -> None:
    present = [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]
    if folder and folder not in present:
        os.environ[variable] = os.pathsep.join([*present, folder])


def _say_refusals() -> None:
    others = sys.excepthook

    def hook(kind: type, error: BaseException, trace: object) -> None:
        from nnunet_ssl.errors import refusal, say

        if message := refusal(error):
            say(message)
        else:
            others(kind, error, trace)

    sys.excepthook = hook


_append("nnUNet_extTrainer", trainers_folder())
if getattr(sys, "argv", None) and os.path.basename(sys.argv[0]).startswith("nnUNetv2_"):
    _say_refusals()
