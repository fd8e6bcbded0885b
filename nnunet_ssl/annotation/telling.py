"""What an adoption shows before and says after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nnunet_ssl.annotation.examination import Examined, Request
from nnunet_ssl.annotation.staging import Places, Preprocessed
from nnunet_ssl.data.adopted import RECORD
from nnunet_ssl.data.raw import cases_with_label, listed, read_dataset_json
from nnunet_ssl.data.trained import trained_folds
from nnunet_ssl.files import read_json

FINGERPRINT = "dataset_fingerprint.json"
BEYOND = 1.1  # of the largest, or the inverse of the smallest: a scan a little smaller than all others changes no plans
ROWS = 10


def table_of_names(requests: list[Request], examined: dict[str, Examined]) -> None:
    """Prints what names and numbers in the files become."""
    totals: dict[tuple[str, int], list[int]] = {}
    for each in requests:
        for name, (label, voxels) in examined[each.case].found.items():
            total = totals.setdefault((name, label), [0, 0])
            total[0] += 1
            total[1] += voxels
    if not totals:
        return
    table = Table(title="What the files hold", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("in the files", "becomes"):
        table.add_column(column)
    for column in ("files", "voxels"):
        table.add_column(column, justify="right")
    labels = requests[0].labels
    for (name, label), (files, voxels) in sorted(totals.items(), key=lambda item: (item[0][1], item[0][0])):
        table.add_row(escape(name), escape(labels.called(label)), str(files), str(voxels))
    Console().print(table)


def table_of_cases(requests: list[Request], examined: dict[str, Examined]) -> None:
    """Prints which labels each case gets, which it lacks, and what was done to read its file."""
    if not requests:
        return
    table = Table(title="Cases", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("case", "file", "labels", "without", "note"):
        table.add_column(column, overflow="fold")
    for each in requests[:ROWS]:
        known, labels = examined[each.case], each.labels
        present = {label for label, voxels in known.found.values() if voxels}
        has = {name for name, own in labels.within.items() if present & {*own}} - {"background"}
        absent = [name for name in labels.numbers if name not in has | {"background", "ignore"}]
        notes = [*known.notes, *(["unchanged draft"] if known.is_draft else [])]
        cells = (each.case, each.file.name, ", ".join(n for n in labels.numbers if n in has), ", ".join(absent))
        table.add_row(*map(escape, cells), "; ".join(notes))
    Console().print(table)
    if len(requests) > ROWS:
        print(f"and {len(requests) - ROWS} more cases")


def what_now(
    dataset_id: int, places: Places, cases: list[str], examined: dict[str, Examined], folders: list[Preprocessed]
) -> list[str]:
    """What was done, whether planning anew is worth it, and how training goes on."""
    labeled = cases_with_label(places.raw / "labelsTr", read_dataset_json(places.raw / "dataset.json"))
    lines = [
        f"Labeled now: {listed(cases, separator=', ')}. {places.raw.name} has {len(labeled)} labeled cases; every fold "
        "trains on the new ones, too, and validates on what it did.",
        f"Record: {places.raw / RECORD}. `nnunet_ssl adopt -d {dataset_id} --undo` takes it back.",
    ]
    if folders:
        lines.append(f"Preprocessed: {listed([each.folder.name for each in folders], separator=', ')}.")
    else:
        lines.append(f"Nothing was preprocessed yet: run nnUNetv2_plan_and_preprocess -d {dataset_id}.")
    if reasons := reasons_to_plan(places.base, len(labeled), {case: examined[case] for case in cases}):
        lines.append(
            f"The plans stay as they are. Planning anew is worth it ({listed(reasons)}): nnUNetv2_plan_and_preprocess "
            f"-d {dataset_id}, nnunet_ssl preprocess -d {dataset_id}, then train anew."
        )
    for name, folder in trained_folds(places.raw.name).items():
        trainer, plans, configuration = folder.parent.name.split("__")
        checkpoint = folder / "checkpoint_final.pth"
        if name.startswith("seed_") or not checkpoint.is_file():
            continue
        train = (
            f"nnUNetv2_train {dataset_id} {configuration} {folder.name.removeprefix('fold_')} -tr {trainer} -p {plans}"
        )
        lines.append(f"Go on from the last weights: {train} -pretrained_weights {checkpoint}")
        lines.append(f"Or anew: {train}")
        break
    return lines


def reasons_to_plan(base: Path, labeled: int, examined: dict[str, Examined]) -> list[str]:
    """Why plans of today would be other ones than those made from the dataset's fingerprint, in words.

    That is twice as many labeled cases, or a scan whose spacing or size along an axis is beyond all that were planned
    on, by a tenth.

    Args:
        labeled: number of labeled cases now.
        examined: the new ones, by case.
    """
    file = base / FINGERPRINT
    fingerprint = read_json(file, "plan again") if file.is_file() else None
    if not (isinstance(fingerprint, dict) and fingerprint.get("spacings") and fingerprint.get("shapes_after_crop")):
        return []
    planned, reasons = len(fingerprint["spacings"]), []
    if labeled >= 2 * planned:
        reasons.append(f"{labeled} labeled cases, planned with {planned}")
    for key, what in (("spacings", "spacing"), ("shapes_after_crop", "size")):
        known = np.array(fingerprint[key], float)
        low, high = known.min(axis=0) / BEYOND, known.max(axis=0) * BEYOND
        beyond = [case for case, each in examined.items() if _outside(getattr(each, what), low, high)]
        if beyond:
            reasons.append(f"{what} beyond all that were planned on: {listed(beyond, separator=', ')}")
    return reasons


def _outside(values: tuple[float, ...], low: np.ndarray, high: np.ndarray) -> bool:
    return len(values) == len(low) and bool(((np.array(values) < low) | (np.array(values) > high)).any())
