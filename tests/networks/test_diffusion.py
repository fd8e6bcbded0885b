"""Diffusion of label maps against the numbers of its formulas."""

import math

import pytest
import torch
from torch.nn import functional as F

from nnunet_ssl.networks.diffusion import (
    Diffusion,
    course_of,
    ddim_step,
    noised,
    sampled,
    signal_shares,
    smoothed,
    time_waves,
)


@pytest.mark.parametrize(
    ("t", "signal", "noise"), [(0, 0.99995, 0.01), (500, 0.278921, 0.960314), (999, 0.006353, 0.99998)]
)
def test_shares_of_signal_and_noise(t, signal, noise):
    share = signal_shares(1000)[t]
    assert share.sqrt().item() == pytest.approx(signal, abs=1e-6)
    assert (1 - share).sqrt().item() == pytest.approx(noise, abs=1e-6)


def test_noise_is_added_by_the_time_of_each_sample():
    shares = signal_shares(1000).float()[[0, 500, 999]]
    x = noised(torch.ones(3, 1, 2, 2), torch.full((3, 1, 2, 2), 2.0), shares)
    expected = torch.tensor([1.01995, 2.199549, 2.006313])
    torch.testing.assert_close(x, expected.view(3, 1, 1, 1).expand_as(x), atol=1e-5, rtol=0)


def test_the_times_to_stop_at():
    course = course_of(signal_shares(1000), 10)
    assert [t for t, _, _ in course] == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert course[4][1] == pytest.approx(0.04325, abs=1e-5) and course[4][2] == pytest.approx(0.132865, abs=1e-6)
    assert [after for _, _, after in course[:-1]] == [share for _, share, _ in course[1:]] and course[-1][2] == 1
    assert [t for t, _, _ in course_of(signal_shares(5), 5)] == [4, 3, 2, 1, 0]
    assert [t for t, _, _ in course_of(signal_shares(1), 1)] == [0]


def test_a_step_without_new_noise():
    x, x0 = torch.tensor(0.3), torch.tensor(1.0)
    _, share, after = course_of(signal_shares(1000), 10)[4]
    noise = (x - math.sqrt(share) * x0) / math.sqrt(1 - share)
    assert noise.item() == pytest.approx(0.094091, abs=1e-6)
    assert ddim_step(x, x0, share, after).item() == pytest.approx(0.452124, abs=1e-6)
    _, share, after = course_of(signal_shares(1000), 10)[-1]
    assert ddim_step(x, x0, share, after).item() == pytest.approx(1.0, abs=1e-7)


def test_a_network_that_knows_the_signal_is_given_back_its_signal():
    """From noise alone; on the way each sample is the signal with the noise of the start."""
    torch.manual_seed(0)
    signal, start, seen = torch.sign(torch.randn(2, 3, 4, 4)), torch.randn(2, 3, 4, 4), []

    def denoise(x, times):
        seen.append((x, times))
        return 5 * signal  # beyond [-1, 1], where it is held

    course = course_of(signal_shares(1000), 10)
    assert torch.equal(sampled(denoise, start, course), signal)
    assert [times.tolist() for _, times in seen] == [[t, t] for t, _, _ in course]
    noise = (start - math.sqrt(course[0][1]) * signal) / math.sqrt(1 - course[0][1])
    for (x, _), (_, share, _) in zip(seen, course, strict=True):
        torch.testing.assert_close(x, math.sqrt(share) * signal + math.sqrt(1 - share) * noise, atol=1e-5, rtol=0)


def test_the_last_step_gives_what_the_network_says_last():
    course = course_of(signal_shares(1000), 3)
    answers = iter((torch.tensor([0.9]), torch.tensor([-3.0]), torch.tensor([0.25])))
    assert sampled(lambda x, times: next(answers), torch.zeros(1), course).item() == pytest.approx(0.25, abs=1e-6)


def test_all_is_float32_whatever_the_network_computes_in_and_has_no_gradient():
    layer, seen = torch.nn.Conv2d(2, 2, 1), []

    def denoise(image, x, times):
        seen.append(x.dtype)
        return [layer(x)]

    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 2, 1, 1)).dtype is torch.bfloat16
        u = Diffusion(1000, 4).sample(denoise, torch.zeros(2, 1, 8, 8), 2)
        x, times = Diffusion()(torch.ones(2, 2, 8, 8))
    assert u.shape == (2, 2, 8, 8) and u.dtype is x.dtype is torch.float32 and u.abs().max() <= 1
    assert seen == [torch.float32] * 4 and not u.requires_grad
    assert times.shape == (2,) and times.dtype is torch.int64


def test_times_and_noise_are_drawn_for_each_sample():
    torch.manual_seed(0)
    diffusion, x0 = Diffusion(100, 10), torch.ones(400, 1, 8, 8)
    x, times = diffusion(x0)
    assert times.min() < 5 and times.max() > 94 and times.max() < 100
    share = diffusion.shares[times]
    noise = (x - share.sqrt().view(-1, 1, 1, 1)) / (1 - share).sqrt().view(-1, 1, 1, 1)
    assert abs(noise.mean()) < 0.02 and noise.std().item() == pytest.approx(1, abs=0.02)
    quiet, times = Diffusion(100, 10, noise=0.0)(x0)
    torch.testing.assert_close(quiet, diffusion.shares[times].sqrt().view(-1, 1, 1, 1).expand_as(x0))
    assert not diffusion.state_dict()


@pytest.mark.parametrize(("times", "steps"), [(0, 1), (10, 11), (10, 0)])
def test_more_steps_than_times_are_refused(times, steps):
    with pytest.raises(ValueError, match="sampling_steps"):
        Diffusion(times, steps)


def test_waves_of_a_time():
    waves = time_waves(torch.tensor([10, 0]))
    assert waves.shape == (2, 128) and waves.dtype is torch.float32
    expected = torch.tensor([-0.544021, 0.706749, 0.925205, -0.839072, -0.707464, 0.379468])
    torch.testing.assert_close(waves[0, [0, 1, 2, 64, 65, 66]], expected, atol=2e-6, rtol=0)
    assert waves[1].tolist() == [0] * 64 + [1] * 64


def test_the_kernel_of_27_voxels():
    point = torch.zeros(1, 2, 5, 5, 5)
    point[0, 1, 2, 2, 2] = 1
    found = smoothed(point)
    assert not found[0, 0].any() and found.sum().item() == pytest.approx(1)
    for at, expected in (((2, 2, 2), 0.092261), ((2, 1, 2), 0.055959), ((1, 2, 3), 0.033941), ((3, 3, 1), 0.020586)):
        assert found[(0, 1, *at)].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_smoothing_is_a_convolution_with_zeros_beyond(dimensions):
    torch.manual_seed(0)
    values = torch.rand(2, 3, *[4, 5, 6][:dimensions])
    weights = torch.exp(-0.5 * torch.tensor([-1.0, 0, 1]).square())
    kernel = weights
    for _ in range(dimensions - 1):
        kernel = kernel[..., None] * weights
    kernel = (kernel / kernel.sum())[None, None].expand(3, 1, *kernel.shape)
    convolved = (F.conv2d if dimensions == 2 else F.conv3d)(values, kernel, padding=1, groups=3)
    torch.testing.assert_close(smoothed(values), convolved)
