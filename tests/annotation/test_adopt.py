"""Labels come into a dataset: what is moved, what follows, and that all of it goes back."""

import json
import os
import shutil

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from drawings import (
    as_segments,
    content,
    draw,
    folders,
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
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from short_trainings import batches_of, train, trainer_of
from workbench import assert_same, phantom, small_disk

from nnunet_ssl.annotation.adopt import adopt_labels, undo_last
from nnunet_ssl.annotation.examination import label_digest
from nnunet_ssl.data.adopted import adopted_share
from nnunet_ssl.data.propagated import propagated_folder
from nnunet_ssl.preparation.preprocessing import preprocess_dataset

POOL = "nnUNetPlans_tiny_3d_fullres_unlabeled"
LABELED = "nnUNetPlans_tiny_3d_fullres"


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch):
    return own_copy(phantom_3d, tmp_path, monkeypatch)


@pytest.fixture
def pictures(phantom_2d_regions, tmp_path, monkeypatch):
    """2D, PNG, with the regions organs (1, 2) and, within, organs_from_kidney (2)."""
    return own_copy(phantom_2d_regions, tmp_path, monkeypatch)


def stored(dataset, case):
    (file,) = (dataset.raw / "labelsTr").glob(f"{case}.*")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_a_case_becomes_labeled_everywhere_and_unlabeled_again(dataset, tmp_path, capsys):
    raw, base, cases = dataset.raw, dataset.base, unlabeled(dataset)
    before, splits = tree(dataset.root), content(base / "splits_final.json")
    folder = draw(dataset, tmp_path / "labels", *cases[:2])
    assert take(folder) == cases[:2]
    shown = capsys.readouterr().out
    assert "liver (1)" in shown and "2520" in shown and "has 6 labeled cases" in shown

    assert unlabeled(dataset) == cases[2:]
    for case in cases[:2]:
        assert np.array_equal(stored(dataset, case), sitk.GetArrayFromImage(label_of(dataset, case)))
        assert (raw / "imagesTr" / f"{case}_0000.nii.gz").is_file()
        assert (base / "gt_segmentations" / f"{case}.nii.gz").read_bytes() == (
            raw / "labelsTr" / f"{case}.nii.gz"
        ).read_bytes()
        assert not (base / POOL / f"{case}.pkl").exists()
    assert content(raw / "dataset.json")["numTraining"] == content(base / "dataset.json")["numTraining"] == 6
    now = content(base / "splits_final.json")
    assert [fold["val"] for fold in now] == [fold["val"] for fold in splits]
    assert [fold["train"] for fold in now] == [fold["train"] + cases[:2] for fold in splits]
    assert content(base / POOL / "unlabeled.json")["cases"] == cases[2:]
    (record,) = content(raw / "adopted.json")["adoptions"]
    entry = record["cases"][0]
    assert entry["case"] == cases[0] and entry["file"] == f"{cases[0]}.nii.gz" and entry["draft"] is None
    assert entry["label_digest"] == label_digest(sitk.GetArrayFromImage(label_of(dataset, cases[0])))
    assert entry["found"]["1"] == {"label": 1, "voxels": 18 * 7 * 10}
    untouched = {file for file in before if cases[0] not in file and cases[1] not in file and ".json" not in file}
    after = tree(dataset.root)
    assert untouched and all(after[file] == before[file] for file in untouched)

    assert undo_last(7) == cases[:2]
    assert tree(dataset.root) == before
    assert not [place for place in folders(dataset.root) if ".adopted" in place]


def test_what_is_preprocessed_is_what_nnunet_would_make(dataset, tmp_path):
    case = unlabeled(dataset)[0]
    take(draw(dataset, tmp_path / "labels", case))
    manager = PlansManager(str(dataset.base / f"{dataset.plans}.json"))
    files = [str(dataset.raw / "imagesTr" / f"{case}_0000.nii.gz")], str(dataset.raw / "labelsTr" / f"{case}.nii.gz")
    DefaultPreprocessor(verbose=False).run_case_save(
        str(tmp_path / case), *files, manager, manager.get_configuration("3d_fullres"),
        content(dataset.raw / "dataset.json"),
    )  # fmt: skip
    for name in (f"{case}.b2nd", f"{case}_seg.b2nd"):
        made = [blosc2.open(str(folder / name))[:] for folder in (tmp_path, dataset.base / LABELED)]
        assert np.array_equal(*made)
    properties = [np.load(folder / f"{case}.pkl", allow_pickle=True) for folder in (tmp_path, dataset.base / LABELED)]
    assert_same(*properties)
    times = {file: file.stat().st_mtime_ns for file in (dataset.base / POOL).iterdir()}
    preprocess_dataset(7, ["3d_fullres"], dataset.plans, 1)  # nothing is to do for the others
    assert {file: file.stat().st_mtime_ns for file in times if file.suffix == ".b2nd"} == {
        file: time for file, time in times.items() if file.suffix == ".b2nd"
    }
    assert undo_last(7) == [case]  # the list of unlabeled cases was written anew, and is the same


