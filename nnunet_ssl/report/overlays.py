"""Pictures of test cases: image, reference, baseline and method, of the best, the median and the worst case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_ssl.data.raw import read_dataset_json
from nnunet_ssl.data.reading import read_file, reader_of
from nnunet_ssl.data.space import VoxelGrid, align, grid_of
from nnunet_ssl.demo.picture import Row, comparison_picture
from nnunet_ssl.files import read_json
from nnunet_ssl.report.comparison import Comparison
from nnunet_ssl.report.differences import case_means
from nnunet_ssl.report.records import Record
from nnunet_ssl.results.evaluation import read_labels


@dataclass(frozen=True)
class Overlay:
    """What to draw of a table: one seed of the best method and of the baseline, and where their files lie."""

    baseline: Record
    method: Record
    label: str  # of the method
    raw: Path
    predictions: tuple[Path, Path]


def find_overlay(comparison: Comparison, works: Sequence[Path]) -> Overlay | None:
    """The lowest seed of a table's best method that has, as the baseline has, predictions in one of the work folders.

    Predictions whose own figures differ from the record's are of another run and are not taken.
    """
    if not comparison.methods or not comparison.lower:
        return None
    best = comparison.methods[0]
    for work in works:
        folder = work / best.first.suite
        raws = sorted((folder / "nnUNet_raw").glob("Dataset*/dataset.json"))
        baselines = [(r, found) for r in comparison.lower.records if (found := _predictions(folder, r))]
        methods = [(r, found) for r in best.records if (found := _predictions(folder, r))]
        if raws and baselines and methods:
            (baseline, of_baseline), (method, of_method) = baselines[0], methods[0]
            return Overlay(baseline, method, best.label, raws[0].parent, (of_baseline, of_method))
    return None


def draw_overlay(overlay: Overlay, path: Path) -> None:
    """Writes the picture of an overlay's cases."""
    columns = {"baseline": overlay.baseline, overlay.label: overlay.method}
    per_case = {name: record.metrics["dice"]["per_case"] for name, record in columns.items()}
    predictions = dict(zip(columns, overlay.predictions, strict=True))
    raw = overlay.raw
    draw_cases(path, raw / "dataset.json", raw / "labelsTs", predictions, per_case, raw / "imagesTs")


def chosen_cases(per_case: dict[str, dict[str, float | None]]) -> dict[str, str]:
    """The best, the median and the worst case by mean Dice, as what and which; fewer where there are fewer."""
    dice = {case: mean for case, mean in case_means(per_case).items() if mean is not None}
    if not dice:
        return {}
    ordered = sorted(dice, key=dice.get)
    named = {"best": ordered[-1], "median": ordered[len(ordered) // 2], "worst": ordered[0]}
    return {what: case for i, (what, case) in enumerate(named.items()) if case not in list(named.values())[:i]}


def draw_cases(
    path: Path,
    dataset_json: Path,
    reference: Path,
    predictions: dict[str, Path],
    per_case: dict[str, dict[str, dict[str, float | None]]],
    images: Path | None = None,
) -> bool:
    """Writes the picture of the cases that are best, median and worst in the last of `predictions`.

    Returns whether there is such a case: one with a class to measure. Of every case it shows the slice with most of the
    reference's classes, then with most foreground.

    Args:
        predictions: folder by the name of the column.
        per_case: of the same columns, Dice by case and class.
        images: folder of the images, of which the first channel is shown; without it there are labels alone.
    """
    dataset = read_dataset_json(dataset_json)
    classes, _ = read_labels(dataset, dataset_json)
    ending = dataset["file_ending"]
    rows = []
    for what, case in chosen_cases(per_case[list(predictions)[-1]]).items():
        file = images / f"{case}_0000{ending}" if images else reference / f"{case}{ending}"
        reader = reader_of(dataset, [file])
        image, grid = _read(file, reader)
        truth, *predicted = [
            _read_onto(grid, folder / f"{case}{ending}", reader) for folder in (reference, *predictions.values())
        ]
        z = max(range(len(truth)), key=lambda i: (len(np.unique(truth[i])), np.count_nonzero(truth[i])))
        rows.append(
            Row(
                f"{what}\n{case}",
                image[z] if images else None,
                truth[z],
                dict(zip(predictions, [prediction[z] for prediction in predicted], strict=True)),
                {name: per_case[name][case] for name in predictions},
            )
        )
    if rows:
        comparison_picture(path, rows, classes)
    return bool(rows)


def _predictions(folder: Path, record: Record) -> Path | None:
    """The predictions of a record in the folder of its suite, None if they are not there or have other figures."""
    predictions = folder / "predictions" / record.file.stem.removeprefix(f"{record.suite}_")
    metrics = predictions / "metrics.json"
    if not metrics.is_file():
        return None
    measured = read_json(metrics, "evaluate its folder again")["metrics"]["dice"]["per_case"]
    return predictions if measured == record.metrics["dice"]["per_case"] else None


def _read(file: Path, reader: type[BaseReaderWriter]) -> tuple[np.ndarray, VoxelGrid]:
    """Voxels `(slices, rows, columns)` of the first channel and where they stand; a 2D image is one slice."""
    array, properties = read_file(reader, file, str(file))
    return array[0], grid_of(array.shape[1:], properties)


def _read_onto(grid: VoxelGrid, file: Path, reader: type[BaseReaderWriter]) -> np.ndarray:
    return align(*_read(file, reader), grid, str(file), "its image")[0]
