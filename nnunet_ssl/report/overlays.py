"""Pictures of test cases from the work folder of the accuracy benchmark: image, reference, baseline, best method."""

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

    @property
    def cases(self) -> dict[str, str]:
        """The worst, the median and the best case of the method, as what and which; fewer where there are fewer."""
        dice = {
            case: np.mean([value for value in values.values() if value is not None])
            for case, values in self.method.metrics["dice"]["per_case"].items()
            if any(value is not None for value in values.values())
        }
        ordered = sorted(dice, key=dice.get)
        named = {"best": ordered[-1], "median": ordered[len(ordered) // 2], "worst": ordered[0]}
        return {what: case for i, (what, case) in enumerate(named.items()) if case not in list(named.values())[:i]}


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
    """Writes the picture: of every case the slice with most of the reference's classes, then with most foreground."""
    file = overlay.raw / "dataset.json"
    dataset = read_dataset_json(file)
    classes, _ = read_labels(dataset, file)
    ending = dataset["file_ending"]
    columns = {"baseline": overlay.baseline, overlay.label: overlay.method}
    rows = []
    for what, case in overlay.cases.items():
        file = overlay.raw / "imagesTs" / f"{case}_0000{ending}"
        reader = reader_of(dataset, [file])
        image, grid = _read(file, reader)
        segmentations = [overlay.raw / "labelsTs", *overlay.predictions]
        reference, *predictions = [_read_onto(grid, folder / f"{case}{ending}", reader) for folder in segmentations]
        z = max(range(len(reference)), key=lambda i: (len(np.unique(reference[i])), np.count_nonzero(reference[i])))
        rows.append(
            Row(
                f"{what}\n{case}",
                image[z],
                reference[z],
                dict(zip(columns, [prediction[z] for prediction in predictions], strict=True)),
                {name: record.metrics["dice"]["per_case"][case] for name, record in columns.items()},
            )
        )
    comparison_picture(path, rows, classes)


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