def test_the_same_folder_twice_and_a_second_one(dataset, tmp_path, capsys):
    cases = unlabeled(dataset)
    folder = draw(dataset, tmp_path / "labels", cases[0])
    take(folder)
    after_first = tree(dataset.raw)
    capsys.readouterr()
    assert take(folder) == []
    assert f"1 case(s) have these labels already, nothing is to do: {cases[0]}" in capsys.readouterr().out
    assert tree(dataset.raw) == after_first
    draw(dataset, folder, cases[1])
    assert take(folder) == [cases[1]]
    assert [len(each["cases"]) for each in content(dataset.raw / "adopted.json")["adoptions"]] == [1, 1]
    kept = [place for place in folders(dataset.root) if ".adopted/" in place]
    assert kept and all(place.endswith("/2") or place.startswith(".adopted/2") for place in kept)
    assert undo_last(7) == [cases[1]]
    left = tree(dataset.raw)
    assert left == {file: digest for file, digest in after_first.items() if ".adopted" not in file}


def test_what_is_labeled_of_the_last_suggestion(dataset, tmp_path):
    """It is told to trainings, by the preprocessed folder; labels that nobody has suggested count for nothing."""
    cases, folder = unlabeled(dataset), tmp_path / "drafts"
    assert adopted_share(dataset.base) == 0
    take(draw(dataset, tmp_path / "others", cases[4]))
    assert adopted_share(dataset.base) == 0
    suggest(folder, *[(case, "0" * 64) for case in cases[:4]])
    take(draw(dataset, folder, cases[0]))
    assert adopted_share(dataset.base) == adopted_share(dataset.raw) == 0.25
    take(draw(dataset, folder, *cases[1:3]))
    assert adopted_share(dataset.base) == 0.75
    undo_last(7)
    assert adopted_share(dataset.base) == 0.25


def test_only_shown(dataset, tmp_path, capsys):
    before = tree(dataset.root)
    folder = draw(dataset, tmp_path / "labels", unlabeled(dataset)[0])
    assert adopt_labels(7, folder, agree=None) == []
    assert "What the files hold" in capsys.readouterr().out
    assert adopt_labels(7, folder, agree=lambda question: False) == []
    assert tree(dataset.root) == before


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha", ".seg.nrrd"])
def test_each_format(dataset, tmp_path, ending):
    case = unlabeled(dataset)[0]
    label = label_of(dataset, case)
    expected = sitk.GetArrayFromImage(label)
    put(as_segments(label, ("LIVER", "kidney")) if ending == ".seg.nrrd" else label, tmp_path / "l" / f"{case}{ending}")
    assert take(tmp_path / "l") == [case]
    assert np.array_equal(stored(dataset, case), expected)


def test_other_names_and_numbers(dataset, tmp_path, capsys):
    first, second = unlabeled(dataset)[:2]
    folder = tmp_path / "labels"
    label = label_of(dataset, first)
    put(as_segments(sitk.Image(label), ("Left kidney", "Segment_1")), folder / f"{first}.seg.nrrd")
    put(label * 100, folder / f"{second}.nii.gz")
    take(folder, given=["Left kidney=kidney", "100=1", "200=kidney"])
    voxels = sitk.GetArrayFromImage(label)
    assert np.array_equal(stored(dataset, first), np.choose(voxels, (0, 2, 1)))
    assert np.array_equal(stored(dataset, second), voxels)
    assert "Left kidney" in capsys.readouterr().out


def test_other_axes_are_turned_and_a_part_is_put_where_it_belongs(dataset, tmp_path, capsys):
    first, second = unlabeled(dataset)[:2]
    folder = tmp_path / "labels"
    label = label_of(dataset, first)
    expected = sitk.GetArrayFromImage(label)
    put(sitk.PermuteAxes(sitk.Flip(label, (True, False, False)), (2, 0, 1)), folder / f"{first}.nii.gz")
    part = as_segments(label[3:21, 4:13, 2:18], Segmentation_ReferenceImageExtentOffset="3 4 2")
    put(part, folder / f"{second}.seg.nrrd")
    take(folder)
    assert np.array_equal(stored(dataset, first), expected)
    expected[:2] = expected[:, :4] = expected[:, 13:] = expected[..., :3] = 0
    assert np.array_equal(stored(dataset, second), expected[:, :, :] * (np.arange(len(expected)) < 18)[:, None, None])
    shown = " ".join(capsys.readouterr().out.split())
    assert "turned" in shown and "background" in shown


