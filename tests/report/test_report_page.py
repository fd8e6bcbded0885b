"""The page and its figures: what they show, what they refuse, and that they need nothing from elsewhere."""

import html
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
from accuracy_records import CASES, content, write
from matplotlib.image import imread

from nnunet_ssl.errors import InputError
from nnunet_ssl.report.comparison import make_sections
from nnunet_ssl.report.figures import NARROWEST, class_panels, curve_panels, gap_figure, label_panels, pseudo_dice
from nnunet_ssl.report.page import GENERATOR, write_report
from nnunet_ssl.report.records import read_records
from nnunet_ssl.report.wording import title

SEEDS = (0, 1)


def everything(**changes) -> list[dict]:
    """Both bounds, a method that is better, one that is not and one with one seed; UAMT also with more labels."""
    dice = {("supervised", 4): 0.6, ("supervised", 10): 0.7, ("supervised", "all"): 0.8}
    dice |= {("CPS", 4): 0.65, ("UAMT", 4): 0.58, ("UAMT", 10): 0.71}
    records = [content(*row, seed, value + 0.01 * seed, **changes) for row, value in dice.items() for seed in SEEDS]
    return [*records, content("DHC", 4, 0, 0.61, **changes)]


def page_of(tmp_path, records, **options) -> str:
    return write_report([write(tmp_path / "records", *records)], tmp_path / "out", **options).read_text("utf-8")


def text_of(page: str) -> str:
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))


def section_of(tmp_path, records):
    [section] = make_sections(read_records([write(tmp_path / "records", *records)]))
    return section


def test_the_page_has_every_method_between_both_bounds(tmp_path):
    page = page_of(tmp_path, everything())
    table = page[page.index('<h3 id="tiny_10_4"') :]
    first = re.findall(r"<tr[^>]*>\s*<td>([^<]*)", table)[:5]
    assert first == ["baseline, 4 labeled", "CPS", "DHC", "UAMT", "baseline, all labeled"]
    text = text_of(page)
    assert "4 of 20 labeled" in text and "Chen et al., CVPR 2021" in text
    cps = text_of(re.search(r"<tr id[^>]*>\s*<td>CPS.*?</tr>", table, re.DOTALL)[0])
    for figure in ("0.655", "± 0.007", "+0.050", "25%", "2.5 min", "×2.5"):
        assert figure in cps
    assert "n = 6 cases; Holm's correction for 2 methods" in text
    assert "higher, but one seed: no claim" in text


@pytest.mark.parametrize(("after", "told"), [(0.70, True), (0.74, False), (None, False)])
def test_a_gain_that_postprocessing_gives_the_baseline_too_is_told(tmp_path, after, told):
    rows = {("supervised", 4): (0.6, 0.71), ("supervised", "all"): (0.8, 0.82), ("CPS", 4): (0.65, after)}
    records = [content(*row, seed, dice, postprocessed=value) for row, (dice, value) in rows.items() for seed in SEEDS]
    text = text_of(page_of(tmp_path, records))
    assert "Better than the baseline: CPS +0.050." in text and "0.710" in text
    assert ("The largest component alone gives the baseline as much: CPS." in text) == told


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    page = page_of(tmp_path, everything())
    targets = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert all(target.startswith("#") for target in targets)
    assert not re.search("@import|url\\(|fetch\\(|<link|<script[^>]", page)
    assert all(f'id="{target[1:]}"' in page for target in targets)
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.svg")}
    assert files == {f"tiny_10_{n}/{name}.svg" for n in (4, 10) for name in ("gap", "curves")} | {"tiny_10/labels.svg"}


def test_a_figure_is_a_file_by_itself_too(tmp_path):
    page_of(tmp_path, everything())
    for file in (tmp_path / "out").rglob("*.svg"):
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and ".c-better{color" in root[0].text


