"""The leak check: what in a raw dataset would make a semi-supervised study say more, or other, than is true.

It looks at images, ids, folds and the fingerprint; no label file is opened.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nnunetv2.paths
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from nnunet_ssl.data.raw import listed, raw_folder, read_dataset_json
from nnunet_ssl.data.scans import Scan, read_scans
from nnunet_ssl.data.signatures import SAME_SCAN, find_pairs
from nnunet_ssl.data.splits import FILE, make_splits, read_splits
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_plain_name, require_keys
from nnunet_ssl.planning import hidden_labels_in_plans, in_words

FOLDERS = {"labeled": "imagesTr", "unlabeled": "imagesUnlabeled", "test": "imagesTs"}
# Trailing parts of an id that tell the frames of one patient apart: patient001_frame12, p7_ED, p7_ES, p7_t03, p7-time2.
FRAME = re.compile(r"(?:[_-](?:ED|ES|(?:frame|phase|time|t)[_-]?\d+))+$", re.IGNORECASE)
ALIKE = 50  # pairs below the threshold that the report keeps
# An outlier is this many spreads (1.4826 MAD, at least the floor of its quantity) from the labeled cases' median.
SPREADS = 5.0
# For each quantity of a case: name, floor of the spread, whether a ratio (then in log) and its unit.
# Ratios of spacing are flagged from 2, sizes from 3, the contrast of a channel without a unit from 7.6 on.
SPACING_FLOOR, SIZE_FLOOR, CONTRAST_FLOOR = math.log(2) / SPREADS, math.log(3) / SPREADS, math.log(7.6) / SPREADS
OFFSET_FLOOR = 0.1  # of the contrast
CT_FLOOR = 60.0  # HU
AIR = -1024.0  # what is below is filling outside the scanner's circle


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind, the cases with the role of each, the score of near-duplicates, why and what to do."""

    kind: str
    cases: list[str]
    roles: list[str]
    reason: str
    advice: str
    score: float | None = None


@dataclass(frozen=True)
class Report:
    """What the check found; ``alike`` are the best scores of pairs that do *not* count as one scan."""

    dataset: str
    cases: dict[str, int]
    findings: list[Finding]
    threshold: float
    alike: list[dict]

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
    files, findings = _list_files(raw, dataset_json)
    if not files:
        raise InputError(f"No images in {', '.join(FOLDERS.values())} of {raw}. Files are named CASE_0000{ending}.")
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
    findings += _outliers(scans, list(channels.values()))
    counts = Counter(role for role, _ in files)
    return Report(raw.name, {role: counts[role] for role in FOLDERS}, findings, SAME_SCAN, alike)


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
        folder = raw / name
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not is_plain_name(file.name) and not file.name.startswith("."):
                name = repr(file.name[:60])
                findings.append(
                    Finding("bad file", [name], [role], f"{folder.name}: too long, or control characters", "Rename it.")
                )
            elif match := re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", file.name):
                found.setdefault((role, match[1]), []).append(file)
            elif file.name.endswith(ending) and not file.name.startswith("."):
                findings.append(
                    Finding("bad file", [file.name], [role], "has no channel number", f"Name it CASE_0000{ending}.")
                )
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
        apart = [
            f"{' and '.join(sorted(parts))} of fold {fold}"
            for fold, split in enumerate(splits)
            if len(parts := {part for case, part in _fold_roles(split).items() if case in cases}) > 1
        ]
        reason += f"; in {listed(apart)} ({origin})" if apart else ""
        findings.append(
            Finding("same scan", [s.case for s in members], [s.role for s in members], reason,
                    _advice({s.role for s in members}, bool(apart)), round(score, 4))
        )  # fmt: skip
    return findings, alike


def _advice(roles: set[str], apart: bool) -> str:
    if "test" in roles and len(roles) > 1:
        return "Keep the test scan alone, remove the other: the test score would be too good."
    if apart:
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


def _outliers(scans: Sequence[Scan], channels: list[str]) -> list[Finding]:
    """Unlabeled scans far from the labeled ones in spacing, size or grey levels; all reasons of a scan in one."""
    reference = [scan for scan in scans if scan.role == "labeled"]
    if not reference:
        return []
    known = [_quantities(scan, channels) for scan in reference]
    findings = []
    for scan in scans:
        if scan.role != "unlabeled":
            continue
        reasons = []
        for name, (value, floor, ratio) in _quantities(scan, channels).items():
            values = np.array([case[name][0] for case in known if name in case])
            scale = np.log if ratio else np.asarray
            center = np.median(scale(values)) if len(values) else math.nan
            spread = max(1.4826 * np.median(np.abs(scale(values) - center)), floor) if len(values) else math.nan
            # Beyond the most extreme labeled case too: a second, rarer kind of labeled scan is no outlier.
            outside = len(values) == 0 or not values.min() <= value <= values.max()
            if outside and not abs(scale(value) - center) <= SPREADS * spread:
                span = f"{values.min():.4g} to {values.max():.4g}" if len(values) else "none"
                reasons.append(f"{name} {value:.4g} (labeled: {span})")
        if reasons:
            findings.append(
                Finding("outlier", [scan.case], [scan.role], "; ".join(reasons),
                        "Look at the scan: other modality, wrong unit or wrong header? Mend or remove it.")
            )  # fmt: skip
    return findings


def _quantities(scan: Scan, channels: list[str]) -> dict[str, tuple[float, float, bool]]:
    """Value, floor of the spread, and whether ratios count, for each named quantity of a scan."""
    result = {}
    axes = ("z", "y", "x")
    flat = scan.shape[0] == 1  # nnU-Net's readers make up the spacing of a picture's missing axis
    for axis, size, spacing in list(zip(axes, scan.shape, scan.spacing, strict=True))[flat:]:
        result[f"spacing {axis} in mm"] = (spacing, SPACING_FLOOR, True)
        result[f"size {axis} in mm"] = (size * spacing, SIZE_FLOOR, True)
    for number, (low, high) in enumerate(scan.percentiles):
        name = channels[number] if number < len(channels) else str(number)
        if name.lower() == "ct":  # what nnU-Net takes for Hounsfield units: absolute values count
            result["CT 1st percentile in HU"] = (float(max(low, AIR)), CT_FLOOR, False)
            result["CT 99th percentile in HU"] = (float(high), CT_FLOOR * 3, False)
        else:  # of no unit: only gross changes of scale, or of the offset in relation to it
            contrast = max(float(high - low), 1e-12)
            result[f"{name}: contrast (1st to 99th percentile)"] = (contrast, CONTRAST_FLOOR, True)
            result[f"{name}: 1st percentile / contrast"] = (float(low) / contrast, OFFSET_FLOOR, False)
    return result
