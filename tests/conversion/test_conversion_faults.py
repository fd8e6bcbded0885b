"""What is no good or goes wrong in a conversion: named, all at once, and nothing half written."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from small_conversion import WHOLE, files, volume
from workbench import another_process_holds, file_size_limit, small_disk

import nnunet_ssl.conversion.case_writer
from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.sources import read_volume
from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.errors import InputError


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
from nnunet_ssl.conversion.cases import Case, Conversion
from nnunet_ssl.conversion.writing import write_raw_dataset
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
