"""The unlabeled stream: random patches of all cases, images only, joined to nnU-Net's batches."""

import pickle
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.annotation.pool import read_image
from nnunet_ssl.data.loader import TwoStreamLoader, UnlabeledLoader, UnlabeledPool
from nnunet_ssl.data.views import Views
from nnunet_ssl.errors import InputError


class Whole:
    """Stands in for `Views`: the patch as it is, or what a function makes of it."""

    def __init__(self, made=lambda image: {"weak": image, "strong": image + 1}):
        self.made = made

    def draw(self, shape):
        return None

    def __call__(self, drawn, **patch):
        assert drawn is None
        return self.made(**patch)


@pytest.fixture
def labels(phantom_3d):
    """The labels as nnU-Net's loader wants them told."""
    plans = PlansManager(str(phantom_3d.base / f"{phantom_3d.plans}.json"))
    return plans.get_label_manager({"labels": {"background": 0, "a": 1, "b": 2}, "channel_names": {"0": "CT"}})


@pytest.fixture
def labeled(phantom_3d, labels):
    """nnU-Net's loader of the labeled cases."""
    folder = phantom_3d.base / f"{phantom_3d.plans}_3d_fullres"
    return nnUNetDataLoader(nnUNetDatasetBlosc2(str(folder)), 2, (18, 18, 18), (16, 16, 16), labels)


@pytest.fixture
def unlabeled_of(labeled, labels):
    """Factory of loaders of a pool, three patches to a batch."""
    return lambda pool, views: UnlabeledLoader(pool, 3, labeled, views, labels)


@pytest.fixture
def unlabeled(phantom_3d, unlabeled_of):
    """The loader of the five unlabeled cases."""
    folder = phantom_3d.base / f"{phantom_3d.plans}_3d_fullres_unlabeled"
    return unlabeled_of(UnlabeledPool({file.stem: str(file) for file in sorted(folder.glob("*.b2nd"))}), Whole())


