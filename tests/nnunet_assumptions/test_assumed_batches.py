"""How nnU-Net keeps preprocessed cases, draws patches of them, transforms them, and hands them on from processes."""

import io
import itertools
import os
import pickle
from pathlib import Path
from queue import Empty
from types import SimpleNamespace

import blosc2
import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgenerators.dataloading import nondet_multi_threaded_augmenter as augmenter
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.data.unlabeled import PlainUnpickler
from nnunet_ssl.kinds import Regions, nearest
from nnunet_ssl.task import Target

SPATIAL, MIRROR, TO_2D, TO_3D = SpatialTransform, MirrorTransform, Convert3DTo2DTransform, Convert2DTo3DTransform
MASK, JOIN = MaskImageTransform, MoveSegAsOneHotToDataTransform


# ---------------------------------------------------------------------- cases


@pytest.fixture
def folder(dataset) -> Path:
    return dataset.base / f"{dataset.plans}_3d_fullres"


def test_files_of_a_case(folder):
    """The unlabeled folder has a case's files by these names, and hidden labels are kept out by the image's alone."""
    files = {file.name for file in folder.glob("phantom_000*")}
    assert files == {"phantom_000.b2nd", "phantom_000_seg.b2nd", "phantom_000.pkl"}


def test_a_case_as_loaded(folder, dataset):
    """Voxel counts and pseudo-labels take the second value's first channel; images are (C, *spatial), float32."""
    cases = infer_dataset_class(str(folder))(str(folder), ["phantom_001", "phantom_000"])
    assert isinstance(cases, nnUNetDatasetBlosc2) and cases.identifiers == ["phantom_000", "phantom_001"]
    image, segmentation, previous, properties = cases.load_case("phantom_000")
    assert isinstance(image, blosc2.NDArray) and (image.dtype, image.ndim) == (np.float32, 4)
    assert segmentation.shape == (1, *image.shape[1:]) and previous is None and "class_locations" in properties


def test_cases_of_a_folder(folder):
    """`do_split` counts the labeled cases before nnU-Net makes folds of them."""
    found = infer_dataset_class(str(folder)).get_identifiers(str(folder))
    assert sorted(found) == [f"phantom_{number:03d}" for number in range(4)]


def test_first_stage_is_read_by_the_name_of_the_case(folder, tmp_path):
    """`predict_next_stage` writes a cascade's segmentations as nnU-Net reads them: CASE.b2nd without channels."""
    nnUNetDatasetBlosc2.save_seg(np.ones((4, 4, 4), np.uint8), str(tmp_path / "phantom_000"), (4, 4, 4), (4, 4, 4))
    assert os.listdir(tmp_path) == ["phantom_000.b2nd"]
    *_, previous, _ = nnUNetDatasetBlosc2(str(folder), ["phantom_000"], str(tmp_path)).load_case("phantom_000")
    assert previous.shape == (4, 4, 4)


def test_properties_of_a_case_are_containers_and_numbers(folder, dataset):
    """`preprocess` tells from them whether a case is done, and its unpickler calls nothing else."""
    for file in (folder / "phantom_000.pkl", *Path(f"{folder}_unlabeled").glob("*.pkl")):
        with file.open("rb") as stream:
            assert "shape_before_cropping" in PlainUnpickler(stream).load()


def test_a_plain_unpickler_refuses_what_is_none():
    """The test above would say nothing of an unpickler that takes all."""
    with pytest.raises(pickle.UnpicklingError, match="posix.system is no number"):
        PlainUnpickler(io.BytesIO(b"cposix\nsystem\n(S'true'\ntR.")).load()


# ---------------------------------------------------------------------- patches


class Pool:
    """What `UnlabeledPool` is to nnU-Net's loader."""

    identifiers = ["a", "b"]


def loader_of(patch, final, has_ignore=False, batch=2):
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=has_ignore)
    return nnUNetDataLoader(Pool(), batch, patch, final, labels)


@pytest.mark.parametrize(("patch", "flat"), [((8, 8), True), ((8, 8, 8), False)])
def test_a_flat_patch_is_made_a_volume(patch, flat):
    """`UnlabeledLoader` copies the sizes of nnU-Net's loader without that axis, and takes it out of its own patches."""
    loader = loader_of(patch, patch)
    assert loader.patch_size_was_2d is flat
    assert tuple(loader.patch_size) == tuple(loader.final_patch_size) == ((1, 8, 8) if flat else patch)


def test_a_loader_needs_only_the_ids_of_its_data():
    """A pool has image files alone and stands for a dataset: nothing else of it may be asked for."""
    loader = loader_of((8, 8), (8, 8))
    assert isinstance(loader._data, Pool) and loader.indices == ["a", "b"] and loader.transforms is None


