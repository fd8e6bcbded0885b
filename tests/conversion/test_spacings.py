"""Scans whose header is a placeholder."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, Conversion
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.sources import read_volume
from nnunet_ssl.conversion.spacings import PLACEHOLDER, is_placeholder, with_known_spacings
from nnunet_ssl.errors import InputError

EYE = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def image(spacing=(1, 1, 1), origin=(0, 0, 0), direction=EYE) -> sitk.Image:
    volume = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    volume.SetSpacing(spacing)
    volume.SetOrigin(origin)
    volume.SetDirection(direction)
    return volume


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({}, True),
        ({"origin": (1, 1, 1)}, True),
        ({"origin": (-1, -1, 1), "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, True),
        ({"spacing": (1, 1, 1.25)}, False),
        ({"spacing": (1, 1, 1 + 1e-6)}, False),
        ({"origin": (0, -90, 0)}, False),
        ({"direction": (0, 1, 0, 1, 0, 0, 0, 0, 1)}, False),
    ],
)
def test_placeholder(header, expected):
    assert is_placeholder(image(**header)) == expected


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
def test_placeholder_in_a_file_and_in_four_axes(tmp_path, ending):
    for name, volume in {"bare": image(), "four": sitk.JoinSeries([image(), image()])}.items():
        path = tmp_path / f"{name}{ending}"
        sitk.WriteImage(volume, str(path))
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        assert is_placeholder(reader)


@pytest.fixture
def conversion(tmp_path) -> Conversion:
    """One labeled, two unlabeled and a test case; b and d have a placeholder as header."""
    cases = []
    for name, part in zip("abcd", ("labeled", "unlabeled", "unlabeled", "test"), strict=True):
        path = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(image() if name in "bd" else image((0.5, 0.5, 2)), str(path))
        cases.append(Case(name, part, (path,), path if part == "labeled" else None))
    return Conversion("x", ("CT",), {"background": 0}, cases, read_volume, read_volume, {}, {"name": "by hand"})


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spacings.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_unknown_spacings_are_refused(conversion):
    with pytest.raises(InputError) as error:
        with_known_spacings(conversion)
    first, second = str(error.value).splitlines()
    assert first == f"The spacing of 2 scan(s) is unknown, for they have {PLACEHOLDER}: b, d."
    assert "--spacings FILE" in second
    assert "--skip-unknown-spacing" in second


def test_unknown_spacings_left_out(conversion):
    known = with_known_spacings(conversion, leave_out=True)
    assert [case.id for case in known.cases] == ["a", "c"]
    assert known.notes == [Note("left out, spacing unknown", f"the scans have {PLACEHOLDER}", ("b", "d"))]


def test_spacings_given(conversion, tmp_path):
    known = with_known_spacings(conversion, table(tmp_path, "d 2.5 0.75 0.7\n\nb 5 1 1\n"))
    assert {case.id: case.spacing for case in known.cases} == {
        "a": None,
        "b": (5.0, 1.0, 1.0),
        "c": None,
        "d": (2.5, 0.75, 0.7),
    }
    assert [(note.what, set(note.cases)) for note in known.notes] == [("spacing given by --spacings", {"b", "d"})]
    # other spacings are another conversion
    assert known.protocol["spacings given (z, y, x)"] == {"d": (2.5, 0.75, 0.7), "b": (5.0, 1.0, 1.0)}
    one = table(tmp_path, "d 2.5 0.75 0.7\n")
    with pytest.raises(InputError, match=r"of 1 scan\(s\) is unknown.*: b\."):
        with_known_spacings(conversion, one)
    assert [case.id for case in with_known_spacings(conversion, one, leave_out=True).cases] == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b 5 1\n", r"spacings\.txt, line 1: 'b 5 1' is no CASE Z Y X"),
        ("b 5 1 1\nd 5 one 1\n", r"line 2: 'd 5 one 1' is no CASE Z Y X"),
        ("b 5 1 0\n", "line 1"),
        ("b 5 1 nan\n", "line 1"),
        ("b 5 1 1\nb 4 1 1\n", "line 2: b stands there twice"),
        ("a 5 1 1\nq 4 1 1\n", "one whose file holds its spacing.*: a, q"),
        ("\n", "is empty"),
    ],
)
def test_faults_of_the_table(conversion, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        with_known_spacings(conversion, table(tmp_path, text))
    with pytest.raises(InputError, match="Cannot read the spacings"):
        with_known_spacings(conversion, tmp_path / "none.txt")


def test_a_data_set_of_1_mm_is_taken_as_it_stands(conversion):
    for case in conversion.cases:
        sitk.WriteImage(image(origin=(0, 0, 0) if case.id in "bd" else (30, 40, 50)), str(case.images[0]))
    known = with_known_spacings(conversion)
    assert known.cases == conversion.cases
    assert [(note.what, note.cases) for note in known.notes] == [("spacing of 1 mm taken as it stands", ("b", "d"))]


def test_no_labeled_case_stays(conversion):
    sitk.WriteImage(image(), str(conversion.cases[0].images[0]))
    with pytest.raises(InputError, match="No labeled case is left"):
        with_known_spacings(conversion, leave_out=True)


def test_files_without_a_header_or_damaged_are_left_to_their_readers(conversion, tmp_path):
    h5 = tmp_path / "e.h5"
    h5.write_bytes(b"")
    conversion.cases[2].images[0].write_bytes(b"damaged")
    cases = [case for case in conversion.cases if case.id not in "bd"] + [Case("e", "unlabeled", (h5,), None)]
    known = with_known_spacings(Conversion("x", ("CT",), {}, cases, read_volume, read_volume, {}, {}))
    assert known.cases == cases
    assert known.notes == []
