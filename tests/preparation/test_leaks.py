import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import typer
from typer.testing import CliRunner

from nnunet_ssl.cli.check import check
from nnunet_ssl.demo.phantom import write_phantom
from nnunet_ssl.errors import InputError
from nnunet_ssl.preparation.leaks import check_dataset, patient_of

SIZES = {"labeled": 5, "unlabeled": 6, "test": 2, "shape": (24, 32, 36)}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("leaks") / "phantom"
    write_phantom(folder, **SIZES)
    return folder


@pytest.fixture
def raw(phantom, tmp_path, monkeypatch) -> Path:
    """The phantom as dataset 5: labeled 000 to 004, unlabeled 005 to 010, test 011 and 012. No label file is left."""
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    folder = shutil.copytree(phantom, tmp_path / "raw" / "Dataset005_Phantom")
    shutil.rmtree(folder / "labelsTr")
    shutil.rmtree(folder / "labelsTs")
    return folder


def image(raw: Path, part: str, case: str) -> Path:
    return raw / f"images{part}" / f"{case}_0000.nii.gz"


def change(source: Path, target: Path, values=lambda v: v, spacing: float = 1.0) -> None:
    old = sitk.ReadImage(str(source))
    new = sitk.GetImageFromArray(values(sitk.GetArrayFromImage(old).astype(np.float32)))
    new.SetSpacing([s * spacing for s in old.GetSpacing()])
    sitk.WriteImage(new, str(target))


def write_splits(raw: Path, splits: list[dict], fingerprint_cases: int = 0) -> Path:
    base = raw.parents[1] / "preprocessed" / raw.name
    base.mkdir()
    (base / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")
    if fingerprint_cases:
        (base / "dataset_fingerprint.json").write_text(
            json.dumps({"spacings": [[2, 2, 2]] * fingerprint_cases}), encoding="utf-8"
        )
    return base


def set_dataset(raw: Path, **changes) -> None:
    file = raw / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def run():
    # Spawned workers would import nnU-Net again for each call; the test of the command has them.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("nnunet_ssl.pools.ProcessPoolExecutor", lambda workers, **other: ThreadPoolExecutor(workers))
        return check_dataset(5, processes=1)


def kinds(report) -> list[tuple[str, list[str]]]:
    return [(finding.kind, finding.cases) for finding in report.findings]


def test_clean_dataset(raw):
    report = run()
    assert report.findings == []
    assert report.cases == {"labeled": 5, "unlabeled": 6, "test": 2}
    assert report.alike
    assert report.alike[0]["score"] < report.threshold


def test_duplicates_are_found_with_their_roles_and_no_other(raw):
    shutil.copy(image(raw, "Ts", "phantom_011"), image(raw, "Unlabeled", "bytes"))
    crop = lambda v: np.round((v[2:, 1:-4, 3:] / 255) ** 0.6 * 90)  # noqa: E731
    change(image(raw, "Tr", "phantom_002"), image(raw, "Unlabeled", "changed"), crop)
    findings = {tuple(finding.cases): finding for finding in run().findings}
    assert set(findings) == {("bytes", "phantom_011"), ("phantom_002", "changed")}
    same = findings["bytes", "phantom_011"]
    assert (same.kind, same.roles, same.score) == ("same scan", ["unlabeled", "test"], 1.0)
    assert "the same voxels" in same.reason
    assert "test" in same.advice
    near = findings["phantom_002", "changed"]
    assert near.roles == ["labeled", "unlabeled"]
    assert 0.92 <= near.score <= 1
    assert "cropped" in near.reason


def test_three_copies_are_one_finding(raw):
    for name in ("copy_a", "copy_b"):
        shutil.copy(image(raw, "Unlabeled", "phantom_007"), image(raw, "Unlabeled", name))
    assert kinds(run()) == [("same scan", ["copy_a", "copy_b", "phantom_007"])]


def test_labeled_duplicates_in_train_and_validation(raw):
    shutil.copy(image(raw, "Tr", "phantom_000"), image(raw, "Tr", "twin"))
    train = [f"phantom_{i:03d}" for i in range(4)]
    write_splits(raw, [{"train": train, "val": ["twin"]}, {"train": [*train, "twin"], "val": ["phantom_004"]}])
    (finding,) = run().findings
    assert "train and validation of fold 0 (splits_final.json)" in finding.reason
    assert "fold 1" not in finding.reason


def test_ids_in_two_roles(raw):
    shutil.copy(image(raw, "Unlabeled", "phantom_008"), image(raw, "Ts", "phantom_008"))
    train = ["phantom_000", "phantom_001", "phantom_005"]
    write_splits(raw, [{"train": train, "val": ["phantom_002"], "unlabeled": ["phantom_001"]}])
    findings = {finding.cases[0]: finding for finding in run().findings}
    assert set(findings) == {"phantom_008", "phantom_001", "phantom_005"}
    assert {finding.kind for finding in findings.values()} == {"one id, two roles"}
    assert findings["phantom_008"].roles == ["unlabeled", "test"]
    assert findings["phantom_001"].roles == ["train", "unlabeled"]
    assert "fold 0" in findings["phantom_005"].reason


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("patient001_frame01", "patient001"),
        ("patient001_ED", "patient001"),
        ("p-7_es", "p-7"),
        ("p7_t03", "p7"),
        ("p7-time2_ED", "p7"),
        ("phantom_001", "phantom_001"),
        ("frame01", "frame01"),
        ("_ED", "_ED"),
    ],
)
def test_patient_of(case, patient):
    assert patient_of(case) == patient


