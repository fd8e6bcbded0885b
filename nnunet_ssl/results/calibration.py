"""Whether the probabilities of predictions can be believed, from what nnU-Net saves with ``--save_probabilities``.

``CASE.npz`` holds ``probabilities`` (C, z, y, x) of the whole image as the plans' reader gives it: nnU-Net resamples
the logits to the image's spacing, takes softmax or sigmoid, pads what it had cropped (background for sure, or outside
of all regions) and turns the axes back, so voxels are those of the segmentation beside it. That the two belong together
is checked: wherever the segmentation has a class, the probabilities must give it. Channels are read one by one, so that
a case takes a few volumes of memory and not C.

For one class k, with p its probability and y whether the reference has it (a region's sigmoid likewise):

- ECE_k = sum over 15 bins b of n_b / n |mean of y in b - mean of p in b|; a bin has the p in ((b - 1) / 15, b / 15]
  (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, as one class against all others).
- Brier_k = mean of (p - y)^2.
- NLL_k = -mean of y ln p + (1 - y) ln(1 - p); each logarithm is of at least 1e-7.

Over classes: ECE of the largest probability and whether its class is right, as Guo et al. have it; the mean of ECE_k
over the foreground; Brier, the sum over all classes k of Brier_k (Brier 1950, 0 to 2); and NLL, -mean of ln p of the
reference's class. Over regions each is the mean of the regions' own.

All of it is over two sets of voxels, and over those of all cases together: ``all`` voxels, most of which are background
that nobody doubts; and ``foreground``, those in the box around the reference's foreground (as Mehrtash et al., IEEE TMI
2020), none in a case without. A set chosen by what was predicted would make true probabilities look false. Voxels with
the ignore label are in neither. A case in which classes were not annotated counts for the other classes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_ssl.data.not_annotated import read_not_annotated
from nnunet_ssl.data.raw import listed, read_dataset_json
from nnunet_ssl.data.reading import reader_of
from nnunet_ssl.data.space import align
from nnunet_ssl.errors import InputError
from nnunet_ssl.results.evaluation import bounding_box, find_dataset_json, of_cases, read_segmentation, segmentations
from nnunet_ssl.results.probabilities import HOW, Heads, read_channels, writer_of

BINS = 15
SMALLEST = 1e-7  # what a logarithm is of at least
SETS = ("all", "foreground")
FIGURES = ("ece", "brier", "nll")
SUM_TOLERANCE = 0.01  # of the probabilities of a voxel, which half precision rounds
MISMATCH = 0.001  # of the segmentation's foreground that other probabilities may have, where two are as large
CHUNK = 2**22  # voxels at once


class Sums:
    """What the figures of one question are made of, over voxels of any number of cases.

    Attributes:
        bins: voxels, sum of probabilities and sum of answers (0 or 1) in each bin, (3, BINS).
        losses: sums over voxels of the Brier score and of the negative log-likelihood.
    """

    def __init__(self) -> None:
        self.bins = np.zeros((3, BINS))
        self.losses = np.zeros(2)

    def add(self, probs: np.ndarray, answers: np.ndarray) -> None:
        """Counts voxels in their bins, from one-dimensional arrays."""
        number = np.clip(np.ceil(probs * BINS).astype(np.int64) - 1, 0, BINS - 1)
        for row, weights in enumerate((None, probs, answers)):
            self.bins[row] += np.bincount(number, weights, BINS)

    def add_binary(self, probs: np.ndarray, answers: np.ndarray) -> None:
        """The same, with the losses of a question with two answers."""
        self.add(probs, answers)
        given = np.where(answers, probs, 1 - probs)  # the probability of the answer
        self.losses += ((1 - given) ** 2).sum(), -np.log(np.maximum(given, SMALLEST)).sum()

    def __iadd__(self, other: Sums) -> Sums:
        self.bins += other.bins
        self.losses += other.losses
        return self

    @property
    def voxels(self) -> int:
        return int(self.bins[0].sum())

    def figures(self) -> dict[str, float | None]:
        """ECE, Brier score and negative log-likelihood; None without a voxel."""
        if not self.voxels:
            return dict.fromkeys(FIGURES)
        gaps = np.abs(self.bins[2] - self.bins[1]).sum()
        return dict(zip(FIGURES, (np.array([gaps, *self.losses]) / self.voxels).tolist(), strict=True))

    def diagram(self) -> dict[str, list]:
        """Voxels of each bin, their mean probability and the share in which the answer is yes; None for none."""
        counts = self.bins[0]
        means = [
            [float(total / count) if count else None for total, count in zip(row, counts, strict=True)]
            for row in self.bins[1:]
        ]
        return {"voxels": counts.astype(int).tolist(), "probability": means[0], "observed": means[1]}


Case = dict[str, dict[str, Sums]]  # by set and name of the class; "" is over classes


def calibrate_folders(
    reference: Path, prediction: Path, dataset_json: Path | None = None, processes: int = 1
) -> dict[str, Any]:
    """The calibration of the probabilities in ``prediction``, for the entry ``calibration`` of ``metrics.json``.

    Returns ``bins``, ``regions`` (whether the figures over classes are means of those of regions), and for each of
    ``SETS``: ``voxels``, the figures over classes (``ece``, ``class_ece``, ``brier``, ``nll``), ``diagram`` of the
    largest probability (None for regions), ``per_class`` (name -> figures and ``diagram``) and ``per_case`` (case ->
    figures over classes).

    Raises:
        InputError: with every fault in one message: a case has no probabilities, or such as are none, or do not belong
            to its segmentation, or do not stand in the space of its reference.
    """
    reference, prediction = Path(reference), Path(prediction)
    file = Path(dataset_json) if dataset_json is not None else find_dataset_json(reference, prediction)
    dataset = read_dataset_json(file)
    heads, ending = Heads.of(dataset, file), dataset["file_ending"]
    declared = read_not_annotated(dataset, file)
    files = segmentations(reference, ending)
    stored = {c: (each, prediction / f"{c}.npz") for each in files for c in [each.name.removesuffix(ending)]}
    if missing := [case for case, (_, file) in stored.items() if not file.is_file()]:
        raise InputError(f"{prediction} has no probabilities (CASE.npz) of {listed(missing, separator=', ')}: {HOW}.")
    readers = reader_of(dataset, files), writer_of(prediction) or reader_of(dataset, files)
    jobs = {
        case: (readers, each, prediction / each.name, file, heads, frozenset(declared.get(case, ())))
        for case, (each, file) in stored.items()
    }
    cases, faults = of_cases(calibrate_case, jobs, processes, "calibration")
    if faults:
        raise InputError("The calibration of these cases is unknown:\n  " + listed(sorted(faults), separator="\n  "))
    return summary(cases, list(heads.classes), heads.order is not None)


def calibrate_case(
    readers: tuple[type[BaseReaderWriter], type[BaseReaderWriter]],
    reference_file: Path,
    prediction_file: Path,
    probabilities_file: Path,
    heads: Heads,
    not_annotated: frozenset[str],
) -> Case:
    """The sums of one case.

    Args:
        readers: of the reference, and the one with which nnU-Net read the image and wrote the prediction.
        not_annotated: classes that the reference does not tell of.

    Raises:
        InputError: a fault of its files, in one line.
    """
    labels = heads.classes, heads.ignore
    reference, grid, _ = read_segmentation(readers[0], reference_file, *labels)
    stored, own_grid, _ = read_segmentation(readers[1], prediction_file, *labels)
    what = f"{prediction_file.name}: the prediction"
    segmentation, _ = align(stored, own_grid, grid, what, "its reference")
    keep = np.ones(reference.shape, bool) if heads.ignore is None else reference != heads.ignore
    foreground = np.isin(reference, [label for each in heads.classes.values() for label in each])
    masks = {"all": keep, "foreground": keep & _box_of(foreground)}
    case: Case = {name: {} for name in SETS}
    top = _Largest(reference.shape)
    names = {channel: name for name, channel in heads.channels.items()}
    for channel, probs in enumerate(read_channels(probabilities_file, (heads.count, *stored.shape))):
        probs, _ = align(probs, own_grid, grid, what, "its reference")
        name = names.get(channel)
        top.add(channel, probs, None if heads.order is None else heads.order[channel])
        answers = np.isin(reference, heads.classes[name]) if name is not None else reference == 0
        if heads.order is None:
            top.losses(probs, answers)
        if name is not None and name not in not_annotated:
            for kind, mask in masks.items():
                case[kind][name] = _binary(probs, answers, mask)
    top.check(segmentation, heads, probabilities_file.name)
    if heads.order is None and not not_annotated:
        for kind, mask in masks.items():
            case[kind][""] = top.sums(reference, mask)
    return case


class _Largest:
    """What the channels say together, as they come one by one: the largest, their sum, and the loss of the answer."""

    def __init__(self, shape: tuple[int, ...]):
        self.probs, self.total, self.brier, self.answer = (np.zeros(shape, np.float32) for _ in range(4))
        self.labels = np.zeros(shape, np.uint16)

    def add(self, channel: int, probs: np.ndarray, writes: int | None) -> None:
        """Takes a channel; `writes` is the label that a region writes where it is above 0.5."""
        self.total += probs
        larger = probs > (self.probs if writes is None else 0.5)  # of two equal ones nnU-Net takes the first
        self.labels[larger] = channel if writes is None else writes
        np.maximum(self.probs, probs, out=self.probs)

    def losses(self, probs: np.ndarray, answers: np.ndarray) -> None:
        """Adds a channel's share of the Brier score, and keeps the probability of the reference's class."""
        self.brier += (probs - answers) ** 2
        np.copyto(self.answer, probs, where=answers)

    def check(self, segmentation: np.ndarray, heads: Heads, name: str) -> None:
        """Raises InputError where these are no probabilities of exclusive classes, or not those of a segmentation."""
        if heads.order is None and (off := float(np.abs(self.total - 1).max())) > SUM_TOLERANCE:
            raise InputError(f"{name}: the probabilities of a voxel miss 1 by up to {off:.2g}; {HOW}")
        foreground = segmentation > 0  # postprocessing may have taken some of it away, and adds none
        other = int((self.labels != segmentation)[foreground].sum())
        if other > MISMATCH * (size := int(foreground.sum())):
            raise InputError(
                f"{name}: in {other} of the {size} foreground voxels of the segmentation beside it, its probabilities "
                f"say another class: the two are not of one prediction; {HOW}"
            )

    def sums(self, reference: np.ndarray, mask: np.ndarray) -> Sums:
        """Of the largest probability and whether its class is right, with the losses over all classes."""
        sums = Sums()
        for part in _parts(mask):
            kept = mask.reshape(-1)[part]
            arrays = (self.probs, self.labels == reference, self.brier, self.answer)
            probs, right, brier, answer = (each.reshape(-1)[part][kept] for each in arrays)
            sums.add(probs, right)
            sums.losses += brier.sum(dtype=np.float64), -np.log(np.maximum(answer, SMALLEST)).sum(dtype=np.float64)
        return sums


def _box_of(mask: np.ndarray) -> np.ndarray:
    """The voxels of the smallest box around a mask, as a mask."""
    box = np.zeros_like(mask)
    if mask.any():
        box[bounding_box(mask)] = True
    return box


def _binary(probs: np.ndarray, answers: np.ndarray, mask: np.ndarray) -> Sums:
    sums = Sums()
    for part in _parts(mask):
        kept = mask.reshape(-1)[part]
        sums.add_binary(probs.reshape(-1)[part][kept].astype(np.float64), answers.reshape(-1)[part][kept])
    return sums


def _parts(array: np.ndarray) -> Iterator[slice]:
    """Pieces of the flat array, of which several copies fit into memory."""
    return (slice(start, start + CHUNK) for start in range(0, array.size, CHUNK))


def summary(cases: Mapping[str, Case], classes: Sequence[str], regions: bool) -> dict[str, Any]:
    """What `calibrate_folders` returns, from the sums of each case."""
    result: dict[str, Any] = {"bins": BINS, "regions": regions}
    for kind in SETS:
        total = {name: Sums() for name in (*classes, "")}
        for case in cases.values():
            for name, sums in case[kind].items():
                total[name] += sums
        result[kind] = {
            "voxels": max(each.voxels for each in total.values()),
            **_over_classes(total, classes, regions),
            "diagram": None if regions else total[""].diagram(),
            "per_class": {name: total[name].figures() | {"diagram": total[name].diagram()} for name in classes},
            "per_case": {name: _over_classes(case[kind], classes, regions) for name, case in cases.items()},
        }
    return result


def _over_classes(sums: Mapping[str, Sums], classes: Sequence[str], regions: bool) -> dict[str, float | None]:
    of_classes = [sums[name].figures() for name in classes if name in sums]
    means = {figure: _mean([each[figure] for each in of_classes]) for figure in FIGURES}
    over = means if regions else sums[""].figures() if "" in sums else dict.fromkeys(FIGURES)
    return {"ece": over["ece"], "class_ece": means["ece"], "brier": over["brier"], "nll": over["nll"]}


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
