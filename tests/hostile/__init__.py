"""Hostile files and arguments; see `spoil.Hostile` for what one attack is."""

from pathlib import Path

from hostile import results, scans, settings
from hostile.spoil import Hostile

ATTACKS = (
    settings.overrides, settings.splits, settings.dataset_files, settings.plans, settings.manifests, settings.lists,
    scans.task_files, scans.images, scans.sources,
    results.records, results.models, results.origins, results.arguments, results.names,
)  # fmt: skip


def all_cases(root: Path) -> list[Hostile]:
    found = [case for attack in ATTACKS for case in attack(root)]
    assert len({case.name for case in found}) == len(found)
    return found
