"""Whether what `dataset.json` says of structures that were not annotated is so; see `nnunet_ssl.data.not_annotated`."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from nnunet_ssl.data.not_annotated import KEY, contradiction, of_preprocessed
from nnunet_ssl.data.reading import read_file, reader_of
from nnunet_ssl.errors import InputError
from nnunet_ssl.preparation.findings import Finding

KIND = "not annotated"


def find_contradictions(
    raw: Path, base: Path | None, dataset_json: dict, declared: dict[str, tuple[str, ...]], labeled: Collection[str]
) -> list[Finding]:
    """Declared cases that are no labeled ones, those whose label has what was not annotated, and an older declaration.

    Only the labels of declared cases are opened.

    Args:
        base: the dataset's folder in `nnUNet_preprocessed`, if there is one.
        declared: of the raw `dataset.json`.
        labeled: ids of the labeled cases.
    """
    findings = []
    reader = reader_of(dataset_json, []) if declared else None
    for case, names in sorted(declared.items()):
        if case not in labeled:
            reason = f'"{KEY}" of dataset.json names it, but it is no labeled case'
            findings.append(Finding(KIND, [case], ["labeled"], reason, "Mend or remove the entry."))
            continue
        file = _label_file(raw, dataset_json, case)
        try:
            voxels, _ = read_file(reader, file, file.name, segmentation=True)
        except InputError as error:
            findings.append(Finding("bad file", [case], ["labeled"], str(error), "Mend or replace the file."))
            continue
        present = np.unique(voxels)
        if wrong := [name for name in names if np.isin(dataset_json["labels"][name], present).any()]:
            findings.append(
                Finding(KIND, [case], ["labeled"], contradiction(case, wrong), "Mend the entry or the label.")
            )
    if base is not None and (base / "dataset.json").is_file() and (trained := of_preprocessed(base)) != declared:
        cases = sorted(case for case in {*trained, *declared} if trained.get(case) != declared.get(case))
        reason = f'"{KEY}" in {base / "dataset.json"}, which training reads, says something else'
        advice = f"Copy {raw / 'dataset.json'} there."
        findings.append(Finding(KIND, cases, ["labeled"] * len(cases), reason, advice))
    return findings


def _label_file(raw: Path, dataset_json: dict, case: str) -> Path:
    if "dataset" in dataset_json:  # nnU-Net's other way to name the labeled cases
        return raw / dataset_json["dataset"][case]["label"]  # an absolute path stays what it is
    return raw / "labelsTr" / f"{case}{dataset_json['file_ending']}"