def test_cases_are_drawn_from_indices_by_numpys_generator():
    """`UnlabeledLoader` sets `indices` to an array; workers are seeded by NumPy's global generator."""
    loader = loader_of((8, 8), (8, 8), batch=6)
    loader.indices = np.array(["c", "d"])
    np.random.seed(3)
    drawn = list(loader.get_indices())
    np.random.seed(3)
    assert drawn == list(np.random.choice(loader.indices, 6, replace=True)) and set(drawn) == {"c", "d"}


def test_boxes_are_uniform_where_nothing_is_ignored():
    """Unlabeled patches: `get_bbox(shape, False, None)` reaches beyond the case by half of what is cut off later."""
    loader = loader_of((8, 8, 8), (6, 6, 6), has_ignore=True)
    with pytest.raises(TypeError):  # looks for annotated voxels
        loader.get_bbox((10, 20, 8), False, None)
    loader.has_ignore = False
    boxes = [loader.get_bbox((10, 20, 8), False, None) for _ in range(400)]
    lower = np.array([low for low, _ in boxes])
    assert lower.min(0).tolist() == [-1, -1, -1] and lower.max(0).tolist() == [3, 13, 1]
    assert {tuple(np.subtract(high, low)) for low, high in boxes} == {(8, 8, 8)}


def test_a_loader_calls_its_batch_maker():
    """`UnlabeledLoader` overrides `generate_train_batch`; `TwoStreamLoader` and `FaultsAsItems` ask for `next`."""
    loader = loader_of((8, 8), (8, 8))
    loader.generate_train_batch = lambda: {"data": 1}
    loader.set_thread_id(3)
    assert next(loader) == {"data": 1} and loader.thread_id == 3


def test_a_batch_of_nnunet(trainer):
    """`train_step` reads these three keys: images, targets over the scales with the largest first, and case ids."""
    batch = next(trainer.get_dataloaders()[0])
    assert batch.keys() == {"data", "target", "keys"}
    assert batch["data"].shape == (2, 1, 16, 16, 16) and batch["data"].dtype == torch.float32
    assert [tuple(scale.shape) for scale in batch["target"]] == [(2, 1, 16, 16, 16), (2, 1, 8, 8, 8)]
    assert set(map(str, batch["keys"])) <= {f"phantom_{number:03d}" for number in range(4)}


@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_crop_and_pad_of_a_compressed_array(kind):
    """Unlabeled patches are cut by half-open boxes of the last axes; segmentations are cast and padded with -1."""
    compressed = blosc2.asarray(np.ones((2, 4, 5), np.float32))
    patch = crop_and_pad_nd(compressed, [[-1, 3], [3, 7]], -1, cast_cropped_to=kind)
    expected = np.full((2, 4, 4), -1, kind)
    expected[:, 1:, :2] = 1
    assert isinstance(patch, np.ndarray) and patch.dtype == kind and np.array_equal(patch, expected)


# ---------------------------------------------------------------------- transforms


def transforms(flat=False, mask=False, cascade=False, regions=False, ignore=None, scales=((1, 1, 1), (0.5, 0.5, 0.5))):
    """nnU-Net's of one kind of dataset."""
    return nnUNetTrainer.get_training_transforms(
        (8, 8, 8), (-0.1, 0.1), scales, (0, 1, 2), flat, use_mask_for_norm=[mask], is_cascaded=cascade,
        foreground_labels=[1, 2], regions=[(1, 2), 2] if regions else None, ignore_label=ignore,
    )  # fmt: skip


def inner(transform):
    return transform.transform if isinstance(transform, RandomTransform) else transform


ALL = list(itertools.product((False, True), repeat=4))


@pytest.mark.parametrize(("flat", "mask", "cascade", "regions"), ALL)
def test_every_transform_is_of_a_known_kind(flat, mask, cascade, regions):
    """`Views` sorts them by their classes and refuses all that it does not know, in this order."""
    made = transforms(flat, mask, cascade, regions)
    assert isinstance(made, ComposeTransforms)
    classes = [type(inner(transform)) for transform in made.transforms]
    kinds = [cls for cls in classes if not issubclass(cls, ImageOnlyTransform | SegOnlyTransform)]
    geometry = [TO_2D, SPATIAL, TO_3D] if flat else [SPATIAL]
    assert kinds == [*geometry, MIRROR, *[MASK] * mask, *[JOIN] * cascade]
    images = [index for index, cls in enumerate(classes) if issubclass(cls, ImageOnlyTransform)]
    labels = [index for index, cls in enumerate(classes) if issubclass(cls, SegOnlyTransform)]
    mirror, join = classes.index(MIRROR), classes.index(JOIN) if cascade else len(classes)
    late = [index for index in images if index > mirror]  # random faults in the channels joined
    assert len(images) - len(late) == 7 and len(late) == 2 * cascade and all(index > join for index in late)
    assert min(labels) > mirror and len(labels) == 2 + regions


