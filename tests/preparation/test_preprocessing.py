"""Preprocessing of unlabeled cases: the same voxels as nnU-Net's, and only what changed is made again."""

import gzip
import json
import pickle

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from unlabeled_images import LABELED, UNLABELED, WHOLE, make_image, names, refusal, run, stamps

from nnunet_ssl.data.unlabeled import find_unlabeled, read_cases
from nnunet_ssl.errors import InputError
from nnunet_ssl.preparation.preprocessing import preprocess_dataset, read_checked


@pytest.mark.slow
def test_voxels_equal_nnunets_bit_for_bit(dataset):
    preprocess_dataset(5, processes=2)  # real worker processes; both configurations that nnU-Net preprocessed
    for name in ("2d", "3d_fullres"):
        theirs, ours = dataset.base / f"nnUNetPlans_{name}", dataset.base / f"nnUNetPlans_{name}_unlabeled"
        assert names(ours) == WHOLE
        assert read_cases(ours, dataset.plans, name, 5) == UNLABELED
        for labeled, unlabeled in zip(LABELED, UNLABELED, strict=False):
            a, b = (blosc2.open(str(f), mode="r") for f in (theirs / f"{labeled}.b2nd", ours / f"{unlabeled}.b2nd"))
            assert (a.dtype, a.shape, a.chunks, a.blocks) == (b.dtype, b.shape, b.chunks, b.blocks)
            assert a[:].tobytes() == b[:].tobytes()
            assert a.shape[0] == 2
            their_properties = pickle.loads((theirs / f"{labeled}.pkl").read_bytes())
            our_properties = pickle.loads((ours / f"{unlabeled}.pkl").read_bytes())
            mark = our_properties.pop("nnunet_ssl")
            assert list(mark["sources"]) == [f"{unlabeled}_0000.nii.gz", f"{unlabeled}_0001.nii.gz"]
            assert "class_locations" in their_properties
            del their_properties["class_locations"]
            assert repr(our_properties) == repr(their_properties)


def test_second_run_does_nothing_and_only_changes_are_redone(dataset, in_process):
    assert run(dataset) == UNLABELED
    first = stamps(dataset.out)
    run(dataset)
    again = stamps(dataset.out)
    del first["unlabeled.json"], again["unlabeled.json"]
    assert again == first

    sitk.WriteImage(make_image(99), dataset.images / "un_4_0001.nii.gz")  # changed
    for channel in range(2):
        (dataset.images / f"un_5_{channel:04d}.nii.gz").unlink()  # left the raw folder
    (dataset.out / "un_2.b2nd").write_bytes((dataset.out / "un_2.b2nd").read_bytes()[:-200])  # damaged
    (dataset.out / ".partial").mkdir()
    (dataset.out / ".partial" / "un_9_seg.b2nd").touch()  # left by a killed run
    assert run(dataset) == UNLABELED[:5]
    assert names(dataset.out) == [name for name in WHOLE if not name.startswith("un_5")]
    third = stamps(dataset.out)
    redone = {name.split(".")[0] for name in third if name != "unlabeled.json" and third[name] != first[name]}
    assert redone == {"un_2", "un_4"}
    assert np.isfinite(blosc2.open(str(dataset.out / "un_2.b2nd"), mode="r")[:]).all()


def test_half_stores_float16_and_makes_what_is_stored_otherwise_again(dataset, in_process):
    run(dataset)
    whole = blosc2.open(str(dataset.out / "un_0.b2nd"), mode="r")[:]
    first = stamps(dataset.out)
    preprocess_dataset(5, ["3d_fullres"], half=True)
    assert read_cases(dataset.out, dataset.plans, "3d_fullres", 5) == UNLABELED
    half = blosc2.open(str(dataset.out / "un_0.b2nd"), mode="r")
    assert half.dtype == np.float16 and np.array_equal(half[:], whole.astype(np.float16))
    second = stamps(dataset.out)
    assert all(second[name] != first[name] for name in WHOLE)
    preprocess_dataset(5, ["3d_fullres"], half=True)  # nothing is to do
    del second["unlabeled.json"]
    assert {name: stamp for name, stamp in stamps(dataset.out).items() if name in second} == second
    run(dataset)  # without: as before
    assert np.array_equal(blosc2.open(str(dataset.out / "un_0.b2nd"), mode="r")[:], whole)


def test_half_refuses_what_float16_does_not_hold(dataset, in_process):
    file = dataset.base / "nnUNetPlans.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["NoNormalization"] * 2
    file.write_text(json.dumps(plans), encoding="utf-8")
    image = sitk.ReadImage(dataset.images / "un_3_0000.nii.gz")
    sitk.WriteImage(image * 1000, dataset.images / "un_3_0000.nii.gz")
    with pytest.raises(InputError, match="case un_3: grey levels reach .* more than float16 holds .*without --half"):
        preprocess_dataset(5, ["3d_fullres"], half=True)
    preprocess_dataset(5, ["3d_fullres"])


def test_other_plans_redo_everything(dataset, in_process):
    run(dataset)
    file = dataset.base / "nnUNetPlans.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["spacing"] = [2.5, 1.5, 1.5]
    file.write_text(json.dumps(plans), encoding="utf-8")
    with pytest.raises(InputError, match="other plans"):
        read_cases(dataset.out, PlansManager(plans), "3d_fullres", 5)
    before = blosc2.open(str(dataset.out / "un_0.b2nd"), mode="r").shape
    preprocess_dataset(5, ["3d_fullres"])
    assert read_cases(dataset.out, PlansManager(plans), "3d_fullres", 5) == UNLABELED
    assert blosc2.open(str(dataset.out / "un_0.b2nd"), mode="r").shape != before


