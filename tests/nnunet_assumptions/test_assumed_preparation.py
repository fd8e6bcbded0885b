"""nnU-Net's plans, preprocessing, readers, folds and names of datasets, as what prepares a training uses them."""

import copy
import inspect
import json
import os
from pathlib import Path

import blosc2
import nnunetv2.paths
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.dataset_conversion.convert_MSD_dataset import split_4d_nifti
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.reader_writer_registry import (
    LIST_OF_IO_CLASSES,
    determine_reader_writer_from_dataset_json,
    recursive_find_reader_writer_by_name,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    RGBTo01Normalization,
    ZScoreNormalization,
)
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from workbench import plan_fast

from nnunet_ssl.data.origin import _nnunets_split
from nnunet_ssl.data.plans import RESAMPLING, read_plans, with_inherited
from nnunet_ssl.data.reading import reader_of
from nnunet_ssl.data.space import grid_of
from nnunet_ssl.data.splits import make_splits
from nnunet_ssl.networks.architecture import PLAIN
from nnunet_ssl.preparation.planning import FINGERPRINT
from nnunet_ssl.preparation.preprocessing import PROCESSES, _is_flat

CASES = [f"phantom_{number:03d}" for number in range(4)]


# ---------------------------------------------------------------------- plans


def test_plans_have_all_that_we_ask_of_them(dataset):
    """`read_plans` demands these keys of every plans file before anything is read; those of the planner must do."""
    assert read_plans(dataset.base, dataset.plans).plans_name == dataset.plans


def test_network_in_plans(plans):
    """`backbone` and the benchmark's suites replace it; `Architecture.of_another_form` knows its arguments."""
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    assert architecture.keys() == {"network_class_name", "arch_kwargs", "_kw_requires_import"}
    assert architecture["network_class_name"] == PLAIN
    needed = {"n_stages", "features_per_stage", "strides", "kernel_sizes"}
    assert needed | {"n_conv_per_stage", "n_conv_per_stage_decoder"} <= architecture["arch_kwargs"].keys()


def test_plans_of_a_dictionary_keep_it(plans):
    """Plans with an entry of ours, of which labels they saw, pass it on to results and checkpoints."""
    plans["nnunet_ssl"] = {"fold": 0, "planned_on": CASES[:2]}
    assert PlansManager(plans).plans is plans


def test_inheritance_of_configurations(plans):
    """`with_inherited` does as nnU-Net, without ending in a traceback on damaged plans: a fingerprint rests on it."""
    plans["configurations"]["a"] = {"inherits_from": "3d_fullres", "batch_size": 7}
    plans["configurations"]["b"] = {"inherits_from": "a", "patch_size": [8, 8, 8]}
    assert PlansManager(plans).get_configuration("b").configuration == with_inherited(plans, "b", Path("plans.json"))


def test_values_of_a_configuration(plans):
    """Trainer, task and preprocessing ask the manager for these."""
    settings = plans["configurations"]["3d_fullres"]
    manager = ConfigurationManager(copy.deepcopy(settings))
    assert manager.configuration == settings and PlansManager(plans).available_configurations == ["2d", "3d_fullres"]
    for name in ("data_identifier", "preprocessor_name", "batch_size", "patch_size", "spacing", "batch_dice"):
        assert getattr(manager, name) == settings[name]
    assert manager.network_arch_class_name == PLAIN
    assert manager.network_arch_init_kwargs is manager.configuration["architecture"]["arch_kwargs"]
    assert list(manager.network_arch_init_kwargs_req_import) == settings["architecture"]["_kw_requires_import"]


@pytest.mark.parametrize("key", ["preprocessor_name", *RESAMPLING])
def test_an_unknown_name_in_plans_is_no_crash_of_another_kind(plans, key):
    """`_require_known` makes a line of what the lookups give: None or a RuntimeError."""
    settings = plans["configurations"]["3d_fullres"] | {key: "nobody"}
    manager = ConfigurationManager(settings)
    try:
        found = getattr(manager, "preprocessor_class" if key == "preprocessor_name" else key)
    except RuntimeError:
        found = None
    assert found is None


