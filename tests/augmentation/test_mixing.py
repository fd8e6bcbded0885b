"""Boxes of labeled patches in one another: image, labels, ignored voxels, what was not annotated, maps."""

from dataclasses import replace

import pytest
import torch
from workbench import target

from nnunet_ssl.augmentation.mixing import BoxMixing, joined, pasted
from nnunet_ssl.method import Labeled


def numbered(count=4, shape=(8, 12), channels=6, regions=False, ignore=None):
    """Patches whose every voxel, label and map is the number of the patch; regions have it in binary."""
    full = torch.arange(float(count)).view(count, 1, *[1] * len(shape)).expand(count, 1, *shape).clone()
    labels = torch.cat([(full // 2**bit) % 2 for bit in range(channels)], 1) if regions else full
    half = labels[(slice(None), slice(None), *[slice(None, None, 2)] * len(shape))]
    return Labeled(
        full, target([labels, half], channels, regions, ignore), tuple(f"case_{p}" for p in range(count)), full.clone()
    )


def box(count, shape, *sides):
    """The same box in each patch."""
    boxes = torch.zeros(count, 1, *shape, dtype=torch.bool)
    boxes[(slice(None), slice(None), *sides)] = True
    return boxes


@pytest.mark.parametrize("shape", [(8, 12), (8, 6, 12)])
def test_a_box_brings_image_labels_and_maps_from_the_patch_before(shape):
    labeled = numbered(3, shape)
    boxes = box(3, shape, *[slice(2, 6)] * len(shape))
    mixed = pasted(labeled, boxes)
    expected = torch.where(boxes, labeled.image.roll(1, 0), labeled.image)
    assert expected[0][boxes[0]].unique().tolist() == [2] and expected[0][~boxes[0]].unique().tolist() == [0]
    for found in (mixed.image, mixed.target.full, mixed.maps):
        assert torch.equal(found, expected)
    assert mixed.cases == labeled.cases and torch.equal(labeled.image, numbered(3, shape).image)


def test_lower_scales_show_the_boxes_of_the_full_resolution():
    labeled = numbered(2)
    mixed = pasted(labeled, box(2, (8, 12), slice(3, 6), slice(4, 7)))
    assert torch.equal(mixed.target.scales[1], labeled.target.resized(mixed.target.full).scales[1])
    assert [scale.dtype for scale in mixed.target.scales] == [scale.dtype for scale in labeled.target.scales]


@pytest.mark.parametrize("regions", [False, True])
def test_a_box_brings_its_ignored_voxels(regions):
    labeled = numbered(2, channels=2, regions=regions, ignore=2)
    full = labeled.target.full.clone()
    if regions:  # nnU-Net's last channel is the mask of what is ignored
        full = torch.cat((full, torch.zeros_like(full[:, :1])), 1)
        full[1, -1] = 1
    else:
        full[1] = 2
    made = replace(labeled.target, scales=(full, full[..., ::2, ::2]))
    mixed = pasted(replace(labeled, target=made), boxes := box(2, (8, 12), slice(0, 4), slice(0, 4)))
    assert torch.equal(mixed.target.annotated, torch.stack((~boxes[0, 0], boxes[1, 0])))


def test_a_box_brings_what_was_not_annotated_in_its_case():
    """Class 1 is missing in the first case; its background is of unknown class there, and wherever it is pasted."""
    labeled = numbered(2, channels=3)
    missing = torch.tensor([[False, True, False], [False, False, False]])[:, :, None, None]
    zeros = tuple(map(torch.zeros_like, labeled.target.scales))
    labeled = replace(labeled, target=replace(labeled.target, scales=zeros, missing=missing))
    boxes = box(2, (8, 12), slice(0, 4), slice(0, 4))
    mixed = pasted(labeled, boxes)
    assert mixed.target.missing.shape == (2, 3, 8, 12)
    assert torch.equal(mixed.target.missing[:, 1], torch.stack((~boxes[0, 0], boxes[1, 0])))
    assert torch.equal(mixed.target.annotated, torch.stack((boxes[0, 0], ~boxes[1, 0])))
    both = joined(labeled, mixed).target
    assert torch.equal(both.missing[:2], missing.expand(2, 3, 8, 12)) and torch.equal(
        both.missing[2:], mixed.target.missing
    )


@pytest.mark.parametrize("shape", [(40, 60), (20, 40, 60)])
def test_sides_lie_between_the_smallest_and_the_largest_and_are_drawn_apart(shape):
    torch.manual_seed(0)
    labeled = numbered(60, shape)
    boxes = BoxMixing(1.0, 0.25, 0.75)(labeled).image != labeled.image
    axes = range(len(shape))
    lengths = [boxes[:, 0].float().amax([1 + a for a in axes if a != axis]).sum(1) for axis in axes]
    shares = torch.stack([length / size for length, size in zip(lengths, shape, strict=True)])
    assert shares.min() >= 0.25 and shares.max() <= 0.75
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.min() < 0.32 and shares.max() > 0.68
    assert torch.corrcoef(shares)[0, 1].abs() < 0.4
    volume = boxes.flatten(1).float().mean(1)
    torch.testing.assert_close(volume, shares.prod(0))  # it is a box


def test_the_probability_is_that_of_a_patch_to_get_a_box():
    torch.manual_seed(0)
    labeled = numbered(500)
    for probability in (0.0, 0.5, 1.0):
        mixed = BoxMixing(probability)(labeled)
        share = (mixed.image != labeled.image).flatten(1).any(1).float().mean().item()
        assert share == pytest.approx(probability, abs=0.06 if probability == 0.5 else 0)


def test_a_batch_of_one_stays_as_it_is_and_is_refused_where_mixing_was_asked_for():
    labeled = numbered(1)
    assert torch.equal(BoxMixing(1.0)(labeled).image, labeled.image)
    with pytest.raises(NotImplementedError, match="there is one on a GPU"):
        BoxMixing(0.1).require_pairs(1)
    BoxMixing(0.0).require_pairs(1)
    BoxMixing(1.0).require_pairs(2)


def test_clean_and_mixed_patches_in_one_batch():
    labeled = numbered(2)
    mixed = pasted(labeled, box(2, (8, 12), slice(0, 4), slice(0, 4)))
    both = joined(labeled, mixed)
    assert both.cases == labeled.cases * 2 and both.target.missing is None
    assert torch.equal(both.image, torch.cat((labeled.image, mixed.image)))
    assert torch.equal(both.maps, torch.cat((labeled.maps, mixed.maps)))
    for scale, clean, pasted_in in zip(both.target.scales, labeled.target.scales, mixed.target.scales, strict=True):
        assert torch.equal(scale, torch.cat((clean, pasted_in)))
    assert joined(replace(labeled, maps=None), replace(mixed, maps=None)).maps is None
