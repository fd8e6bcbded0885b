"""What is kept of each case that was scored, so that nothing is scored twice.

In the folder of the suggestions::

    scored/model.json          which checkpoints scored, as in `suggested.json`
    scored/cases/CASE.json     scores, descriptor and draft_digest; written last, so that it vouches for the others
    scored/cases/CASE.npz      three planes for the page
    scored/drafts/CASE.nii.gz  what the model predicts, in the scan's own geometry
    scored/labeled/CASE.json   descriptor of a labeled case
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from tqdm import tqdm

from nnunet_ssl.annotation.drafts import write_draft
from nnunet_ssl.annotation.model import Model
from nnunet_ssl.annotation.planes import Plane, three_planes
from nnunet_ssl.annotation.scores import CaseScores, ClassScores
from nnunet_ssl.annotation.strategies import Labeled
from nnunet_ssl.data.headers import READ_ERRORS
from nnunet_ssl.data.loader import open_array, unlabeled_files
from nnunet_ssl.data.raw import listed
from nnunet_ssl.data.unlabeled import load_properties
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json, require_keys, write_json, writing
from nnunet_ssl.pools import Pool

MARK = "model.json"
AGAIN = "remove it and run the same command again"


@dataclass(frozen=True)
class Record:
    """Of one scored case: its scores, and what its draft is."""

    scores: CaseScores
    draft_digest: str


def begin_folder(folder: Path, mark: dict[str, Any]) -> None:
    """Keeps what the same checkpoints have scored, and nothing else."""
    file = folder / MARK
    if file.is_file() and read_json(file, AGAIN) != mark:
        print(f"The scores in {folder} are of other checkpoints: all cases are scored anew.")
        shutil.rmtree(folder)
    for part in ("cases", "drafts", "labeled"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_json(mark, file)


def score_pool(model: Model, files: dict[str, str], folder: Path, processes: int) -> dict[str, Record]:
    """Scores of all cases, in one sliding window each; while one is predicted, those before are written.

    Args:
        files: preprocessed image of each case.
        processes: that resample and write drafts. Besides the case at hand each holds one, and one waits.

    Raises:
        InputError: an image is damaged, or the machine lacks something: what was finished is kept.
    """
    ending = model.predictor.dataset_json["file_ending"]
    todo = [case for case, file in files.items() if not _is_done(folder, case, file, ending)]
    print(f"{len(files)} unlabeled cases, {len(todo)} to score.")
    plans, configuration = model.plans, model.predictor.configuration_manager

    def predicted() -> Iterator[tuple[str, tuple]]:
        for case in todo:
            image = read_image(case, files[case], "nnunet_ssl preprocess")
            properties = _properties(case, Path(files[case]).with_suffix(".pkl"))
            scored = model.predictor.score(case, torch.from_numpy(image))
            maps = (image[0], scored.segmentation, scored.uncertainty)
            planes = three_planes(*maps, properties, plans)
            common = (properties, plans, configuration, model.predictor.dataset_json, folder)
            yield case, (scored.scores, scored.logits.numpy(), planes, *common)

    if todo:
        with Pool(min(processes, len(todo))) as pool:
            results = dict(tqdm(pool.run(_write, predicted()), total=len(todo), desc="Scoring unlabeled cases"))
        if faults := [str(result) for result in results.values() if isinstance(result, InputError)]:
            raise InputError("\n  ".join([f"{len(faults)} case(s) could not be scored:", listed(faults)]))
    return {case: read_record(folder / "cases" / f"{case}.json") for case in files}


def _write(
    scores: CaseScores,
    logits: np.ndarray,
    planes: tuple[list[Plane], str],
    properties: dict[str, Any],
    plans: Any,
    configuration: Any,
    dataset_json: dict[str, Any],
    folder: Path,
) -> None:
    """Runs in a worker: nnU-Net's resampling and writing of the draft, then the planes, then the scores."""
    case = scores.case
    digest = write_draft(case, logits, properties, plans, configuration, dataset_json, folder / "drafts")
    file = folder / "cases" / f"{case}.json"
    with writing(file.with_suffix(".npz")):
        arrays = {
            f"{name}_{number}": getattr(plane, name)
            for number, plane in enumerate(planes[0])
            for name in ("image", "segmentation", "uncertainty")
        }
        names, sizes = [plane.name for plane in planes[0]], [plane.size for plane in planes[0]]
        np.savez_compressed(file.with_suffix(".npz"), names=names, sizes=sizes, place=planes[1], **arrays)
    descriptor = None if scores.descriptor is None else list(scores.descriptor)
    own = {"instability": scores.instability, "mutual_information": scores.mutual_information}
    classes = {name: vars(each) for name, each in scores.by_class.items()}
    write_json(own | {"by_class": classes, "descriptor": descriptor, "draft_digest": digest}, file)


