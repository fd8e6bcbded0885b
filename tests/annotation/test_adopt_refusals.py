"""What is not taken in: each is told in a line that names case and file, and every file stays as it was."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from drawings import (
    as_segments,
    content,
    draw,
    in_layers,
    label_of,
    like,
    own_copy,
    put,
    scan,
    suggest,
    take,
    tree,
    unlabeled,
)
from typer.testing import CliRunner
from workbench import another_process_holds, file_size_limit

from nnunet_ssl.annotation.adopt import adopt_labels, undo_last
from nnunet_ssl.annotation.examination import label_digest
from nnunet_ssl.cli import app
from nnunet_ssl.errors import InputError


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch):
    return own_copy(phantom_3d, tmp_path, monkeypatch)


@pytest.fixture
def refused(dataset, tmp_path, capsys):
    """Takes a folder in, which must be refused with every file as it was; gives the message."""

    def refuse(folder=tmp_path / "labels", **options) -> str:
        before = tree(dataset.root)
        with pytest.raises(InputError) as caught:
            take(folder, **options)
        assert tree(dataset.root) == before
        message = str(caught.value)
        with capsys.disabled():
            print(f"\n    {message.replace(str(tmp_path), '')}")
        return message

    return refuse


def test_other_spacing_size_place_direction(dataset, tmp_path, refused):
    case = unlabeled(dataset)[0]
    file = tmp_path / "labels" / f"{case}.nii.gz"

    def changed(**header):
        label = label_of(dataset, case)
        for name, value in header.items():
            getattr(label, f"Set{name}")(value)
        put(label, file)
        return refused()

    where = f"case {case}, file {file.name} "
    assert changed(Spacing=(2, 2, 3)).startswith(where) and "another spacing" in refused()
    assert "another origin" in changed(Origin=(9, 0, 0)) and f"its scan {case}_0000.nii.gz" in refused()
    turned = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    assert "another direction" in changed(Direction=turned.ravel())
    put(label_of(dataset, case)[1:], file)
    assert "23 x 24 x 18 voxels" in refused() and "24 x 24 x 18" in refused()
    label = label_of(dataset, case)
    label.SetOrigin((0.1, 0, 0))  # a twentieth of a voxel
    put(label, file)
    assert take(tmp_path / "labels") == [case]


def test_labels_that_the_dataset_does_not_have(dataset, tmp_path, refused):
    first, second = unlabeled(dataset)[:2]
    folder = tmp_path / "labels"
    put(label_of(dataset, first) * 7, folder / f"{first}.nii.gz")
    assert f"case {first}, file {first}.nii.gz: the label(s) 7 (1260 voxels), 14 (216 voxels)" in refused()
    assert "no label spleen" in refused(given=["7=spleen"])
    assert "NAME=LABEL" in refused(given=["7"])
    assert "both liver and kidney" in refused(given=["7=liver", "7=kidney"])
    assert "14 (216 voxels)" in refused(given=["7=liver"])
    assert "no file has it" in refused(given=["7=liver", "14=background", "8=liver"])
    put(as_segments(label_of(dataset, second), ("liver", "spleen")), folder / f"{second}.seg.nrrd")
    message = refused()
    assert message.startswith("2 of 2 label files in ") and len(message.splitlines()) == 3
    assert "the segment(s) spleen (216 voxels) stand for no label" in message


def test_voxels_that_are_two_things_at_once(dataset, tmp_path, refused):
    case = unlabeled(dataset)[0]
    image = scan(dataset, case)
    masks = {name: np.zeros(image.GetSize()[::-1], bool) for name in ("liver", "kidney")}
    masks["liver"][2:9, 2:9, 2:9] = masks["kidney"][8:12, 8:12, 8:12] = True
    put(in_layers(masks, image), tmp_path / "labels" / f"{case}.seg.nrrd")
    assert "1 voxels are drawn as liver and also as kidney (2)" in refused()


def test_what_is_no_label_map(dataset, tmp_path, refused):
    case = unlabeled(dataset)[0]
    file = tmp_path / "labels" / f"{case}.nii.gz"
    put(sitk.Cast(label_of(dataset, case), sitk.sitkFloat32) + 0.5, file)
    assert "holds 0.5, no whole number" in refused()
    label = label_of(dataset, case)
    put(sitk.JoinSeries([label, label]), file)
    assert "has 4 axes" in refused()
    put(sitk.Compose([label] * 3), file)
    assert "color" in refused()
    put(sitk.Cast(label, sitk.sitkFloat32) * 1.0, file)
    assert take(tmp_path / "labels") == [case]


@pytest.mark.parametrize("ending", [".nii.gz", ".seg.nrrd", ".mha"])
def test_a_damaged_file(dataset, tmp_path, refused, ending):
    case = unlabeled(dataset)[0]
    label = label_of(dataset, case)
    file = put(as_segments(label) if ending == ".seg.nrrd" else label, tmp_path / "labels" / f"{case}{ending}")
    whole = file.read_bytes()
    for spoiled in (whole[:-6], whole[: len(whole) // 2], b""):
        file.write_bytes(spoiled)
        message = refused()
        assert message.startswith(f"case {case}, file {file.name}: ") and "damaged" in message
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    assert "broken link" in refused()


def test_a_damaged_header_of_segments(dataset, tmp_path, refused):
    case = unlabeled(dataset)[0]
    file = tmp_path / "labels" / f"{case}.seg.nrrd"
    put(as_segments(label_of(dataset, case), ("liver",)), file)
    assert "voxels of the value 2, for which its header names no segment" in refused()
    put(as_segments(label_of(dataset, case), Segment1_LabelValue="two"), file)
    assert "the header of segment 'kidney' is damaged" in refused()
    put(as_segments(label_of(dataset, case), Segment1_Layer="1"), file)
    assert "segment 'kidney' points at no voxels of its own" in refused()


def test_no_foreground(dataset, tmp_path, refused):
    case = unlabeled(dataset)[0]
    put(label_of(dataset, case) * 0, tmp_path / "labels" / f"{case}.nii.gz")
    assert f"case {case}, file {case}.nii.gz: holds no foreground" in refused() and "--allow-empty" in refused()
    assert take(tmp_path / "labels", allow_empty=True) == [case]


def test_cases_that_are_no_unlabeled_ones(dataset, tmp_path, refused):
    case = unlabeled(dataset)[0]
    (test,) = [file.name.removesuffix("_0000.nii.gz") for file in (dataset.raw / "imagesTs").iterdir()]
    draw(dataset, tmp_path / "test", test)
    assert f"case {test}, file {test}.nii.gz: is a test case" in refused(tmp_path / "test")
    splits = content(dataset.base / "splits_final.json")
    fold, validated = next((n, each["val"][0]) for n, each in enumerate(splits))
    draw(dataset, tmp_path / "labeled", validated)
    message = refused(tmp_path / "labeled")
    assert (
        f"the case is labeled already and validates fold {fold}, and" in message and "voxels are other ones" in message
    )
    put(label_of(dataset, case), tmp_path / "typo" / f"{case[:-1]}x.nii.gz")
    assert f"imagesUnlabeled has no case {case[:-1]}x" in refused(tmp_path / "typo") and "(is phantom_" in refused(
        tmp_path / "typo"
    )
    splits[1]["val"].append(case)
    (dataset.base / "splits_final.json").write_text(json.dumps(splits))
    draw(dataset, tmp_path / "labels", case)
    assert "is a validation case of fold 1" in refused()


def test_a_scan_that_is_not_in_order(dataset, tmp_path, refused):
    case, other = unlabeled(dataset)[:2]
    draw(dataset, tmp_path / "labels", case)
    images = dataset.raw / "imagesUnlabeled"
    (images / f"{case}_0001.nii.gz").write_bytes((images / f"{case}_0000.nii.gz").read_bytes())
    assert f"case {case}, file {case}.nii.gz: its scan is not in order: case {case}: " in refused()
    (images / f"{case}_0001.nii.gz").unlink()
    (images / f"{case}_0000.nii.gz").write_bytes(b"damaged")
    assert f"case {case}, file {case}_0000.nii.gz: cannot be read" in refused()
    lone = put(label_of(dataset, other), dataset.raw / "labelsTr" / f"{other}.nii.gz")
    draw(dataset, tmp_path / "other", other)
    assert f"{lone} is there already, without a scan in imagesTr" in refused(tmp_path / "other")


def test_folders_that_hold_no_labels_or_two_of_a_case(dataset, tmp_path, refused):
    case = unlabeled(dataset)[0]
    assert "does not exist" in refused(tmp_path / "nowhere")
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "notes.txt").write_text("by hand")
    put(scan(dataset, case), folder / f"{case}_0000.nii.gz")
    message = refused()
    assert f"(only notes.txt, {case}_0000.nii.gz)" in message and "CASE.seg.nrrd" in message
    draw(dataset, folder, case)
    put(as_segments(label_of(dataset, case)), folder / f"{case}.seg.nrrd")
    assert f"case {case} has 2 label files in " in refused() and f"{case}.nii.gz, {case}.seg.nrrd" in refused()


@pytest.mark.parametrize("beside", [True, False])
def test_drafts_that_nobody_changed(dataset, tmp_path, refused, beside):
    first, second = unlabeled(dataset)[:2]
    folder = tmp_path / "out" / "drafts"
    draw(dataset, folder, first, second)
    digest = label_digest(sitk.GetArrayFromImage(label_of(dataset, first)))
    suggest(folder.parent if beside else folder, (first, digest), (second, "0" * 64))
    message = refused(folder)
    assert (
        message.startswith(f"case {first}, file {first}.nii.gz: is the draft as it was")
        and "--unchanged-too" in message
    )
    assert take(folder, unchanged_too=True) == [first, second]
    (record,) = content(dataset.raw / "adopted.json")["adoptions"]
    assert [each["draft"] for each in record["cases"]] == ["unchanged", "changed"]


def test_a_damaged_list_of_suggestions(dataset, tmp_path, refused):
    folder = draw(dataset, tmp_path / "labels", unlabeled(dataset)[0])
    (folder / "suggested.json").write_text('{"cases": [{"rank": 1}]}')
    assert "lacks the key cases[].case" in refused()
    (folder / "suggested.json").write_text("[")
    assert "is not valid JSON" in refused()


def test_somebody_else_is_there(dataset, tmp_path, refused):
    draw(dataset, tmp_path / "labels", unlabeled(dataset)[0])
    fold = dataset.root / "results" / dataset.name / f"nnUNetTrainerX__{dataset.plans}__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    pool = dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled"
    for place in (dataset.raw, pool, fold, dataset.base / "splits_final.json"):
        with another_process_holds(place) as other:
            assert f"{place} is in use: process {other} on " in refused()


def test_a_disk_that_is_full(dataset, tmp_path):
    """A real limit on the size of files."""
    case, before = unlabeled(dataset)[0], tree(dataset.root)
    folder = draw(dataset, tmp_path / "labels", case)
    for limit in (100, 1500, 6000):
        with file_size_limit(limit), pytest.raises((InputError, OSError)):
            take(folder)
        assert tree(dataset.root) == before
    assert take(folder) == [case]


def test_a_file_that_changes_meanwhile(dataset, tmp_path):
    case, before = unlabeled(dataset)[0], tree(dataset.root)
    folder = draw(dataset, tmp_path / "labels", case)

    def save_again(question):
        voxels = sitk.GetArrayFromImage(label_of(dataset, case))
        voxels[0, 0, 0] = 1
        put(like(voxels, scan(dataset, case)), folder / f"{case}.nii.gz")
        return True

    with pytest.raises(InputError, match=f"case {case}, file {case}.nii.gz: has changed while it was taken in"):
        adopt_labels(7, folder, agree=save_again)
    assert tree(dataset.root) == before


def test_undo_loses_nobodys_work(dataset, tmp_path):
    with pytest.raises(InputError, match="Nothing to undo"):
        undo_last(7)
    case = unlabeled(dataset)[0]
    take(draw(dataset, tmp_path / "labels", case))
    label, splits = dataset.raw / "labelsTr" / f"{case}.nii.gz", dataset.base / "splits_final.json"
    for file in (label, splits, dataset.raw / "dataset.json"):
        whole, before = file.read_bytes(), tree(dataset.root)
        file.write_bytes(whole + b" ")
        with pytest.raises(InputError, match=f"{file.name} was changed since that adoption"):
            undo_last(7)
        file.unlink()
        with pytest.raises(InputError, match=f"{file.name} is gone since that adoption"):
            undo_last(7)
        file.write_bytes(whole)
        assert tree(dataset.root) == before
    assert undo_last(7) == [case]
    with pytest.raises(InputError, match="Nothing to undo"):
        undo_last(7)


def test_the_verb(dataset, tmp_path):
    case = unlabeled(dataset)[0]
    folder, before = draw(dataset, tmp_path / "labels", case), tree(dataset.root)

    def run(*arguments):
        return CliRunner().invoke(app, ["adopt", "-d", "7", *map(str, arguments)])

    assert run(folder, "--dry-run").exit_code == 0 and tree(dataset.root) == before
    assert "say --yes" in str(run(folder).exception) and "say --yes" not in run(folder, "--dry-run").output
    assert "Name the folder" in str(run().exception) and "give it no folder" in str(run(folder, "--undo").exception)
    assert tree(dataset.root) == before
    assert run(folder, "--yes", "--map", "1=kidney", "--map", "2=liver").exit_code == 0
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.raw / "labelsTr" / f"{case}.nii.gz")))
    assert np.array_equal(stored, np.choose(sitk.GetArrayFromImage(label_of(dataset, case)), (0, 2, 1)))
    assert run("--undo").exit_code == 0 and tree(dataset.root) == before