def test_classes_are_found_by_name_or_not_at_all():
    """Planners and normalizations are looked up so, and None is told in a line."""
    folder = Path(nnunetv2.__path__[0]) / "preprocessing" / "normalization"
    package = "nnunetv2.preprocessing.normalization"
    assert recursive_find_python_class(str(folder), "ZScoreNormalization", package) is ZScoreNormalization
    assert recursive_find_python_class(str(folder), "Nobody", package) is None


def test_planner_takes_its_name_from_an_attribute(dataset, monkeypatch):
    """`nnunet_ssl plan` sets `plans_identifier` of any planner, and gives its plans data of their own by that name."""
    plan_fast(monkeypatch)
    planner = ExperimentPlanner(7, gpu_memory_target_in_gb=1, overwrite_target_spacing=[2.0, 2.0, 2.0])
    assert planner.plans_identifier == "nnUNetPlans"
    planner.plans_identifier = "nnUNetPlans_fold0"
    made = planner.plan_experiment()
    assert made["plans_name"] == "nnUNetPlans_fold0"
    assert made["configurations"]["3d_fullres"]["data_identifier"] == "nnUNetPlans_fold0_3d_fullres"
    os.remove(dataset.base / "nnUNetPlans_fold0.json")


def test_fingerprint_has_an_entry_for_each_case(dataset):
    """Whether plans have seen hidden labels is told by the number of its spacings: it names no case."""
    fingerprint = json.loads((dataset.base / FINGERPRINT).read_text(encoding="utf-8"))
    assert len(fingerprint["spacings"]) == len(CASES)


def test_a_killed_worker_of_the_fingerprint_is_told_in_these_words():
    """`planning.py` knows by "background worker" that memory was short, and says how to ask for less."""
    assert any(
        isinstance(constant, str) and "background worker" in constant
        for constant in fingerprint_extractor.DatasetFingerprintExtractor.run.__code__.co_consts
    )


def test_files_of_the_labeled_cases(dataset, dataset_json):
    """Planning on a fold names images and label of its cases; the leak check reads the images."""
    found = get_filenames_of_train_images_and_targets(str(dataset.raw), dataset_json)
    assert [str(case) for case in found] == CASES
    image, label = f"imagesTr/{CASES[0]}_0000.nii.gz", f"labelsTr/{CASES[0]}.nii.gz"
    assert found[CASES[0]] == {"images": [str(dataset.raw / image)], "label": str(dataset.raw / label)}


def test_cases_may_be_named_by_the_dataset(dataset, dataset_json):
    """`plan` makes a dataset of a fold's cases by this entry alone."""
    entry = {"images": ["/a/b_0000.nii.gz"], "label": "/a/b.nii.gz"}
    found = get_filenames_of_train_images_and_targets(str(dataset.raw), dataset_json | {"dataset": {"b": dict(entry)}})
    assert found == {"b": entry}


def test_pooling_of_a_patch():
    """The benchmark's suites take strides and kernels of a patch from the planner's own function."""
    pools, strides, kernels, patch, _ = get_pool_and_conv_props((1.0, 1.0), (32, 16), 4, 999999)
    assert (list(pools), [list(stride) for stride in strides]) == ([2, 2], [[1, 1], [2, 2], [2, 2]])
    assert len(kernels) == 3 and list(patch) == [32, 16]


# ---------------------------------------------------------------------- preprocessing


@pytest.fixture
def preprocessed(plans):
    """Of an image without a segmentation, with an empty `dataset.json`."""
    manager = PlansManager(plans)
    image = np.arange(2 * 9 * 9, dtype=np.float32).reshape(1, 2, 9, 9)
    image[0, 1] = 0  # nnU-Net crops to what is not zero
    properties = {"spacing": [2.0, 2.0, 2.0]}
    preprocessor = DefaultPreprocessor(verbose=False)
    return preprocessor.run_case_npy(image, None, properties, manager, manager.get_configuration("3d_fullres"), {})


def test_preprocessing_without_a_segmentation(preprocessed):
    """Unlabeled cases go through nnU-Net's own `run_case_npy`, which looks up labels only where there are some."""
    data, _, properties = preprocessed
    assert data.shape == (1, 1, 9, 9) and abs(data.mean()) < 1e-5 and "class_locations" not in properties
    assert {"bbox_used_for_cropping", "shape_before_cropping"} <= properties.keys()


