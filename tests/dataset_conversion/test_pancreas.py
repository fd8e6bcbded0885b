"""The converter of Pancreas-CT, on small DICOM series in the original layout and on a real series where present."""

import json
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pancreas_source import LISTS, ORIGIN, SHAPE, SPACING, scan, write_series

from nnunet_ssl.conversion.case_writer import CannotTell
from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.pancreas import (
    AS_STORED,
    BY_HEADER,
    WITHDRAWN,
    fit_label,
    pancreas_conversion,
    read_series,
)
from nnunet_ssl.errors import InputError


def test_release_of_today(pancreas, write, ids, command, said):
    conversion = pancreas_conversion(pancreas)
    folder = write(conversion)
    twelve = [name for name in LISTS["train"] if name != "PANCREAS_0070"][:12]
    assert conversion.ids("labeled") == twelve
    assert twelve[-2:] == ["PANCREAS_0019", "PANCREAS_0048"]
    assert [len(conversion.ids(part)) for part in ("labeled", "unlabeled", "test")] == [12, 49, 19]
    assert not set(WITHDRAWN) & {case.id for case in conversion.cases}
    (left_out,) = said(conversion)
    assert left_out.startswith("left out of the published lists (2 cases: PANCREAS_0070, PANCREAS_0025): withdrawn")
    notes = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["notes"]
    assert [note["what"] for note in notes[1:]] == [BY_HEADER]
    assert notes[1]["cases"] == twelve + conversion.ids("test")
    assert all(250 < notes[1]["measured"][name]["margin in HU"] < 330 for name in notes[1]["cases"])
    assert ids(folder / "labelsTr") == set(twelve)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(next((pancreas / "Pancreas-CT" / twelve[0]).rglob("*.dcm"))))
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
    again = command("pancreas", pancreas, "--dataset-id", 27, "-np", 1)
    assert "already there" in again.output, again.exception
    # The same source: what is missing is named.
    with pytest.raises(InputError, match=r"lacks scans of the published lists: PANCREAS_0070, PANCREAS_0025\."):
        pancreas_conversion(pancreas, keep_withdrawn=True)
    assert pancreas_conversion(pancreas, "mc-net-6").ids("labeled") == LISTS["train"][:6]


def touch_series(root: Path) -> Path:
    """All 82 scans of the first release, as far as the choice of cases looks at them."""
    for name in LISTS["train"] + LISTS["test"]:
        (root / name / "study" / "series").mkdir(parents=True)
        (root / name / "study" / "series" / "000000.dcm").touch()
        (root / f"label{name[-4:]}.nii.gz").touch()
    return root


def test_first_release(tmp_path, said):
    root = touch_series(tmp_path / "DOI")
    kept = pancreas_conversion(root, keep_withdrawn=True)
    assert kept.ids("labeled") == LISTS["train"][:12]
    assert [len(kept.ids(part)) for part in ("labeled", "unlabeled", "test")] == [12, 50, 20]
    three = "PANCREAS_0002, PANCREAS_0025, PANCREAS_0070"
    assert f"all kept (3 cases: {three}): they are the same scan, in training and in test." in said(kept)
    conversion = pancreas_conversion(root)
    not_used = "in the source but not used (2 cases: PANCREAS_0025, PANCREAS_0070): not in the published lists."
    assert not_used in said(conversion)
    (root / "PANCREAS_0057" / "study" / "other").mkdir()
    (root / "PANCREAS_0057" / "study" / "other" / "000000.dcm").touch()
    with pytest.raises(InputError, match=r"holds scans twice: PANCREAS_0057 \("):
        pancreas_conversion(root)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="No Pancreas-CT scans"):
        pancreas_conversion(tmp_path / "nothing")


FLIPS = [axes for count in range(4) for axes in combinations(range(3), count)]