def test_the_matrix_has_each_method_and_table_and_leads_to_the_rows(tmp_path):
    page = page_of(tmp_path, everything())
    matrix = page[page.index('id="grid"') : page.index("<script>")]
    lines = [text_of(line) for line in re.findall(r"<tr.*?</tr>", matrix, re.DOTALL)]
    assert "4 of 20 labeled" in lines[0] and "10 of 20 labeled" in lines[0]
    assert lines[1] == "baseline, Dice 0.605 0.705"
    assert lines[2].split()[0] == "UAMT" and lines[2].endswith("−0.020 0.585 +0.010 0.715")  # in both tables
    assert re.findall(r'data-kind="([^"]+)" data-value="([^"]+)"', matrix) == [
        ("no better", "-0.02000"), ("better", "0.01000"), ("no better", "0.05000"), ("one seed", "0.01000"),
    ]  # fmt: skip
    rows = re.findall(r'<a href="#(tiny_10_4--\d)"', matrix)
    assert len(rows) == 3 and all(f'<tr id="{row}">' in page for row in rows)


def test_one_seed_has_neither_p_nor_interval(tmp_path):
    page = page_of(tmp_path, everything())
    row = text_of(re.search(r"<tr id=\"tiny_10_4--\d\">\s*<td>DHC.*?</tr>", page, re.DOTALL)[0])
    assert "+0.010 5% –" in row and "[" not in row
    row = text_of(re.search(r"<tr id=\"tiny_10_4--\d\">\s*<td>CPS.*?</tr>", page, re.DOTALL)[0])
    assert "+0.050 [+0.050, +0.050] 25% 0.062 0.031" in row


def test_it_says_plainly_what_is_better_and_what_is_not(tmp_path):
    def text_with(method):
        records = [r for r in everything() if r["method"] in ("supervised", method) and r["labeled"] != 10]
        return text_of(page_of(tmp_path / method, records))

    text = text_with("UAMT")
    assert "No method is shown to be better than the baseline. Worse than the baseline: UAMT −0.020." in text
    text = text_with("CPS")
    assert "Better than the baseline: CPS +0.050." in text and "No method is shown" not in text


def test_missing_bounds_are_dashes_and_notes(tmp_path):
    records = [r for r in everything() if r["labeled"] == 4 and r["method"] != "supervised"]
    text = text_of(page_of(tmp_path, records))
    assert "The baseline is missing: nothing can be said about the methods." in text
    assert "The baseline with 4 labels has no record" in text and "The baseline with all labels has no record" in text
    assert "baseline, 4 labeled no record – – –" in text


def test_other_iterations_have_their_own_section(tmp_path):
    page = page_of(tmp_path, [*everything(), *everything(iterations=20)])
    assert re.findall(r"<h2 id=\"(tiny[^\"]*)\"", page) == ["tiny_10", "tiny_20"]


def test_names_are_text_and_not_markup(tmp_path):
    page = page_of(tmp_path, [content(), content("CPS", name="<b>bold<b>")])
    assert "<b>bold" not in page and "&lt;b&gt;bold&lt;b&gt;" in page


