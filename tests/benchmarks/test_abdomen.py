"""The drawn abdomen of the suite `organs`: sizes, sides and values that make it hard, and the same files again."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import suites
from abdomen import ORGANS, abdomen_case, write_abdomen

from nnunet_ssl.data.raw import read_dataset_json
from nnunet_ssl.errors import InputError

SUITE = suites.SUITES["organs"]
SHAPE, SEED = (dict(SUITE.phantom)[key] for key in ("shape", "seed"))
SMALL = {"labeled": 2, "test": 1, "shape": (16, 24, 28)}


@cache
def cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """All of the suite's, training and test."""
    return [abdomen_case(SHAPE, seed=(SEED, number)) for number in range(SUITE.units + SUITE.test)]


@cache
def voxels() -> np.ndarray:
    """By case and organ."""
    return np.stack([np.bincount(label.ravel(), minlength=len(ORGANS) + 1)[1:] for _, label in cases()])


def of(organ: str) -> int:
    return ORGANS.index(organ) + 1


def test_all_organs_are_in_every_case():
    assert all(image.shape == (1, *SHAPE) and image.dtype == label.dtype == np.uint8 for image, label in cases())
    assert all(label.max() == len(ORGANS) == 13 for _, label in cases())
    assert voxels().min() >= 10


def test_sizes_are_as_unequal_as_in_scans():
    mean = dict(zip(ORGANS, voxels().mean(axis=0), strict=True))
    assert max(mean, key=mean.get) == "liver" and max(mean.values()) > 300 * min(mean.values())
    assert all(15 < mean[f"{side}_adrenal_gland"] < 60 for side in ("left", "right"))
    described = {"liver": 7779, "stomach": 1454, "spleen": 742, "pancreas": 347, "aorta": 340, "esophagus": 85}
    assert {organ: round(mean[organ]) for organ in described} == pytest.approx(described, abs=1)
    spread = voxels().std(axis=0) / voxels().mean(axis=0)
    assert spread.min() > 0.1  # a case does not tell the sizes of the next


def test_rare_classes_of_the_suite_are_the_five_with_the_fewest_voxels():
    assert SUITE.classes == ORGANS
    test = voxels()[SUITE.units :].mean(axis=0)
    assert set(SUITE.rare) == {ORGANS[number] for number in np.argsort(test)[:5]}


def test_sides_are_not_swapped():
    """x goes to the patient's left, y to the back, z up."""
    for _, label in cases():
        z, y, x = {}, {}, {}
        for organ in ORGANS:
            z[organ], y[organ], x[organ] = np.mean(np.nonzero(label == of(organ)), axis=1)
        for pair in ("kidney", "adrenal_gland"):
            assert x[f"left_{pair}"] > x[f"right_{pair}"] + 8
            assert x[f"right_{pair}"] < SHAPE[2] / 2 < x[f"left_{pair}"]
        assert x["liver"] < x["stomach"] < x["spleen"] and x["inferior_vena_cava"] < x["aorta"]
        assert z["esophagus"] > z["pancreas"] and y["stomach"] < y["left_kidney"]


def test_values_do_not_tell_organs_apart():
    """The best window of values, chosen for each case with its labels, is far from an organ."""
    for image, label in cases()[:6]:
        every = np.bincount(image.ravel(), minlength=256)
        assert best_window(image[0][label > 0], every) < 0.85
        for organ in ORGANS:
            limit = 0.8 if organ == "liver" else 0.5
            assert best_window(image[0][label == of(organ)], every) < limit, organ


def best_window(organ: np.ndarray, every: np.ndarray) -> float:
    """Dice of the best `low <= value < high` against an organ, from its values and the histogram of all."""
    hit = np.append(0, np.bincount(organ, minlength=256).cumsum())
    chosen = np.append(0, every.cumsum())
    dice = 2 * (hit[None] - hit[:, None]) / np.maximum(chosen[None] - chosen[:, None] + organ.size, 1)
    return dice[np.triu_indices(257, 1)].max()


def test_variation_tells_cases_apart():
    same = [abdomen_case(SMALL["shape"], variation=0, seed=(0, number))[1] for number in range(2)]
    assert (same[0] == same[1]).mean() > 0.99  # but for the dome of the lung and other things that are no organ's
    other = [abdomen_case(SMALL["shape"], variation=1, seed=(0, number))[1] for number in range(2)]
    assert (other[0] == other[1])[np.maximum(*other) > 0].mean() < 0.8
    with pytest.raises(ValueError, match="variation=3 is out of range"):
        abdomen_case(SMALL["shape"], variation=3)


def test_files(tmp_path):
    write_abdomen(tmp_path / "a", **SMALL)
    names = {str(file.relative_to(tmp_path / "a")) for file in (tmp_path / "a").rglob("*.*")}
    assert names == {
        "dataset.json",
        *(f"imagesTr/abdomen_00{i}_0000.nii.gz" for i in (0, 1)), *(f"labelsTr/abdomen_00{i}.nii.gz" for i in (0, 1)),
        "imagesTs/abdomen_002_0000.nii.gz", "labelsTs/abdomen_002.nii.gz",
    }  # fmt: skip
    assert list(read_dataset_json(tmp_path / "a" / "dataset.json")["labels"]) == ["background", *ORGANS]
    image = sitk.ReadImage(tmp_path / "a" / "labelsTs" / "abdomen_002.nii.gz")
    assert image.GetSpacing() == (12, 12, 12)  # half as many voxels as the suite along every axis
    assert np.array_equal(sitk.GetArrayFromImage(image), abdomen_case(SMALL["shape"], seed=(0, 2))[1])
    with pytest.raises(InputError, match="is not empty"):
        write_abdomen(tmp_path / "a", **SMALL)


def test_the_same_arguments_give_the_same_files(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_abdomen(tmp_path / name, **SMALL, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*.*") if file.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
