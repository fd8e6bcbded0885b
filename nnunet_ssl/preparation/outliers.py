"""Unlabeled scans that are not like the labeled ones: findings if the network would see it, else notes.

How far scans of one kind lie apart is not known from a few labeled ones. It is taken from all scans, unlabeled and test
ones included: the half of them that lie closest together tell the spread, whatever the other half is. An outlier lies
:data:`SPREADS` spreads beyond all labeled scans.

What nnU-Net normalizes scan by scan (most of MR) has no unit, so that scale and offset of the grey levels change
nothing there. They count where one rule holds for all scans, as for the Hounsfield units of CT. Nothing here knows
anatomy: another sequence of the same body part goes unnoticed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ssl.preparation.findings import Finding
from nnunet_ssl.preparation.scans import Scan

SPREADS = 5.0
# Floors of the spread. Sizes count from four times as long an edge, or from twice the mean of all edges.
EDGE_FLOOR, SIZE_FLOOR = math.log(4) / SPREADS, math.log(2) / SPREADS
SPACING_FLOOR, CONTRAST_FLOOR, OFFSET_FLOOR = math.log(2) / SPREADS, math.log(7.6) / SPREADS, 0.1
CT_FLOOR = 60.0  # HU
RIM_FLOOR = 4.0  # percent of the voxels
AIR = -1024.0  # HU; what is below is filling outside the scanner's circle
TISSUE = -300.0  # HU; what is above is fat, organs and bone, not lung
HOUNSFIELD = (-500.0, 800.0)  # a 1st percentile below and a contrast above: values of CT, and of no MR
MASK_LEVELS = 16  # grey levels of a mask at most; a scan has at least twice as many
# nnU-Net's schemes that treat the same value alike in every scan.
ABSOLUTE = ("CTNormalization", "NoNormalization", "RGBTo01Normalization")
PARALLEL = 0.9  # cosine of the angle between axes, 26 degrees
LOOK = "Look at the scan: other modality, wrong unit or wrong header? Mend or remove it."
AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Quantity:
    """One number of each scan, not NaN: what it is, the floor of its spread, and whether ratios count."""

    name: str
    values: np.ndarray
    floor: float
    ratio: bool

    def beyond(self, labeled: np.ndarray) -> np.ndarray:
        """Which scans lie far beyond all labeled ones (a mask of scans), as booleans."""
        values = np.log(self.values) if self.ratio else self.values
        low, high = values[labeled].min(), values[labeled].max()
        return np.maximum(low - values, values - high) > SPREADS * max(spread(values), self.floor)


def spread(values: np.ndarray) -> float:
    """The standard deviation of a normal distribution whose closest half lies as close together as that of these."""
    values = np.sort(values)
    half = len(values) // 2
    return float((values[half:] - values[: len(values) - half]).min() / 2 * 1.4826)


def find_outliers(scans: Sequence[Scan], channels: list[tuple[str, str]]) -> tuple[list[Finding], list[Finding]]:
    """Findings and notes on the unlabeled scans; none of either where no scan is labeled.

    Args:
        scans: all that can be used, of one number of channels.
        channels: name and normalization scheme of each channel.
    """
    labeled = np.array([scan.role == "labeled" for scan in scans], bool)
    if not labeled.any():
        return [], []
    unlabeled = np.array([scan.role == "unlabeled" for scan in scans], bool)
    reasons: dict[int, list[str]] = {}

    def add(which: np.ndarray, what: str, values: np.ndarray, guess: str = "") -> None:
        known = f"(labeled: {values[labeled].min():.4g} to {values[labeled].max():.4g})"
        for index in np.flatnonzero(which & unlabeled):
            reasons.setdefault(index, []).append(f"{what} {values[index]:.4g} {known}{guess}")

    notes = []
    for quantity, advice in _quantities(scans, channels):
        which = quantity.beyond(labeled)
        if advice:
            notes += _note(scans, np.flatnonzero(which & unlabeled), quantity, labeled, advice)
        else:
            add(which, quantity.name, quantity.values)
    spacing = _spacing(scans)
    if not (np.abs(spacing[labeled] - 1) < 0.1).all(axis=1).any():
        bare = np.array([scan.bare for scan in scans])
        add(bare, "mean spacing in mm", spacing.mean(1), ", and at the origin: a lost header?")
    for number, (name, scheme) in enumerate(channels):
        percentiles, levels, rim = (
            np.array([getattr(scan, what)[number] for scan in scans]) for what in ("percentiles", "levels", "rim")
        )
        if levels[labeled].min() >= 2 * MASK_LEVELS:
            add(levels <= MASK_LEVELS, f"{name}: number of grey levels", levels, ", a mask?")
        low, contrast = percentiles[:, 1], percentiles[:, 99] - percentiles[:, 1]
        like_ct = (low < HOUNSFIELD[0]) & (contrast > HOUNSFIELD[1])
        if scheme != "CTNormalization" and not like_ct[labeled].any():
            add(like_ct, f"{name}: 1st percentile", low, ", as in CT")
        dark, bright = rim[labeled].max() < 50, rim[labeled].min() > 50
        if dark or bright:
            turned = Quantity(name, rim, RIM_FLOOR, False).beyond(labeled) & ((rim > 50) if dark else (rim < 50))
            add(turned, f"{name}: percent of the voxels that are darker than the rim", rim, ", inverted?")
    findings = [
        Finding("outlier", [scans[index].case], [scans[index].role], "; ".join(reasons[index]), LOOK)
        for index in sorted(reasons)
    ]
    return findings + _other_axes(scans), notes


def _quantities(scans: Sequence[Scan], channels: list[tuple[str, str]]) -> list[tuple[Quantity, str]]:
    """What is compared, each with what to say of it if it changes no training; empty if it does."""
    spacing, sizes = _spacing(scans), np.array([scan.shape for scan in scans], float)
    first = int((sizes[:, 0] == 1).all())  # nnU-Net's readers make up the spacing of a picture's missing axis
    spacing, sizes, axes = spacing[:, first:], (sizes * spacing)[:, first:], AXES[first:]
    unit, advice = "mm", ""
    if first and (spacing == 1).all():
        unit, advice = "pixels", "Pictures have no spacing: what is shown larger is larger to the network."
    result = [(Quantity(f"mean size in {unit}", np.exp(np.log(sizes).mean(1)), SIZE_FLOOR, True), advice)]
    for axis, name in enumerate(axes):
        result.append((Quantity(f"size {name} in {unit}", sizes[:, axis], EDGE_FLOOR, True), advice))
        resampled = "nnU-Net resamples all scans to one spacing; coarse ones come out blurred."
        result.append((Quantity(f"spacing {name} in mm", spacing[:, axis], SPACING_FLOOR, True), resampled))
    for number, (name, scheme) in enumerate(channels):
        low, high = np.array([scan.percentiles[number][[1, 99]] for scan in scans]).T
        if scheme == "CTNormalization":
            result.append((Quantity(f"{name} 1st percentile in HU", np.maximum(low, AIR), CT_FLOOR, False), ""))
            tissue = np.array([_tissue(scan.percentiles[number]) for scan in scans])
            result.append((Quantity(f"{name} median above {TISSUE:g} HU", tissue, CT_FLOOR, False), ""))
            continue
        contrast = np.maximum(high - low, 1e-12)
        advice = "" if scheme in ABSOLUTE else "nnU-Net normalizes each scan by itself, so the network does not see it."
        result.append((Quantity(f"{name}: contrast (1st to 99th percentile)", contrast, CONTRAST_FLOOR, True), advice))
        result.append((Quantity(f"{name}: 1st percentile / contrast", low / contrast, OFFSET_FLOOR, False), advice))
    return result


def _tissue(percentiles: np.ndarray) -> float:
    """The median in HU of what is denser than lung, or the 99th percentile where next to nothing is."""
    inside = percentiles[1:100]
    return float(np.median(inside[inside > TISSUE])) if (inside > TISSUE).any() else float(percentiles[99])


def _spacing(scans: Sequence[Scan]) -> np.ndarray:
    return np.array([scan.spacing for scan in scans])


def _note(
    scans: Sequence[Scan], members: np.ndarray, quantity: Quantity, labeled: np.ndarray, advice: str
) -> list[Finding]:
    """One note for all scans in which a quantity differs, as a list of none or one."""
    if not len(members):
        return []
    own, known = quantity.values[members], quantity.values[labeled]
    reason = f"{quantity.name} {own.min():.4g} to {own.max():.4g} (labeled: {known.min():.4g} to {known.max():.4g})"
    return [Finding("note", [scans[i].case for i in members], [scans[i].role for i in members], reason, advice)]


def _other_axes(scans: Sequence[Scan]) -> list[Finding]:
    """One finding for the unlabeled scans whose axes run in another order or direction than those of every labeled one.

    Scans of the heart lie at any angle to each other: what is not close to another order or direction is none.
    """
    known = [scan.axes for scan in scans if scan.role == "labeled"]
    turned = [s for s in scans if s.role == "unlabeled" and all(_turned(s.axes, other) for other in known)]
    if not turned:
        return []
    reason = "axes stored in another order or direction than in every labeled scan; the network sees them as stored"
    advice = "Reorient them, or plan anew with overwrite_image_reader_writer NibabelIOWithReorient in dataset.json."
    return [Finding("other axes", [scan.case for scan in turned], [scan.role for scan in turned], reason, advice)]


def _turned(axes: np.ndarray, other: np.ndarray) -> bool:
    """Whether each axis of one scan runs along an axis of the other, but not each along its own and forwards."""
    cosines = other.T @ axes
    return bool((np.abs(cosines).max(axis=0) > PARALLEL).all() and (np.diag(cosines) < PARALLEL).any())
