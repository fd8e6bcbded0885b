"""Weak and strong views lie on one grid; nnU-Net's own transforms are sorted, unknown ones refused."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.move_channels import MoveChannelsTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

from nnunet_ssl.data.views import Views


def training_transforms(patch, dummy_2d=False, mask=None, regions=None, cascaded=False, trainer=nnUNetTrainer):
    angle = (-np.pi / 6, np.pi / 6)
    axes = tuple(range(len(patch)))
    scales = [[1.0] * len(patch), [0.5] * len(patch)]
    return trainer.get_training_transforms(
        patch, angle, scales, axes, dummy_2d, mask, cascaded, foreground_labels=[1, 2], regions=regions
    )


@pytest.mark.parametrize(("patch", "dummy_2d"), [((24, 20), False), ((16, 20, 12), False), ((4, 20, 16), True)])
def test_views_are_aligned(patch, dummy_2d):
    """A binary pattern keeps its edges where they are under intensity transforms, whatever the geometry did."""
    views = Views(training_transforms(patch, dummy_2d), ("weak", "strong"))
    large = tuple(size if dummy_2d and axis == 0 else size + 12 for axis, size in enumerate(patch))
    pattern = torch.zeros(2, *large)
    pattern[:, ..., large[-1] // 3 :] = 5.0
    torch.manual_seed(0)
    np.random.seed(0)
    moved = changed = 0
    for _ in range(30):
        made = views(pattern.clone())
        weak, strong = made["weak"], made["strong"]
        assert weak.shape == strong.shape == (2, *patch)
        if weak.std() > 0.1 and strong.std() > 0:
            correlation = torch.corrcoef(torch.stack([weak.flatten(), strong.flatten()]))[0, 1]
            assert correlation > 0.7
        changed += not torch.equal(weak, strong)
        moved += not torch.equal(weak, pattern[(slice(None), *[slice(6, 6 + size) for size in patch])])
    assert changed > 15
    assert moved > 15


def test_a_voxelwise_check_of_alignment_without_smoothing():
    """With transforms that keep the order of grey levels, ranks inside the patch agree voxel by voxel."""
    transforms = training_transforms((16, 16, 16))
    kept = [t for t in transforms.transforms if "Gamma" in repr(t) or "Spatial" in repr(t) or "Mirror" in repr(t)]
    views = Views(ComposeTransforms(kept), ("weak", "strong"))
    torch.manual_seed(0)
    for _ in range(10):
        made = views(torch.rand(1, 24, 24, 24))
        order = made["weak"].flatten().argsort()
        rising = made["strong"].flatten()[order].diff()
        assert (rising >= -1e-4).all() or (rising <= 1e-4).all()


def test_only_the_views_asked_for_are_made():
    views = Views(training_transforms((16, 16)), ("weak",))
    assert set(views(torch.rand(1, 24, 24))) == {"weak"}
    assert set(Views(training_transforms((16, 16)), ("strong",))(torch.rand(1, 24, 24))) == {"strong"}


def test_a_strong_view_that_is_made_elsewhere_is_sent_only_where_the_weak_view_is_not_what_it_is_made_of():
    image, label = blocks((16, 16), False)
    for names, cascaded, sent in [
        (("weak", "strong"), False, {"weak"}),
        (("strong",), False, {"strong"}),
        (("weak", "strong"), True, {"weak", "strong"}),
    ]:
        views = Views(training_transforms((16, 16), cascaded=cascaded), names)
        taken = views.hand_over_intensity()
        assert len(taken) == 7 and views.intensity == []
        torch.manual_seed(0)
        np.random.seed(0)
        faulty = 0
        for _ in range(20):
            made = views(image, *([label] if cascaded else []))
            assert set(made) == sent
            if cascaded:
                assert torch.equal(made["weak"][0], made["strong"][0])
                faulty += not torch.equal(made["weak"], made["strong"])
        assert (faulty > 3) == cascaded


def test_with_another_geometry_the_patch_itself_is_needed():
    transforms = training_transforms((16, 16))
    spatial = transforms.transforms[0]
    assert Views(transforms, ("weak",)).draw((28, 28)) is not None
    assert Views(ComposeTransforms(transforms.transforms[1:]), ("weak",)).draw((28, 28)) is None
    assert Views(ComposeTransforms(transforms.transforms[::-1]), ("weak",)).draw((28, 28)) is None  # mirrored before
    spatial.random_crop = True
    assert Views(transforms, ("weak",)).draw((28, 28)) is None


def test_outside_of_the_object_stays_zero_where_nnunet_masks():
    views = Views(training_transforms((16, 16), mask=[True]), ("weak", "strong"))
    image = torch.zeros(1, 28, 28)
    image[:, 10:18, 10:18] = torch.rand(1, 8, 8) + 1
    torch.manual_seed(1)
    for _ in range(20):
        for view in views(image.clone()).values():
            corner = view[0, 0, 0]
            assert corner == 0


def test_an_unknown_transform_is_refused_with_its_name():
    unknown = MoveChannelsTransform(0, "image", "segmentation")
    for transforms in ([unknown], [OneOfTransform([unknown])]):
        with pytest.raises(NotImplementedError, match="MoveChannelsTransform|OneOfTransform"):
            Views(ComposeTransforms(transforms), ("weak",))


@pytest.mark.parametrize(("patch", "dummy_2d"), [((16, 16), False), ((16, 16, 12), False), ((6, 20, 20), True)])
def test_turns_of_da5_are_geometry_and_its_choices_are_intensity(patch, dummy_2d):
    """Image and pseudo-label are turned alike, and the weak view has no changed grey level."""
    transforms = training_transforms(patch, dummy_2d, trainer=nnUNetTrainerDA5)
    kept = [t for t in transforms.transforms if not isinstance(t, SpatialTransform)]  # which interpolates
    views = Views(ComposeTransforms(kept), ("weak", "strong", "target"))
    assert sum(isinstance(t, OneOfTransform) for t in views.intensity) == 2
    torch.manual_seed(0)
    np.random.seed(0)
    label = torch.randint(0, 3, (1, *patch), dtype=torch.int16)
    turned = changed = 0
    for _ in range(20):
        made = views(label.float(), label=label)
        assert torch.equal(made["weak"], made["target"][0].float())
        turned += not torch.equal(made["weak"], label.float())
        changed += not torch.equal(made["weak"], made["strong"])
    assert turned > 10 and changed > 10


KINDS = [((24, 20), False, None), ((16, 20, 12), False, None), ((4, 20, 16), True, None), ((16, 16, 16), False, [True])]


def blocks(patch, dummy_2d):
    """A segmentation of large blocks and an image that is 3 l + 1 where its label is l."""
    large = tuple(size if dummy_2d and axis == 0 else size + 12 for axis, size in enumerate(patch))
    labels = torch.randint(0, 3, [-(-size // 6) for size in large])
    for axis in range(len(large)):
        labels = labels.repeat_interleave(6, axis).narrow(axis, 0, large[axis])
    return 3 * labels[None].float() + 1, labels[None].to(torch.int16)


@pytest.mark.parametrize(("patch", "dummy_2d", "mask"), KINDS)
def test_in_a_cascade_image_and_segmentation_move_together(patch, dummy_2d, mask):
    views = Views(training_transforms(patch, dummy_2d, mask, cascaded=True), ("weak", "strong"))
    torch.manual_seed(0)
    np.random.seed(0)
    agreeing, faulty, changed = [], 0, 0
    for _ in range(30):
        made = views(*blocks(patch, dummy_2d))
        weak, strong = made["weak"], made["strong"]
        assert weak.shape == strong.shape == (3, *patch)
        label = (weak[0] - 1) / 3
        plain = ((label - label.round()).abs() < 0.02) & (weak[0] > 0.5)  # not blurred at an edge, not padded
        assert plain.float().mean() > 0.2
        agreeing.append((label.round() == weak[1] + 2 * weak[2])[plain].float().mean())
        assert set(strong[1:].unique().tolist()) <= {0.0, 1.0}
        changed += not torch.equal(weak[0], strong[0])
        faulty += not torch.equal(weak[1:], strong[1:])
    # between labels 0 and 2 the blurred image passes the grey level of 1
    assert min(agreeing) > 0.95 and np.mean(agreeing) > 0.99
    assert changed > 10
    assert 5 < faulty < 29


@pytest.mark.parametrize(("patch", "dummy_2d", "mask"), KINDS)
def test_the_weak_view_of_a_cascade_is_what_nnunet_makes_of_a_labeled_patch(patch, dummy_2d, mask):
    """Bit for bit, with nnU-Net's changes of intensity and faults taken out."""
    transforms = training_transforms(patch, dummy_2d, mask, cascaded=True)
    views = Views(transforms, ("weak",))
    left_out = [*views.intensity, *views.faults]
    nnunets = [t for t in transforms.transforms if all(t is not other for other in left_out)]
    assert (len(views.intensity), len(views.faults)) == (7, 2)
    for seed in range(5):
        torch.manual_seed(seed)
        image, prediction = blocks(patch, dummy_2d)
        image[..., :9] = 0  # outside of the object
        outside = -(image == 0).to(torch.int16)
        labeled = {"image": image.clone(), "segmentation": torch.cat((outside, prediction))}
        torch.manual_seed(seed)
        np.random.seed(seed)
        made = views(image, prediction)["weak"]
        torch.manual_seed(seed)
        np.random.seed(seed)
        assert torch.equal(made, ComposeTransforms(nnunets)(**labeled)["image"])


