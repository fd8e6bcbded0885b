"""Labels come into a dataset: what is moved, what follows, and what nothing happens to."""

import json

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from drawings import draw, folders, label_of, take, tree, unlabeled

from nnunet_ssl.annotation.adopt import undo_last


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def test_a_case_becomes_labeled_everywhere(phantom_dataset, tmp_path, capsys):
    dataset, cases = phantom_dataset, unlabeled(phantom_dataset)
    before, splits = tree(dataset.root), read(dataset.base / "splits_final.json")
    folder = draw(dataset, tmp_path / "labels", *cases[:2])
    assert take(folder) == cases[:2]
    print(capsys.readouterr().out)
    raw, base = dataset.raw, dataset.base
    assert unlabeled(dataset) == cases[2:]
    for case in cases[:2]:
        stored = sitk.ReadImage(str(raw / "labelsTr" / f"{case}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(stored), sitk.GetArrayFromImage(label_of(dataset, case)))
        assert (base / "gt_segmentations" / f"{case}.nii.gz").is_file()
        assert (raw / "imagesTr" / f"{case}_0000.nii.gz").is_file()
        found = blosc2.open(str(base / "nnUNetPlans_3d_fullres" / f"{case}_seg.b2nd"))[:]
        assert {1, 2} <= {*np.unique(found)}
    assert read(raw / "dataset.json")["numTraining"] == read(base / "dataset.json")["numTraining"] == 6
    now = read(base / "splits_final.json")
    assert [fold["val"] for fold in now] == [fold["val"] for fold in splits]
    assert [fold["train"] for fold in now] == [fold["train"] + cases[:2] for fold in splits]
    pool = base / "nnUNetPlans_3d_fullres_unlabeled"
    assert read(pool / "unlabeled.json")["cases"] == cases[2:]
    assert sorted(file.name for file in pool.glob("*.b2nd")) == [f"{case}.b2nd" for case in cases[2:]]
    assert undo_last(7) == cases[:2]
    assert tree(dataset.root) == before
    assert not [place for place in folders(dataset.root) if ".adopted" in place]
