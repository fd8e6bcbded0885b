"""Overrides without writing a class: the variable `nnUNet_ssl_config`.

It holds the path of a YAML file or an inline mapping, `{num_epochs: 20, threshold: 0.9}`. Keys are the settings of the
trainer below and the hyperparameters of the method; anything else is an error that lists the known ones.
"""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nnunet_ssl.errors import InputError
from nnunet_ssl.method import Method

VARIABLE = "nnUNet_ssl_config"


class _PlainLoader(yaml.SafeLoader):
    """YAML without what plain settings need not have: tags, anchors and aliases, a key twice."""

    def compose_node(self, parent, index):
        event = self.peek_event()
        if event.anchor or getattr(event, "tag", None):
            raise yaml.composer.ComposerError(None, None, "tags, anchors and aliases are not taken", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) > len(set(map(str, keys))):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Setting:
    """Type and smallest and largest value of a setting, or those there are to choose from.

    `low` is None where the method checks its ranges itself.
    """

    type: type
    low: float | None = 0
    high: float = 2**31 - 1
    choices: tuple[str, ...] = ()


TRAINER_SETTINGS = {
    "num_epochs": Setting(int, 1),
    "num_iterations_per_epoch": Setting(int, 1),
    "num_val_iterations_per_epoch": Setting(int, 1),
    "save_every": Setting(int, 1),
    "patience": Setting(int, 1),
    "initial_lr": Setting(float),
    "weight_decay": Setting(float),
    "oversample_foreground_percent": Setting(float, 0, 1),
    "seed": Setting(int),
    "augmentation": Setting(str, None, choices=("default", "da5")),
    "accept_other_data": Setting(bool),
}
STREAM_SETTINGS = {
    "unlabeled_batch_size": Setting(int, 1),
    "mix_labeled": Setting(float, 0, 1),
    "mix_labeled_until": Setting(float, 0, 1),
    "lean": Setting(bool),
}


@dataclass(frozen=True)
class Settings:
    """What the user asked for: attributes of the trainer, a method with its arguments, and the preset they rest on."""

    trainer: dict[str, Any] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)
    preset: str = "default"
    chosen: type[Method] | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """All that was asked for and shapes the training, the values of a preset included."""
        asked = self.trainer | self.method | ({} if self.preset == "default" else {"preset": self.preset})
        return {key: value for key, value in asked.items() if key != "accept_other_data"}


def read_settings(method: type[Method] | None, text: str | None = None) -> Settings:
    """Reads and checks the overrides for a trainer.

    Args:
        method: the trainer's method, None for a supervised trainer.
        text: the value of the variable; taken from the environment when None.

    Raises:
        InputError: the file is missing or no YAML mapping, a key is unknown, a value has a wrong type or range.
    """
    return check_settings(method, *parse_overrides(os.environ.get(VARIABLE, "") if text is None else text))


def check_settings(method: type[Method] | None, asked: dict[str, Any], source: str) -> Settings:
    """The overrides that `source` asks for, checked as `read_settings` does."""
    asked = dict(asked)
    settings = TRAINER_SETTINGS | (STREAM_SETTINGS if method and method.reads_unlabeled() else {})
    presets = ["default", *method.presets] if method else []
    preset = asked.pop("preset", "default")
    if preset != "default" and preset not in presets:
        known = ", ".join(presets) or "none"
        raise InputError(f"{source}: unknown preset {repr(preset)[:60]}; this trainer has {known}.")
    chosen, of_preset = method.of_preset(preset) if method else (None, {})
    defaults = chosen.hyperparameters() if chosen else {}
    unknown = [key for key in asked if key not in settings and key not in defaults]
    if unknown:
        raise InputError(f"{source}: {_unknown(unknown, [*settings, *(['preset'] if method else []), *defaults])}")

    trainer = {key: _checked(source, key, asked[key], settings[key]) for key in asked if key in settings}
    arguments = of_preset | {
        key: _checked(source, key, asked[key], Setting(type(defaults[key]), low=None))
        for key in asked
        if key not in settings
    }
    if chosen:
        try:
            chosen(**arguments)
        except ValueError as error:
            raise InputError(f"{source}: {error}.") from None
    return Settings(trainer, arguments, preset, chosen)


def parse_overrides(text: str) -> tuple[dict[str, Any], str]:
    """The mapping that the variable holds or names, and how to call its source in messages."""
    text = text.strip()
    if not text:
        return {}, VARIABLE
    source = VARIABLE
    if not text.startswith("{"):
        path = Path(text)
        if not os.path.isfile(text):  # False also for what no file can be called
            shown = " ".join(text[:200].split())
            raise InputError(f"{VARIABLE}: there is no file {shown}; give a YAML file or a mapping {{key: value}}.")
        source, text = f"{VARIABLE} ({path})", _text_of(path)
    try:
        asked = yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates and numbers that there are not; nesting
        raise InputError(f"{source} is not valid YAML: {' '.join(str(error).split())[:300]}") from None
    if asked is None:
        asked = {}
    if not isinstance(asked, dict) or not all(isinstance(key, str) for key in asked):
        raise InputError(f"{source} must be a mapping of names to values, such as {{num_epochs: 20}}.")
    return asked, source


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{VARIABLE} ({path}) cannot be read ({error}).") from None


def _unknown(keys: list[str], known: list[str]) -> str:
    near = [match for key in keys[:5] for match in difflib.get_close_matches(key, known, n=1)]
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    return f"unknown key {', '.join(repr(key[:60]) for key in keys[:5])}.{hint} Known: {', '.join(sorted(known))}."


def _checked(source: str, key: str, value: Any, setting: Setting) -> Any:
    """The value in its right type, within its range."""
    right = isinstance(value, setting.type) and (setting.type is bool or not isinstance(value, bool))
    if setting.type is float and isinstance(value, int) and not isinstance(value, bool):
        value, right = float(value), True
    if setting.type is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            value, right = float(value), True
        except ValueError:
            right = False
    if not right:
        raise InputError(f"{source}: {key} must be of type {setting.type.__name__}, not {repr(value)[:60]}.")
    if setting.type is float and not math.isfinite(value):
        raise InputError(f"{source}: {key} = {value} is out of range: it must be finite.")
    if setting.choices and value not in setting.choices:
        raise InputError(f"{source}: {key} = {value[:60]} is unknown; there are {', '.join(setting.choices)}.")
    if setting.low is not None and not setting.low <= value <= setting.high:
        raise InputError(f"{source}: {key} = {str(value)[:60]} must lie between {setting.low:g} and {setting.high}.")
    return value