def test_frames_of_one_patient(raw):
    """Two nearly equal frames are no duplicates; that they are labeled and unlabeled, or in train and val, is told."""
    noise = np.random.default_rng(0).normal(scale=2, size=SIZES["shape"])
    for part, patient in (("Unlabeled", "p1"), ("Tr", "p2")):
        source = image(raw, "Tr", "phantom_001" if patient == "p1" else "phantom_003")
        change(source, image(raw, part, f"{patient}_frame12"), lambda v: v + noise)
        source.rename(image(raw, "Tr", f"{patient}_frame01"))
    write_splits(raw, [{"train": ["p1_frame01", "p2_frame01", "phantom_000"], "val": ["p2_frame12"]}])
    findings = run().findings
    assert {finding.kind for finding in findings} == {"frames of one patient"}
    assert [(f.cases, f.roles) for f in findings] == [
        (["p1_frame01", "p1_frame12"], ["labeled", "unlabeled"]),
        (["p2_frame01", "p2_frame12"], ["train", "validation"]),
    ]


def test_plans_from_labels_that_a_fold_hides(raw):
    splits = [
        {"train": ["phantom_000"], "val": ["phantom_001"], "unlabeled": ["phantom_002", "phantom_003"]},
        {"train": ["phantom_000", "phantom_002"], "val": ["phantom_001"]},
    ]
    base = write_splits(raw, splits, fingerprint_cases=5)
    plans = {"plans_name": "nnUNetPlans", "configurations": {}}
    (base / "nnUNetPlans.json").write_text(json.dumps(plans), encoding="utf-8")
    (finding,) = run().findings
    assert finding.kind == "labels seen by the plans"
    assert finding.cases == ["phantom_002", "phantom_003"]
    assert finding.reason == "nnUNetPlans was made with 2 label(s) hidden by fold 0"
    assert "nnunet_ssl plan -d 5 -f FOLD" in finding.advice
    plans["nnunet_ssl"] = {"fold": 0, "planned_on": ["phantom_000", "phantom_001"]}
    (base / "nnUNetPlans.json").write_text(json.dumps(plans), encoding="utf-8")
    assert run().findings == []


