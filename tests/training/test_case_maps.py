"""Maps that travel with patches: aligned with the target whatever the geometry, made once, and of no cost unasked."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from short_trainings import SHORT, checkpoint, equal, trainer_of, whole_and_resumed
from workbench import file_size_limit

from nnunet_ssl.errors import InputError
from nnunet_ssl.methods.mean_teacher import MeanTeacher
from nnunet_ssl.training.case_maps import CasesWithMaps, MapsAlong, Stacked, join_maps

NAME = "nnUNetTrainerMeanTeacher"
KINDS = {
    "2d": ((24, 20), False, None, False),
    "3d": ((16, 20, 12), False, None, False),
    "dummy_2d": ((4, 20, 16), True, None, False),
    "masked": ((16, 16, 16), False, [True, False], False),
    "cascade": ((16, 16, 16), False, None, True),
    "masked_dummy_2d_cascade": ((4, 20, 16), True, [True, False], True),
}


def ramps_and_masks(segmentation):
    """Where each voxel lies along each axis, in voxels; where label 1 is; ones."""
    return np.stack([*np.indices(segmentation.shape), segmentation == 1, np.ones(segmentation.shape)])


def blocks(shape):
    """Labels 0 to 2 in cubes of six voxels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, [-(-size // 6) for size in shape])
    for axis, size in enumerate(shape):
        labels = labels.repeat(6, axis).take(range(size), axis)
    return labels.astype(np.int16)


def seed(number):
    torch.manual_seed(number)
    np.random.seed(number)


@pytest.mark.parametrize("kind", KINDS)
def test_ramps_tell_of_each_voxel_where_its_label_came_from(kind):
    """The label that stood at the place that the ramps tell is the target's; image and target are as without maps."""
    patch, dummy_2d, mask, cascaded = KINDS[kind]
    angle, axes = (-np.pi / 4, np.pi / 4), tuple(range(len(patch)))
    transforms = nnUNetTrainer.get_training_transforms(
        patch, angle, [[1.0] * len(patch)], axes, dummy_2d, mask, cascaded, foreground_labels=[1, 2]
    )
    large = tuple(size if dummy_2d and axis == 0 else size + 12 for axis, size in enumerate(patch))
    labels = blocks(large)
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(2, *large))).float()
    segmentation = torch.from_numpy(np.stack([labels, labels] if cascaded else [labels]))
    maps = torch.from_numpy(ramps_and_masks(labels)).float()
    along, turned = MapsAlong(deepcopy(transforms), len(maps)), 0
    for number in range(30):
        seed(number)
        plain = transforms(image=image.clone(), segmentation=segmentation.clone())
        seed(number)
        made = along(image=torch.cat((image, maps)), segmentation=segmentation.clone())
        channels = 2 + 2 * cascaded
        assert torch.equal(made["image"][:channels], plain["image"])
        (target,) = made["segmentation"][0]
        assert torch.equal(target, plain["segmentation"][0][0])
        assert made["image"].shape == (channels + len(maps), *patch)
        *ramps, ones, inside = made["image"][channels:]
        whole = inside > 0.999  # not padded
        assert whole.float().mean() > 0.5
        places = tuple(ramp.round().long().clamp(0, size - 1) for ramp, size in zip(ramps, large, strict=True))
        came_from = torch.from_numpy(labels)[places]
        assert (came_from == target.long())[whole].float().mean() > 0.97
        sure = whole & ((ones - 0.5).abs() > 0.4)
        assert torch.equal((ones > 0.5)[sure], (target == 1)[sure])
        # an affine map of the grid: the steps along each axis are the same everywhere
        core = tuple(slice(2, -2) if size > 4 else slice(None) for size in patch)
        if whole[core].all():
            for ramp in ramps:
                for axis in range(len(patch)):
                    steps = ramp[core].diff(dim=axis)
                    assert (steps - steps.mean()).abs().max() < 1e-3
            turned += not torch.equal(ramps[-1][core].diff(dim=-1).abs().round(decimals=3), torch.ones_like(steps))
    assert turned > 3


class WithMaps(MeanTeacher):
    seen: list = []
    calls: list = []

    def case_maps(self, case, segmentation, spacing):
        self.calls.append((case, spacing))
        return np.stack([segmentation == 1, np.ones(segmentation.shape), segmentation == -1])

    def losses(self, net, labeled, unlabeled, now):
        self.seen.append(labeled)
        return super().losses(net, labeled, unlabeled, now)