def test_intensity_transforms_are_random():
    """The strong view has each with its probability: `Views` looks into `RandomTransform.transform`."""
    made = [t for t in transforms().transforms if isinstance(inner(t), ImageOnlyTransform)]
    assert all(isinstance(transform, RandomTransform) for transform in made)


def test_mask_looks_at_labels_of_minus_one_in_the_first_channel():
    """`Views` gives an unlabeled patch such labels where all channels are exactly zero, so that they stay zero."""
    (mask,) = [transform for transform in transforms(mask=True).transforms if isinstance(transform, MASK)]
    outside = torch.zeros(2, 4, 4, 4, dtype=torch.int16)
    outside[0, :2] = -1
    outside[1, 2:] = -1
    image = mask(image=torch.ones(1, 4, 4, 4), segmentation=outside)["image"]
    assert not image[0, :2].any() and image[0, 2:].all()


def test_join_reads_the_second_channel_and_appends_one_hot():
    """In a cascade `Views` stacks the first stage's segmentation there; as many channels as foreground labels come."""
    (join,) = [transform for transform in transforms(cascade=True).transforms if isinstance(transform, JOIN)]
    segmentation = torch.stack((torch.full((2, 2), -1), torch.tensor([[1, 2], [0, -1]]))).to(torch.int16)
    sample = join(image=torch.full((1, 2, 2), 9.0), segmentation=segmentation)
    assert sample["image"].tolist() == [[[9, 9], [9, 9]], [[1, 0], [0, 0]], [[0, 1], [0, 0]]]
    assert torch.equal(sample["segmentation"], segmentation[:1])


@pytest.mark.parametrize("flat", [False, True])
def test_geometry_takes_an_image_alone(flat):
    """An unlabeled patch has no segmentation, and is cut from the larger patch to the final size by the same draw."""
    sample = {"image": torch.rand(2, *((8, 12, 12) if flat else (12, 12, 12)))}
    for transform in transforms(flat).transforms:
        if isinstance(transform, SPATIAL | MIRROR | TO_2D | TO_3D):
            sample = transform(**sample)
    assert sample.keys() == {"image"} and sample["image"].shape == (2, 8, 8, 8)


def test_rotation_and_scaling_are_drawn_from_the_shape_of_a_patch_and_cut_its_middle_without():
    """Unlabeled patches are drawn before they are read: `Views.draw`. Without a grid the middle alone is kept."""
    (spatial,) = [transform for transform in transforms().transforms if isinstance(transform, SPATIAL)]
    assert spatial.random_crop is False
    image, stand_in = torch.rand(2, 13, 12, 12), torch.empty(()).expand(1, 13, 12, 12)
    grids = []
    for seed in range(12):
        np.random.seed(seed)
        expected = spatial(image=image.clone())["image"]
        np.random.seed(seed)
        drawn = spatial.get_parameters(image=stand_in)
        grids.append(drawn["grid"])
        assert torch.equal(spatial.apply({"image": image.clone()}, **drawn)["image"], expected)
        if drawn["grid"] is None:
            assert torch.equal(expected, image[:, 2:10, 2:10, 2:10])
    assert 2 < sum(grid is None for grid in grids) < 12


def test_geometry_moves_image_and_segmentation_alike():
    """A view "target" is drawn with its image: one call, one draw."""
    torch.manual_seed(0)
    np.random.seed(0)
    image = torch.zeros(1, 12, 12, 12)
    image[:, 2:6, 2:6, 2:6] = 1
    for _ in range(8):
        sample = {"image": image.clone(), "segmentation": image.to(torch.int16)}
        for transform in transforms().transforms:
            if isinstance(transform, SPATIAL | MIRROR):
                sample = transform(**sample)
        moved, labels = sample["image"] > 0.5, sample["segmentation"] == 1
        assert 2 * (moved & labels).sum() > 0.8 * (moved.sum() + labels.sum())


def test_label_transforms_take_a_segmentation_alone():
    """The view "target" has no image left by then: -1 becomes background, and the scales make a list."""
    sample = {"segmentation": torch.full((1, 8, 8, 8), -1, dtype=torch.int16)}
    for transform in transforms().transforms:
        if isinstance(transform, SegOnlyTransform):
            sample = transform(**sample)
    assert [tuple(scale.shape) for scale in sample["segmentation"]] == [(1, 8, 8, 8), (1, 4, 4, 4)]
    assert not sample["segmentation"][0].any()