def on_grid(voxels: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    return image


def bare(voxels: np.ndarray) -> sitk.Image:
    """A label whose header names another grid."""
    label = sitk.GetImageFromArray(voxels)
    label.SetSpacing((0.8, 0.8, 1.0))
    return label


def in_words(axes: tuple[int, ...]) -> str:
    return f"label flipped along {' and '.join('zyx'[axis] for axis in axes)}" if axes else AS_STORED


def abdomen(seed: int, contrast: float, tissue: float = -40) -> tuple[np.ndarray, np.ndarray]:
    """Tissue of so many HU with noise of 20 HU, an organ brighter by ``contrast`` in one corner, and its label."""
    label = np.zeros((12, 24, 28), np.uint8)
    label[2:6, 4:10, 5:13] = 1
    return np.random.default_rng(seed).normal(tissue, 20, label.shape) + contrast * label, label


@pytest.fixture
def case(tmp_path) -> Case:
    return Case("PANCREAS_0001", "labeled", (tmp_path,), tmp_path / "label0001.nii.gz")


@pytest.mark.parametrize("axes", FLIPS)
def test_label_without_a_header_is_flipped_into_the_organ(axes, case):
    voxels, expected = scan("PANCREAS_0001")
    label = bare(np.flip(expected, axes).astype(np.float64))
    fitted, note = fit_label(label, on_grid(voxels), case, None)
    assert (sitk.GetArrayFromImage(fitted) == expected).all()
    assert (fitted.GetSpacing(), fitted.GetOrigin()) == (SPACING, ORIGIN)
    assert (note.what, note.cases) == (in_words(axes), (case.id,))
    # air is cut at -200 HU, the organ lies between 70 and 130
    assert 250 < note.measured[case.id]["margin in HU"] < 330


@pytest.mark.parametrize("tissue", [10, -75])
@pytest.mark.parametrize("axes", FLIPS)
def test_an_organ_little_brighter_than_its_surroundings_is_found(axes, tissue, case):
    """All of it is soft tissue; or nothing is, and hardly the organ itself."""
    for seed in range(10):
        voxels, expected = abdomen(seed, 35, tissue)
        fitted, note = fit_label(bare(np.flip(expected, axes)), on_grid(voxels), case, None)
        assert (sitk.GetArrayFromImage(fitted) == expected).all()
        assert note.measured[case.id]["margin in HU"] >= 5


def test_a_scan_that_does_not_tell(case):
    """The same tissue everywhere: of 100 such scans none is told, for whatever flip lies best by chance."""
    for seed in range(100):
        voxels, label = abdomen(seed, 0)
        with pytest.raises(CannotTell, match=r"label0001\.nii\.gz: the scan does not tell"):
            fit_label(bare(label), on_grid(voxels), case, None)
    flipped = in_words((1,))
    fitted, note = fit_label(bare(label), on_grid(voxels), case, Counter({flipped: 19, AS_STORED: 1, BY_HEADER: 30}))
    assert (sitk.GetArrayFromImage(fitted) == label[:, ::-1]).all()
    assert note.what == flipped
    assert note.why == "the scan does not tell; taken as for 19 of the 20 labels whose scans do"
    assert note.measured[case.id]["margin in HU"] < 5
    for votes, told in {
        (): "none could be told",
        ((flipped, 2),): "label flipped along y: 2",
        ((flipped, 17), (AS_STORED, 3)): "label flipped along y: 17; label as stored: 3",
        ((BY_HEADER, 30),): "none could be told",
    }.items():
        with pytest.raises(InputError) as error:
            fit_label(bare(label), on_grid(voxels), case, Counter(dict(votes)))
        assert f"nor do the other labels ({told}); see how it lies" in str(error.value)


def test_a_header_against_the_scan(case):
    voxels, expected = abdomen(0, 60)
    _, note = fit_label(on_grid(expected), on_grid(voxels), case, None)
    assert note.what == BY_HEADER
    wrong = on_grid(np.ascontiguousarray(expected[:, ::-1]))
    fitted, note = fit_label(wrong, on_grid(voxels), case, None)
    assert (sitk.GetArrayFromImage(fitted) == expected).all()
    assert note.what == f"{BY_HEADER}, then {in_words((1,))}"
    # Where the scan does not tell, headers are believed, unless they are wrong elsewhere.
    dull = on_grid(abdomen(0, 0)[0])
    fitted, believed = fit_label(wrong, dull, case, Counter({AS_STORED: 9}))
    assert (sitk.GetArrayFromImage(fitted) == sitk.GetArrayFromImage(wrong)).all()
    assert (believed.what, believed.why) == (BY_HEADER, "the scan does not tell; the header is taken at its word")
    fitted, _ = fit_label(wrong, dull, case, Counter({note.what: 9}))
    assert (sitk.GetArrayFromImage(fitted) == expected).all()


def test_a_label_that_is_the_same_by_every_flip(case):
    voxels = np.full((6, 8, 8), -100)
    label = np.zeros_like(voxels, np.uint8)
    label[2:4, 3:5, 3:5] = 1
    voxels[label == 1] = 80
    fitted, note = fit_label(bare(label), on_grid(voxels), case, None)
    assert (sitk.GetArrayFromImage(fitted) == label).all()
    assert note.why == "all flips of this label are the same"


@pytest.fixture
def bare_labels(pancreas) -> dict[str, Path]:
    """The labels of the source by case, all with a header that names another grid, lying as their scans."""
    labels = {}
    for path in sorted((pancreas / "TCIA_pancreas_labels-02-05-2017").iterdir()):
        if (name := f"PANCREAS_{path.name[5:9]}") not in WITHDRAWN:
            sitk.WriteImage(bare(scan(name)[1]), str(path))
            labels[name] = path
    return labels


def blur(pancreas: Path, name: str) -> None:
    """The same tissue of about -40 HU everywhere: nothing tells how the label lies."""
    folder = next((pancreas / "Pancreas-CT" / name).glob("*/*"))
    shutil.rmtree(folder)
    write_series(folder, np.random.default_rng(1).normal(-40, 10, SHAPE).astype(np.int16))


def test_mixed_layouts_and_a_vote(pancreas, bare_labels, write):
    twelve = pancreas_conversion(pancreas).ids("labeled")
    # None of the unlabeled cases has a label that is opened, so none votes.
    for name in set(bare_labels) - set(twelve) - set(LISTS["test"]):
        bare_labels[name].write_bytes(b"not to be opened")
    for name in twelve[:2]:
        sitk.WriteImage(bare(np.flip(scan(name)[1], 1)), str(bare_labels[name]))
    blur(pancreas, twelve[5])
    folder = write(pancreas_conversion(pancreas))
    notes = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))["notes"][1:]
    told = {(note["what"], note["why"].partition(";")[0]): note["cases"] for note in notes}
    assert told[in_words((1,)), "by this flip alone its border lies on borders of the scan"] == twelve[:2]
    assert told[AS_STORED, "the scan does not tell"] == [twelve[5]]
    assert len(told[AS_STORED, "by this flip alone its border lies on borders of the scan"]) == 31 - 3
    for name in twelve:
        label = sitk.ReadImage(str(folder / "labelsTr" / f"{name}.nii.gz"))
        assert (sitk.GetArrayFromImage(label) == scan(name)[1]).all()