def test_a_report_is_replaced_and_nothing_else_is(tmp_path):
    records, out = write(tmp_path / "records", *everything()), tmp_path / "out"
    write_report([records], out)
    (records / "tiny_4_DHC_default_10_seed0.json").unlink()
    page = write_report([records], out)
    assert "DHC" not in text_of(page.read_text(encoding="utf-8")) and GENERATOR in page.read_text(encoding="utf-8")
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds notes\.txt, not a report's"):
        write_report([records], out)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("<html></html>", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds index\.html"):
        write_report([records], mine)
    with pytest.raises(InputError, match="is a file"):
        write_report([records], mine / "index.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out", "records"]


def test_nothing_is_left_of_a_report_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_ssl.report.page.render", lambda *content: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page_of(tmp_path, everything())
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def titles(drawing) -> list[str]:
    return [element.text for element in ElementTree.fromstring(drawing.svg()).iter() if element.tag.endswith("}title")]


def at(drawing, title) -> float:
    """Where the dot with a title stands."""
    [x] = re.findall(rf'cx="([\d.]+)"[^>]*><title>{re.escape(title)}<', drawing.svg())
    return float(x)


def test_the_gap_figure_shows_each_seed_and_both_bounds(tmp_path):
    figure = gap_figure(section_of(tmp_path, everything()).comparisons[0])
    assert [t for t in titles(figure) if "seed" not in t][1:] == ["CPS: 0.655", "DHC: 0.610", "UAMT: 0.585"]
    assert {"CPS, seed 0: 0.650", "CPS, seed 1: 0.660", "UAMT, seed 1: 0.590"} <= {*titles(figure)}
    low, high = at(figure, "UAMT, seed 0: 0.580"), at(figure, "CPS, seed 1: 0.660")
    assert at(figure, "CPS: 0.655") == pytest.approx(low + (high - low) * 75 / 80, abs=0.2)
    assert "0.605" in figure.svg() and "0.805" in figure.svg()
    near = gap_figure(section_of(tmp_path / "near", [content(), content("CPS", dice=0.601)]).comparisons[0])
    baseline = float(
        re.search(r'points="([\d.]+),[^"]*" fill="none" stroke="currentColor" stroke-width="1.5"/?', near.svg())[1]
    )
    gain = (at(near, "CPS: 0.601") - baseline) / near.width
    assert 0 < gain < 0.001 / NARROWEST  # the axis is no shorter


def test_figures_that_need_more_are_left_out(tmp_path):
    [table] = section_of(tmp_path / "a", [content(), content("CPS")]).comparisons
    assert class_panels(table) == []
    assert label_panels(section_of(tmp_path / "a", [])) == []
    assert gap_figure(section_of(tmp_path / "b", [content()]).comparisons[0]) is None
    bare = section_of(tmp_path / "c", [content(learning_curve={}), content("CPS", learning_curve={})])
    assert curve_panels(bare.comparisons[0]) == []


def test_classes_and_curves(tmp_path):
    per_case = {case: {"liver": 0.9, "gland": 0.1} for case in CASES}
    curve = {"pseudo_dice": [[0.2, 0.4], [None, 0.5], [None, None]]}
    records = [content(m, per_case=per_case, learning_curve=curve) for m in ("supervised", "CPS")]
    [table] = section_of(tmp_path, records).comparisons
    panels = class_panels(table)
    assert [panel.title for panel in panels] == ["Dice of liver", "Dice of gland"]
    assert titles(panels[0])[1:] == ["supervised: 0.900", "CPS: 0.900"]
    widths = [float(re.search(r'width="([\d.]+)" height="14.0"', panel.svg())[1]) for panel in panels]
    assert widths[0] == pytest.approx(9 * widths[1], rel=0.02)
    assert pseudo_dice(table.lower.first) == pytest.approx([0.3, 0.5, math.nan], nan_ok=True)
    [panel] = curve_panels(table)
    assert panel.title == "CPS" and len(re.findall(r'stroke-width="1.8"', panel.svg())) == 2  # and the baseline
    points = re.findall(r'points="([^"]*)"[^>]*stroke-width="1.8"', panel.svg())[-1].split()
    assert len(points) == 2  # the epoch without a value is none


def test_labels_on_a_logarithmic_axis(tmp_path):
    records = [content("CPS", n, 0, d) for n, d in ((4, 0.6), (8, 0.65), (16, 0.7))]
    [panel] = label_panels(section_of(tmp_path, records))
    x = [at(panel, title) for title in ("4: 0.600", "8: 0.650", "16: 0.700")]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2) and x[0] < x[1]


