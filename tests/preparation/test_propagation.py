"""Labels of two orthogonal slices carried through their scan: what counts as such, and where they come to lie."""

import json
import os

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from short_trainings import SHORT, train
from typer.testing import CliRunner

from nnunet_ssl.cli import app
from nnunet_ssl.data.propagated import read_maps, read_meta
from nnunet_ssl.dataset_conversion.la import read_h5_image, read_h5_label
from nnunet_ssl.errors import InputError
from nnunet_ssl.preparation.propagation import find_planes, place_on_grid, propagate_dataset
from nnunet_ssl.preparation.registration import carry, coarsened, opened, refined


def annotated(*planes, shape=(5, 6, 7)):
    found = np.zeros(shape, bool)
    for axis, index in planes:
        found[(slice(None),) * axis + (index,)] = True
    return found


def test_two_orthogonal_slices_are_found_and_all_else_is_named():
    assert find_planes(annotated((0, 3), (2, 5))) == [(0, 3), (2, 5)]
    assert find_planes(annotated((0, 3))) == "1 slice(s)"
    assert find_planes(annotated((0, 3), (1, 1), (2, 5))) == "3 slice(s)"
    assert find_planes(annotated((0, 3), (0, 4))) == "2 parallel slices"
    assert find_planes(annotated()) == "nothing"
    assert find_planes(np.ones((5, 6, 7), bool)) == "all of it"
    scribble = annotated((0, 3), (2, 5))
    scribble[0, 0, :3] = True
    assert find_planes(scribble) == "2 slice(s) and 3 voxels beside"
    scribble[:] = False
    scribble[1, 1] = True
    assert find_planes(scribble) == "no slice in full"


def test_a_slice_of_the_scan_has_a_place_on_the_training_grid():
    assert [place_on_grid(index, (0, 6), 6) for index in range(6)] == [0, 1, 2, 3, 4, 5]
    assert [place_on_grid(index, (2, 8), 3) for index in range(2, 8)] == [0, 0, 1, 1, 2, 2]
    assert [place_on_grid(index, (0, 2), 8) for index in range(2)] == [2, 6]
    with pytest.raises(InputError, match="crops it away"):
        place_on_grid(1, (2, 8), 3)


def cone(size=24):
    """A bright body that gets thinner along axis 0 and moves along axis 1, and its labels."""
    z, y, x = np.indices((size, 48, 48))
    inside = (y - 20 - 0.3 * z) ** 2 + (x - 24) ** 2 < (14 - 0.2 * z) ** 2
    noise = np.random.default_rng(0).normal(size=inside.shape)
    return (100 * inside + noise).astype(np.float32), inside.astype(np.int16)


def test_labels_follow_the_image_in_both_directions():
    image, labels = cone()
    made = carry(image, labels[12], 0, 12, (1.0, 1.0, 1.0))
    still = np.broadcast_to(labels[12], labels.shape)
    assert np.array_equal(made[12], labels[12])
    for part in (slice(0, 4), slice(20, 24)):
        dice, as_was = (2 * (each[part] * labels[part]).sum() / (each[part].sum() + labels[part].sum())
                        for each in (made, still))  # fmt: skip
        assert dice > 0.94 > as_was + 0.1


@pytest.mark.parametrize("spacing", [1.0, 3.75])
def test_labels_follow_a_scan_of_large_voxels_as_well(spacing):
    """An ellipsoid of 60 mm that moves and ends; the same 96 mm in voxels of either size."""
    size = round(96 / spacing)
    z, y, x = (np.indices((size,) * 3) + 0.5) * spacing - 48
    inside = (z / 30) ** 2 + ((y - 0.2 * z) / 30) ** 2 + (x / 24) ** 2 < 1
    labels, middle = inside.astype(np.int16), size // 2
    noise = np.random.default_rng(0).normal(size=inside.shape)
    made = carry((100 * inside + noise).astype(np.float32), labels[middle], 0, middle, (spacing,) * 3)
    near = slice(middle - round(20 / spacing), middle + round(20 / spacing))
    assert 2 * (made[near] * labels[near]).sum() / (made[near].sum() + labels[near].sum()) > 0.94