def save(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    blosc2.asarray(array, urlpath=str(file))


def test_a_batch_holds_the_views_and_nothing_of_a_label(unlabeled):
    batch = next(unlabeled)
    assert set(batch) == {"unlabeled_weak", "unlabeled_strong", "unlabeled_cases"}
    assert batch["unlabeled_weak"].shape == (3, 1, 18, 18, 18)
    assert batch["unlabeled_weak"].dtype == torch.float32
    assert torch.equal(batch["unlabeled_strong"], batch["unlabeled_weak"] + 1)


def test_patches_come_from_all_cases(phantom_3d, unlabeled):
    np.random.seed(0)
    drawn = {case for _ in range(40) for case in unlabeled.get_indices()}
    assert drawn == {file.stem for file in phantom_3d.base.glob("*_unlabeled/*.b2nd")}
    assert len(drawn) == 5


def test_patches_are_named_by_their_case(unlabeled_of, tmp_path):
    files = {f"case_{number}": str(tmp_path / f"case_{number}.b2nd") for number in range(1, 6)}
    for number, file in enumerate(files.values(), 1):
        save(np.full((1, 18, 18, 18), number, np.float32), Path(file))
    unlabeled = unlabeled_of(UnlabeledPool(files), Whole())
    for _ in range(5):
        batch = next(unlabeled)
        assert len(batch["unlabeled_cases"]) == 3
        values = batch["unlabeled_weak"].amax((1, 2, 3, 4)).int().tolist()
        assert batch["unlabeled_cases"] == [f"case_{value}" for value in values]


def test_both_streams_in_one_batch(labeled, unlabeled):
    both = TwoStreamLoader(labeled, unlabeled)
    batch = next(both)
    assert set(batch) == {"data", "target", "keys", "unlabeled_weak", "unlabeled_strong", "unlabeled_cases"}
    assert len(batch["data"]) == 2 and len(batch["unlabeled_weak"]) == 3
    both.set_thread_id(4)
    assert labeled.thread_id == unlabeled.thread_id == 4


def test_images_stored_as_float16_are_float32_to_every_reader(labels, unlabeled_of, tmp_path):
    voxels = np.random.default_rng(0).normal(size=(1, 18, 18, 18)).astype(np.float16)
    file = tmp_path / "stored" / "case.b2nd"
    save(voxels, file)
    pool = UnlabeledPool({"case": str(file)})
    for image in (pool.read_image("case"), read_image("case", str(file), "nnunet_ssl preprocess")):
        assert image.dtype == np.float32 and np.array_equal(image, voxels)
    save(voxels.astype(np.float32), tmp_path / "whole" / "case.b2nd")
    batches = []
    for each in (pool, UnlabeledPool({"case": str(tmp_path / "whole" / "case.b2nd")})):
        np.random.seed(0)  # the same places
        batches.append(next(unlabeled_of(each, Whole()))["unlabeled_weak"])
    assert batches[0].dtype == torch.float32 and torch.equal(*batches) and batches[0].std() > 0.5

    save(np.zeros((1, 18, 18, 18), np.int16), tmp_path / "stored" / "case_seg.b2nd")  # to nnU-Net's own class
    (tmp_path / "stored" / "case.pkl").write_bytes(pickle.dumps({"class_locations": {1: [], 2: []}}))
    theirs = nnUNetDataLoader(nnUNetDatasetBlosc2(str(tmp_path / "stored")), 2, (18,) * 3, (18,) * 3, labels)
    batch = next(theirs)
    assert batch["data"].dtype == torch.float32
    assert torch.equal(batch["data"][0], torch.from_numpy(voxels).float())


def test_a_damaged_case_is_named(tmp_path):
    (tmp_path / "case_9.b2nd").write_bytes(b"no image")
    pool = UnlabeledPool({"case_9": str(tmp_path / "case_9.b2nd")})
    with pytest.raises(InputError, match="unlabeled case case_9"):
        pool.load_image("case_9")
    with pytest.raises(InputError, match="unlabeled case case_8"):
        UnlabeledPool({"case_8": str(tmp_path / "case_8.b2nd")}).load_image("case_8")


def test_in_a_cascade_the_prediction_is_cropped_and_padded_at_the_same_place(unlabeled_of, tmp_path):
    """Images that are their own prediction plus one: equal inside of the case, 0 and -1 where the patch lies beyond."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (14, 30, 20)).astype(np.uint8)  # thinner than a patch
    save(labels, tmp_path / "predicted" / "case.b2nd")
    save(labels[None].astype(np.float32) + 1, tmp_path / "case.b2nd")
    pool, seen = UnlabeledPool({"case": str(tmp_path / "case.b2nd")}, tmp_path / "predicted"), []

    def views(**patch):
        seen.append(patch)
        return {"weak": patch["image"]}

    unlabeled = unlabeled_of(pool, Whole(views))
    for _ in range(4):
        next(unlabeled)
    assert len(seen) == 12
    for patch in seen:
        assert list(patch) == ["image", "prediction"]
        image, prediction = patch.values()
        assert image.shape == prediction.shape == (1, 18, 18, 18)
        assert prediction.dtype == torch.int16
        assert torch.equal(image, prediction.float() + 1)
        assert (prediction == -1).float().mean() >= 4 / 18


def test_a_pseudo_label_comes_from_the_same_place_and_its_scales_are_stacked(unlabeled_of, tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (20, 30, 20)).astype(np.int16)
    save(labels, tmp_path / "labels" / "case.b2nd")
    save(labels[None].astype(np.float32), tmp_path / "case.b2nd")
    pool = UnlabeledPool({"case": str(tmp_path / "case.b2nd")}, labels=tmp_path / "labels")

    def views(image, label):
        return {"strong": image, "target": [label, label[..., ::2]]}

    batch = next(unlabeled_of(pool, Whole(views)))
    full, half = batch["unlabeled_target"]
    assert full.shape == (3, 1, 18, 18, 18) and half.shape == (3, 1, 18, 18, 9)
    inside = full >= 0
    assert torch.equal(batch["unlabeled_strong"][inside], full[inside].float())
    with pytest.raises(InputError, match=r"case: .*case.b2nd has the shape .*run `nnUNetv2_train` again"):
        pool.load_label("case", (20, 30, 21))


@pytest.mark.parametrize(
    ("whole", "final", "flat"),
    [((27, 24, 25), (16, 17, 16), False), ((16, 27, 24), (16, 16, 15), True), ((26, 27), (15, 16), False)],
    ids=["3d", "flat", "2d"],
)
def test_of_a_patch_that_is_only_cut_the_middle_is_read_and_no_voxel_differs(
    whole, final, flat, labeled, labels, tmp_path, monkeypatch
):
    """Bit for bit, image, first stage's prediction and pseudo-label, also of cases that are smaller than a patch."""
    rng, files = np.random.default_rng(0), {}
    for number, shape in enumerate([(40, 41, 42), (18, 22, 17)]):
        files[f"case_{number}"] = str(tmp_path / f"case_{number}.b2nd")
        save(rng.normal(size=(2, *shape)).astype(np.float32), Path(files[f"case_{number}"]))
        for folder in ("labels", "predicted"):
            save(rng.integers(0, 3, shape).astype(np.int16), tmp_path / folder / f"case_{number}.b2nd")
    scales, axes = [[1.0] * len(final), [0.5] * len(final)], tuple(range(len(final)))
    like = nnUNetDataLoader(labeled._data, 2, whole, final, labels)
    transforms = nnUNetTrainer.get_training_transforms(
        final, (-0.5, 0.5), scales, axes, flat, is_cascaded=True, foreground_labels=[1, 2]
    )
    views = Views(transforms, ("weak", "strong", "target"))
    read, cut = [], views._moved
    monkeypatch.setattr(
        views, "_moved", lambda sample, drawn: read.append(sample["image"].shape[1:]) or cut(sample, drawn)
    )
    pool = UnlabeledPool(files, tmp_path / "predicted", tmp_path / "labels")
    loader = UnlabeledLoader(pool, 3, like, views, labels)

    def batch(seed):
        np.random.seed(seed)
        torch.manual_seed(seed)
        return next(loader)

    batches = [batch(seed) for seed in range(8)]
    assert set(read) == {whole, final} and 8 < read.count(final) < 22
    monkeypatch.setattr("nnunet_ssl.data.loader.only_cut", lambda drawn: False)
    read.clear()
    for seed, found in enumerate(batches):
        expected = batch(seed)
        assert found["unlabeled_cases"] == expected["unlabeled_cases"]
        assert torch.equal(found["unlabeled_weak"], expected["unlabeled_weak"])
        assert torch.equal(found["unlabeled_strong"], expected["unlabeled_strong"])
        assert all(map(torch.equal, found["unlabeled_target"], expected["unlabeled_target"]))
    assert set(read) == {whole}
