"""The leak check: what in a raw dataset would make a semi-supervised study say more, or other, than is true.

It looks at images, ids, folds and the fingerprint. No label file is opened but those of cases in which structures were
not annotated, as ``dataset.json`` says.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nnunetv2.paths
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from nnunet_ssl.data.not_annotated import read_not_annotated
from nnunet_ssl.data.raw import listed, raw_folder, read_dataset_json
from nnunet_ssl.data.splits import FILE, make_splits, read_splits
from nnunet_ssl.data.strays import list_images
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import require_keys
from nnunet_ssl.preparation.findings import Finding
from nnunet_ssl.preparation.outliers import find_outliers
from nnunet_ssl.preparation.partial_labels import find_contradictions
from nnunet_ssl.preparation.planning import hidden_labels_in_plans, in_words, normalization_schemes
from nnunet_ssl.preparation.scans import Scan, read_scans
from nnunet_ssl.preparation.signatures import SAME_SCAN, find_pairs

FOLDERS = {"labeled": "imagesTr", "unlabeled": "imagesUnlabeled", "test": "imagesTs"}
# Trailing parts of an id that tell the frames of one patient apart: patient001_frame12, p7_ED, p7_ES, p7_t03, p7-time2.
FRAME = re.compile(r"(?:[_-](?:ED|ES|(?:frame|phase|time|t)[_-]?\d+))+$", re.IGNORECASE)
ALIKE = 50  # pairs below the threshold that the report keeps


@dataclass(frozen=True)
class Report:
    """What the check found.

    Attributes:
        alike: the best scores of pairs that do *not* count as one scan.
        notes: how unlabeled scans differ from the labeled ones without changing a training.
        not_annotated: classes or regions that were not annotated, by case.
    """

    dataset: str
    cases: dict[str, int]
    findings: list[Finding]
    threshold: float
    alike: list[dict]
    notes: list[Finding]
    not_annotated: dict[str, tuple[str, ...]]

    def as_json(self) -> dict:
        return asdict(self)


def check_dataset(dataset_id: int, processes: int = 4) -> Report:
    """Check a dataset of ``nnUNet_raw``, with the folds and the fingerprint of ``nnUNet_preprocessed`` where present.

    Without ``splits_final.json`` the folds are those that nnU-Net would make. Unusable images are findings too.

    Raises ``InputError`` when the dataset is not there or holds no image.
    """
    raw = raw_folder(dataset_id)
    dataset_json = read_dataset_json(raw / "dataset.json")
    require_keys(dataset_json, {"channel_names": (dict,)}, raw / "dataset.json")
    ending, channels = dataset_json["file_ending"], dataset_json["channel_names"]
    declared = read_not_annotated(dataset_json, raw / "dataset.json")
    files, findings = _list_files(raw, dataset_json)
    if not files:
        others = listed([f"{listed(found.cases, separator=', ')}: {found.reason}" for found in findings])
        raise InputError(
            f"No images in {', '.join(FOLDERS.values())} of {raw}. Files are named CASE_0000{ending}."
            + (f" There are others: {others}." if others else "")
        )
    roots = nnunetv2.paths.nnUNet_preprocessed.get()
    base = Path(roots) / raw.name if roots else None
    labeled = sorted(case for role, case in files if role == "labeled")
    splits, origin = _folds(base, labeled)

    scans = read_scans(files, dataset_json, processes)
    findings += [
        Finding("bad file", [s.case], [s.role], s.fault, "Mend, replace or remove the file.") for s in scans if s.fault
    ]
    scans = [scan for scan in scans if not scan.fault]
    duplicates, alike = _same_scans(scans, splits, origin)
    findings += duplicates
    findings += _two_roles(files, splits, labeled)
    findings += _frames(files, splits, origin)
    findings += _labels_in_plans(base, splits, dataset_id) if base else []
    findings += find_contradictions(raw, base, dataset_json, declared, labeled)
    outliers, notes = find_outliers(scans, _with_schemes(base, list(channels.values()), scans))
    findings += outliers
    counts = Counter(role for role, _ in files)
    return Report(raw.name, {role: counts[role] for role in FOLDERS}, findings, SAME_SCAN, alike, notes, declared)


def patient_of(case: str) -> str:
    """The patient of a case: its id without what tells frames apart.

    That is one or more trailing parts ``_ED``, ``_ES``, ``_frameNN``, ``_phaseNN``, ``_timeNN``, ``_tNN``, in any case
    and with ``-`` for ``_``. A mere number at the end is no frame.
    """
    return FRAME.sub("", case) or case


def _list_files(raw: Path, dataset_json: dict) -> tuple[dict[tuple[str, str], list[Path]], list[Finding]]:
    """Files of each ``(role, case)``, and the files that belong to no case that can be read."""
    ending = dataset_json["file_ending"]
    found: dict[tuple[str, str], list[Path]] = {}
    findings = []
    for role, name in FOLDERS.items():
        if role == "labeled" and "dataset" in dataset_json:  # nnU-Net's other way to name the labeled cases
            from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

            named = get_filenames_of_train_images_and_targets(str(raw), dataset_json)
            found |= {(role, case): [Path(file) for file in entry["images"]] for case, entry in named.items()}
            continue
        channels, strays = list_images(raw / name, ending)
        found |= {(role, case): [files[channel] for channel in sorted(files)] for case, files in channels.items()}
        for stray in strays:
            roles, advice = [role] * len(stray.names), stray.advice[0].upper() + stray.advice[1:] + "."
            findings.append(Finding("bad file", stray.names, roles, f"{name}: {stray.fault}", advice))
    # An RGB picture is one file of three channels: what most cases have tells how many files make a case.
    usual = Counter(len(files) for files in found.values()).most_common(1)[0][0] if found else 0
    for (role, case), files in list(found.items()):
        if len(files) != usual:
            reason = f"{len(files)} channel file(s) ({listed([f.name for f in files])}) where most cases have {usual}"
            findings.append(Finding("bad file", [case], [role], reason, "Add what is missing or remove the case."))
            del found[role, case]
    return found, findings


def _folds(base: Path | None, labeled: list[str]) -> tuple[list[dict[str, list[str]]], str]:
    if base and (base / FILE).is_file():
        return read_splits(base / FILE), FILE
    return (make_splits(labeled) if len(labeled) >= 5 else []), "nnU-Net's own folds"


def _fold_roles(split: dict[str, list[str]]) -> dict[str, str]:
    names = {"train": "train", "val": "validation", "unlabeled": "hidden"}
    return {case: name for key, name in names.items() for case in split.get(key, [])}


def _same_scans(
    scans: Sequence[Scan], splits: list[dict[str, list[str]]], origin: str
) -> tuple[list[Finding], list[dict]]:
    """One finding for each set of scans that are one scan, and the most alike pairs below the threshold."""
    pairs = find_pairs([scan.signature for scan in scans], [patient_of(scan.case) for scan in scans])
    links = {(i, j): score for i, j, score in pairs if score >= SAME_SCAN}
    alike = [
        {"cases": [scans[i].case, scans[j].case], "roles": [scans[i].role, scans[j].role], "score": round(score, 4)}
        for i, j, score in pairs
        if score < SAME_SCAN
    ][:ALIKE]
    first: dict[str, int] = {}
    for index, scan in enumerate(scans):
        other = first.setdefault(scan.digest, index)
        if scans[other].case != scan.case:
            links[other, index] = 1.0
    if not links:
        return [], alike
    ends = np.array(list(links))
    graph = coo_matrix((np.ones(len(ends)), ends.T), shape=(len(scans),) * 2)
    _, component = connected_components(graph, directed=False)
    findings = []
    for number in dict.fromkeys(component[ends[:, 0]]):
        members = [scans[i] for i in np.flatnonzero(component == number)]
        score = min(score for (i, _), score in links.items() if component[i] == number)
        one = len({scan.digest for scan in members}) == 1
        reason = "the same voxels" if one else "the same content, shifted, cropped or with other grey levels"
        cases = {scan.case for scan in members if scan.role == "labeled"}
        in_two_lists = [
            f"{' and '.join(sorted(parts))} of fold {fold}"
            for fold, split in enumerate(splits)
            if len(parts := {part for case, part in _fold_roles(split).items() if case in cases}) > 1
        ]
        reason += f"; in {listed(in_two_lists)} ({origin})" if in_two_lists else ""
        findings.append(
            Finding("same scan", [s.case for s in members], [s.role for s in members], reason,
                    _advice({s.role for s in members}, bool(in_two_lists)), round(score, 4))
        )  # fmt: skip
    return findings, alike


def _advice(roles: set[str], in_two_lists: bool) -> str:
    if "test" in roles and len(roles) > 1:
        return "Keep the test scan alone, remove the other: the test score would be too good."
    if in_two_lists:
        return f"Put both in one list of each fold ({FILE}), or remove one."
    if len(roles) > 1:
        return "Remove the unlabeled scan: its label is known. To compare with published results keep it and say so."
    return "Remove all but one: it would count more than once."


def _two_roles(
    files: dict[tuple[str, str], list[Path]], splits: list[dict[str, list[str]]], labeled: list[str]
) -> list[Finding]:
    findings = []
    where: dict[str, list[str]] = {}
    for role, case in files:
        where.setdefault(case, []).append(role)
    for case, roles in sorted(where.items()):
        if len(roles) > 1:
            places = " and ".join(FOLDERS[role] for role in roles)
            findings.append(
                Finding("one id, two roles", [case] * len(roles), roles, f"stands in {places}", "Keep one of them.")
            )
    for fold, split in enumerate(splits):
        lists: dict[str, list[str]] = {}
        for key in ("train", "val", "unlabeled"):
            for case in set(split.get(key, [])):
                lists.setdefault(case, []).append(key)
        for case, keys in sorted(lists.items()):
            if len(keys) > 1:
                reason = f"fold {fold} of {FILE} lists it in " + " and ".join(f'"{key}"' for key in keys)
                findings.append(Finding("one id, two roles", [case] * len(keys), keys, reason, "Keep one entry."))
            if case not in labeled and set(where.get(case, [])) & {"unlabeled", "test"}:
                roles = [*keys, *where[case]]
                reason = f"fold {fold} of {FILE} lists it, but it is no case of {FOLDERS['labeled']}"
                findings.append(
                    Finding("one id, two roles", [case] * len(roles), roles, reason, f"Remove it from {FILE}.")
                )
    return findings


def _frames(files: dict[tuple[str, str], list[Path]], splits: list[dict[str, list[str]]], origin: str) -> list[Finding]:
    """Patients whose frames stand in different folders, and for each fold those in different lists."""
    patients: dict[str, list[tuple[str, str]]] = {}
    for role, case in files:
        patients.setdefault(patient_of(case), []).append((case, role))
    several = {name: frames for name, frames in patients.items() if len({case for case, _ in frames}) > 1}
    kind, findings = "frames of one patient", []
    for name, frames in sorted(several.items()):
        if len({role for _, role in frames}) > 1:
            cases, roles = map(list, zip(*sorted(frames), strict=True))
            findings.append(Finding(kind, cases, roles, f"patient {name}", "Give all frames of a patient one role."))
    for fold, split in enumerate(splits):
        part = _fold_roles(split)
        torn = {}
        for name, frames in sorted(several.items()):
            inside = sorted((case, part[case]) for case, role in frames if role == "labeled" and case in part)
            if len({role for _, role in inside}) > 1:
                torn[name] = inside
        if torn:
            cases, roles = map(list, zip(*(entry for inside in torn.values() for entry in inside), strict=True))
            reason = f"fold {fold} ({origin}) parts {len(torn)} patient(s): {listed(list(torn), separator=', ')}"
            findings.append(Finding(kind, cases, roles, reason, f"Split by patient: write {FILE} accordingly."))
    return findings


def _labels_in_plans(base: Path, splits: list[dict[str, list[str]]], dataset_id: int) -> list[Finding]:
    """One finding for each plans file that has seen labels that a fold hides."""
    advice = f"Train with plans of `nnunet_ssl plan -d {dataset_id} -f FOLD`, or say so in the study."
    findings = []
    for name, seen in hidden_labels_in_plans(base, splits).items():
        cases = sorted(set().union(*seen.values()))
        reason = f"{name} was made with {in_words(seen)}"
        findings.append(Finding("labels seen by the plans", cases, ["hidden"] * len(cases), reason, advice))
    return findings


def _with_schemes(base: Path | None, channels: list[str], scans: Sequence[Scan]) -> list[tuple[str, str]]:
    """Name and normalization scheme of each channel of the scans, by the plans or else by nnU-Net's rule for names."""
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    number = max((len(scan.percentiles) for scan in scans), default=0)
    names = [channels[i] if i < len(channels) else str(i) for i in range(number)]
    schemes = normalization_schemes(base) if base and base.is_dir() else []
    if len(schemes) != number:
        schemes = [get_normalization_scheme(name).__name__ for name in names]
    return list(zip(names, schemes, strict=True))