def test_preprocessing_reads_and_writes_by_these_functions(dataset, plans, dataset_json, tmp_path, monkeypatch):
    """`_preprocess_case` is `run_case_save` without the segmentation: reading, `run_case_npy`, float32, `save_case`."""
    manager, saved = PlansManager(plans), []
    configuration = manager.get_configuration("3d_fullres")
    data = np.ones((1, 18, 24, 24), np.float64)

    def run_case_npy(self, image, segmentation, properties, *others):
        assert image.dtype == np.float32 and image.shape == (1, 18, 24, 24)
        return data, np.zeros((1, 1, 1, 1), np.int8), properties

    monkeypatch.setattr(DefaultPreprocessor, "run_case_npy", run_case_npy)
    monkeypatch.setattr(nnUNetDatasetBlosc2, "save_case", lambda *arguments, **other: saved.append((arguments, other)))
    files = get_filenames_of_train_images_and_targets(str(dataset.raw), dataset_json)[CASES[0]]
    arguments = (files["images"], files["label"], manager, configuration, dataset_json)
    DefaultPreprocessor(verbose=False).run_case_save(str(tmp_path / "case"), *arguments)
    (((image, _, _, target), storage),) = saved
    blocks, chunks = comp_blosc2_params(data.shape, tuple(configuration.patch_size), np.dtype(np.float32).itemsize)
    assert image.dtype == np.float32 and target == str(tmp_path / "case")
    assert (storage["blocks"], storage["chunks"]) == (blocks, chunks)


def test_case_is_stored_with_a_segmentation_of_one_voxel(tmp_path):
    """`_preprocess_case` gives nnU-Net's writer such a one, with storage of its own, and removes its file."""
    image, voxel = np.ones((1, 4, 4, 4), np.float32), np.zeros((1, 1, 1, 1), np.int16)
    nnUNetDatasetBlosc2.save_case(
        image, voxel, {}, str(tmp_path / "case"),
        chunks=(1, 4, 4, 4), blocks=(1, 2, 4, 4), chunks_seg=voxel.shape, blocks_seg=voxel.shape,
    )  # fmt: skip
    assert {*os.listdir(tmp_path)} == {"case.b2nd", "case_seg.b2nd", "case.pkl"}
    written = blosc2.open(str(tmp_path / "case.b2nd"))
    assert (written.chunks, written.blocks) == ((1, 4, 4, 4), (1, 2, 4, 4)) and (written[:] == 1).all()


def test_outside_of_the_crop_is_minus_one():
    """Voxel counts take labels below zero for background, and `Views` makes such labels where an image is zero."""
    image = np.pad(np.ones((1, 2, 2, 2)), ((0, 0), (1, 1), (1, 1), (1, 1)))
    image[0, 1, 1, 1] = 0
    data, segmentation, box = crop_to_nonzero(image, np.zeros((1, 4, 4, 4)))
    assert data.shape == (1, 2, 2, 2) and box == [[1, 3]] * 3 and set(np.unique(segmentation)) == {-1, 0}


def test_masked_normalization_leaves_zeros_outside():
    """`Views` knows the outside of an unlabeled patch by its exact zeros, where nnU-Net masks for the norm."""
    image, outside = np.array([[[0.0, 3.0, 5.0]]], np.float32), np.array([[[-1, 0, 0]]])
    made = ZScoreNormalization(True, {}).run(image, outside)
    assert made[0, 0, 0] == 0 and abs(made[0, 0, 1]) == pytest.approx(1)


def test_preprocessor_refuses_by_assertion():
    """`_preprocess_case` makes a line of it, with the case and nnU-Net's reason."""
    with pytest.raises(AssertionError, match="RGB images"):
        RGBTo01Normalization(False, {}).run(np.full((1, 2, 2), -1.0), None)


def test_numbers_of_processes():
    """`nnunet_ssl preprocess` takes as many by default as nnU-Net for the same configuration."""
    defaults = inspect.signature(preprocess).parameters
    names, numbers = (defaults[name].default for name in ("configurations", "num_processes"))
    assert dict(zip(names, numbers, strict=True)) == PROCESSES


