"""What is no good or goes wrong in the preprocessing of unlabeled cases: named, and finished cases are kept."""

import os
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from unlabeled_images import UNLABELED, WHOLE, make_image, names, refusal, run, stamps, with_geometry
from workbench import another_process_holds, file_size_limit, small_disk

from nnunet_ssl.data.unlabeled import read_cases
from nnunet_ssl.errors import InputError
from nnunet_ssl.preparation import preprocessing
from nnunet_ssl.preparation.preprocessing import preprocess_dataset, read_checked


def test_all_problems_in_one_message_and_the_good_ones_done(dataset, in_process):
    shutil.copy(dataset.images / "un_0_0000.nii.gz", dataset.images / "lonely_0000.nii.gz")
    shutil.copy(dataset.images / "un_0_0000.nii.gz", dataset.images / "nochannel.nii.gz")
    sitk.WriteImage(make_image(1), dataset.images / "other_0000.nrrd")
    for channel in range(2):
        name = f"{channel:04d}.nii.gz"
        shutil.copy(dataset.images / f"un_0_{name}", dataset.images / f"lab_1_{name}")
        shutil.copy(dataset.images / f"un_0_{name}", dataset.images / f"test_1_{name}")
        shutil.copy(dataset.images / f"un_0_{name}", dataset.raw / "imagesTs" / f"test_1_{name}")
    (dataset.images / "site").mkdir()
    shutil.copy(dataset.images / "un_0_0000.nii.gz", dataset.images / "site" / "x_0000.nii.gz")
    voxels = np.full((20, 24, 22), np.nan, np.float32)
    sitk.WriteImage(with_geometry(voxels), dataset.images / "un_1_0001.nii.gz")
    file = dataset.images / "un_2_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:-300])
    message = refusal(5, ["2d", "3d_fullres"])
    for words in (
        "8 problem(s)",
        "site (1 image): images in folders are not read; move them up beside the others, or the folder away",
        "case lonely: the labeled cases have 2 channel file(s); lonely_0001.nii.gz missing",
        "nochannel.nii.gz: no channel number; rename it to nochannel_0000.nii.gz",
        "other_0000.nrrd: the labeled images end in .nii.gz",
        "case lab_1 (lab_1_0000.nii.gz): also a labeled case",
        "case test_1 (test_1_0000.nii.gz): also a test case",
        "case un_1, file un_1_0001.nii.gz: holds NaN",
        "case un_2, file un_2_0000.nii.gz: cannot be read (damaged or truncated)",
    ):
        assert words in message
    good = ["un_0", "un_3", "un_4", "un_5"]
    for name in ("2d", "3d_fullres"):
        folder = dataset.base / f"nnUNetPlans_{name}_unlabeled"
        assert names(folder) == sorted(f"{case}.{ending}" for case in good for ending in ("b2nd", "pkl"))
        with pytest.raises(InputError, match="not finished"):
            read_cases(folder, dataset.plans, name, 5)


def test_a_bad_file_added_later_withdraws_the_manifest(dataset, in_process):
    run(dataset)
    (dataset.images / "nochannel.nii.gz").touch()
    assert "1 problem(s)" in refusal(5, ["3d_fullres"])
    assert "unlabeled.json" not in names(dataset.out)
    (dataset.images / "nochannel.nii.gz").unlink()
    assert run(dataset) == UNLABELED


def checked(dataset, *images, ending=".nii.gz"):
    files = [dataset.images / f"bad_{channel:04d}{ending}" for channel in range(len(images))]
    for image, file in zip(images, files, strict=True):
        sitk.WriteImage(image, file)
    with pytest.raises(InputError) as caught:
        read_checked("bad", files, dataset.plans)
    assert str(caught.value).startswith("case bad, file bad_000")
    return str(caught.value)


