"""The report's folder: one self-contained HTML page, and its figures as SVG files and pictures as PNG files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from tqdm import tqdm

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import require_new_folder
from nnunet_ssl.listing import Listed, read_listing
from nnunet_ssl.report import matrix, wording
from nnunet_ssl.report.comparison import Comparison, Section, make_sections
from nnunet_ssl.report.figures import class_panels, curve_panels, gap_figure, label_panels
from nnunet_ssl.report.html import data_uri, render
from nnunet_ssl.report.records import SUPERVISED, read_sources
from nnunet_ssl.report.significance import LEVEL
from nnunet_ssl.report.svg import Drawing, as_grid

PAGE = "index.html"
GENERATOR = "nnunet_ssl report"
FIGURES = (".svg", ".png")
COLUMNS = 4  # of panels in a file
DELAY = 1.0  # seconds after which a progress bar shows
NO_OVERLAY = (
    "To see the best, median and worst case: nnunet_ssl compare with folders of predictions, or --overlays with the "
    "work folder of benchmarks/accuracy.py."
)
NOT_FOUND = "The folders of --overlays have no predictions of the baseline and of the best method with these figures."


def write_report(folders: Sequence[Path], out: Path, works: Sequence[Path] = (), baseline: str = SUPERVISED) -> Path:
    """Writes the report on the accuracy records in some folders, and returns its page.

    Args:
        folders: of accuracy records, or `nnUNet_results` of `nnunet_ssl run`.
        out: new folder, or that of an earlier report, which is replaced once the new one is whole.
        works: work folders of the accuracy benchmark, for the pictures of test cases.
        baseline: the method that the others are compared with.

    Raises:
        InputError: `out` holds other files than a report's, no or faulty records, none of the baseline, records that
            cannot be compared.
    """
    out = out.resolve()
    _check_replaceable(out)
    if missing := [work for work in works if not work.is_dir()]:
        raise InputError(f"--overlays {missing[0]}: not a folder.")
    records, left_out = read_sources(folders)
    sections = make_sections(records, baseline)
    methods = {trainer.name: method for method in read_listing() for trainer in method.trainers}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        shown = tqdm(sections, desc="sections", unit="section", delay=DELAY, disable=None)
        content = {
            "generator": GENERATOR,
            "count": len(records),
            "left_out": left_out,
            "level": LEVEL,
            "matrix": matrix.make_matrix(sections, methods),
            "sections": [_section(section, partial, works, methods) for section in shown],
            "methods": _methods(sections, methods),
        }
        partial.mkdir(exist_ok=True)
        (partial / PAGE).write_text(render("page.html", content), encoding="utf-8")
        _replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out / PAGE


def _section(section: Section, folder: Path, works: Sequence[Path], methods: dict[str, Listed]) -> dict[str, Any]:
    """What the template needs of a section; its figures are written."""
    return {
        "title": section.title,
        "slug": section.slug,
        "definition": wording.definition(section),
        "labels": _panels(label_panels(section), folder / section.slug / "labels.svg", "Dice by number of labels"),
        "tables": [_table(section, comparison, folder, works, methods) for comparison in section.comparisons],
    }


def _table(
    section: Section, comparison: Comparison, folder: Path, works: Sequence[Path], methods: dict[str, Listed]
) -> dict[str, Any]:
    """What the template needs of a table; its figures are written."""
    slug = matrix.table_slug(section, comparison)
    figure = gap_figure(comparison)
    content = {
        "title": wording.title(section, comparison),
        "slug": slug,
        "conclusion": wording.conclusion(comparison),
        "rows": wording.rows(comparison, {name: method.facts.paper for name, method in methods.items()}),
        "notes": wording.notes(comparison),
        "runs": wording.runs(comparison),
        "versions": wording.versions(comparison),
        "no_overlay": NOT_FOUND if works else NO_OVERLAY,
        "overlay": None,
        "gap": figure and _saved(figure, folder / slug / "gap.svg"),
        "classes": _panels(class_panels(comparison), folder / slug / "classes.svg", "Dice by class"),
        "curves": _panels(curve_panels(comparison), folder / slug / "curves.svg", "Pseudo Dice over the training"),
    }
    if works:
        from nnunet_ssl.report.overlays import draw_overlay, find_overlay  # with nnU-Net's readers

        if overlay := find_overlay(comparison, works):
            file = folder / slug / "overlays.png"
            draw_overlay(overlay, file)
            content["overlay"] = {"image": data_uri(file.read_bytes()), "caption": wording.overlay_caption(overlay)}
    return content


def _methods(sections: Sequence[Section], methods: dict[str, Listed]) -> list[dict[str, str]]:
    """What the methods shown are, by name."""
    shown = {group.first.method for section in sections for c in section.comparisons for group in c.methods}
    known = {methods[name].name: methods[name] for name in shown if name in methods}
    return [
        {"name": method.name, "idea": method.idea.replace("`", ""), "citation": method.facts.citation}
        for method in sorted(known.values(), key=lambda method: method.name.lower())
    ]


def _saved(figure: Drawing, file: Path) -> Markup:
    """Writes a figure as a file, and returns it for the page."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(figure.svg(alone=True), encoding="utf-8")
    return figure.svg()


def _panels(panels: Sequence[Drawing], file: Path, title: str) -> list[Markup]:
    """Writes panels as one file, and returns them for the page, each by itself."""
    if panels:
        _saved(as_grid(panels, COLUMNS, title), file)
    return [panel.svg() for panel in panels]


def _check_replaceable(out: Path) -> None:
    """Raises InputError if `out` is a file or holds anything that no report has."""
    require_new_folder(out, "-o")
    present = [file for file in out.rglob("*") if not file.is_dir()] if out.is_dir() else []
    if not present:
        return
    page = out / PAGE
    ours = page.is_file() and f'content="{GENERATOR}"' in page.read_text(encoding="utf-8", errors="replace")
    if other := [file for file in present if not ours or (file.suffix not in FIGURES and file != page)]:
        raise InputError(f"{out} holds {other[0].relative_to(out)}, not a report's: name another folder with -o.")


def _replace(new: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old, ignore_errors=True)