@pytest.mark.parametrize("regions", [None, [(1, 2), (2,)]])
@pytest.mark.parametrize(("patch", "dummy_2d", "mask"), KINDS)
@pytest.mark.parametrize("cascaded", [False, True])
@pytest.mark.parametrize(("ignore_label", "unknown"), [(None, None), (None, 3), (3, 3), (3, None)])
def test_the_target_is_what_nnunet_makes_of_a_labeled_patch(
    patch, dummy_2d, mask, regions, cascaded, ignore_label, unknown
):
    """Bit for bit, at both scales, with nnU-Net's changes of intensity and faults taken out.

    Unknown voxels are what nnU-Net makes of an ignore label, whether or not the data set has one.
    """
    angle, axes = (-np.pi / 6, np.pi / 6), tuple(range(len(patch)))
    scales = [[1.0] * len(patch), [0.5] * len(patch)]
    arguments = (patch, angle, scales, axes, dummy_2d, mask, cascaded, [1, 2], regions)
    views = Views(nnUNetTrainer.get_training_transforms(*arguments, ignore_label), ("strong", "target"), unknown)
    transforms = nnUNetTrainer.get_training_transforms(*arguments, ignore_label or unknown)
    sorted_out = Views(transforms, ())
    left_out = [*sorted_out.intensity, *sorted_out.faults]
    nnunets = [t for t in transforms.transforms if all(t is not other for other in left_out)]
    left = 0
    for seed in range(5):
        torch.manual_seed(seed)
        image, label = blocks(patch, dummy_2d)
        first = [label.clone()] if cascaded else []
        image[..., :9], label[..., :9] = 0, -1  # outside of the object
        if unknown is not None:
            label[..., 6:12] = unknown  # in part outside
        labeled = {"image": image.clone(), "segmentation": torch.cat([label, *first])}
        torch.manual_seed(seed)
        np.random.seed(seed)
        made = views(image, *first, label=label)
        torch.manual_seed(seed)
        np.random.seed(seed)
        expected = ComposeTransforms(nnunets)(**labeled)["segmentation"]
        assert len(made["target"]) == len(expected) == 2
        marked = (ignore_label or unknown) is not None
        assert expected[0].shape == (1 if regions is None else 2 + marked, *patch)
        left += 0 if not marked else int((expected[0][-1] == (1 if regions else 3)).sum())
        for mine, nnunets_own in zip(made["target"], expected, strict=True):
            assert torch.equal(mine, nnunets_own)
    assert (left > 0) == (unknown is not None)


def test_outside_of_the_object_a_pseudo_label_is_background_where_nnunets_labels_are():
    views = Views(training_transforms((16, 16), mask=[True]), ("target",))
    image = torch.ones(1, 28, 28)
    image[..., 14:] = 0
    target = views(image, label=torch.full((1, 28, 28), 2, dtype=torch.int16))["target"][0]
    assert 0.2 < (target == 0).float().mean() < 0.8
    without = Views(training_transforms((16, 16)), ("target",))
    np.random.seed(0)
    torch.manual_seed(0)
    inside = without(image, label=torch.full((1, 28, 28), 2, dtype=torch.int16))["target"][0]
    assert (inside[:, 4:12, 4:12] == 2).all()  # an image may well be 0 within the object
