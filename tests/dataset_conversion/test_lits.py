"""The converter of LiTS, on small volumes in the original layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from lits_source import GEOMETRY, PLACEHOLDER, voxels

from nnunet_ssl.conversion.spacings import PLACEHOLDER as PLACEHOLDER_HEADER
from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.lits import lits_conversion
from nnunet_ssl.errors import InputError

LABELED = ["volume-127", "volume-115", "volume-121", "volume-118", "volume-126"]


GIVEN = "label given the header of its image"


def record_of(folder: Path) -> dict:
    return json.loads((folder / "conversion.json").read_text(encoding="utf-8"))


def test_lits(lits, write, ids, same, save, tmp_path):
    conversion = lits_conversion(lits)
    folder = write(conversion)
    assert ids(folder / "imagesTr") == ids(folder / "labelsTr") == set(LABELED)
    assert [len(conversion.ids(part)) for part in ("labeled", "unlabeled", "test")] == [5, 95, 31]
    assert conversion.ids("test")[:3] == ["volume-79", "volume-49", "volume-51"]
    assert record_of(folder)["notes"] == [
        {"what": "not used", "cases": ["test-volume-0"], "why": "scans of the challenge's test, in no list"},
        {
            "what": "label written as 8-bit unsigned integer",
            "cases": conversion.ids("labeled") + conversion.ids("test"),
            "why": "stored as 64-bit float; every value is one of the data set's labels",
        },
        {"what": GIVEN, "cases": ["volume-118"], "why": f"the label has {PLACEHOLDER_HEADER}"},
    ]
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


@pytest.fixture
def published(lits, save) -> Path:
    """As published: images and labels 28 to 47 have the identity as header, of the others label 53 alone."""
    batch = lits / "Training Batch 2"
    identity = {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}
    for number in [*range(28, 48), 118]:
        image, label = voxels(number)
        header = GEOMETRY if number == 118 else identity
        save(batch / f"volume-{number}.nii", image, **header)
        save(batch / f"segmentation-{number}.nii", label, **header)
    return lits


@pytest.fixture
def chosen(tmp_path) -> Path:
    path = tmp_path / "labeled.txt"
    path.write_text("volume-39\nvolume-53\nvolume-55\n", encoding="utf-8")
    return path


def test_unknown_spacings_are_refused_with_the_two_ways_out(published, command):
    result = command("lits", published, "--dataset-id", 27, "-np", 1)
    assert isinstance(result.exception, InputError)
    first, second = str(result.exception).splitlines()
    assert first.startswith("The spacing of 20 scan(s) is unknown")
    assert first.endswith(", and 10 more.")
    assert "--spacings FILE (lines CASE Z Y X in mm)" in second
    assert "--skip-unknown-spacing" in second


def test_unknown_spacings_are_left_out(published, command, raw, ids, chosen):
    arguments = ("--labeled-list", chosen, "--skip-unknown-spacing", "-np", 1)
    result = command("lits", published, "--dataset-id", 27, *arguments)
    assert result.exit_code == 0, result.exception
    folder = raw / "Dataset027_LiTS"
    bare = {f"volume-{number}" for number in range(28, 48)}
    written = {part: ids(folder / part) for part in ("imagesTr", "imagesUnlabeled", "imagesTs")}
    assert written["imagesTr"] == {"volume-53", "volume-55"}
    assert sum(map(len, written.values())) == 111
    assert not bare & set.union(*written.values())
    notes = {note["what"]: note["cases"] for note in record_of(folder)["notes"]}
    assert set(notes["left out, spacing unknown"]) == bare
    assert notes[GIVEN] == ["volume-53"]  # of this label alone the header is wrong
    counts, *said = result.output[result.output.index(f"{folder}: ") :].splitlines()
    assert counts.endswith("2 labeled, 82 unlabeled, 27 test cases.")
    assert f"Note: {GIVEN} (volume-53): the label has {PLACEHOLDER_HEADER}." in said
    (line,) = (line for line in said if line.startswith("Note: left out, spacing unknown (20 cases: volume-39, "))
    assert line.endswith(f", and 10 more): the scans have {PLACEHOLDER_HEADER}.")
    again = command("lits", published, "--dataset-id", 27, *arguments)
    assert "already there" in again.output


def test_unknown_spacings_are_given(published, raw, chosen, tmp_path, same, save, verify):
    table = tmp_path / "spacings.txt"
    table.write_text("".join(f"volume-{number} {1 + number / 40} 0.7 0.75\n" for number in range(28, 48)))
    folder, _ = write_raw_dataset(lits_conversion(published, chosen), 27, "LiTS", link=True, spacings=table)
    verify(folder)
    assert len(list(folder.glob("images*/*"))) == 131
    for number, place in {39: "imagesTr", 38: "imagesUnlabeled", 28: "imagesTs"}.items():
        volume = sitk.ReadImage(str(folder / place / f"volume-{number}_0000.nii.gz"))
        assert volume.GetSpacing() == pytest.approx((0.75, 0.7, 1 + number / 40))
        assert (sitk.GetArrayFromImage(volume) == voxels(number)[0]).all()
    label = sitk.ReadImage(str(folder / "labelsTr" / "volume-39.nii.gz"))
    assert label.GetSpacing() == pytest.approx((0.75, 0.7, 1.975))
    notes = {note["what"]: note["cases"] for note in record_of(folder)["notes"]}
    assert len(notes["spacing given by --spacings"]) == 20
    assert notes[GIVEN] == ["volume-53"]
    table.write_text(table.read_text().replace("0.75", "0.8"))
    with pytest.raises(InputError, match="another conversion: it differs in protocol"):
        write_raw_dataset(lits_conversion(published, chosen), 27, "LiTS", spacings=table)


def test_tumor_merged_into_liver(lits, write):
    folder = write(lits_conversion(lits, merge_tumor=True))
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"] == {"background": 0, "liver": 1}
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / "volume-118.nii.gz")))
    assert (label == (voxels(118)[1] > 0)).all()
    assert (voxels(118)[1] == 2).sum() == 4
    assert {"what": "tumor written as liver", "cases": "all", "why": "--merge-tumor"} in record_of(folder)["notes"]


def test_own_list_and_split_folders(lits, tmp_path):
    for number in range(131):
        for name, folder in {"volume": "ct", "segmentation": "seg"}.items():
            path = next(lits.glob(f"*/{name}-{number}.nii"))
            (lits / folder).mkdir(exist_ok=True)
            path.rename(lits / folder / path.name)
    chosen = tmp_path / "labeled.txt"
    chosen.write_text("volume-0\nvolume-53\nvolume-10\n", encoding="utf-8")
    conversion = lits_conversion(lits, chosen)
    assert conversion.ids("labeled") == ["volume-0", "volume-53", "volume-10"]
    assert [case.label.name for case in conversion.cases[:3]] == [f"segmentation-{k}.nii" for k in (0, 53, 10)]
    chosen.write_text("volume-131\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"not in the training list: volume-131\."):
        lits_conversion(lits, chosen)
    chosen.write_text("volume-79\n", encoding="utf-8")
    with pytest.raises(InputError, match="test cases as labeled: volume-79"):
        lits_conversion(lits, chosen)


def test_faults(lits, save):
    batch = lits / "Training Batch 2"
    save(batch / "segmentation-127.nii", voxels(127)[1], (0.8, 0.8, 2.5), GEOMETRY["origin"], GEOMETRY["direction"])
    save(batch / "segmentation-118.nii", voxels(118)[1][:, :, 1:], **PLACEHOLDER)
    truncated = batch / "volume-115.nii"
    truncated.write_bytes(truncated.read_bytes()[:-10])
    with pytest.raises(InputError) as error:
        write_raw_dataset(lits_conversion(lits), 27, "LiTS")
    assert "segmentation-127.nii stands up to" in str(error.value)
    assert "segmentation-118.nii has 7 x 6 x 5 voxels" in str(error.value)
    assert "volume-115.nii cannot be read (damaged or truncated)" in str(error.value)
    (batch / "volume-126.nii").unlink()
    with pytest.raises(InputError, match=r"lacks scans of the published lists: volume-126\."):
        lits_conversion(lits)
    with pytest.raises(InputError, match="No LiTS scans"):
        lits_conversion(lits / "test")


def test_command(lits, command):
    result = command("lits", lits, "--dataset-id", 27, "--merge-tumor", "--labeled", 10, "-np", 1)
    assert result.exit_code == 0, result.exception
    assert "Dataset027_LiTS: 10 labeled, 90 unlabeled, 31 test cases" in result.output
