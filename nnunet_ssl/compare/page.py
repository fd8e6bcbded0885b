"""`compare.json` and `compare.html`: the comparison for machines and for people."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_ssl.compare import wording
from nnunet_ssl.data.raw import listed
from nnunet_ssl.files import require_new_folder, write_json, write_text
from nnunet_ssl.report.html import data_uri, render
from nnunet_ssl.report.overlays import draw_cases
from nnunet_ssl.report.svg import Drawing, Scale, text_width
from nnunet_ssl.report.wording import probability, signed

JSON_FILE, PAGE = "compare.json", "compare.html"
DISTANCES = ("hd95_mm", "asd_mm")
MOST_NAMED = 40  # cases of the figure; of more, names would be unreadable
LINE, WIDTH = 18, 760


def write_comparison(content: Mapping[str, Any], out: Path, images: Path | None = None) -> Path:
    """Writes both files into a folder, and returns the page.

    Args:
        content: what `compare_folders` returns.
        images: folder of the images, for the pictures.

    Raises:
        InputError: `out` is no place for a folder; an image does not stand where its segmentations do.
    """
    require_new_folder(out, "-o")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        methods = [
            _method(content, name, Path(folder) / f"{i}.png", images) for i, name in enumerate(content["methods"])
        ]
    cases = len(content["cases"])
    page = render(
        "compare.html",
        {
            "baseline": content["baseline"],
            "count": "One case" if cases == 1 else f"{cases} cases",
            "methods": methods,
            "rows": wording.rows(content),
            "structures": wording.structures(content),
            "notes": wording.notes(content),
            "reading": wording.READING,
            "images": images,
        },
    )
    write_json(content, out / JSON_FILE)
    write_text(out / PAGE, page)
    return out / PAGE


def dots_figure(content: Mapping[str, Any], method: str) -> Drawing:
    """The difference of Dice of each case, the largest gain first: blue is a gain, orange a loss."""
    found = content["methods"][method]["dice"]["per_case"]
    cases = sorted(found, key=lambda case: -found[case])
    step = LINE if len(cases) <= MOST_NAMED else max(3.0, LINE * MOST_NAMED / len(cases))
    gutter = 12 + max((text_width(case) for case in cases), default=0.0) if step == LINE else 12
    drawing = Drawing(WIDTH, 34 + step * len(cases), f"Difference of Dice of {method} to the baseline, by case")
    reach = max([0.01, *(abs(value) for value in found.values())]) * 1.15
    x = Scale(-reach, reach, min(gutter, 0.4 * WIDTH), WIDTH - 60)
    bottom = 6 + step * len(cases)
    for tick in x.ticks():
        drawing.line([(x(tick), 4), (x(tick), bottom)], "faint" if tick == 0 else "grid")
        drawing.text(x(tick), bottom + 12, signed(tick, 2), "faint", "middle", 11)
    for number, case in enumerate(cases):
        y, value = 6 + step * (number + 0.5), found[case]
        tone = "better" if value > 0 else "other"
        title = f"{case} {signed(value)}"
        drawing.line([(x(0), y), (x(value), y)], tone, 1.5, opacity=0.6)
        drawing.dot(x(value), y, 4 if step == LINE else 2, tone, title=title)
        if step == LINE:
            drawing.text(x.start - 8, y, case, anchor="end")
            drawing.text(WIDTH - 50, y, signed(value), "faint")
    return drawing


def _method(content: Mapping[str, Any], name: str, picture: Path, images: Path | None) -> dict[str, Any]:
    """What the template needs of a method."""
    folders, baseline = content["folders"], content["baseline"]
    shown = {column: content["measured"][column]["metrics"]["dice"]["per_case"] for column in (baseline, name)}
    places = {column: Path(folders[column]) for column in shown}
    drawn = draw_cases(picture, Path(content["dataset_json"]), Path(content["reference"]), places, shown, images)
    return {
        "name": name,
        "conclusion": wording.conclusion(content, name),
        "cases": {
            what: {"count": len(cases), "shown": listed(cases, MOST_NAMED, ", ")}
            for what, cases in wording.cases_of(content, name).items()
        },
        "dots": dots_figure(content, name).svg(),
        "distances": _distances(content, name, content["classes"]),
        "picture": data_uri(picture.read_bytes()) if drawn else None,
    }


def _distances(content: Mapping[str, Any], method: str, classes: Sequence[str]) -> list[dict[str, str]]:
    rows = []
    for name in [*classes, *([wording.MEAN] if len(classes) > 1 else [])]:
        row = {"class": name}
        for metric in DISTANCES:
            found = content["methods"][method][metric]
            found = found if name == wording.MEAN else found["per_class"][name]
            row |= {metric: wording.with_interval(metric, found), f"{metric}_p": probability(found["p"])}
        rows.append(row)
    return rows