@pytest.mark.parametrize(("channel", "scheme"), [("CT", "CTNormalization"), ("MR T1", "ZScoreNormalization")])
def test_names_of_normalization_schemes(channel, scheme):
    """`check` takes grey levels for comparable between scans by these names, of plans or of nnU-Net's rule."""
    assert get_normalization_scheme(channel).__name__ == scheme


# ---------------------------------------------------------------------- readers


@pytest.fixture
def scan(tmp_path) -> Path:
    """Of (z, y, x) = (2, 3, 4) voxels with axes along x, y and z."""
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    image.SetSpacing((0.5, 1.0, 3.0))
    image.SetOrigin((10, 20, 30))
    sitk.WriteImage(image, str(tmp_path / "scan_0000.nii.gz"))
    return tmp_path / "scan_0000.nii.gz"


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
def test_readers_give_voxels_and_spacing_by_the_same_axes(scan, reader):
    """One file after the other is read as float32 (1, z, y, x), and `properties["spacing"]` has mm in this order."""
    image, properties = reader().read_images([str(scan)])
    assert image.dtype == np.float32 and image.shape == (1, 2, 3, 4)
    assert tuple(properties["spacing"]) == pytest.approx((3, 1, 0.5))
    assert reader().read_seg(str(scan))[0].shape == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("reader", "flips"), [(SimpleITKIO, (1, 1, 1)), (NibabelIO, (1, 1, 1)), (NibabelIOWithReorient, (1, -1, -1))]
)
def test_readers_tell_where_a_scan_stands(scan, reader, flips):
    """`data/space.py` knows two layouts of properties, from which alone it tells whether images stand in one space."""
    image, properties = reader().read_images([str(scan)])
    grid = grid_of(image.shape[1:], properties)
    assert np.allclose(grid.steps, np.array([[0, 0, 0.5], [0, 1, 0], [3, 0, 0]]) * flips)
    turned = grid.turned((0, 1, 2), flips)
    assert np.allclose(turned.origin, (10, 20, 30))
    assert np.array_equal(image[0][:: flips[0], :: flips[1], :: flips[2]].ravel(), np.arange(24))


def test_flat_images_have_a_spacing_that_no_scan_has(tmp_path):
    """`preprocess` tells 2D images by it, and a 2D dataset by the same in its plans."""
    sitk.WriteImage(sitk.GetImageFromArray(np.eye(4, dtype=np.uint8)), str(tmp_path / "image.png"))
    image, properties = NaturalImage2DIO().read_images([str(tmp_path / "image.png")])
    assert image.shape == (1, 1, 4, 4) and _is_flat(properties["spacing"])
    flat = sitk.GetImageFromArray(np.eye(4, dtype=np.float32))
    flat.SetSpacing((0.1, 2.0))
    sitk.WriteImage(flat, str(tmp_path / "image.nii.gz"))
    assert _is_flat(SimpleITKIO().read_images([str(tmp_path / "image.nii.gz")])[1]["spacing"])


@pytest.mark.parametrize("wanted", [None, "NibabelIOWithReorient", "Nobody"])
def test_reader_of_a_dataset(scan, wanted):
    """`reader_of` chooses as nnU-Net does, without its tracebacks in between."""
    content = {"file_ending": ".nii.gz"} | ({"overwrite_image_reader_writer": wanted} if wanted else {})
    assert reader_of(content, [scan]) is determine_reader_writer_from_dataset_json(content, str(scan))


def test_readers_are_tried_in_this_order():
    """The first that opens a file is the dataset's: converters name another where this one would be wrong."""
    endings = [reader for reader in LIST_OF_IO_CLASSES if ".nii.gz" in reader.supported_file_endings]
    assert endings == [SimpleITKIO, NibabelIO, NibabelIOWithReorient]
    with pytest.raises(RuntimeError):
        recursive_find_reader_writer_by_name("Nobody")


# ---------------------------------------------------------------------- folds and datasets


