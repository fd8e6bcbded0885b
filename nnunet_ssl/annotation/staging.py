"""What an adoption changes: raw dataset, folds, preprocessed cases, and what was made of a case without a label."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import shutil
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.annotation.digest import label_digest
from nnunet_ssl.annotation.examination import Examined, Request, make_label
from nnunet_ssl.annotation.moves import Moves
from nnunet_ssl.data.adopted import RECORD, read_record
from nnunet_ssl.data.plans import read_plans
from nnunet_ssl.data.raw import cases_with_label, read_dataset_json
from nnunet_ssl.data.reading import read_file
from nnunet_ssl.data.splits import FILE as SPLITS
from nnunet_ssl.data.splits import read_splits
from nnunet_ssl.data.unlabeled import MANIFEST
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter, read_json, write_fault, writing
from nnunet_ssl.pools import Pool

NEXT_STAGE = "predicted_next_stage"


@dataclass(frozen=True)
class Places:
    """The folders of a dataset; `base`, in `nnUNet_preprocessed`, need not exist, nor need any of `results`."""

    raw: Path
    base: Path
    results: tuple[Path, ...]

    def fold_folders(self) -> list[Path]:
        """Of all trainings."""
        return [folder for root in self.results for folder in sorted(root.glob("*__*__*/fold_*")) if folder.is_dir()]

    def made_without_label(self, case: str) -> list[Path]:
        """Files that were made of a case while it was an unlabeled one: preprocessed, propagated, predicted."""
        folders = [*self.base.glob("*_unlabeled"), *self.base.glob("*_propagated")]
        for fold in self.fold_folders():
            for place in ("pseudo_labels/phase_*", "case_maps", f"{NEXT_STAGE}/*"):
                folders += fold.glob(place)
        files = [folder / f"{case}.{ending}" for folder in sorted(folders) for ending in ("b2nd", "pkl", "png")]
        return [file for file in files if file.is_file()]


def for_next_stage(file: Path) -> Path | None:
    """Where a fold's prediction of an unlabeled case serves the second stage of a cascade once the case is labeled.

    No fold validates on it, so that nnU-Net leaves no prediction there. None for any other file.
    """
    stage = file.parent
    if stage.parent.name != NEXT_STAGE or not stage.parents[1].name.startswith("fold_"):
        return None
    return stage.parents[2] / NEXT_STAGE / stage.name / file.name


@dataclass(frozen=True)
class Preprocessed:
    """A folder of nnU-Net's preprocessed cases."""

    folder: Path
    plans: PlansManager
    configuration: str


def preprocessed_folders(base: Path, dataset_id: int) -> list[Preprocessed]:
    """All configurations of all plans that nnU-Net has preprocessed, each folder once."""
    found: dict[Path, Preprocessed] = {}
    for file in sorted(base.glob("*.json")):
        content = None if is_clutter(file.name) else read_json(file, "mend or remove it, or plan again")
        if not (isinstance(content, dict) and "plans_name" in content and "configurations" in content):
            continue
        plans = read_plans(base, file.stem, dataset_id)
        for name in plans.available_configurations:
            identifier = plans.get_configuration(name).data_identifier
            folder = base / identifier
            is_own = identifier.startswith(f"{plans.plans_name}_")  # other plans may share it
            if folder.is_dir() and (is_own or folder not in found):
                found[folder] = Preprocessed(folder, plans, name)
    return list(found.values())


def stage(
    requests: list[Request],
    examined: dict[str, Examined],
    places: Places,
    folders: list[Preprocessed],
    moves: Moves,
    record: dict[str, Any],
    processes: int,
) -> None:
    """Writes aside all that is new, and notes every move.

    Raises:
        InputError: a label file has changed since it was examined, nnU-Net refuses a case, or the machine lacks
            something.
    """
    raw, base = places.raw, places.base
    made = {request.case: places.made_without_label(request.case) for request in requests}
    gone = [file for files in made.values() for file in files]
    manifests = sorted({file.parent / MANIFEST for file in gone if (file.parent / MANIFEST).is_file()})
    truth = base / "gt_segmentations"
    moves.prepare(
        [raw / "labelsTr", raw / "imagesTr", raw / "imagesUnlabeled", *([truth] if truth.is_dir() else [])]
        + [base] * base.is_dir() + [each.folder for each in folders] + [file.parent for file in gone]
        + [shared.parent for file in gone if (shared := for_next_stage(file)) and shared.parent.is_dir()]
    )  # fmt: skip
    content = read_dataset_json(raw / "dataset.json")
    work = [(each.case, (each, examined[each.case].digest, moves, raw, folders, content)) for each in requests]
    remedy = "and run the same command again: nothing was moved."
    with Pool(min(processes, len(work)) if len(work) > 1 else 0, remedy) as pool:
        results = dict(pool.run(_stage_case, work))
    if faults := [result for result in results.values() if isinstance(result, InputError)]:
        raise faults[0]
    ending = content["file_ending"]
    for request in requests:
        for each in folders:
            for name in (f"{request.case}.b2nd", f"{request.case}_seg.b2nd", f"{request.case}.pkl"):
                moves.put(each.folder / name)
        for name in results[request.case]:
            moves.put(raw / "labelsTr" / name, guarded=True)
        if truth.is_dir():
            label = truth / f"{request.case}{ending}"
            with writing(moves.staged(label)):
                shutil.copy2(moves.staged(raw / "labelsTr" / label.name), moves.staged(label))
            moves.put(label)
        for file in scan_files(request):
            moves.carry(file, raw / "imagesTr" / file.name)
        for file in made[request.case]:
            shared = for_next_stage(file)
            if (
                shared
                and shared.parent.is_dir()
                and shared not in {to for _, to in moves.moves}
                and not shared.exists()
            ):
                moves.carry(file, shared)
            else:
                moves.take(file)
    _stage_json([request.case for request in requests], places, manifests, moves, record)