def test_channels_in_one_space_are_brought_onto_the_first_ones_grid(dataset):
    """With other axes, and with a header within a tenth of a voxel: the voxels of the channel as it was."""
    files = [dataset.images / f"odd_{channel:04d}.nii.gz" for channel in range(2)]
    first, second = make_image(1), make_image(2)
    sitk.WriteImage(first, files[0])
    turned = sitk.Flip(sitk.PermuteAxes(second, (1, 2, 0)), (True, False, True))
    near = sitk.Image(second)
    near.SetOrigin((3.0, -2.0, 7.1))  # 0.05 voxels of 2 mm
    for stored, is_turned, voxels in ((second, False, 0), (turned, True, 0), (near, False, 0.05)):
        sitk.WriteImage(stored, files[1])
        data, properties, difference = read_checked("odd", files, dataset.plans)
        assert np.array_equal(data, np.stack([sitk.GetArrayFromImage(image) for image in (first, second)]))
        assert properties["sitk_stuff"]["origin"] == (3, -2, 7)
        assert difference.turned == is_turned
        assert difference.voxels == pytest.approx(voxels, abs=1e-5)


def test_a_channel_that_the_reader_reorients_gives_nnunets_voxels(dataset):
    """NibabelIOWithReorient brings both channels together: what it gives for all files at once, and nothing to tell."""
    plans = PlansManager({**dataset.plans.plans, "image_reader_writer": "NibabelIOWithReorient"})
    files = [dataset.images / f"odd_{channel:04d}.nii.gz" for channel in range(2)]
    sitk.WriteImage(make_image(1), files[0])
    sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(make_image(2), (2, 0, 1)), (True, True, False)), files[1])
    data, properties, difference = read_checked("odd", files, plans)
    theirs, their_properties = plans.image_reader_writer_class().read_images([str(file) for file in files])
    assert np.array_equal(data, theirs)
    assert repr(properties) == repr(their_properties)
    assert not difference.turned
    assert difference.voxels < 1e-3


def test_turned_channels_are_told(dataset, in_process, capsys):
    file = dataset.images / "un_2_0001.nii.gz"
    expected = run(dataset) and blosc2.open(str(dataset.out / "un_2.b2nd"), mode="r")[:]
    assert "axes" not in capsys.readouterr().out
    sitk.WriteImage(sitk.Flip(sitk.ReadImage(file), (True, False, False)), file)
    run(dataset)
    assert "In 1 case(s) a channel is stored with other axes than the first one: turned" in capsys.readouterr().out
    assert np.array_equal(blosc2.open(str(dataset.out / "un_2.b2nd"), mode="r")[:], expected)


def test_gzip_in_several_members_is_whole(dataset):
    file = dataset.images / "members_0000.nii.gz"
    sitk.WriteImage(make_image(1), file)
    content = gzip.decompress(file.read_bytes())
    members = [gzip.compress(content[:1000]), gzip.compress(content[1000:]), gzip.compress(b"")]
    file.write_bytes(b"".join(members))
    data, *_ = read_checked("members", [file, file], dataset.plans)
    assert np.array_equal(data[0], sitk.GetArrayFromImage(make_image(1)))
    file.write_bytes(b"".join(members)[:-60])
    with pytest.raises(InputError, match="cannot be read"):
        read_checked("members", [file, file], dataset.plans)


def test_color_pictures_are_one_file_of_three_channels(tmp_path):
    """A 2D dataset of PNG files: nnU-Net's spacing of 999 marks 2D."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "imagesUnlabeled"):
        (tmp_path / folder).mkdir()
        picture = sitk.GetImageFromArray(rng.integers(0, 255, (16, 20, 3), dtype=np.uint8), isVector=True)
        sitk.WriteImage(picture, tmp_path / folder / f"{folder}_0000.png")
    cases, problems = find_unlabeled(tmp_path, {"file_ending": ".png"}, num_channels=3)
    assert problems == []
    plans = PlansManager(
        {
            "image_reader_writer": "NaturalImage2DIO",
            "original_median_spacing_after_transp": [999.0, 1.0, 1.0],
            "foreground_intensity_properties_per_channel": {"0": {}, "1": {}, "2": {}},
        }
    )
    data, *_ = read_checked("imagesUnlabeled", cases["imagesUnlabeled"], plans)
    assert data.shape == (3, 1, 16, 20)


def test_files_beside_images_are_passed_over_and_broken_links_are_not(tmp_path):
    folder = tmp_path / "imagesUnlabeled"
    folder.mkdir()
    for name in ("a_0000.tif", "a.json", ".DS_Store", "notes.txt"):
        (folder / name).touch()
    assert find_unlabeled(tmp_path, {"file_ending": ".tif"}, 1) == ({"a": [folder / "a_0000.tif"]}, [])
    (folder / "b_0000.tif").symlink_to(folder / "gone.tif")
    (folder / "c.nii").touch()
    _, problems = find_unlabeled(tmp_path, {"file_ending": ".tif"}, 1)
    assert len(problems) == 2
    assert "b_0000.tif is no file" in problems[1]
    assert "c.nii: the labeled images end in .tif" in problems[0]


def test_no_unlabeled_images(dataset, capsys):
    for file in dataset.images.iterdir():
        file.unlink()
    assert str(dataset.images) in refusal(5)
    dataset.images.rmdir()
    assert str(dataset.images) in refusal(5)
    # ... which is fine when the folds bring their own
    split = {"train": LABELED[:2], "val": LABELED[2:3], "unlabeled": LABELED[3:]}
    (dataset.base / "splits_final.json").write_text(json.dumps([split]), encoding="utf-8")
    preprocess_dataset(5)
    assert "Nothing to preprocess" in capsys.readouterr().out
