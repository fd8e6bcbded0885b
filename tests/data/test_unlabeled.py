"""The preprocessed unlabeled folder: fingerprint, manifest and what training accepts."""

import copy
import io
import json
import os
from types import SimpleNamespace

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.data.unlabeled import manifest_content, plans_fingerprint, read_cases, unlabeled_folder
from nnunet_ssl.errors import InputError

FULLRES = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [32, 32, 32],
    "spacing": [1.0, 1.0, 1.0],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3},
    "architecture": {"network_class_name": "PlainConvUNet"},
}
PLANS = {
    "dataset_name": "Dataset018_LA",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {"0": {"mean": 10.0, "std": 2.0}},
    "configurations": {"3d_fullres": FULLRES, "3d_cascade_fullres": {"inherits_from": "3d_fullres"}},
}
COMMAND = "nnunet_ssl preprocess -d 18 -c 3d_fullres -p nnUNetPlans"


def fingerprint(**changes):
    """Fingerprint of PLANS with some keys of the plans or of the configuration changed."""
    plans = copy.deepcopy(PLANS)
    for key, value in changes.items():
        (plans if key in plans else plans["configurations"]["3d_fullres"])[key] = value
    return plans_fingerprint(PlansManager(plans), "3d_fullres")


def make_folder(folder, cases):
    folder.mkdir()
    for case in cases:
        (folder / f"{case}.b2nd").touch()
        (folder / f"{case}.pkl").touch()
    manifest = manifest_content(PlansManager(PLANS), "3d_fullres", cases)
    (folder / "unlabeled.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def refusal(folder):
    with pytest.raises(InputError) as caught:
        read_cases(folder, PlansManager(PLANS), "3d_fullres", 18)
    return str(caught.value)


def test_folder_is_a_sibling_of_nnunets(tmp_path):
    manager = SimpleNamespace(data_identifier="nnUNetPlans_3d_fullres")
    assert unlabeled_folder(tmp_path, manager) == tmp_path / "nnUNetPlans_3d_fullres_unlabeled"


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": [1.0, 1.0, 1.1]},
        {"normalization_schemes": ["ZScoreNormalization"]},
        {"use_mask_for_norm": [True]},
        {"resampling_fn_data_kwargs": {"is_seg": False, "order": 1}},
        {"resampling_fn_data": "no_resampling_data_or_seg_to_shape"},
        {"preprocessor_name": "Other"},
        {"transpose_forward": [2, 0, 1]},
        {"image_reader_writer": "NibabelIO"},
        {"foreground_intensity_properties_per_channel": {"0": {"mean": 10.5, "std": 2.0}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_changes_with_what_decides_voxels(change):
    assert fingerprint(**change) != fingerprint()


def test_fingerprint_ignores_patch_batch_network_and_name():
    same = fingerprint(
        patch_size=[64, 64, 64], batch_size=8, plans_name="Other", architecture={"network_class_name": "ResEnc"}
    )
    assert same == fingerprint()
    assert len(same) == 64


def test_cascade_reads_the_images_of_fullres():
    plans = PlansManager(PLANS)
    assert plans_fingerprint(plans, "3d_cascade_fullres") == plans_fingerprint(plans, "3d_fullres")


def test_cases_are_those_of_the_manifest_sorted(tmp_path):
    folder = make_folder(tmp_path / "f", ["b", "a"])
    (folder / "not_in_manifest.b2nd").touch()
    for dataset in (18, "Dataset018_LA"):
        assert read_cases(folder, PlansManager(PLANS), "3d_fullres", dataset) == ["a", "b"]


def test_missing_folder_names_raw_folder_and_command(tmp_path):
    message = refusal(tmp_path / "none")
    assert COMMAND in message
    assert "Dataset018_LA/imagesUnlabeled" in message


def test_missing_manifest_means_unfinished(tmp_path):
    folder = make_folder(tmp_path / "f", ["a"])
    (folder / "unlabeled.json").unlink()
    message = refusal(folder)
    assert "not finished" in message
    assert COMMAND in message


def test_other_plans_are_refused(tmp_path):
    folder = make_folder(tmp_path / "f", ["a"])
    manifest = json.loads((folder / "unlabeled.json").read_text(encoding="utf-8"))
    (folder / "unlabeled.json").write_text(
        json.dumps({**manifest, "fingerprint": fingerprint(spacing=[2, 2, 2])}), encoding="utf-8"
    )
    assert "other plans" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2}', '{"format": 1, "fingerprint": "x", "cases": [3]}'])
def test_damaged_manifest_is_refused(tmp_path, content):
    folder = make_folder(tmp_path / "f", ["a"])
    (folder / "unlabeled.json").write_text(content, encoding="utf-8")
    message = refusal(folder)
    assert "unlabeled.json" in message
    assert COMMAND in message


def test_empty_list_is_refused(tmp_path):
    assert "lists no case" in refusal(make_folder(tmp_path / "f", []))


@pytest.mark.parametrize("ending", ["b2nd", "pkl"])
def test_lost_file_is_named(tmp_path, ending):
    folder = make_folder(tmp_path / "f", ["a", "b"])
    (folder / f"b.{ending}").unlink()
    message = refusal(folder)
    assert "1 case(s)" in message
    assert "b.b2nd" in message


def test_twenty_thousand_cases_are_listed_at_once(tmp_path, monkeypatch):
    calls = []

    def counted(module, name):
        first = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: calls.append(name) or first(*args, **kwargs))

    folders = {
        number: make_folder(tmp_path / str(number), [f"case_{i:05d}" for i in range(number)]) for number in (20, 20_000)
    }
    for module, names in ((os, ("listdir", "scandir", "stat", "lstat")), (io, ("open",))):
        for name in names:
            counted(module, name)
    made = {}
    for number, folder in folders.items():
        calls.clear()
        assert len(read_cases(folder, PlansManager(PLANS), "3d_fullres", 18)) == number
        made[number] = [*calls]
    assert made[20] == made[20_000]
    assert made[20].count("listdir") == made[20].count("open") == 1