def test_a_case_that_neither_scan_nor_vote_explains(pancreas, bare_labels, raw):
    twelve = pancreas_conversion(pancreas).ids("labeled")
    for name in twelve[:6]:
        sitk.WriteImage(bare(np.flip(scan(name)[1], 1)), str(bare_labels[name]))
    blur(pancreas, twelve[7])
    with pytest.raises(InputError) as error:
        write_raw_dataset(pancreas_conversion(pancreas), 27, "Pancreas")
    first, line = str(error.value).splitlines()
    assert first == "Nothing was converted, 1 of 80 cases are bad:"
    assert line.startswith(f"  {twelve[7]}: ")
    assert "label as stored: 24" in line
    assert "label flipped along y: 6" in line
    assert list(raw.iterdir()) == []


def test_label_that_fits_nowhere(case):
    voxels, _ = scan("PANCREAS_0001")
    image = sitk.GetImageFromArray(voxels)
    corner = np.zeros(SHAPE, np.uint8)
    corner[0, 0] = 1
    with pytest.raises(InputError, match=r"does not lie in soft tissue \(median -8\d\d HU"):
        fit_label(sitk.GetImageFromArray(corner), image, case, Counter({AS_STORED: 20}))
    with pytest.raises(InputError, match="is empty"):
        fit_label(sitk.GetImageFromArray(np.zeros_like(corner)), image, case, None)
    with pytest.raises(InputError, match=r"has 16 x 12 x 5 voxels \(.* mm\) but its scan 16 x 12 x 6 "):
        fit_label(sitk.GetImageFromArray(corner[1:]), image, case, None)