@pytest.fixture
def made(phantom_3d, phantom_2d_regions, tmp_path, monkeypatch, in_one_process_without_pictures):
    """Factory of trainers of a method with maps, in 3D with classes or 2D with regions."""
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    monkeypatch.setattr(WithMaps, "seen", [])
    monkeypatch.setattr(WithMaps, "calls", [])

    def make(kind="phantom_3d", method=WithMaps, resume=False):
        if not (copy := tmp_path / kind).is_dir():
            copy.mkdir()
            phantom = phantom_3d if kind == "phantom_3d" else phantom_2d_regions
            make.dataset = phantom.copy(copy).use(monkeypatch)
        configuration = "3d_fullres" if kind == "phantom_3d" else "2d"
        trainer = trainer_of(make.dataset, NAME, configuration, resume=resume)
        trainer.settings = replace(trainer.settings, chosen=method)
        return trainer

    return make


@pytest.mark.parametrize("kind", ["phantom_3d", "phantom_2d_regions"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_maps_reach_the_losses_beside_their_target(made, kind, workers, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", workers)
    trainer = made(kind)
    trainer.run_training()
    assert len(WithMaps.seen) == 6
    train = set(trainer.do_split()[0])
    assert {case for case, _ in WithMaps.calls} == train and len(WithMaps.calls) == len(train)
    spacing = (999.0, 1.0, 1.0) if kind != "phantom_3d" else (2.0, 2.0, 2.0)
    assert all(given == pytest.approx(spacing) for _, given in WithMaps.calls)
    assert {file.stem for file in (Path(trainer.output_folder) / "case_maps").iterdir()} == train
    shown = 0
    for labeled in WithMaps.seen:
        assert labeled.image.shape[1] == trainer.num_input_channels and labeled.image.is_contiguous()
        assert labeled.maps.shape == (len(labeled.image), 3, *labeled.image.shape[2:])
        target = labeled.target.scales[0]
        one = target[:, 0] & ~target[:, 1] if target.dtype == torch.bool else target[:, 0] == 1
        mapped, inside = labeled.maps[:, 0], labeled.maps[:, 1]
        sure = (mapped - 0.5).abs() > 0.45
        assert torch.equal((mapped > 0.5)[sure], one[sure])
        assert inside.amin() >= 0 and inside.amax() <= 1.001
        shown += int((mapped > 0.95).sum())
    assert shown > 50


def test_what_nobody_asks_for_is_not_made(made, monkeypatch):
    """nnU-Net's loader is left as it is; no folder, no further channel."""
    trainer = made(method=MeanTeacher)
    loaders, seen = [], []
    join, losses = type(trainer).join_streams, MeanTeacher.losses
    monkeypatch.setattr(
        type(trainer), "join_streams", lambda self, loader: loaders.append(loader) or join(self, loader)
    )
    monkeypatch.setattr(
        MeanTeacher, "losses", lambda self, net, *rest: seen.append(rest[0]) or losses(self, net, *rest)
    )
    trainer.run_training()
    assert type(loaders[0]._data) is nnUNetDatasetBlosc2 and type(loaders[0].transforms) is ComposeTransforms
    assert next(loaders[0])["data"].shape[1] == trainer.num_input_channels
    assert seen[0].maps.shape[1] == 0
    assert not (Path(trainer.output_folder) / "case_maps").exists()


def test_training_itself_is_the_same_with_maps_that_no_loss_reads(made):
    weights = []
    for method in (MeanTeacher, WithMaps):
        trainer = made(method=method)
        trainer.run_training()
        weights.append(checkpoint(trainer)["network_weights"])
    assert equal(*weights)


def test_a_resume_ends_with_the_same_bits(made, monkeypatch):
    class Weighing(WithMaps):
        def losses(self, net, labeled, unlabeled, now):
            terms = super().losses(net, labeled, unlabeled, now)
            return terms | {"mapped": (net(labeled.image).logits.float() * labeled.maps[:, :1]).square().mean()}

    whole, resumed = whole_and_resumed(partial(made, method=Weighing), monkeypatch)
    resumed.run_training()
    again = checkpoint(resumed)
    for part in ("network_weights", "optimizer_state"):
        assert equal(again[part], whole[part])


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (
            lambda labels: labels,
            r"phantom_\d+: its maps have the shape \(18, 24, 24\), and not \(M, \*\(18, 24, 24\)\)",
        ),
        (lambda labels: labels[None, 1:], r"phantom_\d+: its maps have the shape \(1, 17, 24, 24\)"),
        (lambda labels: np.full((1, *labels.shape), np.nan), r"phantom_\d+: its maps hold NaN or infinity"),
    ],
)
def test_maps_of_another_form_are_an_error_that_names_the_case(made, monkeypatch, maps, message):
    monkeypatch.setattr(WithMaps, "case_maps", lambda self, case, segmentation, spacing: maps(segmentation))
    with pytest.raises(ValueError, match=message):
        made().run_training()


def test_a_full_disk_names_the_case(made, monkeypatch):
    noise = np.random.default_rng(0).normal(size=(50, 18, 24, 24))
    monkeypatch.setattr(WithMaps, "case_maps", lambda self, *arguments: noise)
    trainer = made()
    trainer.initialize()
    with (
        file_size_limit(2**20),
        pytest.raises(InputError, match=r"phantom_\d+: its maps cannot be written to .*case_maps"),
    ):
        trainer.on_train_start()


def stored(folder, **numbers):
    """Cases with as many maps each."""
    for case, number in numbers.items():
        blosc2.asarray(np.zeros((number, 4, 5, 6), np.float32), urlpath=str(folder / f"{case}.b2nd"))


def test_all_cases_have_as_many_maps_and_none_is_lost(tmp_path):
    dataset = type("Dataset", (), {"identifiers": ["a", "b"]})()
    loader = type("Loader", (), {"_data": dataset})()
    stored(tmp_path, a=2)
    with pytest.raises(
        InputError, match=r"labeled case b: .*b.b2nd is gone or cannot be read .*--c makes all maps anew"
    ):
        join_maps(loader, tmp_path)
    stored(tmp_path, b=3)
    with pytest.raises(ValueError, match=r"a has 2 map\(s\) and b 3"):
        join_maps(loader, tmp_path)
    (tmp_path / "b.b2nd").write_bytes(b"no array")
    with pytest.raises(InputError, match="labeled case b"):
        join_maps(loader, tmp_path)


@pytest.mark.parametrize("patch", [(8, 20, 20), (20, 20)])
def test_a_patch_beyond_the_case_is_zero_there(tmp_path, patch):
    shape = (6, 14, 30)
    labels, properties = blocks(shape), {"class_locations": {}}
    blosc2.asarray(ramps_and_masks(labels).astype(np.float32), urlpath=str(tmp_path / "a.b2nd"))

    class Dataset:
        identifiers = ["a"]

        def load_case(self, case):
            return labels[None].astype(np.float32) + 1, labels[None], None, properties

    loader = nnUNetDataLoader(Dataset(), 2, patch, patch, LabelManager({"background": 0, "a": 1, "b": 2}, None))
    loader._data = CasesWithMaps(Dataset(), tmp_path)
    for _ in range(5):
        batch = next(loader)
        image, maps = batch["data"].tensor_split([1], 1)
        *_, ones, inside = maps.unbind(1)
        assert torch.equal(inside, (batch["target"][:, 0] >= 0).float()) and inside.mean() < 0.8
        assert torch.equal(ones, (batch["target"][:, 0] == 1).float())
        assert torch.equal(image[:, 0], (batch["target"][:, 0] + 1).float())
        assert torch.equal(maps * inside[:, None], maps)


def test_only_what_is_cut_is_read():
    class Watched:
        shape, read = (2, 50, 60, 70), []

        def __len__(self):
            return 2

        def __getitem__(self, place):
            self.read.append(place)
            return np.ones((2, 1, 2, 3), np.float16)

    stack, place = Stacked(Watched(), Watched()), (slice(None), slice(4, 5), slice(4, 6), slice(4, 7))
    assert stack.shape == (4, 50, 60, 70)
    cut = stack[place]
    assert cut.shape == (4, 1, 2, 3) and cut.dtype == np.float32
    assert Watched.read == [place, place]
