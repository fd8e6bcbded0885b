"""What converters share: the dataset written whole, labels on their images' grid, files linked that fit."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
from small_conversion import DIRECTION, ORIGIN, SPACING, WHOLE, files

import nnunet_ssl.conversion.case_writer
from nnunet_ssl.conversion.case_writer import CannotTell
from nnunet_ssl.conversion.cases import Conversion
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.errors import InputError


@pytest.mark.parametrize("processes", [1, 2])
def test_writes_the_whole_dataset(raw, conversion, processes):
    folder, written = write_raw_dataset(conversion, 7, "Two", processes)
    assert written
    assert folder == raw / "Dataset007_Two"
    assert [path.name for path in raw.iterdir()] == ["Dataset007_Two"]
    assert files(folder) == WHOLE
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8")) == {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    provenance = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
    assert provenance["labeled"] == ["a", "b"]
    assert provenance["unlabeled"] == ["c", "d"]
    assert provenance["test"] == ["e"]
    assert provenance["version"] == nnunet_ssl.__version__
    as_stored = {"what": "label written as 8-bit unsigned integer", "cases": ["a", "b", "e"]}
    assert provenance["notes"] == [
        {"what": "both kept", "cases": ["c", "d"], "why": "they are alike"},
        as_stored | {"why": "stored as 16-bit signed integer; every value is one of the data set's labels"},
    ]
    assert sorted(provenance["source_bytes"]["c"]) == ["c_t1.nii.gz", "c_t2.nrrd"]
    for case in conversion.cases:
        images = next(folder.glob(f"images*/{case.id}_0001.nii.gz"))
        outputs = [(case.images[1], images)] + (
            [(case.label, next(folder.glob(f"labels*/{case.id}.nii.gz")))] if case.label else []
        )
        for before, after in outputs:
            old, new = sitk.ReadImage(str(before)), sitk.ReadImage(str(after))
            assert (sitk.GetArrayFromImage(old) == sitk.GetArrayFromImage(new)).all()
            assert new.GetSpacing() == SPACING
            assert new.GetOrigin() == ORIGIN
            assert new.GetDirection() == DIRECTION


def test_label_header_that_differs_by_rounding_gets_the_images(raw, conversion):
    path = conversion.cases[0].label
    label = sitk.ReadImage(str(path))
    label.SetOrigin(tuple(x + 2e-5 for x in ORIGIN))
    sitk.WriteImage(label, str(path))
    folder, _ = write_raw_dataset(conversion, 7, "Two")
    assert sitk.ReadImage(str(folder / "labelsTr/a.nii.gz")).GetOrigin() == ORIGIN


def test_second_run_writes_nothing(raw, conversion):
    folder, _ = write_raw_dataset(conversion, 7, "Two")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    moved = replace(conversion, source={**conversion.source, "path": "elsewhere"})
    assert write_raw_dataset(moved, 7, "Two") == (folder, False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def fit_by_vote(label, image, case, votes):
    """As stored, but b says nothing of itself: it does what the others did."""
    if case.id == "b" and votes is None:
        raise CannotTell("b does not tell")
    what = "as the others" if case.id == "b" and votes == {"as stored": 2} else "as stored"
    return label, Note(what, "by hand", (case.id,), {case.id: {"margin in HU": 2.0 * ord(case.id)}})


@pytest.mark.parametrize("processes", [1, 2])
def test_a_label_that_does_not_tell_follows_the_others(raw, conversion, processes):
    folder, _ = write_raw_dataset(replace(conversion, fit_label=fit_by_vote), 7, "Two", processes)
    assert files(folder) == WHOLE
    notes = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["notes"]
    assert [(note["what"], note["cases"]) for note in notes if note["why"] == "by hand"] == [
        ("as stored", ["a", "e"]),
        ("as the others", ["b"]),
    ]
    assert notes[1]["measured"] == {"a": {"margin in HU": 194.0}, "e": {"margin in HU": 202.0}}


@pytest.mark.parametrize("processes", [1, 2])
def test_what_stands_in_the_images_space_gets_its_grid_and_is_told(raw, conversion, processes):
    """The label of a: other axes. The second channel of b: 0.05 voxels off. The label of e: both."""
    a, b, _, _, e = conversion.cases
    stored = {path: sitk.ReadImage(str(path)) for path in (a.label, b.images[1], e.label)}

    def moved(image, voxels):
        image.SetOrigin(image.TransformContinuousIndexToPhysicalPoint((voxels, 0, 0)))
        return image

    flips = (False, True, True)
    turned = {path: sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), flips) for path, image in stored.items()}
    sitk.WriteImage(turned[a.label], str(a.label))
    sitk.WriteImage(moved(sitk.Image(stored[b.images[1]]), 0.05), str(b.images[1]))
    sitk.WriteImage(moved(turned[e.label], 0.03), str(e.label))  # of 2 mm
    folder, _ = write_raw_dataset(conversion, 7, "Two", processes, link=True)
    for path, written in ((a.label, "labelsTr/a"), (b.images[1], "imagesTr/b_0001"), (e.label, "labelsTs/e")):
        result = sitk.ReadImage(str(folder / f"{written}.nii.gz"))
        assert (sitk.GetArrayFromImage(result) == sitk.GetArrayFromImage(stored[path])).all()
        assert (result.GetSpacing(), result.GetOrigin(), result.GetDirection()) == (SPACING, ORIGIN, DIRECTION)
        assert not (folder / f"{written}.nii.gz").samefile(path)
    notes = {note["what"]: note for note in json.loads((folder / "conversion.json").read_text())["notes"]}
    assert notes["label or channel turned"]["cases"] == ["a", "e"]
    moved_ones = notes["label or channel given the header of the case's (first) image"]
    assert moved_ones["cases"] == ["b", "e"]
    assert moved_ones["measured"]["b"] == {
        "voxels off": pytest.approx(0.05, abs=1e-4),
        "mm off": pytest.approx(0.025, abs=1e-4),
    }
    assert moved_ones["measured"]["e"] == {
        "voxels off": pytest.approx(0.03, abs=1e-4),
        "mm off": pytest.approx(0.06, abs=1e-4),
    }
    assert write_raw_dataset(conversion, 7, "Two") == (folder, False)  # what was found is no other conversion


def test_nothing_is_told_of_equal_headers(raw, conversion):
    folder, _ = write_raw_dataset(conversion, 7, "Two")
    notes = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["notes"]
    assert [note["what"] for note in notes] == ["both kept", "label written as 8-bit unsigned integer"]


@pytest.fixture
def one_channel(conversion) -> Conversion:
    """The second channel left out, and a first channel that is linkable."""
    cases = [replace(case, images=case.images[:1]) for case in conversion.cases]
    return replace(conversion, channels=("T1",), cases=cases)


def test_files_that_fit_are_linked(raw, one_channel):
    rounded = one_channel.cases[1].label
    label = sitk.ReadImage(str(rounded))
    label.SetOrigin(tuple(x + 2e-5 for x in ORIGIN))
    sitk.WriteImage(label, str(rounded))
    folder, _ = write_raw_dataset(one_channel, 7, "Two", link=True)
    for case in one_channel.cases:
        assert next(folder.glob(f"images*/{case.id}_0000.nii.gz")).samefile(case.images[0])
    assert (folder / "labelsTr/a.nii.gz").samefile(one_channel.cases[0].label)
    # This one's header had to be made equal to the image's, and the source is left as it was.
    assert not (folder / "labelsTr/b.nii.gz").samefile(rounded)
    assert sitk.ReadImage(str(folder / "labelsTr/b.nii.gz")).GetOrigin() == ORIGIN
    assert sitk.ReadImage(str(rounded)).GetOrigin() != ORIGIN
    assert write_raw_dataset(one_channel, 7, "Two", link=True) == (folder, False)
    assert write_raw_dataset(one_channel, 7, "Two") == (folder, False)


def test_files_that_do_not_fit_are_copied(raw, conversion):
    folder, _ = write_raw_dataset(conversion, 7, "Two", link=True)
    assert (folder / "imagesTr/a_0000.nii.gz").samefile(conversion.cases[0].images[0])
    assert files(folder) == WHOLE  # the second channel is nrrd
    assert sitk.ReadImage(str(folder / "imagesTr/a_0001.nii.gz")).GetSpacing() == SPACING


def test_symbolic_links_to_another_file_system(raw, one_channel, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder, _ = write_raw_dataset(one_channel, 7, "Two", link=True)
    linked = folder / "imagesUnlabeled/c_0000.nii.gz"
    assert linked.is_symlink()
    assert linked.resolve() == one_channel.cases[2].images[0].resolve()


def test_linked_files_are_checked(raw, one_channel):
    path = one_channel.cases[0].images[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a: .*a_t1\.nii\.gz cannot be read"):
        write_raw_dataset(one_channel, 7, "Two", link=True)
    assert list(raw.iterdir()) == []
    assert path.is_file()
