"""The phantom: nnU-Net accepts it, it is the same every time, and no label of an unlabeled case is written."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ssl.demo.phantom import ORGANS, dataset_json, phantom_case, write_phantom
from nnunet_ssl.errors import InputError

SMALL = {"labeled": 2, "unlabeled": 3, "test": 1, "shape": (16, 20, 24)}


def contents(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize(
    "options",
    [{}, {"channels": 2, "classes": 2}, {"regions": True}, {"shape": (40, 48)}, {"shape": (40, 48), "regions": True}],
)
def test_nnunet_finds_no_fault(tmp_path, options):
    folder = tmp_path / "Dataset001_Phantom"
    write_phantom(folder, **SMALL | options)
    verify_dataset_integrity(str(folder), 1)


def test_files_and_numbers_of_cases(tmp_path):
    write_phantom(tmp_path / "d", **SMALL, channels=2)
    names = {part.name: sorted(f.name for f in part.iterdir()) for part in (tmp_path / "d").iterdir() if part.is_dir()}
    assert set(names) == {"imagesTr", "labelsTr", "imagesUnlabeled", "imagesTs", "labelsTs"}
    assert names["labelsTr"] == ["phantom_000.nii.gz", "phantom_001.nii.gz"]
    assert names["labelsTs"] == ["phantom_005.nii.gz"]
    assert names["imagesTs"] == ["phantom_005_0000.nii.gz", "phantom_005_0001.nii.gz"]
    assert [n for n in names["imagesUnlabeled"] if n.endswith("_0000.nii.gz")] == [
        f"phantom_00{i}_0000.nii.gz" for i in (2, 3, 4)
    ]
    assert json.loads((tmp_path / "d" / "dataset.json").read_text(encoding="utf-8")) == {
        "channel_names": {"0": "phantom_0", "1": "phantom_1"},
        "labels": {"background": 0, "liver": 1, "kidney": 2, "vessel": 3, "gland": 4},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    image = sitk.ReadImage(str(tmp_path / "d" / "imagesTr" / "phantom_000_0001.nii.gz"))
    assert image.GetSpacing() == (2, 2, 2)
    assert image.GetSize() == (24, 20, 16)
    assert [f.name for f in tmp_path.iterdir()] == ["d"]


def test_same_seed_same_files(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_phantom(tmp_path / name, **SMALL, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    a, c = contents(tmp_path / "a"), contents(tmp_path / "c")
    assert all(a[file] != c[file] for file in a if file.startswith("images"))


@pytest.mark.parametrize("shape", [(48, 64, 64), (24, 32, 32), (64, 64)])
def test_every_case_has_every_organ_and_cases_differ(shape):
    cases = [phantom_case(shape, seed=(0, i)) for i in range(12)]
    shares = np.array([np.bincount(label.ravel(), minlength=5) / label.size for _, label in cases])
    assert (shares > 0).all()
    liver, kidney, vessel, gland = shares[:, 1:].mean(axis=0)
    assert liver > kidney > vessel
    assert gland < kidney
    if len(shape) == 3:
        assert 0.003 < gland < 0.007
    assert shares[:, 1].std() > 0.1 * liver
    first = cases[0][1] == 1
    dice = [2 * (first & (label == 1)).sum() / (first.sum() + (label == 1).sum()) for _, label in cases[1:]]
    assert max(dice) < 0.95


def test_more_variation_tells_cases_further_apart_and_leaves_every_organ_in():
    def spread(variation):
        cases = [phantom_case((40, 48, 48), variation=variation, seed=(1, i)) for i in range(12)]
        assert all(set(np.unique(label)) == {0, 1, 2, 3, 4} for _, label in cases)
        kidney = np.array([[(label == 2).mean(), image[0][label == 2].mean()] for image, label in cases])
        return kidney.std(axis=0) / kidney.mean(axis=0)

    none, as_ever, much = spread(0.0), spread(1.0), spread(2.0)
    assert (none < as_ever).all() and (as_ever < much).all()
    assert (much > 1.5 * as_ever).any()


def test_tissues_differ_in_intensity_but_a_threshold_does_not_segment_them():
    image, label = phantom_case((48, 64, 64), seed=3)
    image = image[0].astype(float)
    means = [image[label == i].mean() for i in (1, 2, 3, 4)]
    assert means == sorted(means)  # liver, kidney, vessel, gland
    assert means[-1] - means[0] > 50
    for organ in (1, 2, 3):
        low, high = np.percentile(image[label == organ], (5, 95))
        inside = (image >= low) & (image <= high)
        assert (label[inside] == organ).mean() < 0.7, organ


def test_unasked_organs_stay_in_the_image():
    image2, label2 = phantom_case((24, 32, 32), classes=2, seed=5)
    image5, label5 = phantom_case((24, 32, 32), classes=5, seed=5)
    assert np.array_equal(image2, image5)
    assert np.array_equal(label2, np.where(label5 == 1, 1, 0))


def test_regions_give_back_the_label_map():
    dataset = dataset_json(classes=5, channels=1, regions=True, labeled=2, ending=".nii.gz")
    manager = LabelManager(dataset["labels"], dataset["regions_class_order"])
    assert manager.has_regions
    assert [len(r) if isinstance(r, tuple) else 1 for r in manager.foreground_regions] == [4, 3, 2, 1]
    _, label = phantom_case((24, 32, 32), seed=1)
    probabilities = np.stack([np.isin(label, region) for region in manager.foreground_regions]).astype(np.float32)
    assert np.array_equal(manager.convert_probabilities_to_segmentation(probabilities), label)


def test_png_of_a_two_dimensional_phantom(tmp_path):
    write_phantom(tmp_path / "d", **SMALL | {"shape": (40, 48)}, classes=3)
    image, properties = NaturalImage2DIO().read_images((str(tmp_path / "d" / "imagesTs" / "phantom_005_0000.png"),))
    label, _ = NaturalImage2DIO().read_seg(str(tmp_path / "d" / "labelsTs" / "phantom_005.png"))
    assert image.shape == label.shape == (1, 1, 40, 48)
    assert set(np.unique(label)) == {0, 1, 2}
    assert image.std() > 10
    assert properties["spacing"] == (999, 1, 1)


def test_refuses_a_folder_in_use_and_nonsense(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="not empty"):
        write_phantom(tmp_path, **SMALL)
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]
    for options in ({"classes": 1}, {"classes": len(ORGANS) + 2}, {"classes": 2, "regions": True}, {"shape": (8,)}):
        with pytest.raises(ValueError, match="no such phantom"):
            write_phantom(tmp_path / "new", **SMALL | options)
    with pytest.raises(ValueError, match="variation=3 is out of range"):
        write_phantom(tmp_path / "new", **SMALL, variation=3)
    assert not (tmp_path / "new").exists()
