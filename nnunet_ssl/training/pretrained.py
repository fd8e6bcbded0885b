"""`-pretrained_weights` of `nnUNetv2_train`: which network of a training begins with which weights of a file.

nnU-Net's rule holds for the student: segmentation heads are left out, all other weights must fit. We add:

- A file of an encoder alone gives the encoder, and so does one of nnssl (self-supervised pretraining), as its own
  fine-tuning has it: what nnssl's decoders have learned is to reconstruct.
- For images with another number of channels the weights of the input layer are summed over the file's channels and
  shared equally among these, which for one channel in the file is nnssl's rule.
- Gates of skips, which nnU-Net's own networks do not have, stay random where the file has none. Guidance by text is, as
  heads are, of the classes at hand and their names: it is left out.

A further network of the method takes what the file has for it (a twin the second network of a pair) if all of that fits
but the heads. Else it takes the encoder of the file's first network if its own is the same: decoder and heads stay its
own random draw, since two equal networks would have nothing to teach each other. This is how CPS was published, with
one pretrained backbone in both networks. What has no such encoder, as further decoders and transformers, stays random,
and so do discriminators, which learn from what the student predicts. Teachers are copies of the student.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_ssl.checkpoints import below, networks_of, read_whole, refuse_diverged, state_of_method
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.method import Method
from nnunet_ssl.networks.teacher import Teacher

NNUNETS_LOADER, NNUNETS_CALLER = "load_pretrained_weights", "maybe_load_checkpoint"
NNSSL_KEY = "nnssl_adaptation_plan"
ENCODER, HEADS, GATES, GUIDANCE, TWIN = "encoder.", ".seg_layers.", "decoder.gates.", "guidance.", "twin"
NO_HEADS, NO_GATES = "nnU-Net leaves heads out", "the file has no gates"
NO_GUIDANCE = "guidance is of the classes here, as heads are"
AS_DATA = "Write its weights alone where its code belongs: torch.save({'network_weights': weights}, 'weights.pth')."
SAME_PLANS = (
    "Both trainings need plans of one architecture: take one dataset's plans for the other with "
    "nnUNetv2_move_plans_between_datasets, and preprocess and train with these (-p)."
)
PLANS_LIKE_NNSSL = (
    "nnssl's ResEnc-L is planned by nnUNetv2_plan_and_preprocess with -pl nnUNetPlannerResEncL, "
    "-overwrite_target_spacing 1 1 1 and -overwrite_plans_name; preprocess and train with these plans (-p)."
)


@dataclass(frozen=True)
class PretrainedWeights:
    """The content of a file, by network.

    Attributes:
        first: of the network that predicts, or the first of the two whose average does.
        second: of the network beside it; empty if there is none.
    """

    file: str
    content: dict[str, Any]
    first: dict[str, Tensor]
    second: dict[str, Tensor]

    def state_of(self, name: str) -> dict[str, Tensor]:
        """What the file has for a further network of a method."""
        return self.second if name == TWIN else below(state_of_method(self.content), f"{name}.")

    @property
    def encoder_alone(self) -> str:
        """Why nothing but the encoder is taken; empty if all is."""
        if NNSSL_KEY in self.content:
            return "nnssl's fine-tuning takes the encoder alone"
        beyond = [name for name in self.first if not name.startswith((ENCODER, f"decoder.{ENCODER}"))]
        return "" if beyond else "the file holds an encoder alone"


# ---------------------------------------------------------------------- what nnU-Net does with the option


def file_asked_for() -> str | None:
    """The file of `-pretrained_weights`, while nnU-Net has a trainer initialized for it.

    It loads the weights itself and tells the trainer nothing: only its function that calls knows the file.
    """
    caller = _nnunets_caller()
    if caller is None or caller.f_locals["validation_only"]:  # nnU-Net, too, then takes the checkpoint of the fold
        return None
    return caller.f_locals["pretrained_weights_file"]


def load_in_nnunets_place(trainer: nnUNetTrainer, load: Callable[[], None]) -> None:
    """Where nnU-Net would load the weights of the file into the trainer's network, once it is set up, `load` is called.

    nnU-Net's own loader knows one network with weights of these names, and ends in a traceback on any other.
    """
    namespace = _nnunets_caller().f_globals
    theirs = namespace[NNUNETS_LOADER]

    def ours(network: nn.Module, file: str, verbose: bool = False) -> None:
        namespace[NNUNETS_LOADER] = theirs
        if network is trainer.network:
            load()
        else:
            theirs(network, file, verbose)

    namespace[NNUNETS_LOADER] = ours


def _nnunets_caller() -> FrameType | None:
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != NNUNETS_CALLER:
        frame = frame.f_back
    return frame


# ---------------------------------------------------------------------- reading


def read_weights(file: str) -> PretrainedWeights:
    """The weights of a file, on the CPU; it is read as data, none of it is run.

    Raises:
        InputError: there is no such file, it is damaged, holds more than data, is no checkpoint of nnU-Net, or its
            training diverged.
    """
    what = f"-pretrained_weights {file}"
    content, fault = read_whole(file, "cpu")
    if fault:
        remedy = AS_DATA if "more than data" in fault else "Give the checkpoint of a training, or a whole copy of it."
        raise InputError(f"{what} cannot be read ({fault}). {remedy}")
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not (isinstance(weights, dict) and weights and all(isinstance(name, str) for name in weights)):
        raise InputError(
            f"{what} is no checkpoint of nnU-Net: it has no network_weights. Weights of other origin must have the "
            "names of nnU-Net's network, under this key: torch.save({'network_weights': weights}, 'weights.pth')."
        )
    networks = networks_of(content)
    refuse_diverged(what, *networks)
    return PretrainedWeights(file, content, *networks)


# ---------------------------------------------------------------------- which network takes what


def begin_with(
    weights: PretrainedWeights, student: nn.Module, method: Method | None, say: Callable[[str], Any]
) -> None:
    """Loads the weights into the networks of a training, as this module's head has it.

    Args:
        student: without the wrappers of DDP and torch.compile.
        method: None for supervised training.
        say: prints a line to the log, one for each network.

    Raises:
        InputError: they do not fit the student; names the first mismatches. Nothing was loaded.
    """
    told = {"student": _begin_student(weights, student)}
    for name, network in _further_networks(method) if method is not None else ():
        told[name] = _begin_further(weights, name, network)
    if weights.second and TWIN not in told:
        told["second network"] = "left out, there is one here"
    if _has(GATES, weights.first) and not _has(GATES, student.state_dict()):
        told["gates"] = "left out, the skips here have none"
    if _has(GUIDANCE, weights.first):
        told["guidance"] = "that of the file is left out"
    for name, what in told.items():
        say(f"-pretrained_weights, {name}: {what}")


def _begin_student(weights: PretrainedWeights, student: nn.Module) -> str:
    why = weights.encoder_alone
    body, no_gates = _body(student), not _has(GATES, weights.first)
    if no_gates:
        body = {name: value for name, value in body.items() if not name.startswith(GATES)}
    wanted = {name: value for name, value in body.items() if name.startswith(ENCODER)} if why else body
    offered, input_layer = _with_input_layer_of(student, weights.first)
    mismatches = _mismatches(wanted, offered)
    if why and not wanted:
        mismatches = [f"{why}, and {type(student).__name__} has none of this name"]
    if mismatches:
        remedy = PLANS_LIKE_NNSSL if NNSSL_KEY in weights.content else SAME_PLANS
        raise InputError(
            f"-pretrained_weights {weights.file} does not fit this network: {listed(mismatches, 3)}. {remedy}"
        )
    _copy(offered, wanted)
    source = "first network" if weights.second else "network"
    state, reason = student.state_dict(), NO_HEADS
    if no_gates and _has(GATES, state):
        reason += f", and {NO_GATES}"
    if _has(GUIDANCE, state):
        reason += f", and {NO_GUIDANCE}"
    return _in_words(student, wanted, f"the file's {source}{input_layer}", why or reason)


def _begin_further(weights: PretrainedWeights, name: str, network: nn.Module) -> str:
    if isinstance(network, Teacher):
        return "a copy of the student, when training starts"
    if not any(parameter.requires_grad for parameter in network.parameters()):
        return "random, it learns from what the student predicts"
    body = _body(network)
    encoder = {key: value for key, value in body.items() if key.startswith(ENCODER)}
    own = "second network" if name == TWIN else name
    first = "first network" if weights.second else "network"
    for offered, wanted, source, why in (
        (weights.state_of(name), body, f"the file's {own}", NO_HEADS),
        (weights.first, encoder, f"the encoder of the file's {first}", "else both networks would be one"),
    ):
        fitted, input_layer = _with_input_layer_of(network, offered)
        if wanted and not _mismatches(wanted, fitted):
            _copy(fitted, wanted)
            return _in_words(network, wanted, source + input_layer, why)
    return "random, no weights of the file fit it"


def _further_networks(parent: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The parts of a method that have weights, by their names in its state."""
    for name, part in parent.named_children():
        if isinstance(part, nn.ModuleList):
            yield from _further_networks(part, f"{prefix}{name}.")
        elif next(part.parameters(), None) is not None:
            yield f"{prefix}{name}", part


