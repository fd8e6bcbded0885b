"""The converter of AMOS 2022, on small volumes in the released layout."""

import json

import pytest
import SimpleITK as sitk
from amos_source import DIRECTIONS, LISTS

from nnunet_ssl.dataset_conversion.amos import amos_conversion
from nnunet_ssl.errors import InputError

MR_LABELED = ["amos_0514", "amos_0548", "amos_0578"]


def test_both_modalities(amos, write, ids, same):
    conversion = amos_conversion(amos)
    folder = write(conversion, link=True)
    labeled, validation = LISTS["labeled"]["dhc-5"], LISTS["validation"]
    assert ids(folder / "imagesTr") == ids(folder / "labelsTr") == {*labeled, *validation}
    assert conversion.fold() == {"train": labeled, "val": validation} and len(validation) == 24
    assert ids(folder / "imagesUnlabeled") == set(LISTS["train"]) - set(LISTS["labeled"]["dhc-5"])
    assert len(ids(folder / "imagesUnlabeled")) == 206
    assert ids(folder / "imagesTs") == ids(folder / "labelsTs") == set(LISTS["test"])
    assert (folder / "labelsTr" / "amos_0078.nii.gz").samefile(amos / "amos22" / "labelsTr" / "amos_0078.nii.gz")
    image = sitk.ReadImage(str(amos / "amos22" / "imagesTr" / "amos_0001.nii.gz"))
    assert image.GetDirection() == DIRECTIONS[1]
    assert same(folder / "imagesUnlabeled" / "amos_0001_0000.nii.gz", image)
    dataset = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert dataset["channel_names"] == {"0": "CT_or_MR"}
    assert dataset["labels"]["prostate_or_uterus"] == 15
    assert dataset["overwrite_image_reader_writer"] == "NibabelIOWithReorient"


@pytest.mark.parametrize(("protocol", "numbers"), [("dhc-2", (4, 212)), ("dhc-5", (10, 206)), ("dhc-10", (21, 195))])
def test_published_lists(amos, protocol, numbers):
    conversion = amos_conversion(amos, protocol)
    assert (len(conversion.ids("labeled")), len(conversion.ids("unlabeled"))) == numbers
    assert (len(conversion.ids("test")), len(conversion.ids("validation"))) == (120, 24)
    assert len({case.id for case in conversion.cases}) == len(conversion.cases) == 360  # no case in two parts
    assert {*conversion.ids("labeled"), *conversion.ids("unlabeled")} == {*LISTS["train"]}


def test_the_broken_list_is_refused(amos):
    with pytest.raises(InputError) as error:
        amos_conversion(amos, "dhc-20")
    assert str(error.value) == (
        "Protocol dhc-20 is not offered: its 192 ids are of another division, and 20 of them are validation cases of "
        "this one. Known here: dhc-2, dhc-5, dhc-10."
    )


def test_modality(amos, said):
    ct, mr = amos_conversion(amos, modality="ct"), amos_conversion(amos, modality="mr")
    assert ct.ids("labeled") == [name for name in LISTS["labeled"]["dhc-5"] if name not in MR_LABELED]
    assert mr.ids("labeled") == MR_LABELED
    for part, number in {"labeled": 10, "unlabeled": 206, "test": 120}.items():
        assert all(int(name[5:]) < 500 for name in ct.ids(part))
        assert all(int(name[5:]) >= 500 for name in mr.ids(part))
        assert len(ct.ids(part)) + len(mr.ids(part)) == number
    assert (ct.channels, mr.channels) == (("CT",), ("MR",))
    # 34 training, 6 validation and 20 test scans of the lists are MR.
    left_out, *_, by_number = said(ct)
    assert left_out.startswith("left out of the published lists (60 cases: amos_05")
    assert left_out.endswith(", and 50 more): not CT.")
    assert by_number == "numbers below 500 taken as CT, others as MR (all cases): the readme of the release says so."
    with pytest.raises(InputError, match="Protocol dhc-2 has no labeled case left"):
        amos_conversion(amos, "dhc-2", modality="mr")
    assert len(amos_conversion(amos, "10%", modality="mr").ids("labeled")) == 3


def test_released_unlabeled_scans(amos, tmp_path, said):
    names = "amos_0002, amos_0003, amos_0500"
    assert said(amos_conversion(amos))[-1] == (
        f"not used (3 cases: {names}): scans without labels; --released-unlabeled adds them."
    )
    more = amos_conversion(amos, released_unlabeled=True)
    assert more.ids("unlabeled")[206:] == ["amos_0002", "amos_0003", "amos_0500"]
    assert more.protocol["released unlabeled scans"] == 3
    assert f"added to the unlabeled cases of the lists (3 cases: {names}): scans without labels." in said(more)
    assert amos_conversion(amos, None, "ct", True).ids("unlabeled")[-2:] == ["amos_0002", "amos_0003"]
    source = tmp_path / "with_more"
    source.mkdir()
    for folder in (amos / "amos22").iterdir():
        if folder.name != "imagesTs":
            (source / folder.name).symlink_to(folder)
    with pytest.raises(InputError, match="holds no scans without labels"):
        amos_conversion(source, released_unlabeled=True)
    (source / "imagesUnlabeled").mkdir()
    (source / "imagesUnlabeled" / "amos_5001.nii.gz").touch()
    unknown = amos_conversion(source, None, "ct", True)
    assert unknown.ids("unlabeled")[-1] == "amos_5001"
    assert "taken as CT (amos_5001): no number tells what they are." in said(unknown)


def test_faults(tmp_path, amos):
    with pytest.raises(InputError, match="No AMOS scans"):
        amos_conversion(tmp_path)
    with pytest.raises(InputError, match=r"lacks scans of the published lists: amos_0008, amos_0013, .*and 110 more"):
        amos_conversion(amos / "amos22" / "imagesTr")


def test_command(amos, command):
    result = command("amos", amos, "--dataset-id", 27, "--modality", "mr", "--link", "-np", 1)
    assert result.exit_code == 0, result.exception
    assert "Dataset027_AMOS: 3 labeled, 31 unlabeled, 20 test, 6 validation cases" in result.output
