"""What the converters of public data sets share: checks, provenance, safe writing.

A converter is one function that looks at a source folder and returns a :class:`Conversion`;
:func:`write_raw_dataset` does the rest.
"""

import glob
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from tqdm import tqdm

from nnunet_ssl.conversion.case_writer import FILE_ENDING, Outcome, convert_case, image_file, label_file
from nnunet_ssl.conversion.cases import Case, Conversion
from nnunet_ssl.conversion.notes import Note, merged
from nnunet_ssl.conversion.spacings import with_known_spacings
from nnunet_ssl.data.raw import environment_folder, listed
from nnunet_ssl.data.splits import FILE as SPLITS_FILE
from nnunet_ssl.data.splits import read_splits
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json, require_keys, write_json
from nnunet_ssl.locks import locked
from nnunet_ssl.pools import Pool


def write_raw_dataset(
    conversion: Conversion,
    dataset_id: int,
    name: str,
    processes: int = 1,
    link: bool = False,
    spacings: Path | None = None,
    skip_unknown_spacing: bool = False,
) -> tuple[Path, bool]:
    """Writes ``Dataset{id}_{name}`` into ``nnUNet_raw``, whole or not at all.

    Label and further channels of a case are brought onto the grid of its first image and get its header. What was
    repaired or assumed stands under ``notes`` in ``conversion.json``. Validation cases are written as nnU-Net wants
    them, with the labeled ones, and ``splits_final.json`` in ``nnUNet_preprocessed`` gets the one fold of the protocol.

    Everything goes into a hidden folder beside the target, which is renamed at the end; what a killed run left there
    is removed by the next one. One run per dataset id at a time.

    Args:
        processes: worker processes; 1 converts in this process.
        link: links files that fit as they are (hard links, symbolic ones to another file system) in place of copies.
        spacings: a file with the spacing of scans whose header is a placeholder, see :func:`with_known_spacings`.
        skip_unknown_spacing: leaves out such scans that are not in that file.

    Returns:
        The dataset's folder, and whether anything was written: False if the same conversion was there already.

    Raises:
        InputError: a folder of nnU-Net is unset; the id is taken by a dataset that is not this conversion or has other
            folds, or another process converts to it; the spacing of scans is unknown; the machine lacks something; or
            cases are bad (all of them are looked at, ten are named).
    """
    if not 1 <= dataset_id <= 999:
        raise InputError(f"Dataset id {dataset_id}: nnU-Net's ids go from 1 to 999.")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise InputError(f"Dataset name {name[:60]!r}: use at most 100 letters, digits, '_' and '-'.")
    root = environment_folder("nnUNet_raw")
    target = root / f"Dataset{dataset_id:03d}_{name}"
    conversion = with_known_spacings(conversion, spacings, skip_unknown_spacing)
    if others := [str(other) for other in find_candidate_datasets(dataset_id) if other != target.name]:
        raise InputError(f"Dataset id {dataset_id} is taken by {', '.join(others)}. Choose another --dataset-id.")
    if not target.exists():
        _require_level(conversion)
    with locked(root / f"Dataset{dataset_id:03d}"):
        return _write(conversion, target, processes, link)


def _missing_fold(conversion: Conversion, dataset: str) -> Path | None:
    """The ``splits_final.json`` that is to get the fold of the protocol; None if there is no such fold or it is there.

    Raises:
        InputError: other folds are there, or they cannot be read.
    """
    if (fold := conversion.fold()) is None:
        return None
    file = environment_folder("nnUNet_preprocessed") / dataset / SPLITS_FILE
    if file.exists() and read_splits(file) != [fold]:
        raise InputError(f"{file} holds other folds than the protocol's. Remove it, or choose another --dataset-id.")
    return None if file.exists() else file


def _write(conversion: Conversion, target: Path, processes: int, link: bool) -> tuple[Path, bool]:
    fold_file = _missing_fold(conversion, target.name)
    if target.exists():
        _require_same(target, conversion)
        if fold_file:
            write_json([conversion.fold()], fold_file)
        return target, fold_file is not None
    # nnU-Net lists folders that begin with "Dataset": it cannot see this one.
    for leftover in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(leftover)
    aside = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        for path in _expected_files(conversion):
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
        notes = _convert_cases(conversion, aside, processes, link)
        conversion = replace(conversion, notes=merged([*conversion.notes, *notes]))
        write_json(conversion.provenance(), aside / "conversion.json")
        write_json(_dataset_json(conversion), aside / "dataset.json")
        if fold_file:  # before the dataset: without it nnU-Net would divide labeled and validation cases by chance
            write_json([conversion.fold()], fold_file)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target, True


