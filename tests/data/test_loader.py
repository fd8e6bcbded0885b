"""The unlabeled stream: random patches of all cases, images only, joined to nnU-Net's batches."""

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.data.loader import TwoStreamLoader, UnlabeledLoader, UnlabeledPool
from nnunet_ssl.errors import InputError


class Whole:
    """Stands in for `Views`: the patch as it is."""

    def __call__(self, image):
        return {"weak": image, "strong": image + 1}


@pytest.fixture
def loaders(phantom_3d):
    plans = PlansManager(str(phantom_3d.base / f"{phantom_3d.plans}.json"))
    folder = phantom_3d.base / plans.get_configuration("3d_fullres").data_identifier
    labels = plans.get_label_manager({"labels": {"background": 0, "a": 1, "b": 2}, "channel_names": {"0": "CT"}})
    labeled = nnUNetDataLoader(nnUNetDatasetBlosc2(str(folder)), 2, (18, 18, 18), (16, 16, 16), labels)
    unlabeled_folder = folder.with_name(folder.name + "_unlabeled")
    files = {file.stem: str(file) for file in sorted(unlabeled_folder.glob("*.b2nd"))}
    return labeled, UnlabeledLoader(UnlabeledPool(files), 3, labeled, Whole(), labels)


def test_a_batch_holds_the_views_and_nothing_of_a_label(loaders):
    _, unlabeled = loaders
    batch = next(unlabeled)
    assert set(batch) == {"unlabeled_weak", "unlabeled_strong", "unlabeled_cases"}
    assert batch["unlabeled_weak"].shape == (3, 1, 18, 18, 18)
    assert batch["unlabeled_weak"].dtype == torch.float32
    assert torch.equal(batch["unlabeled_strong"], batch["unlabeled_weak"] + 1)


def test_patches_come_from_all_cases(loaders):
    _, unlabeled = loaders
    np.random.seed(0)
    drawn = {case for _ in range(40) for case in unlabeled.get_indices()}
    assert drawn == set(unlabeled._data.identifiers)
    assert len(drawn) == 5


def test_patches_are_named_by_their_case(loaders):
    _, unlabeled = loaders
    unlabeled._random_patch = lambda case: {"image": torch.full((1, 2), float(unlabeled._data.identifiers.index(case)))}
    unlabeled.views = lambda image: {"weak": image}
    for _ in range(5):
        batch = next(unlabeled)
        assert len(batch["unlabeled_cases"]) == 3
        numbers = [unlabeled._data.identifiers.index(case) for case in batch["unlabeled_cases"]]
        assert batch["unlabeled_weak"][:, 0, 0].tolist() == numbers


def test_both_streams_in_one_batch(loaders):
    labeled, unlabeled = loaders
    both = TwoStreamLoader(labeled, unlabeled)
    batch = next(both)
    assert set(batch) == {"data", "target", "keys", "unlabeled_weak", "unlabeled_strong", "unlabeled_cases"}
    assert len(batch["data"]) == 2 and len(batch["unlabeled_weak"]) == 3
    both.set_thread_id(4)
    assert labeled.thread_id == unlabeled.thread_id == 4


def test_a_damaged_case_is_named(tmp_path):
    (tmp_path / "case_9.b2nd").write_bytes(b"no image")
    pool = UnlabeledPool({"case_9": str(tmp_path / "case_9.b2nd")})
    with pytest.raises(InputError, match="unlabeled case case_9"):
        pool.load_image("case_9")
    with pytest.raises(InputError, match="unlabeled case case_8"):
        UnlabeledPool({"case_8": str(tmp_path / "case_8.b2nd")}).load_image("case_8")


def test_in_a_cascade_the_prediction_is_cropped_and_padded_at_the_same_place(loaders, tmp_path):
    """Images that are their own prediction plus one: equal inside of the case, 0 and -1 where the patch lies beyond."""
    _, unlabeled = loaders
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (14, 30, 20)).astype(np.uint8)  # thinner than a patch
    (tmp_path / "predicted").mkdir()
    blosc2.asarray(labels, urlpath=str(tmp_path / "predicted" / "case.b2nd"))
    blosc2.asarray(labels[None].astype(np.float32) + 1, urlpath=str(tmp_path / "case.b2nd"))
    unlabeled._data = UnlabeledPool({"case": str(tmp_path / "case.b2nd")}, tmp_path / "predicted")
    for _ in range(10):
        patch = unlabeled._random_patch("case")
        assert list(patch) == ["image", "prediction"]
        image, prediction = patch.values()
        assert image.shape == prediction.shape == (1, 18, 18, 18)
        assert prediction.dtype == torch.int16
        assert torch.equal(image, prediction.float() + 1)
        assert (prediction == -1).float().mean() >= 4 / 18


def test_a_pseudo_label_comes_from_the_same_place_and_its_scales_are_stacked(loaders, tmp_path):
    _, unlabeled = loaders
    labels = np.random.default_rng(0).integers(0, 3, (20, 30, 20)).astype(np.int16)
    (tmp_path / "labels").mkdir()
    blosc2.asarray(labels, urlpath=str(tmp_path / "labels" / "case.b2nd"))
    blosc2.asarray(labels[None].astype(np.float32), urlpath=str(tmp_path / "case.b2nd"))
    pool = UnlabeledPool({"case": str(tmp_path / "case.b2nd")}, labels=tmp_path / "labels")
    unlabeled._data, unlabeled.indices = pool, np.array(["case"])
    unlabeled.views = lambda image, label: {"strong": image, "target": [label, label[..., ::2]]}
    batch = next(unlabeled)
    full, half = batch["unlabeled_target"]
    assert full.shape == (3, 1, 18, 18, 18) and half.shape == (3, 1, 18, 18, 9)
    inside = full >= 0
    assert torch.equal(batch["unlabeled_strong"][inside], full[inside].float())
    with pytest.raises(InputError, match=r"case: .*case.b2nd has the shape .*run `nnUNetv2_train` again"):
        pool.load_label("case", (20, 30, 21))
