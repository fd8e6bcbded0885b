"""Intensity operations against nnU-Net's own transforms and closed forms; none moves anything."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from scipy.ndimage import gaussian_filter

from nnunet_ssl.augmentation import intensity
from nnunet_ssl.augmentation.intensity import OPERATIONS

# the level at which an operation changes nothing
NEUTRAL = {
    "brightness": 0.5,
    "shift": 0.5,
    "contrast": 0.5,
    "gamma": 0.5,
    "inverted_gamma": 0.5,
    "noise": 0.0,
    "blur": 0.0,
    "low_resolution": 0.0,
    "sharpen": 0.0,
    "cutout": 0.0,
}
SHAPES = pytest.mark.parametrize("shape", [(13, 10), (9, 12, 7)], ids=["2d", "3d"])
EACH = pytest.mark.parametrize("name", OPERATIONS)


def images(shape, batch=3, seed=0):
    return torch.randn(batch, 2, *shape, generator=torch.Generator().manual_seed(seed))


def applied(name, image, level, seed=0):
    torch.manual_seed(seed)
    return OPERATIONS[name](image, torch.full((len(image),), level))


@SHAPES
@EACH
def test_shape_type_and_finite_values_over_the_whole_range(name, shape):
    image = images(shape)
    before = image.clone()
    for level in (0.0, 0.3, 1.0):
        changed = applied(name, image, level)
        assert changed.shape == image.shape and changed.dtype == torch.float32
        assert torch.isfinite(changed).all()
        assert torch.isfinite(applied(name, torch.full_like(image, 0.7), level)).all()
    assert torch.equal(image, before)


@SHAPES
@EACH
def test_one_level_changes_nothing_and_the_ends_do(name, shape):
    image = images(shape)
    torch.testing.assert_close(applied(name, image, NEUTRAL[name]), image, atol=1e-5, rtol=1e-5)
    for level in {0.0, 1.0} - {NEUTRAL[name]}:
        assert (applied(name, image, level) - image).abs().max() > 0.05


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("noise", "cutout")])
def test_every_image_has_its_own_level(name):
    image, levels = images((9, 12, 7)), torch.tensor([0.1, 0.55, 0.9])
    together = OPERATIONS[name](image, levels)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], OPERATIONS[name](image[[row]], levels[[row]]))


def nnunet_contrast(factor):
    return partial(ContrastTransform(1.0, True, False)._apply_to_image, multipliers=torch.full((2,), factor))


def nnunet_gamma(exponent, inverted):
    transform = GammaTransform(1.0, 0, False, 1, 1)
    retain, invert = torch.tensor([True] * 2), torch.tensor([inverted] * 2)
    exponents = torch.full((2,), exponent)
    return partial(transform._apply_to_image, gamma=exponents, retain_stats=retain, invert_image=invert)


def nnunet_low_resolution(scale):
    return partial(SimulateLowResolutionTransform(1.0, False, True, None)._apply_to_image, scales=[[scale] * 3] * 2)


@SHAPES
@pytest.mark.parametrize(
    ("name", "level", "nnunet"),
    [
        ("contrast", 0.75, nnunet_contrast(1.25)),
        ("contrast", 0.0, nnunet_contrast(0.5)),
        ("gamma", 1.0, nnunet_gamma(2.0, False)),
        ("gamma", 0.25, nnunet_gamma(2**-0.5, False)),
        ("inverted_gamma", 1.0, nnunet_gamma(2.0, True)),
        ("low_resolution", 2 / 3, nnunet_low_resolution(torch.tensor(0.5))),
        ("low_resolution", 1.0, nnunet_low_resolution(torch.tensor(0.25))),
        ("low_resolution", 0.37, nnunet_low_resolution(torch.tensor(0.7225))),
    ],
)
def test_equals_nnunets_transform(name, level, nnunet, shape):
    image = images(shape)
    expected = torch.stack([nnunet(one.clone(), apply_to_channel=torch.arange(2)) for one in image])
    torch.testing.assert_close(applied(name, image, level), expected, atol=1e-5, rtol=1e-4)


def test_brightness_and_shift():
    image = torch.tensor([-1.0, 0.0, 2.0]).view(1, 1, 3, 1)
    assert applied("brightness", image, 1.0).flatten().tolist() == [-1.5, 0.0, 3.0]
    assert applied("brightness", image, 0.0).flatten().tolist() == [-0.5, 0.0, 1.0]
    assert applied("shift", image, 1.0).flatten().tolist() == [-0.5, 0.5, 2.5]
    assert applied("shift", image, 0.0).flatten().tolist() == [-1.5, -0.5, 1.5]


def test_contrast_stays_in_the_range_of_the_channel():
    image = images((12, 12))
    changed = applied("contrast", image, 1.0)
    assert torch.equal(changed.amax((2, 3)), image.amax((2, 3)))
    assert torch.equal(changed.amin((2, 3)), image.amin((2, 3)))


def test_standard_deviation_of_the_noise():
    for level, expected in ((1.0, 0.2), (0.5, 0.1)):
        added = applied("noise", torch.zeros(1, 1, 200, 200), level)
        assert added.std().item() == pytest.approx(expected, rel=0.02)


@SHAPES
@pytest.mark.parametrize(("level", "sigma"), [(0.0, 0.1), (0.5, 0.8), (1.0, 1.5)])
def test_blur_is_a_gaussian_in_voxels(level, sigma, shape):
    image = images(shape)
    expected = gaussian_filter(image.numpy(), (0, 0, *[sigma] * len(shape)), mode="nearest", radius=5)
    torch.testing.assert_close(applied("blur", image, level), torch.from_numpy(expected), atol=1e-5, rtol=1e-4)


def test_sharpening_adds_what_blurring_takes():
    image = images((9, 12, 7))
    blurred = intensity.gaussian(image, torch.ones(3))
    torch.testing.assert_close(applied("sharpen", image, 0.5), 2 * image - blurred)


@SHAPES
def test_cutout_flattens_one_box(shape):
    image = images(shape, batch=1)
    largest = 0
    for seed in range(30):
        changed = applied("cutout", image, 1.0, seed) != image
        assert torch.equal(changed[:, 0], changed[:, 1])
        hit = changed[0, 0].nonzero()
        sides = hit.amax(0) - hit.amin(0) + 1
        assert len(hit) == sides.prod()  # a full box
        assert all(side <= size / 2 + 1 for side, size in zip(sides, shape, strict=True))
        largest = max(largest, len(hit))
    assert largest >= 0.7 * torch.tensor(shape).prod() / 2 ** len(shape)
    box = applied("cutout", image, 1.0) != image
    means = image.mean((2, *range(3, image.ndim)))
    for channel in range(2):
        values = applied("cutout", image, 1.0)[0, channel][box[0, channel]]
        torch.testing.assert_close(values, means[0, channel].expand_as(values))


@SHAPES
@EACH
def test_a_label_map_stays_where_it_is(name, shape):
    """The border of an object in the strongest view is where it was: geometry is never changed."""
    label = torch.zeros(1, 1, *[4 * size for size in shape])
    label[(..., *[slice(size, 3 * size) for size in shape])] = 1.0
    for level in (0.0, 1.0):
        changed = applied(name, label, level)
        middle = (changed.amin() + changed.amax()) / 2
        same = ((changed > middle) == label.bool()).float().mean().item()
        # a quarter of the resolution moves borders by up to 2 voxels, cutout flattens a box, some noise is large
        assert same > {"low_resolution": 0.85, "cutout": 0.7, "noise": 0.97}.get(name, 0.99)
        if name not in ("cutout", "noise", "low_resolution"):
            torch.testing.assert_close(changed, changed.flip(-1), atol=1e-5, rtol=1e-4)


def test_importing_leaves_nnunet_alone():
    code = "import sys, nnunet_ssl.augmentation.intensity; sys.exit('nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
