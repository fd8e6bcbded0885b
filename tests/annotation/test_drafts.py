"""Drafts: their digest, whether they were corrected, and how they replace earlier ones."""

import hashlib
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_ssl.annotation.digest import label_digest
from nnunet_ssl.annotation.drafts import digest_of_draft, install, refuse_corrected
from nnunet_ssl.errors import InputError

PLANS = SimpleNamespace(image_reader_writer_class=SimpleITKIO)
LABELS = np.array([[[0, 1, 2], [3, 4, 300]]])  # z, y, x


def write(file, labels=LABELS, type_=np.uint16):
    file.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(labels.astype(type_)), str(file))
    return file


def test_digest_is_of_int16_in_little_endian_and_the_order_of_the_array(tmp_path):
    expected = hashlib.sha256(struct.pack("<6h", 0, 1, 2, 3, 4, 300)).hexdigest()
    for labels in (LABELS, LABELS.astype(np.uint16), LABELS.astype(">i4"), np.asfortranarray(LABELS)):
        assert label_digest(labels) == expected
    assert label_digest(LABELS.transpose(0, 2, 1)) != expected
    for number, type_ in enumerate((np.uint16, np.float32)):  # as an editor may save it
        assert digest_of_draft(write(tmp_path / "drafts" / f"{number}.nii.gz", type_=type_), PLANS) == expected


def test_a_corrected_draft_or_a_file_of_somebody_else_is_refused(tmp_path):
    folder = tmp_path / "drafts"
    refuse_corrected(folder, ".nii.gz", [], [], PLANS, "")  # there is none
    file = write(folder / "a.nii.gz")
    (folder / ".DS_Store").touch()
    refuse_corrected(folder, ".nii.gz", [label_digest(LABELS)], [], PLANS, "")
    with pytest.raises(InputError, match=r"a\.nii\.gz is no unchanged draft: give it back"):
        refuse_corrected(folder, ".nii.gz", [label_digest(LABELS + 1)], [], PLANS, "give it back")
    refuse_corrected(folder, ".nii.gz", [], ["a"], PLANS, "")  # it is labeled by now
    notes = folder / "notes.txt"
    notes.touch()
    with pytest.raises(InputError, match=r"notes\.txt is no unchanged draft"):
        refuse_corrected(folder, ".nii.gz", [label_digest(LABELS)], [], PLANS, "")
    assert file.is_file() and notes.is_file()


def test_new_drafts_take_the_place_of_the_old_with_their_spacing(tmp_path):
    source, folder = tmp_path / "scored", tmp_path / "drafts"
    for name in ("a.tif", "a.json", "b.tif", "b.json", "c.tif"):
        source.mkdir(exist_ok=True)
        (source / name).write_text(name, encoding="utf-8")
    install(["a"], ".tif", source, folder)
    assert sorted(file.name for file in folder.iterdir()) == ["a.json", "a.tif"]
    install(["b", "c"], ".tif", source, folder)
    assert sorted(file.name for file in folder.iterdir()) == ["b.json", "b.tif", "c.tif"]
    assert (folder / "c.tif").read_text(encoding="utf-8") == "c.tif"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["drafts", "scored"]
