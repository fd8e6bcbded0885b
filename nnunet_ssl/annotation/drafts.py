"""Draft segmentations in the scans' own geometry and format, and whether somebody has corrected them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ssl.annotation.digest import label_digest
from nnunet_ssl.data.reading import read_file
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter, writing


def digest_of_draft(file: Path, plans: PlansManager) -> str:
    """`label_digest` of a file, read with the reader of the plans.

    Raises:
        InputError: it cannot be read.
    """
    labels, _ = read_file(plans.image_reader_writer_class, file, str(file), segmentation=True)
    return label_digest(labels[0])


def write_draft(
    case: str,
    logits: np.ndarray,
    properties: dict[str, Any],
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    folder: Path,
) -> str:
    """Writes CASE.<file ending> as `nnUNetv2_predict` does, aside and then renamed, and returns its digest.

    Args:
        logits: (C, *spatial) on the training grid.
        properties: nnU-Net's, of the preprocessed case.
    """
    aside = folder / f".{case}.{os.getpid()}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        name = f"{case}{dataset_json['file_ending']}"
        with writing(aside / name):
            export_prediction_from_logits(
                torch.from_numpy(logits), properties, configuration, plans, dataset_json, str(aside / case),
                num_threads_torch=1,
            )  # fmt: skip
        digest = digest_of_draft(aside / name, plans)
        for file in aside.iterdir():  # a TIFF comes with a file that has its spacing
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return digest


def files_of(folder: Path, case: str, ending: str) -> list[Path]:
    """A draft, and the file of its spacing beside it where the format needs one."""
    return [file for file in (folder / f"{case}{ending}", folder / f"{case}.json") if file.is_file()]


def refuse_corrected(
    folder: Path, ending: str, digests: Iterable[str], taken_in: Collection[str], plans: PlansManager, remedy: str
) -> None:
    """Raises InputError if a folder of drafts holds anything but drafts of these digests: it may be somebody's work.

    Args:
        taken_in: cases that were suggested and are labeled by now, whose drafts may go.
    """
    known = set(digests)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        stem = file.name.removesuffix(ending)
        if is_clutter(file.name) or (file.suffix == ".json" and (folder / f"{file.stem}{ending}").is_file()):
            continue
        if stem in taken_in:
            continue
        if stem == file.name or not file.is_file() or digest_of_draft(file, plans) not in known:
            raise InputError(f"{file} is no unchanged draft: {remedy}")


def install(cases: Iterable[str], ending: str, source: Path, folder: Path) -> None:
    """Puts the drafts of these cases in place of all that a folder holds, which appears as a whole."""
    partial, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    for aside in (partial, old):
        shutil.rmtree(aside, ignore_errors=True)
    partial.mkdir()
    try:
        for case in cases:
            for file in files_of(source, case, ending):
                with writing(partial / file.name):
                    shutil.copyfile(file, partial / file.name)
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
    finally:
        for aside in (partial, old):
            shutil.rmtree(aside, ignore_errors=True)