def test_target_of_regions_has_a_last_channel_for_the_ignore_label():
    """`Target` reads regions and annotated voxels out of it; regions come in the order of the dataset."""
    sample = {"segmentation": torch.tensor([[[0, 1], [2, 3]]]).to(torch.int16)}
    for transform in transforms(regions=True, ignore=3, scales=None).transforms:
        if isinstance(transform, SegOnlyTransform):
            sample = transform(**sample)
    made = sample["segmentation"]
    assert made.int().tolist() == [[[0, 1], [1, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]]
    read = Target((made[None],), Regions(2), 3)
    assert torch.equal(read.labels[0], made[:2]) and read.annotated.tolist() == [[[True, True], [True, False]]]


def test_lower_scales_take_the_nearest_voxel():
    """`Target.resized` brings mixed targets, as BCP's, to these scales as nnU-Net does."""
    target = torch.arange(2 * 11 * 7).view(1, 2, 11, 7).float()
    made = DownsampleSegForDSTransform([(1, 1, 1), (0.5, 0.5, 0.5)])(segmentation=target)["segmentation"]
    assert torch.equal(nearest(target[None], made[1].shape[1:])[0], made[1]) and torch.equal(made[0], target)


# ---------------------------------------------------------------------- processes


class Numbers:
    """A loader that tells which worker, seeded how, has made a batch."""

    def __init__(self):
        self.thread = None

    def set_thread_id(self, number):
        self.thread = number

    def __next__(self):
        return {"thread": self.thread, "process": os.getpid(), "draw": np.random.randint(10**9)}


@pytest.fixture
def pool():
    made = NonDetMultiThreadedAugmenter(Numbers(), None, 1, num_cached=2, seeds=[5], wait_time=0.002)
    yield made
    made._finish(timeout=1)


def test_a_pool_that_has_not_begun(pool):
    """`Workers` begins it by `_start` at the first batch, and asks `initialized` whether there is anything to end."""
    assert (pool.initialized, pool._processes, pool.results_loop_queue, pool.abort_event) == (False, [], None, None)
    pool._finish()  # nothing to do


def test_batches_come_out_of_this_queue_in_forked_processes(pool):
    """`Workers.__next__` reads `results_loop_queue` itself; each worker has its number and seeds NumPy's generator."""
    pool._start()
    item = pool.results_loop_queue.get(timeout=10)
    np.random.seed(5)
    assert item == {"thread": 0, "process": pool._processes[0].pid, "draw": np.random.randint(10**9)}
    assert pool.initialized and pool._processes[0].exitcode is None


def test_the_thread_runs_a_function_that_can_be_replaced(pool, monkeypatch):
    """`Workers` puts its own `results_loop` into the module while it starts; it is given the queues and the workers."""
    given = []
    monkeypatch.setattr(augmenter, "results_loop", lambda *arguments: given.append(arguments))
    pool._start()
    pool.results_loop_thread.join(5)
    ((in_queue, out_queue, abort, pin, workers, *_),) = given
    assert (in_queue, out_queue, abort) == (pool._queue, pool.results_loop_queue, pool.abort_event)
    assert pin is False and workers is pool._processes


def test_a_killed_worker_leaves_its_status_and_no_batch(pool, monkeypatch):
    """`Workers` looks at `exitcode` when no batch comes; the thread ends by an exception, which we keep."""
    faults = []

    def kept(*arguments):
        try:
            results_loop(*arguments)
        except RuntimeError as error:
            faults.append(str(error))

    results_loop = augmenter.results_loop
    monkeypatch.setattr(augmenter, "results_loop", kept)
    pool._start()
    pool._processes[0].kill()
    pool.results_loop_thread.join(10)
    assert pool._processes[0].exitcode == -9 and pool.abort_event.is_set()
    assert "background workers are no longer alive" in faults[0]
    with pytest.raises(Empty):
        while True:
            pool.results_loop_queue.get_nowait()


def test_a_pool_without_processes_ends_at_once(pool):
    """`Workers._kill` empties `_processes` so that the orderly end, which waits for locks of the dead, has no work."""
    pool._start()
    pool.abort_event.set()
    for worker in (workers := pool._processes):
        worker.kill()
    pool.results_loop_thread.join(5)
    pool._processes, pool.initialized = [], False
    pool._finish()
    assert not pool.pause_event.is_set()  # the first thing that it does when there is work
    assert not any(worker.join(5) or worker.is_alive() for worker in workers)


def test_a_pool_of_no_process():
    """Without workers `configured.py` hands out this one, and takes nnU-Net's loaders out of it."""
    loader = Numbers()
    single = SingleThreadedAugmenter(loader, None)
    assert single.data_loader is loader and next(single)["process"] == os.getpid()