@pytest.mark.parametrize(
    ("channel", "values", "spacing", "reason"),
    [
        ("CT", lambda v: v * 8 + 24, 1.0, "CT 1st percentile"),
        ("CT", lambda v: v / 255, 1.0, "CT 1st percentile"),
        ("noNorm", lambda v: v * 10, 1.0, "contrast"),
        ("MRI", lambda v: 255 - v, 1.0, "inverted"),
        ("MRI", lambda v: v, 10.0, "size z in mm 480"),
        ("MRI", lambda v: v, 0.1, "size x in mm"),
    ],
)
def test_outliers(raw, channel, values, spacing, reason):
    set_dataset(raw, channel_names={"0": channel})
    if channel == "CT":
        for file in sorted(raw.glob("images*/*.nii.gz")):
            change(file, file, lambda v: v * 8 - 1000)
        # The odd one is made from grey levels 0 to 255 again.
        change(image(raw, "Unlabeled", "phantom_009"), image(raw, "Unlabeled", "phantom_009"), lambda v: (v + 1000) / 8)
    change(image(raw, "Unlabeled", "phantom_009"), image(raw, "Unlabeled", "phantom_009"), values, spacing)
    (finding,) = run().findings
    assert (finding.kind, finding.cases, finding.roles) == ("outlier", ["phantom_009"], ["unlabeled"])
    assert reason in finding.reason


