"""Labels that people corrected or drew come into the dataset: all of a folder or none, and back out if asked.

A case goes from `imagesUnlabeled` to `imagesTr` and `labelsTr` and to the training side of every fold; plans and
validation cases stay. It is preprocessed for all that nnU-Net has preprocessed, and what was made of it while it was
unlabeled goes. `adopted.json` in the dataset's folders says what was done, when, by which files.
"""

from __future__ import annotations

import difflib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nnunetv2.paths
from tqdm import tqdm

import nnunet_ssl
from nnunet_ssl.annotation.drawn import find_label_files
from nnunet_ssl.annotation.examination import Examined, Request, examine, read_drafts
from nnunet_ssl.annotation.moves import Moves, interrupted, journals, next_number, recover
from nnunet_ssl.annotation.naming import Labels, read_given
from nnunet_ssl.annotation.staging import Places, preprocessed_folders, stage
from nnunet_ssl.annotation.telling import table_of_cases, table_of_names, what_now
from nnunet_ssl.data.adopted import read_record
from nnunet_ssl.data.raw import cases_with_label, environment_folder, listed, raw_folder, read_dataset_json
from nnunet_ssl.data.reading import reader_of
from nnunet_ssl.data.splits import FILE as SPLITS
from nnunet_ssl.data.splits import read_splits
from nnunet_ssl.data.strays import list_images
from nnunet_ssl.data.unlabeled import find_unlabeled
from nnunet_ssl.errors import InputError
from nnunet_ssl.locks import locked
from nnunet_ssl.pools import Pool

NOTHING = "Nothing was changed."


def adopt_labels(
    dataset_id: int,
    folder: Path,
    given: list[str] | None = None,
    agree: Callable[[str], bool] | None = None,
    allow_empty: bool = False,
    unchanged_too: bool = False,
    processes: int = 4,
) -> list[str]:
    """Takes in the label files of a folder; returns the cases that are labeled by it, none if there was nothing to do.

    Cases that have these very labels already are passed over, so that a folder can be given twice. A run that was cut
    off is taken back first.

    Args:
        given: `NAME=LABEL`, what names or numbers in the files mean where `dataset.json` has others.
        agree: asked, with a question, after all was shown and before anything is changed; None only shows.
        allow_empty: takes labels without foreground.
        unchanged_too: takes drafts of `nnunet_ssl suggest` that nobody changed.

    Raises:
        InputError: a label file or its case is not in order, with every fault; another process works on the dataset;
            or the machine lacks something. Nothing has been changed then.
    """
    places = find_places(dataset_id)
    with _alone(places, only_look=agree is None):
        if agree is None and interrupted(places.raw):
            raise InputError(
                f"An earlier adoption into {places.raw} was cut off: run without --dry-run to take it back."
            )
        if recover(places.raw):
            print("An adoption or its undoing that was cut off was taken back.")
        requests, passed_over = _requests(places, folder, given or [], allow_empty, unchanged_too)
        examined = _examined(requests, folder, given or [], processes)
        new = [each for each in requests if not examined[each.case].is_labeled]
        table_of_names(new, examined)
        table_of_cases(new, examined)
        if passed_over:
            print(f"Passed over, no label files: {listed(passed_over, separator=', ')}")
        if same := [each.case for each in requests if examined[each.case].is_labeled]:
            print(f"{len(same)} case(s) have these labels already, nothing is to do: {listed(same, separator=', ')}")
        if not new or agree is None or not agree(f"Take {len(new)} case(s) into {places.raw.name}?"):
            print(NOTHING)
            return []
        folders = preprocessed_folders(places.base, dataset_id)
        moves = Moves(places.raw, next_number(places.raw))
        try:
            stage(new, examined, places, folders, moves, _record(new, examined, folder, places.raw), processes)
        except BaseException:
            moves.clear()
            raise
        moves.apply()
        for line in what_now(dataset_id, places, [each.case for each in new], examined, folders):
            print(line)
    return [each.case for each in new]