def scan_files(request: Request) -> list[Path]:
    """The files of a case's scan, the spacing file that a TIFF may have among them."""
    spacing = request.scan[0].with_name(re.sub(r"_\d{4}\..*$", ".json", request.scan[0].name))
    return [*request.scan, *([spacing] if spacing.is_file() else [])]


def _stage_json(cases: list[str], places: Places, manifests: list[Path], moves: Moves, record: dict[str, Any]) -> None:
    raw, base = places.raw, places.base
    files = [file for file in (raw / "dataset.json", base / "dataset.json") if file.is_file()]
    for file in files:
        content = read_dataset_json(file)
        if "dataset" in content:
            images = read_dataset_json(raw / "dataset.json")
            content["dataset"] |= {case: _entry(case, images, moves) for case in cases}
        content["numTraining"] = len({*cases_with_label(raw / "labelsTr", content), *cases})
        moves.put_text(_as_json(content), file)
    if (base / SPLITS).is_file():
        moves.put_text(_as_json(with_trained(read_splits(base / SPLITS), cases)), base / SPLITS)
    for manifest in manifests:
        content = read_json(manifest, "delete it and run nnunet_ssl preprocess")
        content["cases"] = [case for case in content["cases"] if case not in cases]
        moves.put_text(json.dumps(content, indent=1), manifest)  # as nnunet_ssl preprocess writes it
    adopted = read_record(raw)
    for folder in [raw] + [base] * base.is_dir():  # trainings see the second one alone
        moves.put_text(_as_json(adopted | {"adoptions": [*adopted["adoptions"], record]}), folder / RECORD)


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=4, allow_nan=False) + "\n"


def with_trained(splits: list[dict[str, list[str]]], cases: list[str]) -> list[dict[str, list[str]]]:
    """The folds with more cases on the training side of each; what they validate on stays."""
    joined = copy.deepcopy(splits)
    for fold in joined:
        fold["train"] += [case for case in cases if case not in fold["train"]]
        if "unlabeled" in fold:
            fold["unlabeled"] = [case for case in fold["unlabeled"] if case not in cases]
    return joined


def _entry(case: str, content: dict[str, Any], moves: Moves) -> dict[str, Any]:
    """How a `dataset.json` names a labeled case that lists its cases."""
    images = sorted(to.name for _, to in moves.moves if to.parent == moves.root / "imagesTr" and _is_of(case, to.name))
    label = f"labelsTr/{case}{content['file_ending']}"
    return {"images": [f"imagesTr/{name}" for name in images], "label": label}


def _is_of(case: str, name: str) -> bool:
    return re.match(rf"{re.escape(case)}_\d{{4}}\.", name) is not None


def _stage_case(
    request: Request, digest: str, moves: Moves, raw: Path, folders: Iterable[Preprocessed], content: dict[str, Any]
) -> list[str]:
    """Runs in a worker: the label in the dataset's form, and the case preprocessed as nnU-Net does it.

    Returns the names of the label's files, among which TIFF has one for the spacing.
    """
    label, _, _, (_, properties) = make_label(request)
    if label_digest(label) != digest:
        raise InputError(f"{request.name}: has changed while it was taken in; save it, and run the same command again")
    staged = moves.staged(raw / "labelsTr" / f"{request.case}{content['file_ending']}")
    with writing(staged), redirect_stdout(io.StringIO()):
        request.reader().write_seg(label, str(staged), properties)
    _check_written(request, staged, label)
    for each in folders:
        _preprocess(request, staged, moves.staged(each.folder / request.case), each, content)
    spacing = staged.with_name(f"{request.case}.json")
    return [staged.name, *([spacing.name] if spacing.is_file() else [])]


def _check_written(request: Request, staged: Path, label: np.ndarray) -> None:
    """Libraries that write images fail without a word when the disk is full."""
    with contextlib.suppress(InputError):
        written, _ = read_file(request.reader, staged, request.name, segmentation=True)
        if np.array_equal(written[0], label):
            return
    raise write_fault(staged) or OSError(5, "it was not written whole", str(staged))


def _preprocess(request: Request, label: Path, target: Path, each: Preprocessed, content: dict[str, Any]) -> None:
    configuration = each.plans.get_configuration(each.configuration)
    preprocessor = configuration.preprocessor_class(verbose=False)
    files = [str(file) for file in request.scan]
    try:
        with writing(target.with_name(f"{target.name}.b2nd")), redirect_stdout(io.StringIO()):
            preprocessor.run_case_save(str(target), files, str(label), each.plans, configuration, content)
    except (AssertionError, RuntimeError, ValueError) as error:  # how nnU-Net refuses a case, with the reason
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{request.name}: nnU-Net cannot preprocess the case ({reason}); mend scan or label"
        ) from error
