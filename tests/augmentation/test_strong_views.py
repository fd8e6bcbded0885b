"""Strong views made on the device have what nnU-Net's own transforms do, as often and as strongly, and never wait."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from gpu_rehearsal import gpu_rehearsal
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from scipy.stats import ks_2samp

from nnunet_ssl.augmentation.strong_views import Range, StrongViews, change_of
from nnunet_ssl.data.views import Views

CPU = torch.device("cpu")
NAMES = ["noise", "blur", "brightness", "contrast", "low resolution", "inverted gamma", "gamma"]
NOISE = NAMES.index("noise")
KINDS = pytest.mark.parametrize(
    ("patch", "flat"), [((20, 14), False), ((9, 12, 7), False), ((5, 12, 10), True)], ids=["2d", "3d", "flat"]
)
# what nnU-Net calls the strengths of its transforms, as it draws them for one channel
CALLED = ["sigmas", "sigmas", "multipliers", "multipliers", "scales", "gamma", "gamma"]
DRAWS = [2000, pytest.param(10_000, marks=pytest.mark.long)]


def nnunets(patch, flat=False, trainer=nnUNetTrainer) -> list[RandomTransform]:
    """nnU-Net's changes of intensity."""
    angle, axes = (-0.5, 0.5), tuple(range(len(patch)))
    return Views(trainer.get_training_transforms(patch, angle, None, axes, flat), ("strong",)).intensity


def strong_views(patch, flat=False, channels=2, masked=(), seed=0, transforms=None):
    transforms = nnunets(patch, flat) if transforms is None else transforms
    return StrongViews(transforms, len(patch), channels, masked, torch.Generator().manual_seed(seed), CPU)


def parameters(number: int, strengths: torch.Tensor, axes: int) -> dict:
    """What one of nnU-Net's transforms is told to do to a single channel."""
    name, first = CALLED[number], strengths[:1]
    if name == "sigmas":
        return {"apply_to_channel": torch.tensor([True]), name: [strengths.tolist()]}
    if name == "scales":
        return {"apply_to_channel": [0], name: strengths.expand(1, axes).clone()}
    if name == "gamma":
        flags = {"invert_image": strengths[1:2] > 0, "retain_stats": strengths[2:] > 0}
        return {"apply_to_channel": torch.arange(1), name: first, **flags}
    return {"apply_to_channel": torch.arange(1), name: first}


@KINDS
@pytest.mark.parametrize("number", [number for number in range(7) if number != NOISE], ids=lambda number: NAMES[number])
def test_equals_nnunets_transform_of_the_same_strength(number, patch, flat):
    transform, generator = nnunets(patch, flat)[number], torch.Generator().manual_seed(number)
    change = change_of(transform, len(patch))
    image = torch.randn(40, 1, *patch, generator=generator)
    strengths = torch.stack([strength.draw((40,), generator) for strength in change.strengths], -1)
    changed = change.operation(image.clone(), strengths, generator)
    untouched = transform.transform.ignore_axes or () if number == NAMES.index("low resolution") else ()
    for row in range(40):
        told = parameters(number, strengths[row], len(patch))
        if untouched:
            told["scales"][:, untouched] = 1
        expected = transform.transform._apply_to_image(image[row].clone(), **told)
        torch.testing.assert_close(changed[row], expected, atol=2e-5, rtol=1e-4)
        assert (changed[row] - image[row]).abs().max() > 1e-4 or strengths[row, 0] > 0.9


def test_noise_has_the_deviation_drawn_and_is_drawn_for_each_voxel():
    change = change_of(nnunets((8, 8))[NOISE], 2)
    strengths = torch.tensor([[0.02], [0.1]])
    added = change.operation(torch.zeros(2, 1, 200, 200), strengths, torch.Generator().manual_seed(0))
    assert added.std((1, 2, 3)).tolist() == pytest.approx([0.02, 0.1], rel=0.02)
    assert abs(torch.corrcoef(added.flatten(1))[0, 1]) < 0.02
    assert abs(torch.corrcoef(torch.stack((added[:, :, 1:].flatten(), added[:, :, :-1].flatten())))[0, 1]) < 0.02