def undo_last(dataset_id: int) -> list[str]:
    """Takes back the last adoption, every file as it was; returns its cases, which are unlabeled again.

    Raises:
        InputError: there is none, another process works on the dataset, or files were changed since.
    """
    places = find_places(dataset_id)
    with _alone(places):
        if recover(places.raw):
            print("An adoption or its undoing that was cut off was taken back.")
            return []
        if not (done := journals(places.raw)):
            raise InputError(
                f"Nothing to undo in {places.raw}: only the last adoption can be, and once. adopted.json has them all."
            )
        cases = [entry["case"] for entry in read_record(places.raw)["adoptions"][-1]["cases"]]
        lost = done[-1].undo()
        print(f"Unlabeled again: {listed(cases, separator=', ')}; all files are as they were before that adoption.")
        if lost:
            gone = listed([file.name for file in lost], separator=", ")
            print(f"But for {len(lost)} that are gone by now ({gone}): run nnunet_ssl preprocess -d {dataset_id}.")
    return cases


def find_places(dataset_id: int) -> Places:
    """The folders of a dataset; raises InputError if it has no raw data or a variable of nnU-Net is not set."""
    raw = raw_folder(dataset_id)
    results = nnunetv2.paths.nnUNet_results.get()
    roots = [Path(results), *sorted(Path(results).glob("seed_*"))] if results else []
    return Places(raw, environment_folder("nnUNet_preprocessed") / raw.name, tuple(root / raw.name for root in roots))


@contextmanager
def _alone(places: Places, only_look: bool = False) -> Iterator[None]:
    """Nobody else adopts, splits, preprocesses, propagates or trains within."""
    with ExitStack() as locks:
        locks.enter_context(locked(places.raw))
        if not only_look:
            others = [places.base / SPLITS] * places.base.is_dir()
            others += [*places.base.glob("*_unlabeled"), *places.base.glob("*_propagated"), *places.fold_folders()]
            for place in others:
                locks.enter_context(locked(place))
        yield


def _requests(
    places: Places, folder: Path, given: list[str], allow_empty: bool, unchanged_too: bool
) -> tuple[list[Request], list[str]]:
    """A request for each label file, and the names of what is none. Raises InputError for files without their case."""
    raw = places.raw
    content = read_dataset_json(raw / "dataset.json")
    labels = Labels.of(content, raw / "dataset.json")
    said = read_given(given, labels)
    channels = len(content.get("channel_names", content.get("modality", {}))) or 1
    unlabeled, problems = find_unlabeled(raw, content, channels)
    labeled = _labeled_files(raw, content)
    test = list_images(raw / "imagesTs", content["file_ending"])[0]
    splits = read_splits(places.base / SPLITS) if (places.base / SPLITS).is_file() else []
    validated = {case: str(fold) for fold, split in enumerate(splits) for case in split["val"]}
    files, others = find_label_files(folder, content["file_ending"], {*unlabeled, *labeled, *test})
    scans = [*(scan for scan, _ in labeled.values()), *unlabeled.values()]  # nnU-Net tries a labeled one
    reader = reader_of(content, (file for scan in scans for file in scan if file.is_file()))
    drafts = read_drafts(folder)

    requests, faults = [], []
    for case, file in files.items():
        role, scan, label = "", unlabeled.get(case, []), None
        if case in labeled:
            role, (scan, label) = "labeled already", labeled[case]
            role += f" and validates fold {validated[case]}" if case in validated else ""
        lone = raw / "labelsTr" / f"{case}{content['file_ending']}"
        fault = _fault_of_case(case, file, {*unlabeled}, {*labeled}, {*test}, validated, problems)
        if not fault and case not in labeled and lone.exists():
            fault = f"case {case}, file {file.name}: {lone} is there already, without a scan in imagesTr; move it away"
        if fault:
            faults.append(fault)
            continue
        options = (reader, labels, said, drafts.get(case), allow_empty, unchanged_too)
        requests.append(Request(case, file, tuple(scan), label, role, *options))
    _refuse(faults, len(files), folder)
    return requests, others


