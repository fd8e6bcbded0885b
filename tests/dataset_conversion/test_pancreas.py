"""The converter of Pancreas-CT, on small DICOM series in the original layout and on a real series where present."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.conversion import write_raw_dataset
from nnunet_ssl.data.protocols import published
from nnunet_ssl.dataset_conversion.pancreas import WITHDRAWN, fit_label, pancreas_conversion, read_series
from nnunet_ssl.errors import InputError

LISTS = published("pancreas")["mc-net-12"]
SHAPE = (6, 12, 16)  # (z, y, x)
SPACING = (0.75, 0.75, 0.5)
ORIGIN = (-100.0, -150.0, 40.0)


def scan(name: str) -> tuple[np.ndarray, np.ndarray]:
    """HU with an organ of about 100 HU in one corner, and its label; every flip of the label misses the organ."""
    rng = np.random.default_rng(int(name[-4:]))
    image = rng.integers(-900, -700, SHAPE).astype(np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 2:5, 3:7] = 1
    image[label == 1] = rng.integers(70, 130, label.sum())
    return image, label


def write_series(folder: Path, image: np.ndarray, spacing: float = SPACING[2]) -> None:
    """One file a slice, stored as HU + 1024; names and instance numbers run against the positions."""
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z, voxels in enumerate(image):
        file = sitk.GetImageFromArray(voxels[None])
        file.SetSpacing((*SPACING[:2], 1.0))
        position = (*ORIGIN[:2], ORIGIN[2] + z * spacing)
        for tag, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.{z + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.0",
            "0020|0013": str(len(image) - z),
            "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "1.0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }.items():
            file.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"1-{len(image) - z:03d}.dcm"))
        writer.Execute(file)


@pytest.fixture
def case_folder(tmp_path):
    """Writes one case in the layout of TCIA; its label has the header of a label whose y runs the other way."""

    def write(root: Path, name: str) -> None:
        image, label = scan(name)
        write_series(root / "Pancreas-CT" / name / "11-24-2015-Pancreas" / "Pancreas-63502", image)
        flipped = sitk.GetImageFromArray(np.flip(label, 1))
        flipped.SetSpacing(SPACING)
        flipped.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
        flipped.SetOrigin((ORIGIN[0], ORIGIN[1] + SPACING[1] * (SHAPE[1] - 1), ORIGIN[2]))
        folder = root / "TCIA_pancreas_labels-02-05-2017"
        folder.mkdir(exist_ok=True)
        sitk.WriteImage(flipped, str(folder / f"label{name[-4:]}.nii.gz"))

    return write


@pytest.fixture
def source(tmp_path, case_folder) -> Path:
    """The release of today: 82 labels, no scans 25 and 70, one of them as an empty folder."""
    root = tmp_path / "TCIA"
    for name in LISTS["train"] + LISTS["test"]:
        if name not in WITHDRAWN:
            case_folder(root, name)
    for name in WITHDRAWN:
        (root / "TCIA_pancreas_labels-02-05-2017" / f"label{name[-4:]}.nii.gz").write_text(
            "not to be opened", encoding="utf-8"
        )
    (root / "Pancreas-CT" / WITHDRAWN[0]).mkdir()
    (root / "Pancreas-CT" / "LICENSE").write_text("text", encoding="utf-8")
    return root


def test_release_of_today(source, write, ids, command):
    conversion = pancreas_conversion(source)
    folder = write(conversion)
    twelve = [name for name in LISTS["train"] if name != "PANCREAS_0070"][:12]
    assert conversion.ids("labeled") == twelve
    assert twelve[-2:] == ["PANCREAS_0019", "PANCREAS_0048"]
    assert [len(conversion.ids(part)) for part in ("labeled", "unlabeled", "test")] == [12, 49, 19]
    assert not set(WITHDRAWN) & {case.id for case in conversion.cases}
    assert any(
        note.startswith("2 scans of the published lists are left out: withdrawn") for note in conversion.warnings
    )
    assert ids(folder / "labelsTr") == set(twelve)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(next((source / "Pancreas-CT" / twelve[0]).rglob("*.dcm"))))
    reader.ReadImageInformation()
    assert float(reader.GetMetaData("0028|1052")) == -1024
    for name in (twelve[0], conversion.ids("test")[-1]):
        image, label = (sitk.ReadImage(str(path)) for path in sorted(folder.rglob(f"{name}*"), key=str))
        assert (sitk.GetArrayFromImage(image) == scan(name)[0]).all()
        assert (sitk.GetArrayFromImage(label) == scan(name)[1]).all()
        for volume in (image, label):
            assert volume.GetSpacing() == SPACING  # 0.5 mm by the positions, not the 1 mm of SliceThickness
            assert volume.GetOrigin() == ORIGIN
            assert volume.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    again = command("pancreas", source, "--dataset-id", 27, "-np", 1)
    assert "already there" in again.output, again.exception
    # The same source: what is missing is named.
    with pytest.raises(InputError, match=r"lacks scans of the published lists: PANCREAS_0070, PANCREAS_0025\."):
        pancreas_conversion(source, keep_withdrawn=True)
    assert pancreas_conversion(source, "mc-net-6").ids("labeled") == LISTS["train"][:6]


def touch_series(root: Path) -> Path:
    """All 82 scans of the first release, as far as the choice of cases looks at them."""
    for name in LISTS["train"] + LISTS["test"]:
        (root / name / "study" / "series").mkdir(parents=True)
        (root / name / "study" / "series" / "000000.dcm").touch()
        (root / f"label{name[-4:]}.nii.gz").touch()
    return root


def test_first_release(tmp_path):
    root = touch_series(tmp_path / "DOI")
    kept = pancreas_conversion(root, keep_withdrawn=True)
    assert kept.ids("labeled") == LISTS["train"][:12]
    assert [len(kept.ids(part)) for part in ("labeled", "unlabeled", "test")] == [12, 50, 20]
    assert any("are the same scan, in training and in test" in note for note in kept.warnings)
    conversion = pancreas_conversion(root)
    assert any("2 scans of the source are not used: PANCREAS_0025, PANCREAS_0070" in n for n in conversion.warnings)
    (root / "PANCREAS_0057" / "study" / "other").mkdir()
    (root / "PANCREAS_0057" / "study" / "other" / "000000.dcm").touch()
    with pytest.raises(InputError, match=r"holds scans twice: PANCREAS_0057 \("):
        pancreas_conversion(root)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="No Pancreas-CT scans"):
        pancreas_conversion(tmp_path / "nothing")


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
def test_label_without_a_header_is_flipped_into_the_organ(axes, tmp_path):
    voxels, expected = scan("PANCREAS_0001")
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    label = sitk.GetImageFromArray(np.flip(expected, axes).astype(np.float64))
    label.SetSpacing((0.8, 0.8, 1.0))
    fitted = fit_label(label, image, tmp_path)
    assert (sitk.GetArrayFromImage(fitted) == expected).all()
    assert (fitted.GetSpacing(), fitted.GetOrigin()) == (SPACING, ORIGIN)


def test_label_that_fits_nowhere(tmp_path):
    voxels, _ = scan("PANCREAS_0001")
    image = sitk.GetImageFromArray(voxels)
    corner = np.zeros(SHAPE, np.uint8)
    corner[0, 0] = 1
    with pytest.raises(InputError, match="does not lie in soft tissue"):
        fit_label(sitk.GetImageFromArray(corner), image, tmp_path / "label0001.nii.gz")
    with pytest.raises(InputError, match="is empty"):
        fit_label(sitk.GetImageFromArray(np.zeros_like(corner)), image, tmp_path / "label0001.nii.gz")
    with pytest.raises(InputError, match=r"has 16 x 12 x 5 voxels \(.* mm\) but its scan 16 x 12 x 6 "):
        fit_label(sitk.GetImageFromArray(corner[1:]), image, tmp_path / "label0001.nii.gz")


def test_faulty_series(tmp_path, source):
    image = scan("PANCREAS_0001")[0]
    write_series(tmp_path / "gap", image)
    (tmp_path / "gap" / "1-003.dcm").unlink()
    with pytest.raises(InputError, match=r"gap has slices 0\.5 to 1 mm apart \(one missing\?\)"):
        read_series(tmp_path / "gap")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none holds 0 DICOM series"):
        read_series(tmp_path / "none")
    next((source / "Pancreas-CT" / "PANCREAS_0018").rglob("1-003.dcm")).unlink()
    with pytest.raises(InputError, match=r"PANCREAS_0018: .* mm apart"):
        write_raw_dataset(pancreas_conversion(source), 27, "Pancreas")


def test_real_series(shared_data):
    samples = shared_data / "totalseg_samples"
    image = read_series(samples / "example_ct_dicom")
    assert image.GetSize() == (512, 512, 20)
    assert image.GetSpacing() == (0.9765625, 0.9765625, 2.0)  # SliceThickness says 3
    stored = sitk.ReadImage(str(samples / "example_seg_dicom.nii.gz"))
    mask = stored == 5  # liver; stored with y the other way round
    fitted = fit_label(mask, image, samples)
    resampled = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    assert (sitk.GetArrayFromImage(fitted) == sitk.GetArrayFromImage(resampled)).all()
    assert (sitk.GetArrayFromImage(fitted) != sitk.GetArrayFromImage(mask)).any()
    bare = sitk.GetImageFromArray(sitk.GetArrayFromImage(mask))
    assert (sitk.GetArrayFromImage(fit_label(bare, image, samples)) == sitk.GetArrayFromImage(fitted)).all()
