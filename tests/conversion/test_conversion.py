"""What converters share: checks, writing whole or not at all."""

import errno
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from workbench import another_process_holds, file_size_limit, small_disk

import nnunet_ssl.conversion.case_writer
from nnunet_ssl.conversion.case_writer import CannotTell
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.sources import read_volume
from nnunet_ssl.conversion.writing import Case, Conversion, write_raw_dataset
from nnunet_ssl.errors import InputError

SPACING = (0.5, 0.75, 2.0)
ORIGIN = (-12.5, 3.25, 100.0)
DIRECTION = (0, 1, 0, -1, 0, 0, 0, 0, 1)


def volume(voxels: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION)
    return image


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def conversion(tmp_path) -> Conversion:
    """Five two-channel cases: two labeled, two unlabeled, one test."""
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    cases = []
    for name, part in zip("abcde", ["labeled", "labeled", "unlabeled", "unlabeled", "test"], strict=True):
        paths = [source / f"{name}_{rest}" for rest in ("t1.nii.gz", "t2.nrrd", "seg.nii.gz")]
        for path in paths[:2]:
            sitk.WriteImage(volume(rng.integers(-1000, 1000, (6, 8, 10)).astype(np.int16)), str(path))
        sitk.WriteImage(volume(rng.integers(0, 3, (6, 8, 10)).astype(np.int16)), str(paths[2]))
        cases.append(Case(name, part, tuple(paths[:2]), None if part == "unlabeled" else paths[2]))
    return Conversion(
        converter="two-channel",
        channels=("T1", "T2"),
        labels={"background": 0, "one": 1, "two": 2},
        cases=cases,
        read_image=read_volume,
        read_label=read_volume,
        source={"path": str(source), "layout": "flat"},
        protocol={"name": "by hand"},
        notes=[Note("both kept", "they are alike", ("c", "d"))],
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


WHOLE = [
    "conversion.json",
    "dataset.json",
    *(f"imagesTr/{case}_000{channel}.nii.gz" for case in "ab" for channel in (0, 1)),
    *(f"imagesTs/e_000{channel}.nii.gz" for channel in (0, 1)),
    *(f"imagesUnlabeled/{case}_000{channel}.nii.gz" for case in "cd" for channel in (0, 1)),
    "labelsTr/a.nii.gz",
    "labelsTr/b.nii.gz",
    "labelsTs/e.nii.gz",
]


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


def test_another_conversion_is_refused_and_left_alone(raw, conversion):
    folder, _ = write_raw_dataset(conversion, 7, "Two")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    less = replace(conversion, cases=[case for case in conversion.cases if case.id != "b"])
    with pytest.raises(InputError, match="differs in labeled, source_bytes"):
        write_raw_dataset(less, 7, "Two")
    with pytest.raises(InputError, match="id 7 is taken by Dataset007_Two"):
        write_raw_dataset(conversion, 7, "Other")
    sitk.WriteImage(volume(np.arange(480, dtype=np.float64).reshape(6, 8, 10)), str(conversion.cases[0].images[0]))
    with pytest.raises(InputError, match="differs in source_bytes"):
        write_raw_dataset(conversion, 7, "Two")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in raw.iterdir()] == ["Dataset007_Two"]


def test_incomplete_or_foreign_folder_is_refused(raw, conversion):
    folder, _ = write_raw_dataset(conversion, 7, "Two")
    (folder / "imagesUnlabeled/c_0001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"incomplete, missing: imagesUnlabeled/c_0001\.nii\.gz"):
        write_raw_dataset(conversion, 7, "Two")
    (folder / "conversion.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not valid JSON"):
        write_raw_dataset(conversion, 7, "Two")
    (folder / "conversion.json").unlink()
    with pytest.raises(InputError, match="not of this converter"):
        write_raw_dataset(conversion, 7, "Two")


def test_id_taken_in_the_preprocessed_folder(raw, conversion):
    (raw.parent / "nnUNet_preprocessed" / "Dataset007_Old").mkdir(parents=True)
    with pytest.raises(InputError, match="Dataset007_Old"):
        write_raw_dataset(conversion, 7, "Two")
    assert not raw.exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_all_bad_cases_are_named_at_once_and_nothing_stays(raw, conversion, processes):
    a, b, c, d, e = conversion.cases

    def rewrite(path: Path, change) -> None:
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
        sitk.WriteImage(volume(change(voxels)), str(path))

    def with_nan(voxels):
        voxels[3, 4, 5] = np.nan
        return voxels

    rewrite(a.images[1], with_nan)
    rewrite(b.label, lambda voxels: voxels + 1)
    rewrite(c.images[0], np.zeros_like)
    d.images[0].write_bytes(d.images[0].read_bytes()[:-20])
    rewrite(e.label, lambda voxels: voxels[:, 1:])
    with pytest.raises(InputError) as error:
        write_raw_dataset(conversion, 7, "Two", processes)
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 5
    for line, (case, file, fault) in zip(
        lines,
        [
            ("a", "a_t2.nrrd", "NaN"),
            ("b", "b_seg.nii.gz", "label values [3.0] besides [0, 1, 2]"),
            ("c", "c_t1.nii.gz", "is empty: every voxel is 0.0"),
            ("d", "d_t1.nii.gz", "damaged or truncated"),
            ("e", "e_seg.nii.gz", "has 10 x 7 x 6 voxels (5 x 5.25 x 12 mm) but the case's (first) image 10 x 8 x 6"),
        ],
        strict=True,
    ):
        assert line.startswith(f"  {case}: ")
        assert file in line
        assert fault in line
    assert list(raw.iterdir()) == []


def test_a_long_list_of_bad_cases_is_cut(raw, conversion):
    source = conversion.cases[0].images[0].parent
    missing = [Case(f"m{i:02d}", "unlabeled", (source / f"m{i:02d}_t1.nii.gz",) * 2, None) for i in range(40)]
    with pytest.raises(InputError) as error:
        write_raw_dataset(replace(conversion, cases=[*conversion.cases, *missing]), 7, "Two")
    first, *lines = str(error.value).splitlines()
    assert first == "Nothing was converted, 40 of 45 cases are bad:"
    assert len(lines) == 11
    assert lines[9].startswith("  m09: ")
    assert lines[9].endswith("m09_t1.nii.gz is missing; fetch it again")
    assert lines[10] == "  and 30 more"


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


@pytest.mark.parametrize("what", ["spacing", "origin", "direction"])
def test_other_geometry_is_refused(raw, conversion, what):
    path = conversion.cases[0].label
    label = sitk.ReadImage(str(path))
    {
        "spacing": lambda: label.SetSpacing((0.5, 0.75, 2.1)),
        "origin": lambda: label.SetOrigin((0, 0, 0)),
        "direction": lambda: label.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1)),
    }[what]()
    sitk.WriteImage(label, str(path))
    with pytest.raises(InputError, match=rf"a: .*a_seg\.nii\.gz stands up to .* mm\) from .*another {what}"):
        write_raw_dataset(conversion, 7, "Two")
    assert list(raw.iterdir()) == []


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