def test_what_nnunet_normalizes_away_is_a_note(raw, tmp_path):
    for case, values in (("phantom_007", lambda v: v * 20), ("phantom_009", lambda v: v * 30)):
        change(image(raw, "Unlabeled", case), image(raw, "Unlabeled", case), values)
    report = run()
    assert report.findings == []
    (note,) = report.notes
    assert note.cases == ["phantom_007", "phantom_009"]
    assert "contrast" in note.reason
    app = typer.Typer()
    app.command()(check)
    result = CliRunner().invoke(app, ["-d", "5", "-np", "1", "-o", str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    assert "Note: 2 unlabeled scan(s) differ, which changes no training" in result.output
    assert "remove" not in result.output
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["findings"] == []
    assert report["notes"][0]["cases"] == ["phantom_007", "phantom_009"]
    # ... and a finding where the plans normalize by one rule for all scans, whatever the channel is called
    base = write_splits(raw, [{"train": ["phantom_000"], "val": ["phantom_001"]}])
    configurations = {"3d_fullres": {"normalization_schemes": ["NoNormalization"]}}
    plans = {"plans_name": "nnUNetPlans", "configurations": configurations}
    (base / "nnUNetPlans.json").write_text(json.dumps(plans), encoding="utf-8")
    assert kinds(run()) == [("outlier", ["phantom_007"]), ("outlier", ["phantom_009"])]


def test_other_axes_matter_to_the_reader_that_keeps_them(raw):
    file = image(raw, "Unlabeled", "phantom_009")
    sitk.WriteImage(sitk.PermuteAxes(sitk.ReadImage(str(file)), (1, 2, 0)), str(file))
    (finding,) = run().findings
    assert (finding.kind, finding.cases) == ("other axes", ["phantom_009"])
    assert "NibabelIOWithReorient" in finding.advice
    set_dataset(raw, overwrite_image_reader_writer="NibabelIOWithReorient")
    assert run().findings == []


def test_constant_images_are_one_finding_each(raw):
    for file in sorted(raw.glob("images*/*.nii.gz")):
        change(file, file, np.ones_like)
    findings = run().findings
    assert {(finding.kind, len(finding.cases)) for finding in findings} == {("bad file", 1)}
    assert len(findings) == 13
    assert all("is empty: every voxel is 1" in finding.reason for finding in findings)


@pytest.mark.parametrize("kept", [{"Tr": 1}, {"Unlabeled": 1}, {"Unlabeled": 3}, {"Ts": 1}, {"Tr": 1, "Unlabeled": 1}])
def test_few_scans(raw, kept):
    for part in ("Tr", "Unlabeled", "Ts"):
        for file in sorted((raw / f"images{part}").iterdir())[kept.get(part, 0) :]:
            file.unlink()
    assert run().findings == []


def test_folders_and_hidden_files(raw):
    folder = raw / "imagesUnlabeled"
    for number, site in enumerate("AAB"):
        (folder / f"site{site}").mkdir(exist_ok=True)
        shutil.copy(image(raw, "Unlabeled", "phantom_007"), folder / f"site{site}" / f"scan{number}_0000.nii.gz")
    (folder / "._phantom_005_0000.nii.gz").write_bytes(b"\0\5\x16\7")
    (folder / "Thumbs.db").write_text("x")
    (finding,) = run().findings
    assert (finding.kind, finding.cases) == ("bad file", ["siteA (2 images)", "siteB (1 image)"])
    assert finding.reason == "imagesUnlabeled: images in folders are not read"
    # ... also where nothing else is there
    for file in raw.glob("images*/*.nii.gz"):
        file.unlink()
    with pytest.raises(InputError, match=r"No images in .* siteA \(2 images\), siteB"):
        run()


def test_bad_files_are_told_all_at_once(raw):
    whole = image(raw, "Unlabeled", "phantom_005")
    whole.write_bytes(whole.read_bytes()[:1000])
    change(image(raw, "Unlabeled", "phantom_006"), image(raw, "Unlabeled", "phantom_006"), np.zeros_like)
    image(raw, "Tr", "phantom_000").rename(raw / "imagesTr" / "phantom_000.nii.gz")
    shutil.copy(image(raw, "Ts", "phantom_011"), raw / "imagesTs" / "phantom_011_0001.nii.gz")
    shutil.copy(image(raw, "Unlabeled", "phantom_007"), image(raw, "Unlabeled", "copy"))
    findings = run().findings
    bad = {finding.cases[0] for finding in findings if finding.kind == "bad file"}
    assert bad == {"phantom_000.nii.gz", "phantom_005", "phantom_006", "phantom_011"}
    assert ("same scan", ["copy", "phantom_007"]) in [(f.kind, f.cases) for f in findings]


def test_no_images(raw):
    for part in ("Tr", "Unlabeled", "Ts"):
        shutil.rmtree(raw / f"images{part}")
    with pytest.raises(InputError, match="No images"):
        run()


def test_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    folder = tmp_path / "Dataset005_Pictures"
    write_phantom(folder, labeled=3, unlabeled=4, test=1, shape=(96, 96), channels=2)
    for channel in range(2):
        name = f"_{channel:04d}.png"
        shutil.copy(folder / "imagesTr" / f"phantom_001{name}", folder / "imagesUnlabeled" / f"copy{name}")
    assert kinds(run()) == [("same scan", ["phantom_001", "copy"])]


def test_channels_are_compared_in_space(raw):
    """A second channel: with other axes and 0.03 voxels off where it may be, and 5 mm away."""
    dataset_file = raw / "dataset.json"
    content = json.loads(dataset_file.read_text(encoding="utf-8"))
    dataset_file.write_text(json.dumps(content | {"channel_names": {"0": "T1", "1": "T2"}}), encoding="utf-8")
    shown = {}
    for file in sorted(raw.glob("images*/*_0000.nii.gz")):
        channel = sitk.ReadImage(str(file))
        spacing = channel.GetSpacing()[0]
        case = file.name.removesuffix("_0000.nii.gz")
        if case in ("phantom_001", "phantom_006", "phantom_011"):
            channel = sitk.Flip(sitk.PermuteAxes(channel, (1, 2, 0)), (True, False, False))
        off = {"phantom_002": 0.03 * spacing, "phantom_003": 5.0, "phantom_007": 5.0}.get(case, 0.0)
        channel.SetOrigin([place + off * (axis == 0) for axis, place in enumerate(channel.GetOrigin())])
        sitk.WriteImage(channel, str(file).replace("_0000", "_0001"))
        shown[case] = 5 / spacing
    findings = {finding.cases[0]: finding for finding in run().findings}
    assert set(findings) == {"phantom_001", "phantom_003", "phantom_007", "phantom_011"}
    for case in ("phantom_003", "phantom_007"):
        assert f"{case}_0001.nii.gz stands up to {shown[case]:.3g} voxels (5 mm) from" in findings[case].reason
    # nnU-Net's reader stacks the channels of labeled and test cases as they are.
    for case in ("phantom_001", "phantom_011"):
        assert "is stored with other axes than" in findings[case].reason
    content = json.loads(dataset_file.read_text(encoding="utf-8"))
    content["overwrite_image_reader_writer"] = "NibabelIOWithReorient"  # it brings them together
    dataset_file.write_text(json.dumps(content), encoding="utf-8")
    assert {finding.cases[0] for finding in run().findings} == {"phantom_003", "phantom_007"}


def test_command(raw, tmp_path):
    app = typer.Typer()
    app.command()(check)
    result = CliRunner().invoke(app, ["-d", "5", "-np", "1"])
    assert result.exit_code == 0, result.output
    assert "5 labeled, 6 unlabeled, 2 test" in result.output
    assert "Nothing found." in result.output
    shutil.copy(image(raw, "Ts", "phantom_011"), image(raw, "Unlabeled", "leak"))
    result = CliRunner().invoke(app, ["-d", "5", "-np", "2", "-o", str(tmp_path / "report.json")])
    assert result.exit_code == 1
    assert "leak (unlabeled), phantom_011 (test)  score 1.000" in result.output
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["findings"][0]["cases"] == ["leak", "phantom_011"]
    assert report["cases"] == {"labeled": 5, "unlabeled": 7, "test": 2}


def test_left_atrium(shared_data, tmp_path, monkeypatch):
    """Ten real scans, one of them twice with another crop and quantization; images alone, no labels."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    pair = ["0RZDK210BSMWAA6467LU", "CMPXO4J23G58J53Q98SZ"]
    folders = sorted((shared_data / "la" / "2018LA_Seg_Training Set").iterdir())
    names = [folder.name for folder in folders]
    chosen = [*pair, *[name for name in names if name not in pair][:8]]
    raw = tmp_path / "Dataset005_LA"
    for part in ("Tr", "Unlabeled"):
        (raw / f"images{part}").mkdir(parents=True)
    for number, name in enumerate(chosen):
        with h5py.File(folders[names.index(name)] / "mri_norm2.h5") as file:
            voxels = sitk.GetImageFromArray(file["image"][()].T)
        voxels.SetSpacing((0.625,) * 3)
        sitk.WriteImage(voxels, str(image(raw, "Unlabeled" if number % 2 else "Tr", name)))
    content = {"channel_names": {"0": "LGE_MRI"}, "labels": {"background": 0, "left_atrium": 1}, "numTraining": 5}
    (raw / "dataset.json").write_text(json.dumps(content | {"file_ending": ".nii.gz"}), encoding="utf-8")
    report = run()
    assert kinds(report) == [("same scan", pair)]
    assert report.findings[0].score > 0.98
    assert report.alike[0]["score"] < 0.9


def test_what_was_not_annotated_is_reported_and_held_against_the_labels(phantom, raw):
    """Only labels of declared cases are opened: the others are not there."""
    file = raw / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    ids = sorted(name.name.removesuffix("_0000.nii.gz") for name in (raw / "imagesTr").iterdir())
    case, odd = ids[:2]
    declared = {case: ["liver"], odd: ["liver"], "nobody": ["liver"]}
    file.write_text(json.dumps(content | {"not_annotated": declared}), encoding="utf-8")
    (raw / "labelsTr").mkdir()
    for each in (case, odd):
        shutil.copy(phantom / "labelsTr" / f"{each}.nii.gz", raw / "labelsTr")
    label = raw / "labelsTr" / f"{case}.nii.gz"
    change(label, label, lambda v: np.where(v == content["labels"]["liver"], 0, v))
    base = raw.parents[1] / "preprocessed" / raw.name
    base.mkdir()
    (base / "dataset.json").write_text(json.dumps(content | {"not_annotated": {odd: ["liver"]}}), encoding="utf-8")
    report = check_dataset(5, 1)
    found = {found.cases[0]: found.reason for found in report.findings if found.kind == "not annotated" and
             len(found.cases) == 1}  # fmt: skip
    assert report.not_annotated == dict.fromkeys(declared, ("liver",))
    assert found["nobody"] == '"not_annotated" of dataset.json names it, but it is no labeled case'
    assert found[odd].startswith(f"{odd}: its label has voxels of liver, which")
    assert case not in found
    older = [found for found in report.findings if "which training reads, says something else" in found.reason]
    assert [sorted(found.cases) for found in older] == [sorted(["nobody", case])]
