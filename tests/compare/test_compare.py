"""`nnunet_ssl compare` on hand-made labels with known Dice, through the command line."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from label_files import write, write_dataset_json
from matplotlib.image import imread
from scipy.stats import wilcoxon

from nnunet_ssl.cli import main
from nnunet_ssl.compare.folders import compare_folders

CASES = [f"case{i}" for i in range(6)]


def bar(length, label=1):
    """A bar of 20 voxels in the reference; a prediction of `length` of them has Dice 2 L / (L + 20)."""
    labels = np.zeros((4, 6, 24), np.uint8)
    labels[1, 2, 2 : 2 + length] = label
    return labels


def dice(length):
    return 2 * length / (length + 20)


def both(liver, gland):
    """Label 1 in one slice, 2 in another."""
    return bar(liver) + np.roll(bar(gland, 2), 1, axis=0)


SHORT, LONG = [5, 8, 10, 12, 14, 16], [9, 11, 14, 17, 19, 20]  # liver of the baseline and of the better method


@pytest.fixture
def folders(tmp_path):
    """Six cases with a liver; the last two have no gland, which the baseline finds in one and misses in another."""
    reference = tmp_path / "labelsTs"
    write_dataset_json(tmp_path, {"background": 0, "liver": 1, "gland": 2})
    for i, case in enumerate(CASES):
        gland = 20 if i < 4 else 0
        write(reference, f"{case}.nii.gz", both(20, gland))
        write(tmp_path / "Supervised", f"{case}.nii.gz", both(SHORT[i], {0: 0, 5: 3}.get(i, gland)))
        write(tmp_path / "BCP", f"{case}.nii.gz", both(LONG[i], gland))
        write(tmp_path / "imagesTs", f"{case}_0000.nii.gz", both(20, 20) * 9)
    return tmp_path


def compare(monkeypatch, capsys, *arguments):
    """The exit status and what is printed, of the real command line."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.argv", ["nnunet_ssl", "compare", *map(str, arguments), "-np", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return ended.value.code, told.out + told.err


def content_of(folders, *methods, **options):
    return compare_folders(folders / "labelsTs", folders / "Supervised", [folders / m for m in methods], **options)


def test_the_numbers_are_those_of_the_labels(folders):
    content = content_of(folders, "BCP")
    assert content["baseline"] == "Supervised" and content["cases"] == CASES
    liver = content["methods"]["BCP"]["dice"]["per_class"]["liver"]
    expected = {case: dice(long) - dice(short) for case, short, long in zip(CASES, SHORT, LONG, strict=True)}
    assert liver["per_case"] == pytest.approx(expected)
    assert liver["mean"] == pytest.approx(np.mean([*expected.values()]))
    assert liver["p"] == wilcoxon([*expected.values()], method="exact").pvalue == 2 / 2**6
    low, high = liver["interval"]
    assert min(expected.values()) < low < liver["mean"] < high < max(expected.values())
    whole = content["methods"]["BCP"]["dice"]
    assert whole["per_case"]["case0"] == pytest.approx((dice(9) + 1 - dice(5) - 0) / 2)  # its gland was missed
    assert whole["per_case"]["case1"] == pytest.approx((dice(11) - dice(8)) / 2)  # its gland is right in both
    assert whole["per_case"]["case5"] == pytest.approx(dice(20) - dice(16))  # it has no gland
    assert whole["better"][0] == "case0" and len(whole["better"]) == 6 and whole["worse"] == []
    measured = content["measured"]["Supervised"]
    assert measured["missed"] == {"liver": 0, "gland": 1} and measured["spurious"] == {"liver": [], "gland": ["case5"]}
    assert content["measured"]["BCP"]["spurious"]["gland"] == []


def test_the_command_tells_what_it_means_and_writes_both_files(folders, monkeypatch, capsys):
    out = folders / "out"
    status, text = compare(
        monkeypatch, capsys, folders / "labelsTs", folders / "Supervised", folders / "BCP", "-o", out,
        "--images", folders / "imagesTs",
    )  # fmt: skip
    assert status == 0
    means = [np.mean([dice(length) for length in lengths]) for lengths in (SHORT, LONG)]
    for mean in means:
        assert f"{mean:.3f}" in text
    assert "BCP against Supervised: Dice +0.1" in text and "better in 6 of 6 cases, worse in 0." in text
    assert "BCP is better here: were neither better, about 1 in 32 such test sets would differ as much" in text
    assert "(p = 0.031, exact)" in text
    assert "Supervised misses: gland in 1 case (case0)" in text
    assert "Supervised finds where there is none: gland in 1 case (case5)" in text
    assert "gland is not there in 2 cases, without values for it (case4, case5)." in text
    content = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    assert content["methods"]["BCP"]["dice"]["corrected"] == 2 / 2**6
    page = (out / "compare.html").read_text(encoding="utf-8")
    targets = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert {target[:22] for target in targets if not target.startswith("#")} == {"data:image/png;base64,"}
    assert all(f'id="{target[1:]}"' in page for target in targets if target.startswith("#"))
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert page.count("<circle") == len(CASES) and "BCP is better here" in page
    assert sorted(file.name for file in out.iterdir()) == ["compare.html", "compare.json"]


def test_the_picture_has_a_column_more_with_images(folders, monkeypatch, tmp_path):
    from nnunet_ssl.report.overlays import draw_cases

    content = content_of(folders, "BCP")
    dices = {name: content["measured"][name]["metrics"]["dice"]["per_case"] for name in ("Supervised", "BCP")}
    places = {name: folders / name for name in dices}
    shapes = []
    for images in (folders / "imagesTs", None):
        picture = tmp_path / "picture.png"
        assert draw_cases(picture, folders / "dataset.json", folders / "labelsTs", places, dices, images)
        shapes.append(imread(picture).shape)
    assert shapes[0][0] == shapes[1][0] and shapes[0][1] - shapes[1][1] > 350


def test_two_methods_are_corrected_for_their_number(folders):
    for case in CASES:
        write(
            folders / "CPS",
            f"{case}.nii.gz",
            sitk.GetArrayFromImage(sitk.ReadImage(str(folders / "BCP" / f"{case}.nii.gz"))),
        )
    content = content_of(folders, "BCP", "CPS")
    assert [content["methods"][name]["dice"]["corrected"] for name in ("BCP", "CPS")] == [4 / 2**6, 4 / 2**6]


def test_equal_and_too_few(folders, monkeypatch, capsys):
    for case in CASES:
        write(
            folders / "Same",
            f"{case}.nii.gz",
            sitk.GetArrayFromImage(sitk.ReadImage(str(folders / "Supervised" / f"{case}.nii.gz"))),
        )
    arguments = (folders / "labelsTs", folders / "Supervised")
    _, text = compare(monkeypatch, capsys, *arguments, folders / "Same", "-o", folders / "out")
    assert "better in 0 of 6 cases, worse in 0, equal in 6. The two are equal." in text
    for case in CASES[3:]:
        (folders / "labelsTs" / f"{case}.nii.gz").unlink()
    _, text = compare(monkeypatch, capsys, *arguments, folders / "BCP", "-o", folders / "out")
    assert "Too few cases to show anything" in text and "no outcome of 3 cases could be clear" in text
    assert "Supervised, BCP: 3 predictions without a reference are left out: case3, case4, case5" in text
    for case in CASES[1:3]:
        (folders / "labelsTs" / f"{case}.nii.gz").unlink()
    status, text = compare(monkeypatch, capsys, *arguments, folders / "BCP", "-o", folders / "out")
    assert status == 0 and "better in 1 of 1 case, worse in 0." in text


def test_folders_of_one_name_are_told_apart_by_their_paths(folders):
    for method in ("Supervised", "BCP"):
        (folders / "results" / f"nnUNetTrainer{method}" / "fold_0").mkdir(parents=True)
        (folders / method).rename(folders / "results" / f"nnUNetTrainer{method}" / "fold_0" / "test")
    places = [folders / "results" / f"nnUNetTrainer{method}" / "fold_0" / "test" for method in ("Supervised", "BCP")]
    content = compare_folders(folders / "labelsTs", places[0], places[1:])
    assert list(content["folders"]) == ["nnUNetTrainerSupervised", "nnUNetTrainerBCP"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / "BCP" / "case1.nii.gz").unlink(), r"BCP lacks 1 of 6 cases: case1\. Predict the same test set"),
        (lambda f: [file.unlink() for file in (f / "BCP").iterdir()], r"BCP holds no .nii.gz file: give a folder of"),
        (lambda f: [file.unlink() for file in (f / "labelsTs").iterdir()], "labelsTs holds no .nii.gz file"),
        (lambda f: (f / "dataset.json").unlink(), "No dataset.json at .*: name it with --dataset-json"),
        (lambda f: (f / "dataset.json").write_text('{"file_ending": ".nii.gz"}'), "lacks the key labels"),
        (lambda f: write_dataset_json(f / "BCP", {"background": 0, "x": 1}), "name other classes or file endings"),
        (lambda f: write(f / "BCP", "case2.nii.gz", bar(20), (2, 2, 2)), "case2.nii.gz: the prediction .*reference"),
        (lambda f: write(f / "BCP", "case2.nii.gz", bar(20)[:3]), "case2.nii.gz: the prediction"),
        (lambda f: write(f / "BCP", "case2.nii.gz", bar(20, 7)), r"values \[7.0\] are not declared"),
        (lambda f: (f / "imagesTs" / "case3_0000.nii.gz").unlink(), "lacks case3_0000.nii.gz: give the folder"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_line_or_two_and_nothing_is_written(folders, monkeypatch, capsys, change, told):
    change(folders)
    status, text = compare(
        monkeypatch, capsys, folders / "labelsTs", folders / "Supervised", folders / "BCP", "-o", folders / "out",
        "--images", folders / "imagesTs",
    )  # fmt: skip
    assert status == 1 and re.search(told, text) and len(text.splitlines()) <= 2, text
    assert not (folders / "out").exists()


def test_the_same_folder_twice_and_no_folder(folders, monkeypatch, capsys):
    reference, baseline = folders / "labelsTs", folders / "Supervised"
    (folders / "link").symlink_to(baseline)
    for method, told in (
        (baseline, "is the same folder as"), (folders / "link", "link is the same folder as .*Supervised"),
        (reference, "is the same folder as"), (folders / "none", "none is not a folder"),
    ):  # fmt: skip
        status, text = compare(monkeypatch, capsys, reference, baseline, method, "-o", folders / "out")
        assert status == 1 and re.search(told, text)
    status, _ = compare(monkeypatch, capsys, reference, baseline)
    assert status == 2


def test_names_are_text_and_not_markup(folders, monkeypatch, capsys):
    (folders / "BCP").rename(folders / "<b>[red]")
    arguments = (folders / "labelsTs", folders / "Supervised", folders / "<b>[red]", "-o", folders / "out")
    status, text = compare(monkeypatch, capsys, *arguments)
    assert status == 0 and "<b>[red] against Supervised" in text
    page = (folders / "out" / "compare.html").read_text(encoding="utf-8")
    assert "<b>[red]" not in page and "&lt;b&gt;[red]" in page


def test_on_real_scans_a_shift_of_a_voxel_is_better_than_a_dilation(shared_data, tmp_path):
    h5py = pytest.importorskip("h5py")
    from scipy.ndimage import binary_dilation

    for i, file in enumerate(sorted((shared_data / "la").glob("*/*/mri_norm2.h5"))[:2]):
        with h5py.File(file) as scan:
            label = scan["label"][::2, ::2, ::2] > 0
        for name, mask in (
            ("labelsTs", label), ("Dilated", binary_dilation(label, iterations=3)), ("Shifted", np.roll(label, 1, 0)),
        ):  # fmt: skip
            write(tmp_path / name, f"{i}.nii.gz", mask, (1.25, 1.25, 1.25))
    write_dataset_json(tmp_path, {"background": 0, "atrium": 1})
    content = compare_folders(tmp_path / "labelsTs", tmp_path / "Dilated", [tmp_path / "Shifted"])
    found = content["methods"]["Shifted"]
    assert found["dice"]["better"] and not found["dice"]["worse"] and 0.1 < found["dice"]["mean"] < 0.4
    assert not found["asd_mm"]["worse"] and found["asd_mm"]["mean"] < -1.25
