"""What the tests of all methods know of one: from its class and its facts, so that a new method needs no word here."""

from pathlib import Path

from nnunet_ssl._bootstrap import trainers_folder
from nnunet_ssl.catalog import PREFIX, read_catalog
from nnunet_ssl.errors import InputError
from nnunet_ssl.facts import Facts
from nnunet_ssl.method import Method

ENTRIES = read_catalog()
METHODS = [entry.method for entry in ENTRIES]
TRAINERS = sorted(file.stem.removeprefix(PREFIX) for file in Path(trainers_folder()).glob(f"{PREFIX}*.py"))
# what `needs` of the facts may say that some tests have not, and what the refusal at set-up says of it
UNET = "a U-Net of nnU-Net's plans"
TWO_PATCHES = "two or more unlabeled patches per step"
TWO_LABELED = "two or more labeled patches per step"
FOUR_STAGES = "four stages or more"
THREE_D = "a 3D configuration"
PROPAGATED = "`nnunet_ssl propagate` where labeled scans have ignored voxels"
REFUSALS = {
    UNET: "U-Net",
    TWO_PATCHES: "set unlabeled_batch_size to 2 or more",
    TWO_LABELED: "there is one on a GPU: raise batch_size in the plans",
    FOUR_STAGES: "four stages or more",
    THREE_D: "two orthogonal slices, which no 2D patch shows",
    PROPAGATED: "no propagated labels in .*run `nnunet_ssl propagate`",
}
# methods whose host waits for the GPU in every step, with the reason
WAITS = {"ACMT_SErr": "confident learning is cleanlab's, on the CPU"}


def method_of(trainer: str) -> type[Method] | None:
    """Of a trainer, with or without nnUNetTrainer; None for nnU-Net alone."""
    name = trainer.removeprefix(PREFIX)
    found = [entry.method for entry in ENTRIES if name in [each.name for each in entry.trainers]]
    return found[0] if found else None


def facts_of(method: type[Method]) -> Facts:
    """Of a method, or of the one whose preset it is.

    Raises:
        InputError: no trainer trains it.
    """
    for entry in ENTRIES:
        if method is entry.method or any(method is preset for preset in entry.method.presets.values()):
            return entry.facts
    raise InputError(f"{method.__name__} is trained by no trainer: add trainers/{PREFIX}{method.__name__}.py.")


def known(method: type[Method], values: dict) -> dict:
    """Those hyperparameters that a method has: the class of a preset may have fewer."""
    return {name: value for name, value in values.items() if name in method.hyperparameters()}


def tiny(method: type[Method]) -> dict:
    """Hyperparameters for networks of a few features that have learned nothing."""
    return known(method, facts_of(method).tests.tiny)


def quiet(method: type[Method]) -> dict:
    """Hyperparameters that take all randomness out of a method."""
    return known(method, facts_of(method).tests.quiet)


def shortest(trainer: str) -> dict:
    """Settings of a trainer on tiny networks, with an epoch for each phase."""
    method = method_of(trainer)
    return {"num_epochs": 1} if method is None else tiny(method) | {"num_epochs": 1 + len(method().phases)}


def refusal(trainer: str, lacking: tuple[str, ...]) -> str:
    """What a trainer says at set-up where these are lacking, "" if it needs none of them."""
    method = method_of(trainer)
    needed = [need for need in lacking if method is not None and need in facts_of(method).needs]
    return REFUSALS[needed[0]] if needed else ""