def drawn_by_nnunet(transform: RandomTransform, axes: int) -> tuple[list[bool], torch.Tensor]:
    """Which of two channels one of nnU-Net's transforms changes, and the strengths of these, (R, ...)."""
    if not transform.get_parameters()["apply_transform"]:
        return [False, False], torch.zeros(0)
    image = torch.zeros(2, *[4] * axes)
    told = transform.transform.get_parameters(image=image)
    which = told.get("apply_mask", told.get("apply_to_channel"))
    chosen = which if which.dtype == torch.bool else torch.isin(torch.arange(2), which)
    strengths = next(told[name] for name in ("sigmas", "multipliers", "scales", "gamma") if name in told)
    if isinstance(strengths, float):
        strengths = [strengths] * 2
    count = int(chosen.sum())
    return chosen.tolist(), torch.as_tensor(strengths).float().view(count, -1) if count else torch.zeros(0)


@pytest.mark.parametrize("number", range(7), ids=lambda number: NAMES[number])
def test_is_drawn_as_often_and_as_strongly_as_by_nnunet(number, draws=10_000):
    """Patches, channels of these, strengths, and whether the strengths of both channels and of all axes go together."""
    transform = nnunets((8, 8, 8))[number]
    change = change_of(transform, 3)
    rows, ours = change.draw(draws, 2, torch.Generator().manual_seed(number))
    torch.manual_seed(number)
    np.random.seed(number)
    theirs = [drawn_by_nnunet(transform, 3) for _ in range(draws)]

    chosen = torch.zeros(draws * 2, dtype=torch.bool)
    chosen[rows] = True
    counts = np.bincount(chosen.view(draws, 2).sum(1), minlength=3)
    expected = np.bincount([sum(which) for which, _ in theirs], minlength=3)
    spread = 4 * np.sqrt(2 * np.maximum(counts, expected)) + 1
    assert (abs(counts - expected) < spread).all(), (counts, expected)
    assert counts[2] + counts[1] > 0.05 * draws

    strengths = torch.cat([each for _, each in theirs if len(each)])
    assert ks_2samp(ours[:, 0], strengths[:, 0]).pvalue > 1e-3
    if strengths.shape[1] == ours.shape[1] > 1:  # an own strength along each axis
        assert ks_2samp(ours[:, 0] - ours[:, 1], strengths[:, 0] - strengths[:, 1]).pvalue > 1e-3
    together = torch.stack([each[:, 0] for _, each in theirs if len(each) == 2])
    both = torch.stack((rows[:-1], rows[1:])).T
    both = ((both[:, 0] % 2 == 0) & (both[:, 1] == both[:, 0] + 1)).nonzero()[:, 0]
    assert ks_2samp(ours[both, 0] - ours[both + 1, 0], together[:, 0] - together[:, 1]).pvalue > 1e-3
    if number >= NAMES.index("inverted gamma"):
        inverted = float(NAMES[number] == "inverted gamma")
        assert (ours[:, 1] == inverted).all() and (ours[:, 2] == 1).all()


def features(images: torch.Tensor, before: torch.Tensor) -> dict[str, np.ndarray]:
    """Of each channel (N, channels, *spatial): what changes of grey levels leave their trace in."""
    flat, was = images.flatten(2).double(), before.flatten(1).double()
    rough = (images[..., 1:] - images[..., :-1]).abs().flatten(2).mean(2)
    return {
        "mean": flat.mean(2),
        "deviation": flat.std(2),
        "least": flat.amin(2),
        "largest": flat.amax(2),
        "roughness": rough,
        "difference": (flat - was).abs().mean(2),
        "skewness": ((flat - flat.mean(2, keepdim=True)) ** 3).mean(2),
    }