def test_regions_in_overlapping_segments_of_a_picture(pictures, tmp_path):
    first, second, third = unlabeled(pictures)[:3]
    folder = tmp_path / "labels"
    image = scan(pictures, first)
    organs = np.zeros(image.GetSize()[::-1], bool)
    organs[5:20, 5:20] = True
    kidney = np.zeros_like(organs)
    kidney[8:12, 8:12] = True
    expected = organs.astype(np.uint8) + kidney
    put(in_layers({"organs": organs, "organs_from_kidney": kidney}, image), folder / f"{first}.seg.nrrd")
    volume = sitk.GetImageFromArray(expected[None])  # as 3D Slicer has it, 3 mm thick
    volume.SetSpacing((1, 1, 3))
    put(volume, folder / f"{second}.nrrd")
    put(like(expected, image), folder / f"{third}.png")
    assert take(folder) == [first, second, third]
    for case in (first, second, third):
        assert np.array_equal(stored(pictures, case), expected)
    undo_last(7)


def test_several_channels(tmp_path, monkeypatch):
    dataset = own_copy(
        phantom(tmp_path / "made", "3d_fullres", [16, 16, 16], shape=(18, 24, 24), channels=2), tmp_path, monkeypatch
    )
    before, case = tree(dataset.root), unlabeled(dataset)[0]
    take(draw(dataset, tmp_path / "labels", case))
    assert sorted(file.name for file in (dataset.raw / "imagesTr").glob(f"{case}*")) == [
        f"{case}_0000.nii.gz", f"{case}_0001.nii.gz"
    ]  # fmt: skip
    assert blosc2.open(str(dataset.base / LABELED / f"{case}.b2nd")).shape[0] == 2
    undo_last(7)
    assert tree(dataset.root) == before


def test_a_dataset_that_lists_its_cases(dataset, tmp_path):
    raw, base, case = dataset.raw, dataset.base, unlabeled(dataset)[0]
    labeled = sorted(file.name.removesuffix(".nii.gz") for file in (raw / "labelsTr").iterdir())
    entries = {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": f"labelsTr/{c}.nii.gz"} for c in labeled}
    for place in (raw, base):
        (place / "dataset.json").write_text(json.dumps(content(place / "dataset.json") | {"dataset": entries}))
    take(draw(dataset, tmp_path / "labels", case))
    for place in (raw, base):
        now = content(place / "dataset.json")
        assert now["numTraining"] == 5
        assert now["dataset"] == entries | {
            case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"labelsTr/{case}.nii.gz"}
        }


def test_folds_that_hide_labels_and_all_that_was_made_of_the_case(dataset, tmp_path):
    raw, base, (case, other) = dataset.raw, dataset.base, unlabeled(dataset)[:2]
    splits = content(base / "splits_final.json")
    hidden = splits[0]["train"].pop()
    splits[0]["unlabeled"] = [hidden, case]
    (base / "splits_final.json").write_text(json.dumps(splits))
    fold = dataset.root / "results" / dataset.name / f"nnUNetTrainerX__{dataset.plans}__3d_fullres" / "fold_0"
    places = [
        propagated_folder(base / LABELED), fold / "pseudo_labels" / "phase_1", fold / "case_maps",
        fold / "predicted_next_stage" / "3d_cascade_fullres",
    ]  # fmt: skip
    shared = fold.with_name("predicted_next_stage") / "3d_cascade_fullres"
    shared.mkdir(parents=True)
    places.append(fold.with_name("fold_1") / "predicted_next_stage" / "3d_cascade_fullres")
    for place in places:
        place.mkdir(parents=True)
        for name in (case, other):
            (place / f"{name}.b2nd").write_bytes(name.encode())
    before = tree(dataset.root)
    take(draw(dataset, tmp_path / "labels", case))
    now = content(base / "splits_final.json")
    assert now[0]["unlabeled"] == [hidden] and now[0]["train"] == [*splits[0]["train"], case]
    assert "unlabeled" not in now[1]
    assert all([file.name for file in place.glob("*.b2nd")] == [f"{other}.b2nd"] for place in places)
    assert [file.name for file in shared.glob("*.b2nd")] == [f"{case}.b2nd"]  # no fold will validate on it
    shutil.rmtree(places[1])  # another training began meanwhile: its labels do not come back
    undo_last(7)
    after = tree(dataset.root)
    assert after == {file: digest for file, digest in before.items() if "pseudo_labels" not in file}
    assert raw.is_dir()