@pytest.fixture
def without_splits(dataset, tmp_path):
    """A copy of the preprocessed dataset without folds, with a fifth case."""
    base = dataset.copy(tmp_path).base
    (base / "splits_final.json").unlink()
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        folder = base / f"{dataset.plans}_3d_fullres"
        (folder / f"phantom_009{ending}").write_bytes((folder / f"phantom_000{ending}").read_bytes())
    return base


def test_folds_are_made_by_nnunets_rule(without_splits, plans):
    """`split` makes nnU-Net's folds by default; `do_split` needs but the attributes that `origin.py` gives it."""
    train, val = _nnunets_split(without_splits, plans, "3d_fullres", 0)
    written = json.loads((without_splits / "splits_final.json").read_text(encoding="utf-8"))
    assert written == make_splits([*CASES, "phantom_009"]) and len(written) == 5
    assert {"train": list(train), "val": list(val)} == written[0]


def test_a_third_list_of_a_fold_is_ignored(without_splits, plans):
    """`"unlabeled"` hides labels from our trainers; nnU-Net's own on the same fold is the baseline."""
    fold = {"train": CASES[:1], "val": CASES[1:2], "unlabeled": CASES[2:]}
    (without_splits / "splits_final.json").write_text(json.dumps([fold]), encoding="utf-8")
    assert _nnunets_split(without_splits, plans, "3d_fullres", 0) == (CASES[:1], CASES[1:2])


def test_a_fold_that_is_not_there_trains_on_random_cases(without_splits, plans):
    """`unlabeled_of_fold` refuses it where labels are hidden: nnU-Net would train on them."""
    (without_splits / "splits_final.json").write_text(json.dumps([{"train": CASES, "val": CASES}]), encoding="utf-8")
    train, val = _nnunets_split(without_splits, plans, "3d_fullres", 3)
    assert (len(train), len(val)) == (4, 1) and {*map(str, train), *map(str, val)} == {*CASES, "phantom_009"}


def test_fold_all_trains_and_validates_on_every_case(without_splits, plans):
    """It hides no label and leaks none: a case that is both trained and validated on is no leak."""
    train, val = _nnunets_split(without_splits, plans, "3d_fullres", "all")
    assert sorted(train) == sorted(val) == [*CASES, "phantom_009"]


def test_folds_of_a_seed_and_a_number():
    """`make_splits` gives both by name, and wants lists of each fold."""
    (first, second) = generate_crossval_split(["a", "b", "c", "d"], seed=1, n_splits=2)
    assert first.keys() == {"train", "val"} and sorted([*first["val"], *second["val"]]) == ["a", "b", "c", "d"]


def test_folders_follow_the_environment(monkeypatch, tmp_path):
    """`plan` has nnU-Net work in a folder aside by setting its variables for a moment; unset ones are None."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert nnunetv2.paths.nnUNet_raw.get() == str(tmp_path)
    monkeypatch.delenv("nnUNet_raw")
    assert nnunetv2.paths.nnUNet_raw.get() is None


def test_names_of_a_dataset_are_sought_in_three_folders(monkeypatch, tmp_path):
    """Every verb finds a dataset's name by its number; folders of a running conversion begin with a dot."""
    for kind, name in (("raw", "Dataset005_A"), ("preprocessed", "Dataset005_B"), ("results", "Dataset005_A")):
        (tmp_path / kind / name).mkdir(parents=True)
        (tmp_path / kind / f".{name}.partial-1").mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    assert list(map(str, find_candidate_datasets(5))) == ["Dataset005_A", "Dataset005_B"]


def test_channels_of_a_4d_image(tmp_path):
    """`convert msd` has nnU-Net split them, and takes the files in the order of their names."""
    joined = sitk.JoinSeries([sitk.GetImageFromArray(np.full((2, 3, 4), value, np.int16)) for value in (5, 6)])
    sitk.WriteImage(joined, str(tmp_path / "BRATS_001.nii.gz"))
    (tmp_path / "out").mkdir()
    split_4d_nifti(str(tmp_path / "BRATS_001.nii.gz"), str(tmp_path / "out"))
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["BRATS_001_0000.nii.gz", "BRATS_001_0001.nii.gz"]
    assert [sitk.GetArrayFromImage(sitk.ReadImage(str(file))).max() for file in files] == [5, 6]
