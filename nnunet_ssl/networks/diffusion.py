"""Diffusion of label maps: how noise is added, how a network that predicts what lay beneath takes it away again.

J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (`signal_shares`, `noised`);
J. Song, C. Meng, S. Ermon, "Denoising Diffusion Implicit Models", ICLR 2021 (`ddim_step`). All in float32, also within
autocast, where single operations on float32 stay as they are.

    beta_0..beta_{T-1}    from 0.0001 to 0.02, equally far apart
    a_t                   (1 - beta_0) ... (1 - beta_t)                          share of the signal's variance
    x_t                   sqrt(a_t) x_0 + sqrt(1 - a_t) e,  e ~ N(0, 1)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_ssl.kinds import per_sample

Course = tuple[tuple[int, float, float], ...]  # t, a_t and a of the time after it, from noise to signal


class Diffusion(nn.Module):
    """The times and the noise of a diffusion; it has no state.

    Args:
        times: T.
        steps: of these, how many are stopped at when a sample is made; at most T.
        noise: factor of all noise.

    Raises:
        ValueError: a value is out of range.
    """

    shares: Tensor

    def __init__(self, times: int = 1000, steps: int = 10, noise: float = 1.0):
        super().__init__()
        if not 1 <= steps <= times:
            raise ValueError(f"sampling_steps = {steps} must lie between 1 and times = {times}")
        self.times, self.noise = times, noise
        self.course = course_of(signal_shares(times), steps)
        self.register_buffer("shares", signal_shares(times).float(), persistent=False)

    def forward(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """x_t of signals x_0 (B, ...) and the times, (B,) int64, drawn for each."""
        times = torch.randint(self.times, (len(x0),), device=x0.device)
        return noised(x0, self.noise * torch.randn_like(x0), self.shares[times]), times

    def sample(
        self, denoise: Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]], image: Tensor, channels: int
    ) -> Tensor:
        """A label map within [-1, 1] made of noise for images (B, channels, *spatial), (B, C, *spatial) float32.

        Args:
            denoise: gives x_0, first of all scales, of images, samples and their times.
            image: what the label map is of.
            channels: C.
        """
        start = self.noise * torch.randn((len(image), channels, *image.shape[2:]), device=image.device)
        return sampled(lambda x, times: denoise(image, x, times)[0], start, self.course)


def signal_shares(times: int) -> Tensor:
    """a_t of each time, (times,) float64."""
    return (1 - torch.linspace(1e-4, 0.02, times, dtype=torch.float64)).cumprod(0)


def noised(x0: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """x_t of signal and noise (B, ...), with a_t of each sample, (B,)."""
    share = per_sample(share, x0)
    return share.sqrt() * x0 + (1 - share).sqrt() * noise


def course_of(shares: Tensor, steps: int) -> Course:
    """So many of all times, from the last to 0, equally far apart up to rounding."""
    last = len(shares) - 1
    times = [round(last * step / max(steps - 1, 1)) for step in reversed(range(steps))]
    values = [*(shares[t].item() for t in times), 1.0]
    return tuple((t, *around) for t, around in zip(times, pairwise(values), strict=True))


def ddim_step(x: Tensor, x0: Tensor, share: float, next_share: float) -> Tensor:
    """The sample at the next time, without new noise (eta = 0).

    Args:
        x: the sample at time t.
        x0: what the network says lies beneath, in the same shape.
        share: a_t.
        next_share: a of the next time, which is less noisy; 1 behind the last.
    """
    noise = (x - math.sqrt(share) * x0) / math.sqrt(1 - share)
    return math.sqrt(next_share) * x0 + math.sqrt(1 - next_share) * noise


@torch.no_grad()
def sampled(denoise: Callable[[Tensor, Tensor], Tensor], start: Tensor, course: Course) -> Tensor:
    """A signal within [-1, 1] made of noise, float32 in the shape of `start`.

    Args:
        denoise: gives x_0 of samples (B, ...) and of their times, (B,) int64.
        start: noise of unit variance, (B, ...).
        course: the times to stop at, see `course_of`.
    """
    x = start
    for t, share, next_share in course:
        x0 = denoise(x, torch.full((len(x),), t, device=x.device)).float().clamp(-1, 1)
        x = ddim_step(x, x0, share, next_share)
    return x


def time_waves(times: Tensor, width: int = 128) -> Tensor:
    """Sines, then cosines of times (B,) at frequencies from 1 down to 1e-4, (B, width) float32."""
    half = width // 2
    falling = torch.arange(half, device=times.device, dtype=torch.float32) / (half - 1)
    angles = times[:, None].float() * torch.exp(-math.log(1e4) * falling)
    return torch.cat((angles.sin(), angles.cos()), 1)


def smoothed(values: Tensor) -> Tensor:
    """(B, C, *spatial) with a Gaussian of 3 voxels along each axis, of 1 voxel's standard deviation; 0 lies beyond."""
    side = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))
    for axis in range(2, values.ndim):
        length = values.shape[axis]
        padded = F.pad(values, [0, 0] * (values.ndim - 1 - axis) + [1, 1])
        values = (1 - 2 * side) * values + side * (padded.narrow(axis, 0, length) + padded.narrow(axis, 2, length))
    return values
