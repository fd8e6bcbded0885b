"""Unlabeled scans that are not like the labeled ones: none is called so in vain, and planted faults are found."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.dataset_conversion.acdc import SPACING, read_h5_image
from nnunet_ssl.demo.phantom import phantom_case
from nnunet_ssl.preparation.outliers import find_outliers, spread
from nnunet_ssl.preparation.scans import Scan, read_scans

SHAPE = (24, 32, 36)
MR, CT = [("MR", "ZScoreNormalization")], [("CT", "CTNormalization")]
# Grey levels of the phantom as HU: air, fat, soft tissue, contrast agent, bone.
HOUNSFIELD = ([0, 25, 60, 110, 205, 255], [-1000, -950, -120, 20, 180, 400])


def make_image(number, spacing=(2.0, 2.0, 2.0), hounsfield=False):
    """A phantom and its labels, as images."""
    voxels, labels = phantom_case(SHAPE, seed=(11, number))
    voxels = voxels[0].astype(np.float32)
    voxels = np.interp(voxels, *HOUNSFIELD) if hounsfield else voxels
    images = [sitk.GetImageFromArray(array.astype(np.float32)) for array in (voxels, labels)]
    for image in images:
        image.SetSpacing(spacing)
        image.SetOrigin((-30, -20, 10))
    return images


def with_header(image, spacing=None, origin=None, direction=None):
    image = sitk.Image(image)
    image.SetSpacing(spacing or image.GetSpacing())
    image.SetOrigin(origin or image.GetOrigin())
    image.SetDirection(direction or image.GetDirection())
    return image


def planted(image, labels):
    """One image for each fault, by its name."""
    spacing = np.array(image.GetSpacing())
    third = [size // 3 for size in image.GetSize()]
    return {
        "mm for cm": with_header(image, (spacing / 10).tolist()),
        "cm for mm": with_header(image, (spacing * 10).tolist()),
        "lost header": with_header(image, (1, 1, 1), (0, 0, 0)),
        "another body part": sitk.RegionOfInterest(image, third, third),
        "mirrored": with_header(image[:, ::-1], direction=(1, 0, 0, 0, -1, 0, 0, 0, 1)),
        "permuted": sitk.PermuteAxes(image, (2, 1, 0)),
        "mask": labels,
        "inverted": 300 - image,
    }


def read(folder, images, monkeypatch_context) -> dict[str, Scan]:
    """The scans of images by name, all as unlabeled ones."""
    files = {}
    for name, image in images.items():
        files["unlabeled", name] = [folder / f"{name}_0000.nii.gz"]
        sitk.WriteImage(image, str(folder / f"{name}_0000.nii.gz"))
    with monkeypatch_context() as patched:  # spawned workers would import nnU-Net again
        patched.setattr("nnunet_ssl.pools.ProcessPoolExecutor", lambda workers, **other: ThreadPoolExecutor(workers))
        found = read_scans(files, {"file_ending": ".nii.gz"}, 1)
    assert not any(scan.fault for scan in found)
    return {scan.case: scan for scan in found}


@pytest.fixture(scope="module")
def mr(tmp_path_factory):
    """Forty phantoms whose grey levels have any scale and offset, as MR has, and those with faults."""
    draw = np.random.default_rng(3)
    images = {}
    for number in range(40):
        image, labels = make_image(number)
        images[f"p{number}"] = (image + draw.uniform(0, 100)) * float(np.exp(draw.normal()))
    faults = planted(*make_image(50)) | {"CT": make_image(51, hounsfield=True)[0]}
    return split(read(tmp_path_factory.mktemp("mr"), images | faults, pytest.MonkeyPatch.context), faults)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """Forty phantoms of CT with another extent each, some with filling around the circle or with metal."""
    draw = np.random.default_rng(3)
    images = {}
    for number in range(40):
        image, _ = make_image(number, (1.8 + draw.uniform(0, 0.4),) * 2 + (draw.uniform(1, 5),), hounsfield=True)
        low, high = draw.integers(0, 4, 3), draw.integers(0, 4, 3)
        image = sitk.Crop(image, low.tolist(), high.tolist())
        if number % 5 == 0:
            image[:, :3, :] = -3024
        if number % 7 == 0:
            image[8:12, 8:12, 4:8] = 3071
        images[f"p{number}"] = image
    image, labels = make_image(50, hounsfield=True)
    grey = make_image(51)[0]
    faults = planted(image, labels) | {"above": image + 1024, "below": image - 1024, "MR": grey, "8 bit": grey / 2}
    return split(read(tmp_path_factory.mktemp("ct"), images | faults, pytest.MonkeyPatch.context), faults)


def split(found, faults):
    return [scan for name, scan in found.items() if name not in faults], {name: found[name] for name in faults}


def draws(ordinary, labeled, number=10):
    """The scans, with other ones as labeled each time."""
    for seed in range(number):
        chosen = np.random.default_rng(seed).choice(len(ordinary), labeled, replace=False)
        yield [replace(scan, role="labeled") if i in chosen else scan for i, scan in enumerate(ordinary)]


def outliers(drawn, channels) -> dict[str, str]:
    return {case: finding.reason for finding in find_outliers(drawn, channels)[0] for case in finding.cases}


@pytest.mark.parametrize("labeled", [1, 3, 8])
@pytest.mark.parametrize(("kind", "channels"), [("mr", MR), ("ct", CT)])
def test_ordinary_scans_are_no_outliers_whichever_are_labeled(request, kind, channels, labeled):
    ordinary, _ = request.getfixturevalue(kind)
    assert [outliers(drawn, channels) for drawn in draws(ordinary, labeled)] == [{}] * 10


MR_FAULTS = {
    "mm for cm": "size", "cm for mm": "size", "lost header": "a lost header?", "another body part": "size",
    "mirrored": "axes", "permuted": "axes", "mask": "a mask?", "inverted": "inverted?", "CT": "as in CT",
}  # fmt: skip
CT_FAULTS = MR_FAULTS | dict.fromkeys(["inverted", "above", "MR", "8 bit"], "1st percentile in HU")
CT_FAULTS = CT_FAULTS | {"below": "median above -300 HU"}
del CT_FAULTS["CT"]


@pytest.mark.parametrize("labeled", [3, 8])
@pytest.mark.parametrize(
    ("kind", "channels", "fault", "reason"),
    [("mr", MR, *entry) for entry in MR_FAULTS.items()] + [("ct", CT, *entry) for entry in CT_FAULTS.items()],
)
def test_planted_faults_are_found(request, kind, channels, fault, reason, labeled):
    ordinary, faults = request.getfixturevalue(kind)
    for drawn in draws(ordinary, labeled):
        found = outliers([*drawn, faults[fault]], channels)
        assert list(found) == [fault]
        assert reason in found[fault]


def test_most_of_the_unlabeled_scans_are_of_another_kind(mr, ct):
    (ordinary, _), (others, _) = mr, ct
    others = [replace(scan, case=f"ct {scan.case}") for scan in others]
    for few in (5, 30):
        drawn = next(draws(ordinary[: few + 3], 3))
        assert set(outliers([*drawn, *others], MR)) == {scan.case for scan in others}


def test_notes_name_what_differs_and_ask_for_nothing(mr):
    ordinary, _ = mr
    drawn = [replace(scan, role="labeled") for scan in ordinary[:3]] + list(ordinary[3:])
    loud = replace(ordinary[3], case="loud", percentiles=ordinary[3].percentiles * 1e6)
    coarse = replace(ordinary[3], case="coarse", spacing=(6.0, 2.0, 2.0), shape=(8, 32, 36))
    findings, notes = find_outliers([*drawn, loud, coarse], MR)
    assert findings == []
    told = {case: note.reason for note in notes for case in note.cases}
    assert told["coarse"] == "spacing z in mm 6 to 6 (labeled: 2 to 2)"
    assert told["loud"].startswith("MR: contrast (1st to 99th percentile)")
    assert not any("emove" in note.advice for note in notes)


def test_a_lost_origin_alone_changes_nothing(mr):
    ordinary, faults = mr
    own = [replace(scan, spacing=(1.0, 1.0, 1.02)) for scan in ordinary]
    assert outliers([*next(draws(own, 3)), faults["lost header"]], MR) == {}


def test_a_channel_may_have_any_name(mr):
    ordinary, faults = mr
    found = outliers([*next(draws(ordinary, 3)), faults["mask"]], [("{0} {name} %s", MR[0][1])])
    assert found["mask"].startswith("{0} {name} %s: number of grey levels ")


def test_pictures_of_another_size_are_a_note(mr):
    ordinary, _ = mr
    pictures = [replace(scan, shape=(1, 400, 600), spacing=(999.0, 1.0, 1.0)) for scan in ordinary]
    drawn = next(draws(pictures, 3))
    findings, notes = find_outliers([*drawn, replace(pictures[0], case="large", shape=(1, 1600, 2400))], MR)
    assert findings == []
    assert "mean size in pixels" in next(note.reason for note in notes if "large" in note.cases)


def test_scans_at_an_angle_have_the_same_axes(mr):
    ordinary, _ = mr
    drawn = next(draws(ordinary, 3))
    for degrees, found in ((0, False), (40, False), (60, False), (88, True), (180, True)):
        turn = np.deg2rad(degrees)
        axes = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        other = replace(ordinary[0], case="other", role="unlabeled", axes=axes @ ordinary[0].axes)
        assert ("other" in outliers([*drawn, other], MR)) == found


def test_no_labeled_scan_and_no_scan(mr):
    assert find_outliers(mr[0], MR) == ([], [])
    assert find_outliers([], MR) == ([], [])


def test_spread_is_that_of_the_closest_half():
    normal = np.random.default_rng(0).normal(3, 2, 10_000)
    assert spread(normal) == pytest.approx(2, rel=0.05)
    mixed = np.concatenate([normal, np.random.default_rng(1).normal(500, 2, 9_999)])
    assert 2 < spread(mixed) < 12
    assert spread(np.array([4.0])) == 0


def test_real_scans(shared_data, tmp_path):
    """Sixty hearts whose grey levels have any scale, three of them labeled: none is an outlier, mirrored grey is."""
    draw = np.random.default_rng(0)
    files = sorted((shared_data / "acdc" / "data").glob("patient*_frame*.h5"))[::3][:60]
    images = {file.stem: read_h5_image(file, SPACING) * float(np.exp(draw.normal())) for file in files}
    faults = {name: 1000 - images[name] for name in list(images)[:5]}
    images |= {f"inverted {name}": image for name, image in faults.items()}
    ordinary, inverted = split(
        read(tmp_path, images, pytest.MonkeyPatch.context), [f"inverted {name}" for name in faults]
    )
    for drawn in draws(ordinary, 3):
        assert set(outliers([*drawn, *inverted.values()], MR)) == set(inverted)