def test_labels_of_a_real_scan_carried_in_voxels_of_3_75_mm(shared_data):
    """Of the middle slices of the atrium; opened in voxels, and registered as they are, they had 0.69 and 0.65."""
    (file,) = shared_data.glob("la/*/1GU15S0GJ6PFNARO469W/mri_norm2.h5")

    def large(image: sitk.Image) -> np.ndarray:
        array = sitk.GetArrayFromImage(image).astype(np.float32)
        array = array[tuple(slice(size // 6 * 6) for size in array.shape)]
        return array.reshape([part for size in array.shape for part in (size // 6, 6)]).mean((1, 3, 5))

    image, labels = large(read_h5_image(file)), (large(read_h5_label(file)) > 0.5).astype(np.int16)
    for axis in (0, 1):
        others = tuple(other for other in range(3) if other != axis)
        middle = int(np.median(np.flatnonzero(labels.any(others))))
        made = carry(image, labels.take(middle, axis), axis, middle, (3.75,) * 3)
        assert 2 * (made * labels).sum() / (made.sum() + labels.sum()) > 0.78


def test_fine_slices_have_their_pixels_where_the_coarse_ones_are():
    values = np.add.outer(np.arange(5.0), 10 * np.arange(4.0))
    fine = refined(values, (3, 2))
    assert fine.shape == (15, 8)
    assert np.allclose(coarsened(fine, (3, 2))[1:-1, 1:-1], values[1:-1, 1:-1], atol=0.3)
    assert refined(values, (1, 1)) is values


def test_small_structures_are_not_opened_away_and_large_ones_lose_their_spikes():
    labels = np.zeros((30, 30), np.int16)
    labels[5:20, 5:20], labels[25:27, 25:27], labels[10, 20:28] = 1, 2, 1
    result = opened(labels, (1.0, 1.0))
    assert (result == 2).sum() == 4 and not (result[10, 23:] == 1).any()
    assert (result[7:18, 5:20] == 1).all() and (result[5:20, 7:18] == 1).all()
    assert np.array_equal(opened(labels, (5.0, 5.0)), labels)  # each pixel is wider than the disk
    assert (opened(np.ones((30, 30), np.int16), (1.0, 1.0)) == 1).all()


@pytest.fixture
def sparse(phantom_3d, tmp_path, monkeypatch):
    """The phantom with an ignore label: cases annotated in two slices, one in one slice, one in full."""
    dataset = phantom_3d.copy(tmp_path).use(monkeypatch)
    for place in (dataset.raw, dataset.base):
        content = json.loads((place / "dataset.json").read_text())
        content["labels"]["ignore"] = max(content["labels"].values()) + 1
        (place / "dataset.json").write_text(json.dumps(content))
    ignore = content["labels"]["ignore"]
    files = sorted((dataset.raw / "labelsTr").glob("*.nii.gz"))
    for number, file in enumerate(files):
        image = sitk.ReadImage(str(file))
        labels = sitk.GetArrayFromImage(image)
        middle = [size // 2 for size in labels.shape]
        known = annotated(*[(0, middle[0]), (2, middle[2])][: 1 if number == 0 else 2], shape=labels.shape)
        if number != 1:
            labels[~known] = ignore
        hidden = sitk.GetImageFromArray(labels)
        hidden.CopyInformation(image)
        sitk.WriteImage(hidden, str(file))
    manager = PlansManager(str(dataset.base / f"{dataset.plans}.json"))
    configuration = manager.get_configuration("3d_fullres")
    for old in (dataset.base / configuration.data_identifier).glob("*.b2nd"):
        old.unlink()
    for case, of in get_filenames_of_train_images_and_targets(str(dataset.raw), content).items():
        DefaultPreprocessor(verbose=False).run_case_save(
            str(dataset.base / configuration.data_identifier / case), of["images"], of["label"], manager, configuration,
            content,
        )  # fmt: skip
    return dataset, [file.name.removesuffix(".nii.gz") for file in files]


def test_a_data_set(sparse, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dataset, cases = sparse
    arguments = ["propagate", "-d", "7", "-p", dataset.plans, "-np", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"{cases[0]} (1 slice(s))" in result.output and f"{cases[1]} (all of it)" in result.output
    (folder,) = dataset.base.glob("*_propagated")
    assert {file.name for file in folder.iterdir()} == {f"{c}.{e}" for c in cases[2:] for e in ("b2nd", "png")}
    times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert f"{len(cases) - 2} already propagated, 2 to look at" in CliRunner().invoke(app, arguments).output
    assert times == {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert all(file.stat().st_mtime_ns > before for file, before in times.items())

    labeled = folder.with_name(folder.name.removesuffix("_propagated"))
    shape = blosc2.open(str(labeled / f"{cases[2]}.b2nd")).shape[1:]
    maps = read_maps(labeled, cases[2], shape)
    meta = read_meta(folder / f"{cases[2]}.b2nd")
    assert maps.shape == (2 * len(meta["channels"]) + 3, *shape)
    for number, (axis, index) in enumerate(meta["planes"]):
        plane = maps[-3 + number].take(index, axis)
        assert not plane.any() and maps[-3 + number].max() >= shape[axis] // 2 - 1
    (dataset.base / "splits_final.json").write_text(json.dumps([{"train": cases[1:], "val": [cases[1]]}]))
    trainer = train(dataset, monkeypatch, SHORT + ", passes: 1", name="nnUNetTrainerDeSCO")
    made = blosc2.open(f"{trainer.output_folder}/case_maps/{cases[2]}.b2nd")[:]
    assert np.array_equal(made, maps)
    assert not blosc2.open(f"{trainer.output_folder}/case_maps/{cases[1]}.b2nd")[:].any()  # labeled in full
    (folder / f"{cases[2]}.b2nd").write_bytes(b"damaged")
    with pytest.raises(InputError, match="run `nnunet_ssl propagate`"):
        read_maps(labeled, cases[2], shape)


def test_hidden_labels_are_not_seen():
    """Of a case only the two slices' labels matter: others with another number change nothing."""
    image, labels = cone()
    one = carry(image, labels[12], 0, 12, (1.0,) * 3)
    labels[:12] = labels[13:] = 7
    assert np.array_equal(one, carry(image, labels[12], 0, 12, (1.0,) * 3))


def test_faults_name_case_and_remedy(sparse):
    dataset, cases = sparse
    plans = dataset.base / f"{dataset.plans}.json"
    content = json.loads(plans.read_text())
    flat = content["configurations"]["3d_fullres"] | {"patch_size": [16, 16]}
    plans.write_text(json.dumps(content | {"configurations": content["configurations"] | {"2d": flat}}))
    with pytest.raises(InputError, match="2d is 2D: no patch of it shows two orthogonal slices"):
        propagate_dataset(7, "2d", dataset.plans, 1)
    (labeled,) = (file for file in dataset.base.iterdir() if file.is_dir() and (file / f"{cases[2]}.b2nd").is_file())
    os.remove(labeled / f"{cases[2]}.b2nd")
    made = len(cases) - 3  # one is annotated in one slice, one in full, one is not preprocessed
    counts = rf"1 case\(s\) annotated in two slices could not be propagated, {made} could:"
    with pytest.raises(InputError, match=rf"{counts}\n.*case {cases[2]}: .*nnUNetv2_preprocess"):
        propagate_dataset(7, "3d_fullres", dataset.plans, 1)
    content = json.loads((dataset.raw / "dataset.json").read_text())
    del content["labels"]["ignore"]
    (dataset.raw / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="has no ignore label"):
        propagate_dataset(7, "3d_fullres", dataset.plans, 1)