def p_values(patch, draws, ours: StrongViews, seed=0) -> dict[str, float]:
    """By feature and channel, of one image changed so many times by nnU-Net's transforms and by these."""
    image = torch.randn(2, *patch, generator=torch.Generator().manual_seed(5)).cumsum(-1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    transforms, theirs = nnunets(patch), []
    for transform in transforms:
        if hasattr(transform.transform, "benchmark"):
            transform.transform.benchmark = False  # of two ways to the same blur
    for _ in range(draws):
        sample = {"image": image.clone()}
        for transform in transforms:
            sample = transform(**sample)
        theirs.append(sample["image"])
    theirs, changed = torch.stack(theirs), ours(image.expand(draws, *image.shape))
    found = zip(features(theirs, image).items(), features(changed, image).values(), strict=True)
    return {
        f"{name} {channel}": ks_2samp(first[:, channel].round(decimals=4), second[:, channel].round(decimals=4)).pvalue
        for (name, first), second in found
        for channel in range(2)
    }


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("patch", [(12, 10), (8, 7, 6)], ids=["2d", "3d"])
def test_strong_views_are_distributed_as_nnunets(patch, draws):
    found = p_values(patch, draws, strong_views(patch))
    assert len(found) == 14 and min(found.values()) > 1e-3, found


@pytest.mark.parametrize("name", ["blur", "low resolution", "gamma"])
def test_a_change_that_is_left_out_is_seen(name):
    """In as many draws; of noise, which is rare and weak, the draws themselves tell."""
    patch = (12, 10)
    transforms = nnunets(patch)
    transforms[NAMES.index(name)].apply_probability = 0.0
    assert min(p_values(patch, 2000, strong_views(patch, transforms=transforms)).values()) < 1e-8


@KINDS
def test_every_patch_is_changed_by_itself_and_the_weak_view_stays(patch, flat):
    make, weak = strong_views(patch, flat), torch.randn(64, 2, *patch)
    before = weak.clone()
    strong = make(weak)
    assert torch.equal(weak, before)
    assert strong.shape == weak.shape and strong.dtype == torch.float32 and strong.isfinite().all()
    same = (strong == weak).flatten(2).all(2)
    # a channel is left alone with 0.9 * 0.9 * 0.85 * 0.85 * 0.875 * 0.9 * 0.7
    assert same.float().mean().item() == pytest.approx(0.32, abs=0.15)
    assert make(torch.full_like(weak, 0.5)).isfinite().all()


def test_the_state_of_one_generator_is_all_that_the_next_draws_depend_on():
    first, second = strong_views((12, 10), seed=1), strong_views((12, 10), seed=2)
    weak = torch.randn(8, 2, 12, 10)
    first(weak)
    second.generator.set_state(first.generator.get_state())
    torch.manual_seed(0)
    expected = first(weak)
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(second(weak), expected)
    assert not torch.equal(first(weak), expected)


def test_nothing_is_drawn_from_the_streams_of_others():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]
    strong_views((12, 10))(torch.randn(8, 2, 12, 10, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and np.random.get_state()[2] == before[2]


def test_outside_of_the_object_stays_0_in_masked_channels_alone():
    weak = torch.randn(32, 2, 12, 10)
    weak[:, :, :4] = 0
    strong = strong_views((12, 10), masked=[1])(weak)
    assert (strong[:, 1, :4] == 0).all() and (strong[:, 0, :4] != 0).any()
    assert ((strong != weak).flatten(2).any(2).sum(0) > 10).all()


def test_one_hot_labels_of_a_cascade_are_no_grey_levels():
    weak = torch.randn(32, 3, 12, 10)
    strong = strong_views((12, 10), channels=1)(weak)
    assert torch.equal(strong[:, 1:], weak[:, 1:]) and not torch.equal(strong[:, 0], weak[:, 0])


@KINDS
def test_the_host_never_waits_for_the_gpu(patch, flat, monkeypatch):
    make = strong_views(patch, flat, masked=[0])
    with gpu_rehearsal() as rehearsal:
        weak = torch.zeros((6, 3, *patch), device="cuda")
        for _ in range(10):
            strong = make(weak)
            assert strong.device.type == "cuda" and strong.shape == weak.shape
        assert rehearsal.waits == []


class Foreign(ImageOnlyTransform):
    """A change of intensity that nnU-Net's default augmentation does not have."""


@pytest.mark.parametrize(
    ("transforms", "named"),
    [
        ([Foreign()], "Foreign"),
        ([RandomTransform(Foreign())], "Foreign"),
        (nnunets((16, 16), trainer=nnUNetTrainerDA5), "OneOf"),
    ],
)
def test_what_is_not_written_for_the_device_is_named(transforms, named):
    with pytest.raises(NotImplementedError, match=f"{named}.* on the device"):
        strong_views((16, 16), transforms=transforms)


def test_numbers_that_nnunet_can_draw():
    generator = torch.Generator().manual_seed(0)
    assert Range.of(0.5).draw((3,), generator).tolist() == [0.5] * 3
    drawn = Range.of((2.0, 4.0)).draw((10_000,), generator)
    assert drawn.min() >= 2 and drawn.max() <= 4 and drawn.mean().item() == pytest.approx(3, abs=0.03)
    halved = Range(0.5, 3.0, halved=True).draw((10_000,), generator)
    assert (halved < 1).float().mean().item() == pytest.approx(0.5, abs=0.02)
    with pytest.raises(NotImplementedError, match="numbers drawn by"):
        Range.of(lambda *_: 1.0)
