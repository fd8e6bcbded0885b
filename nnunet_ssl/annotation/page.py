"""The page of a suggestion, one file: for each case three planes, its scores, and what to correct."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from nnunet_ssl.annotation.model import Model
from nnunet_ssl.annotation.planes import Plane
from nnunet_ssl.annotation.pool import read_planes
from nnunet_ssl.annotation.scores import SURE, CaseScores
from nnunet_ssl.annotation.strategies import Choice
from nnunet_ssl.data.raw import dataset_number
from nnunet_ssl.files import write_text
from nnunet_ssl.pictures import COLORS, fill, outline, png_of
from nnunet_ssl.report.html import data_uri, render

PAGE = "index.html"
PANEL = 3.2  # inches
DPI = 110
UNSURE = LinearSegmentedColormap.from_list("unsure", [(1, 0.85, 0.1, 0), (1, 0.75, 0.1, 0.75), (0.9, 0.1, 0.1, 0.95)])
IDEAS = {
    "boostmis": "the two selectors of BoostMIS in turns: where a small push at the head changes the prediction most, "
    "and where the model is most uncertain, each class in its turn",
    "entropy": "where the model is most uncertain and other scans are alike, each class in its turn",
    "mutual-information": "where several passes of the model disagree most",
    "diversity": "each time the scan that is least like all that are labeled or chosen",
    "random": "drawn by chance, the control that every other strategy must beat",
}
SCORES = {
    "instability": ("instability", "change of the prediction by a small push at the head, where it is unsure; nats"),
    "entropy": ("entropy", "of the unsure voxels, mean over the classes found; nats"),
    "density": ("density", "likeness to the other unlabeled scans, 0 to 1"),
    "mutual_information": ("mutual information", "how much several passes disagree; nats"),
    "distance": ("distance", "of the bottleneck's features to those of the nearest labeled case"),
    "random": ("random", "drawn by chance"),
}


def write_page(out: Path, model: Model, strategy: str, choices: Sequence[Choice], pool: Sequence[CaseScores]) -> None:
    """Writes `index.html` of the chosen cases.

    Args:
        pool: all scored cases, for their medians.

    Raises:
        InputError: the planes of a case are damaged, or the page cannot be written.
    """
    ending = model.predictor.dataset_json["file_ending"]
    labels = labels_of(model.predictor.dataset_json)
    colors = {name: COLORS[number % len(COLORS)] for number, name in enumerate(labels)}
    cases = []
    for rank, choice in enumerate(choices, 1):
        planes, place = read_planes(out / "scored" / "cases" / f"{choice.scores.case}.npz")
        cases.append(
            {
                "rank": rank,
                "case": choice.scores.case,
                "reason": choice.reason,
                "draft": f"drafts/{choice.scores.case}{ending}",
                "place": place,
                "planes": [{"name": plane.name, "image": picture(plane, labels, colors)} for plane in planes],
                "classes": what_to_correct(choice.scores, colors),
                "scores": scores_in_words(choice.scores, pool),
            }
        )
    content = {
        "dataset": model.base.name,
        "number": dataset_number(model.base.name),
        "model": f"{model.mark['trainer']}, {model.mark['plans']}, {model.configuration}, "
        f"fold{'s' if len(model.folds) > 1 else ''} {', '.join(model.folds)}",
        "strategy": strategy,
        "idea": IDEAS[strategy],
        "pool": len(pool),
        "cases": cases,
        "colors": colors,
        "sure": f"{SURE:.0%}".replace("%", " %"),
    }
    write_text(out / PAGE, render("page.html", content, Path(__file__).parent))


def labels_of(dataset_json: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The foreground's classes or regions, and the labels of each."""
    values = {name: np.atleast_1d(value) for name, value in dataset_json["labels"].items() if name != "ignore"}
    return {name: tuple(map(int, value)) for name, value in values.items() if value.any()}


def what_to_correct(scores: CaseScores, colors: dict[str, str]) -> list[dict[str, str]]:
    """The classes, the most uncertain first, each with a sentence."""
    ordered = sorted(scores.by_class.items(), key=lambda item: (-item[1].unsure * item[1].entropy, item[0]))
    found = []
    for name, each in ordered:
        if not each.voxels:
            words = "not found: look whether it is missing"
        elif not each.unsure:
            words = "the model is sure of all of it: look at its border"
        else:
            words = f"uncertain in {each.unsure:.0%} of its voxels".replace("%", " %")
        found.append({"name": name, "color": colors.get(name, "#777"), "words": words})
    return found


def scores_in_words(scores: CaseScores, pool: Sequence[CaseScores]) -> list[dict[str, str]]:
    """Each score that there is, with the median and the place in the pool."""
    rows = []
    for key, (name, meaning) in SCORES.items():
        value = getattr(scores, key)
        if value is None:
            continue
        others = [getattr(other, key) for other in pool]
        place = 1 + sum(other > value for other in others)
        median = float(np.median(others))
        rows.append(
            {"name": name, "meaning": meaning, "value": f"{value:.4g}", "median": f"{median:.4g}", "place": f"{place}"}
        )
    return rows


def picture(plane: Plane, labels: dict[str, tuple[int, ...]], colors: dict[str, str]) -> str:
    """The prediction and the uncertainty side by side, as a data URI."""
    rows, columns = plane.image.shape
    ratio = rows * plane.size[0] / (columns * plane.size[1])
    width, height = (PANEL, PANEL * ratio) if ratio <= 1 else (PANEL / ratio, PANEL)
    figure = Figure(figsize=(2 * width + 0.06, height), dpi=DPI, facecolor="#ffffff")
    FigureCanvasAgg(figure)
    share = width / (2 * width + 0.06)
    for left in (0, 1 - share):
        axes = figure.add_axes((left, 0, share, 1))
        axes.set_axis_off()
        axes.imshow(plane.image, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="bilinear")
        if left:
            axes.imshow(plane.uncertainty, cmap=UNSURE, vmin=0, vmax=255, aspect="auto", interpolation="nearest")
            continue
        for name, values in labels.items():
            mask = np.isin(plane.segmentation, values)
            fill(axes, mask, colors[name], 0.3, aspect="auto")
            outline(axes, mask, colors[name], 1.4)
    return data_uri(png_of(figure))