def read_record(file: Path) -> Record:
    """What `score_pool` has written of a case.

    Raises:
        InputError: it is damaged.
    """
    content = read_json(file, AGAIN)
    require_keys(content, {"by_class": (dict,), "draft_digest": (str,)}, file, advice=AGAIN)
    try:
        by_class = {name: ClassScores(**each) for name, each in content["by_class"].items()}
        descriptor = None if content["descriptor"] is None else array("d", content["descriptor"])
        scores = CaseScores(file.stem, content["instability"], content["mutual_information"], by_class, descriptor)
    except (TypeError, KeyError, ValueError):
        raise InputError(f"{file} is damaged: {AGAIN}.") from None
    return Record(scores, content["draft_digest"])


def read_planes(file: Path) -> tuple[list[Plane], str]:
    """The planes of a case and where they cross.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with np.load(file) as content:
            planes = [
                Plane(
                    str(name),
                    *(content[f"{what}_{number}"] for what in ("image", "segmentation", "uncertainty")),
                    tuple(content["sizes"][number]),
                )
                for number, name in enumerate(content["names"])
            ]
            return planes, str(content["place"])
    except READ_ERRORS as error:
        raise InputError(f"{file} is damaged ({error}): remove it and run the same command again.") from error


def describe_labeled(model: Model, folder: Path) -> Labeled:
    """Descriptors of the cases whose label no, or not every, fold of the model hides.

    Raises:
        InputError: an image is damaged, folds are not in order.
    """
    nnunets = model.base / model.predictor.configuration_manager.data_identifier
    hidden = [set(unlabeled_files(model.base, model.plans, model.configuration, f)[1]) for f in model.folds]
    kept_back = set.intersection(*hidden)
    cases = sorted({*nnUNetDatasetBlosc2.get_identifiers(str(nnunets))} - kept_back)
    if kept_back:
        print(f"{len(kept_back)} case(s) whose label these folds hide are no candidates: their labels are there.")
    if not model.predictor.parts:
        print("The network is no U-Net of nnU-Net's: no instability, density and distance.")
        return Labeled(tuple(cases), None)
    if not cases:
        raise InputError(f"{nnunets} holds no labeled case that the folds may know: preprocess it again.")
    descriptors = []
    for case in tqdm(cases, desc="Looking at labeled cases"):
        file, image = folder / "labeled" / f"{case}.json", nnunets / f"{case}.b2nd"
        if not file.is_file() or file.stat().st_mtime_ns < image.stat().st_mtime_ns:
            array = torch.from_numpy(read_image(case, str(image), "nnUNetv2_preprocess"))
            write_json(model.predictor.descriptor(array).tolist(), file)
        descriptors.append(np.array(read_json(file, AGAIN), float))
    return Labeled(tuple(cases), np.array(descriptors))


def read_image(case: str, file: str, command: str) -> np.ndarray:
    """A preprocessed image, float32 (channels, *spatial), however it is stored.

    Raises:
        InputError: it is gone or damaged.
    """
    try:
        return np.ascontiguousarray(open_array(file)[:], dtype=np.float32)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"case {case}: {file} cannot be read ({error}); delete it and run `{command}` again."
        ) from error


def _properties(case: str, file: Path) -> dict[str, Any]:
    try:
        return load_properties(file)
    except (*READ_ERRORS, AttributeError) as error:
        reason = f"{file} cannot be read ({error}); delete it and run `nnunet_ssl preprocess` again."
        raise InputError(f"case {case}: {reason}") from error


def _is_done(folder: Path, case: str, image: str, ending: str) -> bool:
    """Whether all of a case is there and younger than its image."""
    record = folder / "cases" / f"{case}.json"
    if not all(file.is_file() for file in (record, record.with_suffix(".npz"), folder / "drafts" / f"{case}{ending}")):
        return False
    return record.stat().st_mtime_ns >= Path(image).stat().st_mtime_ns