def test_bad_images_are_refused_with_the_file_named(dataset):
    good = make_image(1)
    voxels = sitk.GetArrayFromImage(good)
    infinite = voxels.copy()
    infinite[5, 5, 5] = np.inf
    assert "bad_0001.nii.gz: holds NaN or infinite" in checked(dataset, good, with_geometry(infinite))
    assert "every voxel is 0, the image is empty" in checked(dataset, with_geometry(np.zeros_like(voxels)), good)
    assert "every voxel is -1024" in checked(dataset, with_geometry(np.full_like(voxels, -1024)), good)
    assert "a 2D image in a 3D dataset" in checked(dataset, with_geometry(voxels[5], (1, 1), (0, 0)), good)
    four = sitk.JoinSeries([good, good])
    assert "4 channels where the labeled cases have 2 (a 4D image" in checked(dataset, four, four)
    assert "has 22 x 24 x 19 voxels (22 x 26.4 x 38 mm) but bad_0000.nii.gz 22 x 24 x 20 voxels" in checked(
        dataset, good, with_geometry(voxels[:-1])
    )
    assert "another spacing, 1 x 1.1 x 2.5 mm and not 1 x 1.1 x 2;" in checked(
        dataset, good, with_geometry(voxels, (1.0, 1.1, 2.5))
    )
    moved = with_geometry(voxels, origin=(0, 0, 0))  # from (3, -2, 7) mm
    assert "stands up to 4.96 voxels (7.87 mm) from bad_0000.nii.gz: another origin;" in checked(dataset, good, moved)
    turned = with_geometry(voxels)
    turned.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert "another origin" in checked(dataset, good, turned)  # turned about the first voxel: another place
    turned.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    assert "another direction" in checked(dataset, good, turned)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_files_are_refused(dataset, ending, share):
    file = dataset.images / f"cut_0000{ending}"
    sitk.WriteImage(make_image(1), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=f"case cut, file cut_0000{ending}: cannot be read"):
        read_checked("cut", [file, file], dataset.plans)


def test_unknown_names(dataset):
    assert "no configuration 3d_fulres. Did you mean 3d_fullres? There are 2d, 3d_fullres" in refusal(5, ["3d_fulres"])
    assert "nnUNetv2_plan_and_preprocess -d 5" in refusal(5, None, "nnUNetPlansX")
    for name in ("2d", "3d_fullres"):
        shutil.rmtree(dataset.base / f"nnUNetPlans_{name}")
    assert "nnU-Net has preprocessed no configuration" in refusal(5)


def test_a_killed_worker_and_what_to_do(monkeypatch):
    monkeypatch.setattr(preprocessing, "_preprocess_case", os._exit)
    with pytest.raises(InputError, match="worker process was killed.*-np 2 and run .*: finished cases are kept"):
        preprocessing._run_parallel({"a": (1,), "b": (1,)}, processes=2)


def fail(error):
    def run_case_npy(*arguments):
        raise error

    return run_case_npy


PREPROCESSOR = "nnunetv2.preprocessing.preprocessors.default_preprocessor.DefaultPreprocessor.run_case_npy"


def test_an_image_that_nnunet_refuses_is_one_of_the_problems(dataset, in_process, monkeypatch):
    monkeypatch.setattr(PREPROCESSOR, fail(AssertionError("RGB images are uint 8,\nfor whatever reason")))
    told = refusal(5, ["3d_fullres"])
    assert "case un_0: nnU-Net's preprocessor refuses it (RGB images are uint 8, for whatever reason)" in told


def test_a_bug_keeps_its_traceback_and_names_the_case(dataset, in_process, monkeypatch):
    for bug in (AssertionError(), TypeError("no such argument")):
        monkeypatch.setattr(PREPROCESSOR, fail(bug))
        with pytest.raises(RuntimeError, match="Case un_0: a bug") as caught:
            preprocess_dataset(5, ["3d_fullres"])
        assert caught.value.__cause__ is bug


