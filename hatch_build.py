"""Lays ``trainers/`` and ``dataset_conversion/`` inside the package in a wheel.

An editable install gets neither: a copy there would shadow the checkout and grow stale.
"""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LayFoldersInsidePackage(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version != "editable":
            for folder in ("trainers", "dataset_conversion"):
                build_data["force_include"][folder] = f"nnunet_ssl/{folder}"
