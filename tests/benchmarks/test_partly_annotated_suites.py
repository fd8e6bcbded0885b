"""Copies of cases in which some classes were not annotated."""

import json

import numpy as np
import SimpleITK as sitk
from partly_annotated import add_partial, link_naive, missing_classes, partial_name

from nnunet_ssl.demo.phantom import write_phantom
from nnunet_ssl.files import read_json


def test_each_class_is_missing_in_a_third_and_each_case_lacks_one():
    classes = ["liver", "kidney", "vessel", "gland"]
    missing = [missing_classes(unit, classes) for unit in range(6)]
    assert missing == 2 * [["liver", "gland"], ["kidney"], ["vessel"]]
    assert [missing_classes(unit, classes[:3]) for unit in range(3)] == [["liver"], ["kidney"], ["vessel"]]


def labels_of(raw, case) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTr" / f"{case}.nii.gz")))


def test_copies_lack_what_is_declared_and_nothing_else(tmp_path):
    raw = tmp_path / "raw"
    write_phantom(raw, labeled=5, unlabeled=0, test=1, shape=(16, 24, 24))
    before = {file: file.read_bytes() for file in raw.glob("*Tr/*")}
    content = read_json(raw / "dataset.json", "")
    cases = [f"phantom_{number:03d}" for number in range(4)]  # two units of two cases
    add_partial(raw, cases, 2)
    declared = {partial_name(case): names for case, names in zip(cases, 2 * [["liver", "gland"]] + 2 * [["kidney"]],
                                                                 strict=True)}  # fmt: skip
    changed = read_json(raw / "dataset.json", "")
    assert changed == content | {"not_annotated": declared, "numTraining": 9}
    for case in cases:
        whole, partial = labels_of(raw, case), labels_of(raw, partial_name(case))
        gone = np.isin(whole, [content["labels"][name] for name in declared[partial_name(case)]])
        assert gone.any() and np.array_equal(partial, np.where(gone, 0, whole))
        image = (raw / "imagesTr" / f"{partial_name(case)}_0000.nii.gz").read_bytes()
        assert image == before[raw / "imagesTr" / f"{case}_0000.nii.gz"]
    files = {file: file.read_bytes() for file in raw.glob("*Tr/*")}
    assert before.items() <= files.items() and len(files) == len(before) + 8
    add_partial(raw, cases, 2)
    assert files == {file: file.read_bytes() for file in raw.glob("*Tr/*")}


def test_the_naive_folder_has_the_same_files_and_declares_nothing(tmp_path):
    (tmp_path / "known" / "cases").mkdir(parents=True)
    (tmp_path / "known" / "dataset.json").write_text(json.dumps({"labels": {}, "not_annotated": {"a": ["liver"]}}))
    for name in ("plans.json", "splits_final.json", "cases/a.b2nd"):
        (tmp_path / "known" / name).write_text(name)
    for _ in range(2):  # also where an earlier attempt was cut off
        link_naive(tmp_path / "known", tmp_path / "naive" / "Dataset001")
    naive = tmp_path / "naive" / "Dataset001"
    assert json.loads((naive / "dataset.json").read_text()) == {"labels": {}}
    assert (naive / "cases" / "a.b2nd").read_text() == "cases/a.b2nd"
    assert {file.name for file in naive.iterdir()} == {"cases", "dataset.json", "plans.json", "splits_final.json"}