# ---------------------------------------------------------------------- tensors


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Each tensor of a network's state by its first name: nnU-Net's U-Nets list those of the encoder four times."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def _is_head(name: str) -> bool:
    return HEADS in f".{name}"


def _has(part: str, state: dict[str, Any]) -> bool:
    return any(name.startswith(part) for name in state)


def _body(network: nn.Module) -> dict[str, Tensor]:
    """All tensors but those of the classes at hand: heads and guidance by text."""
    tensors = _tensors(network).items()
    return {name: value for name, value in tensors if not _is_head(name) and not name.startswith(GUIDANCE)}


def _with_input_layer_of(network: nn.Module, offered: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The weights with an input layer for as many channels as the network has, and words if there was another number.

    What it gives for an image whose channels are all equal stays the same.
    """
    tensors, adapted, words = _tensors(network), dict(offered), ""
    for layer in getattr(network, "keys_to_in_proj", ()):
        mine, theirs = tensors.get(f"{layer}.weight"), offered.get(f"{layer}.weight")
        if mine is None or not isinstance(theirs, Tensor) or theirs.ndim != mine.ndim:
            continue
        here, there = mine.shape[1], theirs.shape[1]
        if here != there:
            adapted[f"{layer}.weight"] = theirs.sum(1, keepdim=True).expand(-1, here, *theirs.shape[2:]) / here
            words = f", its input layer for {there} channel(s) shared among {here}"
    return adapted, words


def _mismatches(wanted: dict[str, Tensor], offered: dict[str, Any]) -> list[str]:
    """What of the wanted tensors is not offered in their shape, in words."""
    found = []
    for name, tensor in wanted.items():
        other = offered.get(name)
        if not isinstance(other, Tensor):
            found.append(f"{name} is not in the file")
        elif other.shape != tensor.shape:
            found.append(f"{name} is {_shape(other)} in the file, {_shape(tensor)} here")
    return found


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


@torch.no_grad()
def _copy(offered: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        tensor.copy_(offered[name])


def _part(name: str) -> str:
    """Of a network, in words."""
    return "heads" if _is_head(name) else "gates" if name.startswith(GATES) else name.partition(".")[0]


def _in_words(network: nn.Module, taken: dict[str, Tensor], source: str, why: str) -> str:
    """How many tensors were taken from where, and which parts stay random for which reason."""
    tensors = _tensors(network)
    rest = [name for name in tensors if name not in taken]
    words = f"{len(taken)} of {len(tensors)} tensors of {source}"
    if not rest:
        return words
    parts = sorted({_part(name) for name in rest})
    return f"{words}; random: {' and '.join(parts)}, {len(rest)} tensors ({why})"
