"""Preprocessing of unlabeled cases: the same voxels as nnU-Net's, every bad image named, nothing half done."""

import gzip
import json
import os
import pickle
import re
import resource
import shutil
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from workbench import InProcess, another_process_holds, file_size_limit, small_disk

from nnunet_ssl.data.unlabeled import find_unlabeled, read_cases
from nnunet_ssl.errors import InputError
from nnunet_ssl.preparation import preprocessing
from nnunet_ssl.preparation.preprocessing import preprocess_dataset, read_checked

NAME = "Dataset005_Tiny"
LABELED = [f"lab_{i}" for i in range(4)]
UNLABELED = [f"un_{i}" for i in range(6)]  # un_0 ... un_3 are the images of lab_0 ... lab_3


def make_image(seed, size=(20, 24, 22), spacing=(1.0, 1.1, 2.0)):
    rng = np.random.default_rng(seed)
    voxels = np.zeros(size, np.float32)
    voxels[2:-1, 3:, 1:-2] = rng.normal(100, 20, voxels[2:-1, 3:, 1:-2].shape)  # a border of zeros to be cropped
    return with_geometry(voxels, spacing)


def with_geometry(voxels, spacing=(1.0, 1.1, 2.0), origin=(3.0, -2.0, 7.0)):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


@pytest.fixture(scope="session")
def planned(tmp_path_factory):
    """A two-channel dataset, planned and preprocessed by nnU-Net (no process pools, for speed)."""
    root = tmp_path_factory.mktemp("planned")
    raw, base = root / "raw" / NAME, root / "preprocessed" / NAME
    for folder in ("imagesTr", "labelsTr", "imagesTs", "imagesUnlabeled"):
        (raw / folder).mkdir(parents=True)
    for i in range(6):
        spacing = (1.0, 1.1, 2.0 + 0.5 * (i % 2))  # half of them are resampled
        for channel in range(2):
            image = make_image(10 * i + channel, spacing=spacing)
            sitk.WriteImage(image, raw / "imagesUnlabeled" / f"un_{i}_{channel:04d}.nii.gz")
            if i < 4:
                sitk.WriteImage(image, raw / "imagesTr" / f"lab_{i}_{channel:04d}.nii.gz")
        label = np.zeros((20, 24, 22), np.uint8)
        label[6:12, 8:14, 8:14] = 1
        if i < 4:
            sitk.WriteImage(with_geometry(label, spacing), raw / "labelsTr" / f"lab_{i}.nii.gz")
    content = {
        "channel_names": {"0": "CT", "1": "T2"},
        "labels": {"background": 0, "thing": 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("raw", "preprocessed", "results"):
            (root / kind).mkdir(exist_ok=True)
            patch.setenv(f"nnUNet_{kind}", str(root / kind))
        patch.setenv("nnUNet_n_proc_DA", "1")  # the planner sets this many threads and fails on 0
        DatasetFingerprintExtractor(5, num_processes=1).run()
        ExperimentPlanner(5).plan_experiment()
    plans = PlansManager(str(base / "nnUNetPlans.json"))
    for name in ("2d", "3d_fullres"):
        configuration = plans.get_configuration(name)
        folder = base / configuration.data_identifier
        folder.mkdir()
        for case in LABELED:
            files = [str(raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz") for channel in range(2)]
            label = str(raw / "labelsTr" / f"{case}.nii.gz")
            DefaultPreprocessor(verbose=False).run_case_save(
                str(folder / case), files, label, plans, configuration, content
            )
    return root


@pytest.fixture
def dataset(planned, tmp_path, monkeypatch):
    """A private copy of the planned dataset: ``.raw``, ``.base``, ``.images``, ``.out`` and its plans."""
    root = shutil.copytree(planned, tmp_path / "copy")
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(root / kind))

    class Dataset:
        raw, base = root / "raw" / NAME, root / "preprocessed" / NAME
        images = raw / "imagesUnlabeled"
        out = base / "nnUNetPlans_3d_fullres_unlabeled"
        plans = PlansManager(str(base / "nnUNetPlans.json"))

    return Dataset


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)


def run(dataset):
    preprocess_dataset(5, ["3d_fullres"])
    return read_cases(dataset.out, dataset.plans, "3d_fullres", 5)


def refusal(*args):
    with pytest.raises(InputError) as caught:
        preprocess_dataset(*args)
    return str(caught.value)


def stamps(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def names(folder):
    return sorted(file.name for file in folder.iterdir())


WHOLE = sorted([f"{case}.{ending}" for case in UNLABELED for ending in ("b2nd", "pkl")] + ["unlabeled.json"])


@pytest.mark.slow
def test_voxels_equal_nnunets_bit_for_bit(dataset):
    preprocess_dataset(5, processes=2)  # real worker processes; both configurations that nnU-Net preprocessed
    for name in ("2d", "3d_fullres"):
        theirs, ours = dataset.base / f"nnUNetPlans_{name}", dataset.base / f"nnUNetPlans_{name}_unlabeled"
        assert names(ours) == WHOLE
        assert read_cases(ours, dataset.plans, name, 5) == UNLABELED
        for labeled, unlabeled in zip(LABELED, UNLABELED, strict=False):
            a, b = (blosc2.open(str(f), mode="r") for f in (theirs / f"{labeled}.b2nd", ours / f"{unlabeled}.b2nd"))
            assert (a.dtype, a.shape, a.chunks, a.blocks) == (b.dtype, b.shape, b.chunks, b.blocks)
            assert a[:].tobytes() == b[:].tobytes()
            assert a.shape[0] == 2
            their_properties = pickle.loads((theirs / f"{labeled}.pkl").read_bytes())
            our_properties = pickle.loads((ours / f"{unlabeled}.pkl").read_bytes())
            mark = our_properties.pop("nnunet_ssl")
            assert list(mark["sources"]) == [f"{unlabeled}_0000.nii.gz", f"{unlabeled}_0001.nii.gz"]
            assert "class_locations" in their_properties
            del their_properties["class_locations"]
            assert repr(our_properties) == repr(their_properties)


def test_second_run_does_nothing_and_only_changes_are_redone(dataset, in_process):
    assert run(dataset) == UNLABELED
    first = stamps(dataset.out)
    run(dataset)
    again = stamps(dataset.out)
    del first["unlabeled.json"], again["unlabeled.json"]
    assert again == first

    sitk.WriteImage(make_image(99), dataset.images / "un_4_0001.nii.gz")  # changed
    for channel in range(2):
        (dataset.images / f"un_5_{channel:04d}.nii.gz").unlink()  # left the raw folder
    (dataset.out / "un_2.b2nd").write_bytes((dataset.out / "un_2.b2nd").read_bytes()[:-200])  # damaged
    (dataset.out / ".partial").mkdir()
    (dataset.out / ".partial" / "un_9_seg.b2nd").touch()  # left by a killed run
    assert run(dataset) == UNLABELED[:5]
    assert names(dataset.out) == [name for name in WHOLE if not name.startswith("un_5")]
    third = stamps(dataset.out)
    redone = {name.split(".")[0] for name in third if name != "unlabeled.json" and third[name] != first[name]}
    assert redone == {"un_2", "un_4"}
    assert np.isfinite(blosc2.open(str(dataset.out / "un_2.b2nd"), mode="r")[:]).all()


def test_other_plans_redo_everything(dataset, in_process):
    run(dataset)
    file = dataset.base / "nnUNetPlans.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["spacing"] = [2.5, 1.5, 1.5]
    file.write_text(json.dumps(plans), encoding="utf-8")
    with pytest.raises(InputError, match="other plans"):
        read_cases(dataset.out, PlansManager(plans), "3d_fullres", 5)
    before = blosc2.open(str(dataset.out / "un_0.b2nd"), mode="r").shape
    preprocess_dataset(5, ["3d_fullres"])
    assert read_cases(dataset.out, PlansManager(plans), "3d_fullres", 5) == UNLABELED
    assert blosc2.open(str(dataset.out / "un_0.b2nd"), mode="r").shape != before


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


def test_channels_in_one_space_are_brought_onto_the_first_ones_grid(dataset):
    """With other axes, and with a header within a tenth of a voxel: the voxels of the channel as it was."""
    files = [dataset.images / f"odd_{channel:04d}.nii.gz" for channel in range(2)]
    first, second = make_image(1), make_image(2)
    sitk.WriteImage(first, files[0])
    turned = sitk.Flip(sitk.PermuteAxes(second, (1, 2, 0)), (True, False, True))
    near = sitk.Image(second)
    near.SetOrigin((3.0, -2.0, 7.1))  # 0.05 voxels of 2 mm
    for stored, is_turned, voxels in ((second, False, 0), (turned, True, 0), (near, False, 0.05)):
        sitk.WriteImage(stored, files[1])
        data, properties, difference = read_checked("odd", files, dataset.plans)
        assert np.array_equal(data, np.stack([sitk.GetArrayFromImage(image) for image in (first, second)]))
        assert properties["sitk_stuff"]["origin"] == (3, -2, 7)
        assert difference.turned == is_turned
        assert difference.voxels == pytest.approx(voxels, abs=1e-5)


def test_a_channel_that_the_reader_reorients_gives_nnunets_voxels(dataset):
    """NibabelIOWithReorient brings both channels together: what it gives for all files at once, and nothing to tell."""
    plans = PlansManager({**dataset.plans.plans, "image_reader_writer": "NibabelIOWithReorient"})
    files = [dataset.images / f"odd_{channel:04d}.nii.gz" for channel in range(2)]
    sitk.WriteImage(make_image(1), files[0])
    sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(make_image(2), (2, 0, 1)), (True, True, False)), files[1])
    data, properties, difference = read_checked("odd", files, plans)
    theirs, their_properties = plans.image_reader_writer_class().read_images([str(file) for file in files])
    assert np.array_equal(data, theirs)
    assert repr(properties) == repr(their_properties)
    assert not difference.turned
    assert difference.voxels < 1e-3


def test_turned_channels_are_told(dataset, in_process, capsys):
    file = dataset.images / "un_2_0001.nii.gz"
    expected = run(dataset) and blosc2.open(str(dataset.out / "un_2.b2nd"), mode="r")[:]
    assert "axes" not in capsys.readouterr().out
    sitk.WriteImage(sitk.Flip(sitk.ReadImage(file), (True, False, False)), file)
    run(dataset)
    assert "In 1 case(s) a channel is stored with other axes than the first one: turned" in capsys.readouterr().out
    assert np.array_equal(blosc2.open(str(dataset.out / "un_2.b2nd"), mode="r")[:], expected)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_files_are_refused(dataset, ending, share):
    file = dataset.images / f"cut_0000{ending}"
    sitk.WriteImage(make_image(1), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=f"case cut, file cut_0000{ending}: cannot be read"):
        read_checked("cut", [file, file], dataset.plans)


def test_gzip_in_several_members_is_whole(dataset):
    file = dataset.images / "members_0000.nii.gz"
    sitk.WriteImage(make_image(1), file)
    content = gzip.decompress(file.read_bytes())
    members = [gzip.compress(content[:1000]), gzip.compress(content[1000:]), gzip.compress(b"")]
    file.write_bytes(b"".join(members))
    data, *_ = read_checked("members", [file, file], dataset.plans)
    assert np.array_equal(data[0], sitk.GetArrayFromImage(make_image(1)))
    file.write_bytes(b"".join(members)[:-60])
    with pytest.raises(InputError, match="cannot be read"):
        read_checked("members", [file, file], dataset.plans)


def test_color_pictures_are_one_file_of_three_channels(tmp_path):
    """A 2D dataset of PNG files: nnU-Net's spacing of 999 marks 2D."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "imagesUnlabeled"):
        (tmp_path / folder).mkdir()
        picture = sitk.GetImageFromArray(rng.integers(0, 255, (16, 20, 3), dtype=np.uint8), isVector=True)
        sitk.WriteImage(picture, tmp_path / folder / f"{folder}_0000.png")
    cases, problems = find_unlabeled(tmp_path, {"file_ending": ".png"}, num_channels=3)
    assert problems == []
    plans = PlansManager(
        {
            "image_reader_writer": "NaturalImage2DIO",
            "original_median_spacing_after_transp": [999.0, 1.0, 1.0],
            "foreground_intensity_properties_per_channel": {"0": {}, "1": {}, "2": {}},
        }
    )
    data, *_ = read_checked("imagesUnlabeled", cases["imagesUnlabeled"], plans)
    assert data.shape == (3, 1, 16, 20)


def test_files_beside_images_are_passed_over_and_broken_links_are_not(tmp_path):
    folder = tmp_path / "imagesUnlabeled"
    folder.mkdir()
    for name in ("a_0000.tif", "a.json", ".DS_Store", "notes.txt"):
        (folder / name).touch()
    assert find_unlabeled(tmp_path, {"file_ending": ".tif"}, 1) == ({"a": [folder / "a_0000.tif"]}, [])
    (folder / "b_0000.tif").symlink_to(folder / "gone.tif")
    (folder / "c.nii").touch()
    _, problems = find_unlabeled(tmp_path, {"file_ending": ".tif"}, 1)
    assert len(problems) == 2
    assert "b_0000.tif is no file" in problems[1]
    assert "c.nii: the labeled images end in .tif" in problems[0]


def test_no_unlabeled_images(dataset, capsys):
    for file in dataset.images.iterdir():
        file.unlink()
    assert str(dataset.images) in refusal(5)
    dataset.images.rmdir()
    assert str(dataset.images) in refusal(5)
    # ... which is fine when the folds bring their own
    split = {"train": LABELED[:2], "val": LABELED[2:3], "unlabeled": LABELED[3:]}
    (dataset.base / "splits_final.json").write_text(json.dumps([split]), encoding="utf-8")
    preprocess_dataset(5)
    assert "Nothing to preprocess" in capsys.readouterr().out


def test_unknown_names(dataset):
    assert "they have: 2d, 3d_fullres" in refusal(5, ["3d_fulres"])
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