def test_error_in_the_middle_leaves_nothing(raw, conversion):
    def fail_at_c(path: Path) -> sitk.Image:
        if path.name.startswith("c"):
            raise KeyboardInterrupt
        return read_volume(path)

    with pytest.raises(KeyboardInterrupt):
        write_raw_dataset(replace(conversion, read_image=fail_at_c), 7, "Two")
    assert list(raw.iterdir()) == []


def test_full_disk_is_noticed(raw, conversion, monkeypatch):
    write = sitk.WriteImage

    def write_half(image: sitk.Image, path: str) -> None:
        write(image, path)
        Path(path).write_bytes(Path(path).read_bytes()[:300])

    monkeypatch.setattr(nnunet_ssl.conversion.case_writer.sitk, "WriteImage", write_half)
    message = r"a_0000\.nii\.gz: it was not written whole. Look after the disk or its connection .* again. Nothing"
    with pytest.raises(InputError, match=message):
        write_raw_dataset(conversion, 7, "Two")
    assert list(raw.iterdir()) == []


def test_a_file_that_the_system_cuts_off(raw, conversion):
    """SimpleITK writes what fits and says nothing; the system says why."""
    with file_size_limit(300), pytest.raises(InputError, match=r"a_0000\.nii\.gz cannot be written: File too large"):
        write_raw_dataset(conversion, 7, "Two")
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk(raw, conversion, processes):
    raw.mkdir()
    with small_disk(raw, kilobytes=8):
        message = r"\.nii\.gz cannot be written: No space left on device. Make room and run the same command again"
        with pytest.raises(InputError, match=message):
            write_raw_dataset(conversion, 7, "Two", processes)
        assert list(raw.iterdir()) == []


def test_another_run_to_the_same_id_is_refused(raw, conversion):
    with another_process_holds(raw / "Dataset007") as other:
        with pytest.raises(InputError, match=f"Dataset007 is in use: process {other} on "):
            write_raw_dataset(conversion, 7, "Other")
        write_raw_dataset(conversion, 8, "Two")


KILLED = """
import os, signal, sys
from pathlib import Path
from nnunet_ssl.conversion.writing import Case, Conversion, write_raw_dataset
from nnunet_ssl.conversion.sources import read_volume

def read(path):
    if path.name.startswith("b"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read_volume(path)

source = Path(sys.argv[1])
cases = [Case(name, "labeled", (source / f"{name}_t1.nii.gz",), source / f"{name}_seg.nii.gz") for name in "ab"]
labels = {"background": 0, "one": 1, "two": 2}
write_raw_dataset(Conversion("x", ("T1",), labels, cases, read, read_volume, {}, {}), 7, "Two")
"""


def test_killed_run_leaves_no_dataset_and_the_next_run_cleans_up(raw, conversion):
    source = conversion.cases[0].images[0].parent
    run = subprocess.run([sys.executable, "-c", KILLED, str(source)], capture_output=True)
    assert run.returncode == -signal.SIGKILL
    (leftover,) = raw.glob("*partial*")
    assert leftover.name.startswith(".Dataset007_Two.partial-")
    assert "imagesTr/a_0000.nii.gz" in files(leftover)
    assert len(find_candidate_datasets(7)) == 0
    folder, written = write_raw_dataset(conversion, 7, "Two")
    assert written
    assert list(raw.iterdir()) == [folder]
    assert files(folder) == WHOLE


def test_unlabeled_case_cannot_have_a_label():
    with pytest.raises(ValueError, match="Unlabeled case a has a label"):
        Case("a", "unlabeled", (Path("a.nii"),), Path("a_seg.nii"))


@pytest.mark.parametrize(("dataset_id", "name"), [(0, "A"), (1000, "A"), (1, "a/b"), (1, ""), (1, "a b")])
def test_impossible_names(raw, conversion, dataset_id, name):
    with pytest.raises(InputError, match="Dataset"):
        write_raw_dataset(conversion, dataset_id, name)


def test_unset_variable(raw, conversion, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(InputError, match="nnUNet_raw is not set"):
        write_raw_dataset(conversion, 7, "Two")


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