def test_a_case_that_memory_does_not_suffice_for_leaves_the_others(dataset, in_process, monkeypatch):
    real, calls = DefaultPreprocessor.run_case_npy, []

    def run_case_npy(self, *arguments):
        calls.append(self)
        if len(calls) == 2:
            raise MemoryError("Unable to allocate 14.6 TiB")
        return real(self, *arguments)

    monkeypatch.setattr(PREPROCESSOR, run_case_npy)
    told = refusal(5, ["3d_fullres"])
    assert told.startswith("1 problem(s) in ") and "case un_1: Not enough memory: Unable to allocate 14.6 TiB" in told
    assert len(calls) == 6 and run(dataset) == UNLABELED and len(calls) == 7


def test_a_full_disk_is_named_and_finished_cases_are_kept(dataset, in_process, monkeypatch):
    """A real limit on the size of files, of which nnU-Net's writer says nothing but that it failed."""
    real = preprocessing._preprocess_case

    def preprocess_case(case, *arguments):
        with file_size_limit(2000 if case == "un_1" else resource.RLIM_INFINITY):
            return real(case, *arguments)

    monkeypatch.setattr(preprocessing, "_preprocess_case", preprocess_case)
    told = refusal(5, ["3d_fullres"])
    monkeypatch.setattr(preprocessing, "_preprocess_case", real)
    assert told == (
        f"{dataset.out / '.partial' / 'un_1.b2nd'} cannot be written: File too large. Make room and run the same "
        "command again: finished cases are kept."
    )
    kept = stamps(dataset.out)
    assert {"un_0.b2nd", "un_0.pkl"} <= kept.keys() and "unlabeled.json" not in kept
    assert run(dataset) == UNLABELED and names(dataset.out) == WHOLE
    assert stamps(dataset.out)["un_0.b2nd"] == kept["un_0.b2nd"]


@pytest.mark.slow
def test_a_full_disk_under_worker_processes(dataset):
    dataset.out.mkdir()
    with small_disk(dataset.out, kilobytes=100):  # a case takes 60
        told = refusal(5, ["3d_fullres"], "nnUNetPlans", 2)
        end = "cannot be written: No space left on device. Make room and run the same command again: finished cases are"
        assert re.search(rf"/\.partial/un_\d\.(b2nd|pkl) {end} kept\.$", told)


def test_a_folder_that_vanishes_is_named(dataset, in_process, monkeypatch):
    real = DefaultPreprocessor.run_case_npy

    def run_case_npy(self, *arguments):
        shutil.rmtree(dataset.out, ignore_errors=True)
        return real(self, *arguments)

    monkeypatch.setattr(PREPROCESSOR, run_case_npy)
    told = refusal(5, ["3d_fullres"])
    assert told.startswith(f"The folder {dataset.out / '.partial'} is gone (removed or unmounted?)")


def test_a_second_run_is_refused_before_it_changes_anything(dataset, in_process):
    preprocess_dataset(5, ["3d_fullres"])
    with another_process_holds(dataset.out) as other:
        told = refusal(5)  # of 2d too, where nobody is
    assert told.startswith(f"{dataset.out} is in use: process {other} on ")
    assert names(dataset.out) == WHOLE and "nnUNetPlans_2d_unlabeled" not in names(dataset.base)


def test_killed_between_image_and_properties(dataset, in_process, monkeypatch):
    """The properties vouch for the image: without them the case is made again."""
    replace = os.replace

    def killed(source, target):
        if Path(target).name == "un_3.pkl":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        preprocess_dataset(5, ["3d_fullres"])
    assert "un_3.b2nd" in names(dataset.out)
    with pytest.raises(InputError, match="not finished"):
        read_cases(dataset.out, dataset.plans, "3d_fullres", 5)
    monkeypatch.setattr(os, "replace", replace)
    assert run(dataset) == UNLABELED
    assert names(dataset.out) == WHOLE