def test_cases_annotated_in_part_have_no_place_among_the_numbers_of_labels(tmp_path):
    partly = [content(method, 0, 0, 0.5) for method in ("supervised", "CPS")]
    in_full = [content("CPS", n, 0, d) for n, d in ((1, 0.6), (5, 0.65))]
    assert label_panels(section_of(tmp_path / "a", [*partly, in_full[0]])) == []
    [panel] = label_panels(section_of(tmp_path / "b", [*partly, *in_full]))
    assert "0: 0.500" not in titles(panel) and at(panel, "1: 0.600") < at(panel, "5: 0.650")
    section = section_of(tmp_path / "c", [*partly, *in_full])
    assert [title(section, comparison) for comparison in section.comparisons][0].startswith("partly labeled")


def work_folder(folder, records):
    """What `benchmarks/accuracy.py` leaves: the raw test cases, and predictions of each record with their figures."""
    suite = folder / "tiny"
    raw = suite / "nnUNet_raw" / "Dataset001_Benchmark"
    square = np.zeros((4, 20, 24), dtype=np.uint8)
    square[1:3, 5:15, 6:18] = 1
    dataset = {"labels": {"background": 0, "heart": 1}, "file_ending": ".nii.gz", "channel_names": {"0": "MR"}}
    files = {raw / "labelsTs" / f"{case}.nii.gz": square for case in CASES}
    files |= {raw / "imagesTs" / f"{case}_0000.nii.gz": square * 9.0 for case in CASES}
    for record in records:
        name = f"{record['labeled']}_{record['method']}_default_10_seed{record['seed']}"
        files |= {suite / "predictions" / name / f"{case}.nii.gz": np.roll(square, 2, 1) for case in CASES}
        (suite / "predictions" / name).mkdir(parents=True)
        (suite / "predictions" / name / "metrics.json").write_text(json.dumps(record), encoding="utf-8")
    for file, array in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    (raw / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    return folder


def test_overlays_of_best_median_and_worst_case(tmp_path):
    records = [content(), content("CPS", dice=0.7), content("UAMT", dice=0.65)]
    work = work_folder(tmp_path / "work", records)
    poison = work / "tiny" / "nnUNet_raw" / "Dataset001_Benchmark" / "labelsTr" / "case.nii.gz"
    poison.parent.mkdir()
    poison.write_bytes(b"no training label is read")
    page = page_of(tmp_path, records, works=[work])
    assert "Best, median and worst test case of CPS by its Dice, seed 0" in text_of(page)
    height, width = imread(tmp_path / "out" / "tiny_10_4" / "overlays.png").shape[:2]
    assert width > 1000 and height > 900  # four panels in each of three rows


def test_overlays_show_what_stands_on_the_image(tmp_path):
    """Predictions stored with other axes give the same picture; those of another place none."""
    records = [content(), content("CPS", dice=0.7)]
    work = work_folder(tmp_path / "work", records)
    page_of(tmp_path, records, works=[work])
    picture = tmp_path / "out" / "tiny_10_4" / "overlays.png"
    before = imread(picture)
    files = sorted(work.glob("tiny/predictions/*/*.nii.gz"))
    for file in files:
        sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(sitk.ReadImage(str(file)), (2, 0, 1)), (True, False, True)), file)
    page_of(tmp_path, records, works=[work])
    assert (imread(picture) == before).all()
    moved = sitk.ReadImage(str(files[0]))
    moved.SetOrigin((5, 5, 5))
    for file in files:
        sitk.WriteImage(moved, file)
    with pytest.raises(InputError, match=r"nii.gz stands up to .* voxels \(.* mm\) from its image"):
        page_of(tmp_path, records, works=[work])


def test_overlays_are_not_of_another_run(tmp_path):
    records = [content(), content("CPS", dice=0.7)]
    work = work_folder(tmp_path / "work", [records[0], content("CPS", dice=0.69)])
    page = page_of(tmp_path, records, works=[work])
    assert "have no predictions of the baseline and of the best method" in page
    assert not (tmp_path / "out" / "tiny_10_4" / "overlays.png").exists()
    assert "or --overlays with the work folder" in page_of(tmp_path, records)
    with pytest.raises(InputError, match="--overlays .*absent: not a folder"):
        page_of(tmp_path, records, works=[tmp_path / "absent"])
