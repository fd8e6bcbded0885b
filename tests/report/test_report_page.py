"""The page and its figures: what they show, what they refuse, and that they need nothing from elsewhere."""

import html
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from accuracy_records import CASES, content, write
from matplotlib.image import imread

from nnunet_ssl.errors import InputError
from nnunet_ssl.report.comparison import make_sections
from nnunet_ssl.report.figures import NARROWEST, class_figure, curve_figure, gap_figure, label_figure, pseudo_dice
from nnunet_ssl.report.page import GENERATOR, write_report
from nnunet_ssl.report.records import read_records

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
    cps = text_of(re.search(r"<tr>\s*<td>CPS.*?</tr>", table, re.DOTALL)[0])
    for figure in ("0.655", "± 0.007", "+0.050", "25%", "2.5 min", "×2.5"):
        assert figure in cps
    assert "n = 6 test cases; Holm's correction for 3 methods" in text
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
    assert {target[:22] for target in targets if not target.startswith("#")} == {"data:image/png;base64,"}
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert all(f'id="{target[1:]}"' in page for target in targets if target.startswith("#"))
    pictures = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.png")}
    assert pictures == {f"tiny_10_{n}/{name}.png" for n in (4, 10) for name in ("gap", "curves")} | {
        "tiny_10/labels.png"
    }
    assert page.count("data:image/png") == len(pictures)


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
    monkeypatch.setattr("nnunet_ssl.report.page._render", lambda content: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page_of(tmp_path, everything())
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_the_gap_figure_shows_each_seed_and_both_bounds(tmp_path):
    figure = gap_figure(section_of(tmp_path, everything()).comparisons[0])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["CPS", "DHC", "UAMT"]
    drawn = {round(float(x), 3) for line in axes.lines for x in line.get_xdata()}
    assert {0.65, 0.66, 0.655, 0.61, 0.58, 0.59, 0.605, 0.805} <= drawn
    low, high = axes.get_xlim()
    assert low < 0.58 and high > 0.81
    near = section_of(tmp_path / "near", [content(), content("CPS", dice=0.601)])
    low, high = gap_figure(near.comparisons[0]).axes[0].get_xlim()
    assert high - low == pytest.approx(NARROWEST)


def test_figures_that_need_more_are_left_out(tmp_path):
    [table] = section_of(tmp_path / "a", [content(), content("CPS")]).comparisons
    assert class_figure(table) is None
    assert label_figure(section_of(tmp_path / "a", [])) is None
    assert gap_figure(section_of(tmp_path / "b", [content()]).comparisons[0]) is None
    bare = section_of(tmp_path / "c", [content(learning_curve={}), content("CPS", learning_curve={})])
    assert curve_figure(bare.comparisons[0]) is None


def test_classes_and_curves(tmp_path):
    per_case = {case: {"liver": 0.9, "gland": 0.1} for case in CASES}
    curve = {"pseudo_dice": [[0.2, 0.4], [None, 0.5], [None, None]]}
    records = [content(m, per_case=per_case, learning_curve=curve) for m in ("supervised", "CPS")]
    [table] = section_of(tmp_path, records).comparisons
    bars = {axes.get_title("left"): [bar.get_width() for bar in axes.patches] for axes in class_figure(table).axes}
    assert bars == {"liver": pytest.approx([0.9, 0.9]), "gland": pytest.approx([0.1, 0.1])}
    assert pseudo_dice(table.lower.first) == pytest.approx([0.3, 0.5, np.nan], nan_ok=True)
    line = curve_figure(table).axes[0].lines[-1]
    assert line.get_xdata() == pytest.approx([10 / 3, 20 / 3, 10])


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
    assert "with --overlays" in page_of(tmp_path, records)
    with pytest.raises(InputError, match="--overlays .*absent: not a folder"):
        page_of(tmp_path, records, works=[tmp_path / "absent"])