def _labeled_files(raw: Path, content: dict[str, Any]) -> dict[str, tuple[list[Path], Path]]:
    """The scan and the label of each labeled case."""
    if "dataset" in content:
        return {
            case: ([raw / image for image in entry["images"]], raw / entry["label"])
            for case, entry in content["dataset"].items()
        }
    ending = content["file_ending"]
    images = list_images(raw / "imagesTr", ending)[0]
    return {
        case: ([file for _, file in sorted(images[case].items())], raw / "labelsTr" / f"{case}{ending}")
        for case in cases_with_label(raw / "labelsTr", content)
        if case in images
    }


def _fault_of_case(
    case: str, file: Path, unlabeled: set[str], labeled: set[str], test: set[str], validated: dict[str, str],
    problems: list[str],
) -> str:  # fmt: skip
    """Why the case cannot be labeled, whatever the file holds; "" if nothing speaks against it."""
    name = f"case {case}, file {file.name}"
    if case in test:
        return f"{name}: is a test case (imagesTs), which no training may see; move the file out of the folder"
    if case in labeled:
        return ""
    if own := [problem for problem in problems if problem.startswith((f"case {case}:", f"case {case} ("))]:
        return f"{name}: its scan is not in order: {own[0]}"
    if case not in unlabeled:
        alike = difflib.get_close_matches(case, sorted(unlabeled), 1)
        meant = f" (is {alike[0]} meant?)" if alike else ""
        return f"{name}: imagesUnlabeled has no case {case}{meant}; name the file like its case"
    if case in validated:
        return f"{name}: is a validation case of fold {validated[case]}; take it out of splits_final.json first"
    return ""


def _examined(requests: list[Request], folder: Path, given: list[str], processes: int) -> dict[str, Examined]:
    """Raises InputError with every fault."""
    work = [(request.case, (request,)) for request in requests]
    with Pool(min(processes, len(work)) if len(work) > 1 else 0, "and run the same command again.") as pool:
        results = dict(tqdm(pool.run(examine, work), total=len(work), desc="Reading labels", disable=len(work) < 2))
    faults = [str(results[each.case]) for each in requests if isinstance(results[each.case], InputError)]
    _refuse(faults, len(requests), folder)
    names = {name for each in results.values() for name in each.found}
    if unused := [text for text in given if text.rpartition("=")[0].strip() not in names]:
        raise InputError(f"--map {unused[0]}: no file has it; there are {listed(sorted(names), separator=', ')}.")
    return results


def _refuse(faults: list[str], number: int, folder: Path) -> None:
    if len(faults) == 1:
        raise InputError(f"{faults[0]}. {NOTHING}")
    if faults:
        raise InputError(
            f"{len(faults)} of {number} label files in {folder} cannot be taken in. {NOTHING}\n  "
            + listed(faults, separator="\n  ")
        )


def _record(requests: list[Request], examined: dict[str, Examined], folder: Path, raw: Path) -> dict[str, Any]:
    """What `adopted.json` keeps."""
    cases = []
    for each in requests:
        known = examined[each.case]
        cases.append(
            {
                "case": each.case,
                "file": each.file.name,
                "sha256": known.source,
                "label_digest": known.digest,
                "draft": None if each.draft is None else "unchanged" if known.is_draft else "changed",
                "found": {name: {"label": label, "voxels": voxels} for name, (label, voxels) in known.found.items()},
                "notes": list(known.notes),
            }
        )
    suggested = {*read_drafts(folder)}
    labeled = {*cases_with_label(raw / "labelsTr", read_dataset_json(raw / "dataset.json")), *examined}
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "version": nnunet_ssl.__version__,
        "labels_folder": str(folder.absolute()),
        "share_of_suggested": len(suggested & labeled) / len(suggested) if suggested else 0.0,
        "cases": cases,
    }