def _require_level(conversion: Conversion) -> None:
    """Raises :class:`InputError` where files lie one folder deeper than they should, as some copies have them."""
    deeper = []
    for path in (path for case in conversion.cases for path in (*case.images, case.label) if path):
        if path.is_dir():  # a DICOM series, or a folder that has the name of its only file
            found = [path / path.name] if (path / path.name).is_file() else []
        else:
            # Such a folder may be named without the .gz of the file, or hold the file without it.
            stem = glob.escape(path.name.partition(".")[0])
            found = [] if path.is_file() else sorted(path.parent.glob(f"*/{stem}.*"))
        deeper += [f"{path} ({file.relative_to(path.parent)})" for file in found[:1]]
    if deeper:
        raise InputError(f"{len(deeper)} files lie one folder deeper than they should: {listed(deeper)}. Move them up.")


def _convert_cases(conversion: Conversion, folder: Path, processes: int, link: bool) -> list[Note]:
    """Converts all cases, those last whose label only the others explain; returns what was done, case by case."""
    # A worker needs the readers and the labels, not the other cases.
    convert = partial(convert_case, folder=folder, link=link, conversion=replace(conversion, cases=[]))
    outcomes = _mapped(convert, conversion.cases, processes)
    if put_off := [case for case in conversion.cases if outcomes[case.id].put_off]:
        votes = Counter(outcome.fit for outcome in outcomes.values() if outcome.fit)
        outcomes |= _mapped(partial(convert, votes=votes), put_off, processes)
    if faults := [f"{outcome.case}: {outcome.fault}" for outcome in outcomes.values() if outcome.fault]:
        bad = listed(faults, separator="\n  ")
        raise InputError(f"Nothing was converted, {len(faults)} of {len(outcomes)} cases are bad:\n  {bad}")
    return [note for outcome in outcomes.values() for note in outcome.notes]


def _mapped(convert: Callable[[Case], Outcome], cases: list[Case], processes: int) -> dict[str, Outcome]:
    """What became of each case, in the order of the cases."""
    work = ((case.id, (case,)) for case in cases)
    with Pool(0 if processes == 1 else processes, "and run the same command again. Nothing was converted.") as pool:
        found = dict(tqdm(pool.run(convert, work), total=len(cases), desc="Converting", unit="case"))
    for case, outcome in found.items():
        if isinstance(outcome, InputError):
            found[case] = Outcome(case, str(outcome))
    return {case.id: found[case.id] for case in cases}


def _expected_files(conversion: Conversion) -> list[str]:
    images = [image_file(case, channel) for case in conversion.cases for channel in range(len(conversion.channels))]
    return images + [label_file(case) for case in conversion.cases if case.label]


def _dataset_json(conversion: Conversion) -> dict[str, Any]:
    reader_writer = conversion.reader_writer
    return {
        "channel_names": {str(i): channel for i, channel in enumerate(conversion.channels)},
        "labels": conversion.labels,
        "numTraining": len(conversion.ids("labeled")) + len(conversion.ids("validation")),
        "file_ending": FILE_ENDING,
        **({"overwrite_image_reader_writer": reader_writer} if reader_writer else {}),
    }


def _require_same(target: Path, conversion: Conversion) -> None:
    advice = "Choose another --dataset-id, or remove that folder first."
    file = target / "conversion.json"
    if not file.exists():
        raise InputError(f"{target} exists and is not of this converter (no conversion.json). {advice}")
    present = read_json(file, "choose another --dataset-id, or remove its folder first")
    require_keys(present, {"source": (dict,)}, file, advice="choose another --dataset-id, or remove its folder first")
    wanted = json.loads(json.dumps(conversion.provenance()))
    for record in (present, wanted):
        # A moved source or a newer version of this package does not make it another dataset, and notes follow from
        # the rest.
        record.pop("version", None)
        record.pop("notes", None)
        record.get("source", {}).pop("path", None)
    if differing := [key for key in {**wanted, **present} if wanted.get(key) != present.get(key)]:
        raise InputError(f"{target} exists and is another conversion: it differs in {', '.join(differing)}. {advice}")
    expected = [*_expected_files(conversion), "dataset.json"]
    if missing := [path for path in expected if not (target / path).is_file()]:
        raise InputError(
            f"{target} is incomplete, missing: {listed(missing, separator=', ')}. Remove that folder and run again."
        )
