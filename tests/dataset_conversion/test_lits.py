"""The converter of LiTS, on small volumes in the original layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.conversion import write_raw_dataset
from nnunet_ssl.dataset_conversion.lits import lits_conversion
from nnunet_ssl.errors import InputError

GEOMETRY = {
    "spacing": (0.836, 0.836, 2.5),
    "origin": (172.9, 179.3, -368.0),
    "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
}
PLACEHOLDER = {"spacing": (1, 1, 1), "origin": (-1, -1, 1), "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}
LABELED = ["volume-127", "volume-115", "volume-121", "volume-118", "volume-126"]
SHAPE = (5, 6, 8)  # (z, y, x)


def voxels(number: int) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(number).integers(-1024, 1500, SHAPE).astype(np.int16)
    label = np.zeros(SHAPE)  # float64, as in some copies
    label[1:4, 1:5, 2:7] = 1
    label[2, 2:4, 3:5] = 2 if number % 3 else 1  # some cases have no tumor
    return image, label


@pytest.fixture
def source(tmp_path, save) -> Path:
    """Two batches; the label of 118 (labeled) has the placeholder header of case 53."""
    root = tmp_path / "LiTS"
    for number in range(131):
        folder = root / ("Training Batch 1" if number < 28 else "Training Batch 2")
        image, label = voxels(number)
        save(folder / f"volume-{number}.nii", image, **GEOMETRY)
        save(folder / f"segmentation-{number}.nii", label, **(PLACEHOLDER if number in (53, 118) else GEOMETRY))
    save(root / "test" / "test-volume-0.nii", voxels(0)[0])
    return root


def test_lits(source, write, ids, same, save, tmp_path):
    conversion = lits_conversion(source)
    folder = write(conversion)
    assert ids(folder / "imagesTr") == ids(folder / "labelsTr") == set(LABELED)
    assert [len(conversion.ids(part)) for part in ("labeled", "unlabeled", "test")] == [5, 95, 31]
    assert conversion.ids("test")[:3] == ["volume-79", "volume-49", "volume-51"]
    assert "Labels with a placeholder header, given that of their image: volume-118." in conversion.warnings
    for number in (127, 118):
        image, label = voxels(number)
        expected = save(tmp_path / "label.nii", label.astype(np.uint8), **GEOMETRY)
        assert same(folder / "labelsTr" / f"volume-{number}.nii.gz", expected)
        assert sitk.ReadImage(str(folder / "labelsTr" / f"volume-{number}.nii.gz")).GetPixelID() == sitk.sitkUInt8
        assert same(folder / "imagesTr" / f"volume-{number}_0000.nii.gz", save(tmp_path / "i.nii", image, **GEOMETRY))
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"] == {
        "background": 0,
        "liver": 1,
        "tumor": 2,
    }


def test_tumor_merged_into_liver(source, write):
    folder = write(lits_conversion(source, merge_tumor=True))
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"] == {"background": 0, "liver": 1}
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / "volume-118.nii.gz")))
    assert (label == (voxels(118)[1] > 0)).all()
    assert (voxels(118)[1] == 2).sum() == 4


def test_own_list_and_split_folders(source, tmp_path):
    for number in range(131):
        for name, folder in {"volume": "ct", "segmentation": "seg"}.items():
            path = next(source.glob(f"*/{name}-{number}.nii"))
            (source / folder).mkdir(exist_ok=True)
            path.rename(source / folder / path.name)
    chosen = tmp_path / "labeled.txt"
    chosen.write_text("volume-0\nvolume-53\nvolume-10\n", encoding="utf-8")
    conversion = lits_conversion(source, chosen)
    assert conversion.ids("labeled") == ["volume-0", "volume-53", "volume-10"]
    assert [case.label.name for case in conversion.cases[:3]] == [f"segmentation-{k}.nii" for k in (0, 53, 10)]
    chosen.write_text("volume-131\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"not in the training list: volume-131\."):
        lits_conversion(source, chosen)
    chosen.write_text("volume-79\n", encoding="utf-8")
    with pytest.raises(InputError, match="test cases as labeled: volume-79"):
        lits_conversion(source, chosen)


def test_faults(source, save):
    batch = source / "Training Batch 2"
    save(batch / "segmentation-127.nii", voxels(127)[1], (0.8, 0.8, 2.5), GEOMETRY["origin"], GEOMETRY["direction"])
    save(batch / "segmentation-118.nii", voxels(118)[1][:, :, 1:], **PLACEHOLDER)
    truncated = batch / "volume-115.nii"
    truncated.write_bytes(truncated.read_bytes()[:-10])
    with pytest.raises(InputError) as error:
        write_raw_dataset(lits_conversion(source), 27, "LiTS")
    assert "segmentation-127.nii stands up to" in str(error.value)
    assert "segmentation-118.nii has 7 x 6 x 5 voxels" in str(error.value)
    assert "volume-115.nii cannot be read (damaged or truncated)" in str(error.value)
    (batch / "volume-126.nii").unlink()
    with pytest.raises(InputError, match=r"lacks scans of the published lists: volume-126\."):
        lits_conversion(source)
    with pytest.raises(InputError, match="No LiTS scans"):
        lits_conversion(source / "test")


def test_command(source, command):
    result = command("lits", source, "--dataset-id", 27, "--merge-tumor", "--labeled", 10, "-np", 1)
    assert result.exit_code == 0, result.exception
    assert "Dataset027_LiTS: 10 labeled, 90 unlabeled, 31 test cases" in result.output
