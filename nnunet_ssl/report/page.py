"""The report's folder: one self-contained HTML page and its figures as PNG files."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from nnunet_ssl.catalog import Entry, read_catalog
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import require_new_folder
from nnunet_ssl.report import wording
from nnunet_ssl.report.comparison import Comparison, Section, make_sections
from nnunet_ssl.report.figures import class_figure, curve_figure, gap_figure, label_figure
from nnunet_ssl.report.overlays import draw_overlay, find_overlay
from nnunet_ssl.report.records import SUPERVISED, read_records
from nnunet_ssl.report.significance import LEVEL

PAGE = "index.html"
GENERATOR = "nnunet_ssl report"
DPI = 150
NO_OVERLAY = "To see the best, median and worst case, name the work folder of benchmarks/accuracy.py with --overlays."
NOT_FOUND = "The folders of --overlays have no predictions of the baseline and of the best method with these figures."


def write_report(folders: Sequence[Path], out: Path, works: Sequence[Path] = (), baseline: str = SUPERVISED) -> Path:
    """Writes the report on the accuracy records in some folders, and returns its page.

    Args:
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
    records = read_records(folders)
    sections = make_sections(records, baseline)
    entries = read_catalog()
    papers = {trainer.name: entry.facts.paper for entry in entries for trainer in entry.trainers}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        content = {
            "generator": GENERATOR,
            "count": len(records),
            "level": LEVEL,
            "sections": [_section(section, partial, works, papers) for section in sections],
            "methods": _methods(sections, entries),
        }
        partial.mkdir(exist_ok=True)
        (partial / PAGE).write_text(_render(content), encoding="utf-8")
        _replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out / PAGE


def _section(section: Section, folder: Path, works: Sequence[Path], papers: dict[str, str]) -> dict[str, Any]:
    """What the template needs of a section; its figures are written."""
    return {
        "title": section.title,
        "slug": section.slug,
        "definition": wording.definition(section),
        "labels": _saved(label_figure(section), folder / section.slug / "labels.png"),
        "tables": [_table(section, comparison, folder, works, papers) for comparison in section.comparisons],
    }


def _table(
    section: Section, comparison: Comparison, folder: Path, works: Sequence[Path], papers: dict[str, str]
) -> dict[str, Any]:
    """What the template needs of a table; its figures are written."""
    same = [other for other in section.comparisons if other.labeled == comparison.labeled]
    number = f"-{same.index(comparison) + 1}" if len(same) > 1 else ""
    slug = f"{section.slug}_{comparison.labeled}{number}"
    content = {
        "title": wording.title(section, comparison),
        "slug": slug,
        "conclusion": wording.conclusion(comparison),
        "rows": wording.rows(comparison, papers),
        "notes": wording.notes(comparison),
        "runs": wording.runs(comparison),
        "versions": wording.versions(comparison),
        "no_overlay": NOT_FOUND if works else NO_OVERLAY,
        "overlay": None,
    }
    figures = {"gap": gap_figure, "classes": class_figure, "curves": curve_figure}
    content |= {name: _saved(draw(comparison), folder / slug / f"{name}.png") for name, draw in figures.items()}
    if overlay := find_overlay(comparison, works):
        file = folder / slug / "overlays.png"
        draw_overlay(overlay, file)
        content["overlay"] = {"image": _data_uri(file), "caption": wording.overlay_caption(overlay)}
    return content


def _methods(sections: Sequence[Section], entries: Sequence[Entry]) -> list[dict[str, str]]:
    """What the catalog tells of the methods shown."""
    shown = {group.first.method for section in sections for c in section.comparisons for group in c.methods}
    return [
        {"name": entry.name, "idea": entry.idea.replace("`", ""), "citation": entry.facts.citation}
        for entry in entries
        if shown & {trainer.name for trainer in entry.trainers}
    ]


def _saved(figure: Figure | None, file: Path) -> str | None:
    """Writes a figure and returns it as a data URI."""
    if figure is None:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI)
    return _data_uri(file)


def _data_uri(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _render(content: dict[str, Any]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("nnunet_ssl.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(content, figure=lambda uri, text: Markup('<img src="{}" alt="{}">').format(uri, text))


def _check_replaceable(out: Path) -> None:
    """Raises InputError if `out` is a file or holds anything that no report has."""
    require_new_folder(out, "-o")
    present = [file for file in out.rglob("*") if not file.is_dir()] if out.is_dir() else []
    if not present:
        return
    page = out / PAGE
    ours = page.is_file() and f'content="{GENERATOR}"' in page.read_text(encoding="utf-8", errors="replace")
    if other := [file for file in present if not ours or (file.suffix != ".png" and file != page)]:
        raise InputError(f"{out} holds {other[0].relative_to(out)}, not a report's: name another folder with -o.")


def _replace(new: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old, ignore_errors=True)