def test_faulty_series(tmp_path, pancreas):
    image = scan("PANCREAS_0001")[0]
    write_series(tmp_path / "gap", image)
    (tmp_path / "gap" / "1-003.dcm").unlink()
    with pytest.raises(InputError, match=r"gap has slices 0\.5 to 1 mm apart \(one missing\?\)"):
        read_series(tmp_path / "gap")
    (tmp_path / "none").mkdir()
    write_series(tmp_path / "bare", image)
    file = tmp_path / "bare" / "1-004.dcm"
    pixel_spacing, private = b"\x28\x00\x30\x00", b"\x29\x00\x30\x00"  # the tags (0028,0030) and (0029,0030)
    file.write_bytes(file.read_bytes().replace(pixel_spacing, private))
    with pytest.raises(InputError, match="bare has slices without PixelSpacing, so the size of a voxel is unknown"):
        read_series(tmp_path / "bare")
    write_series(tmp_path / "one", image[:1])
    with pytest.raises(InputError, match="one holds one slice only, so the distance of slices is unknown"):
        read_series(tmp_path / "one")
    with pytest.raises(InputError, match="none holds 0 DICOM series"):
        read_series(tmp_path / "none")
    next((pancreas / "Pancreas-CT" / "PANCREAS_0018").rglob("1-003.dcm")).unlink()
    with pytest.raises(InputError, match=r"PANCREAS_0018: .* mm apart"):
        write_raw_dataset(pancreas_conversion(pancreas), 27, "Pancreas")


def test_real_series(shared_data):
    samples = shared_data / "totalseg_samples"
    image = read_series(samples / "example_ct_dicom")
    assert image.GetSize() == (512, 512, 20)
    assert image.GetSpacing() == (0.9765625, 0.9765625, 2.0)  # SliceThickness says 3
    stored = sitk.ReadImage(str(samples / "example_seg_dicom.nii.gz"))
    mask = stored == 5  # liver; stored with y the other way round
    case = Case("PANCREAS_0001", "labeled", (samples,), samples / "label0001.nii.gz")
    fitted, by_header = fit_label(mask, image, case, None)
    resampled = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    assert (sitk.GetArrayFromImage(fitted) == sitk.GetArrayFromImage(resampled)).all()
    assert (sitk.GetArrayFromImage(fitted) != sitk.GetArrayFromImage(mask)).any()
    without = sitk.GetImageFromArray(sitk.GetArrayFromImage(mask))
    again, flipped = fit_label(without, image, case, None)
    assert (sitk.GetArrayFromImage(again) == sitk.GetArrayFromImage(fitted)).all()
    assert (by_header.what, flipped.what) == (BY_HEADER, "label flipped along y")
    assert by_header.measured == flipped.measured
    assert by_header.measured["PANCREAS_0001"]["margin in HU"] == pytest.approx(16.2, abs=0.1)
    # Spleen, stomach and pancreas, cut off as they are: each lies by this flip alone.
    for organ in (1, 6, 7):
        piece = sitk.GetImageFromArray((sitk.GetArrayFromImage(stored) == organ).astype(np.uint8))
        assert fit_label(piece, image, case, None)[1].what == "label flipped along y"