def test_a_dataset_that_is_not_preprocessed_and_a_real_scan(shared_data, dataset, tmp_path, capsys):
    shutil.rmtree(dataset.base)
    source = shared_data / "totalseg_samples"
    shutil.copy(source / "example_ct_sm.nii.gz", dataset.raw / "imagesUnlabeled" / "ct_0000.nii.gz")
    label = sitk.ReadImage(str(source / "example_seg.nii.gz")) == 5
    put(label, tmp_path / "labels" / "ct.mha")
    before = tree(dataset.root)
    assert take(tmp_path / "labels") == ["ct"]
    assert np.array_equal(stored(dataset, "ct"), sitk.GetArrayFromImage(label)) and stored(dataset, "ct").any()
    assert "Nothing was preprocessed yet" in capsys.readouterr().out
    undo_last(7)
    assert tree(dataset.root) == before


def test_when_planning_anew_is_worth_it(dataset, tmp_path, capsys):
    cases = unlabeled(dataset)
    take(draw(dataset, tmp_path / "one", cases[0]))
    assert "Planning anew" not in capsys.readouterr().out
    image = scan(dataset, cases[1])
    image.SetSpacing((2, 2, 5))
    put(image, dataset.raw / "imagesUnlabeled" / f"{cases[1]}_0000.nii.gz")
    take(draw(dataset, tmp_path / "two", *cases[1:4]))
    shown = capsys.readouterr().out
    assert "8 labeled cases, planned with 4" in shown
    assert f"spacing beyond all that were planned on: {cases[1]}" in shown and "size beyond" not in shown


def test_scans_on_another_disk_are_copied(dataset, tmp_path):
    case = unlabeled(dataset)[0]
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, 4000):
        images = dataset.raw / "imagesUnlabeled"
        shutil.copytree(images, disk / "scans")
        shutil.rmtree(images)
        images.symlink_to(disk / "scans")
        before = tree(dataset.root), tree(disk)
        take(draw(dataset, tmp_path / "labels", case))
        assert (dataset.raw / "imagesTr" / f"{case}_0000.nii.gz").is_file() and case not in unlabeled(dataset)
        undo_last(7)
        assert (tree(dataset.root), tree(disk)) == before


def test_links_to_scans_stay_whole(dataset, tmp_path):
    case = unlabeled(dataset)[0]
    file = dataset.raw / "imagesUnlabeled" / f"{case}_0000.nii.gz"
    shutil.move(file, tmp_path / "scan.nii.gz")
    file.symlink_to(os.path.relpath(tmp_path / "scan.nii.gz", file.parent))
    take(draw(dataset, tmp_path / "labels", case))
    assert (dataset.raw / "imagesTr" / file.name).is_symlink() and (dataset.raw / "imagesTr" / file.name).is_file()


def test_training_learns_the_new_label_and_goes_on_from_old_weights(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
    settings = "num_epochs: 1, num_iterations_per_epoch: 2, num_val_iterations_per_epoch: 1, seed: 0"
    case = unlabeled(dataset)[0]
    label = label_of(dataset, case)
    before = train(dataset, monkeypatch, settings)
    put(like(np.full(label.GetSize()[::-1], 2, np.uint8), label), tmp_path / "labels" / f"{case}.nii.gz")
    suggest(tmp_path / "labels", (case, "0" * 64), (unlabeled(dataset)[1], "0" * 64))
    take(tmp_path / "labels")
    splits = content(dataset.base / "splits_final.json")
    splits[0]["train"] = [case]
    (dataset.base / "splits_final.json").write_text(json.dumps(splits))

    trainer = trainer_of(dataset)
    seen = batches_of(trainer, monkeypatch)
    trainer.run_training()
    assert trainer.method.task.adopted_share == 0.5 and before.method.task.adopted_share == 0
    assert case in trainer.origin.learned and case not in before.origin.learned
    assert case in before.origin.unlabeled and case not in trainer.origin.unlabeled
    assert len(seen) == 2
    for labeled, pool in seen:
        assert {*labeled.cases} == {case} and case not in pool.cases
        assert (labeled.target.labels == 2).float().mean() > 0.5
