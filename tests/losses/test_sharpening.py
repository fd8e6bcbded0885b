"""Sharpened predictions against closed forms."""

import pytest
import torch
from workbench import output as output_of

from nnunet_ssl.losses.sharpening import sharpened, sharpened_per_channel
from nnunet_ssl.networks.net import Output


def output(*probs, regions=False) -> Output:
    """Of voxels along the last axis, with given probabilities of each channel."""
    p = torch.tensor(probs, dtype=torch.float64).view(1, len(probs), 1, -1)
    return output_of(torch.logit(p) if regions else p.log(), regions)


@pytest.mark.parametrize(("p", "expected"), [(0.5, 0.5), (0.55, 0.8815), (0.6, 0.982954), (0.9, 1.0), (0.3, 0.000209)])
def test_per_channel(p, expected):
    for made in (output([p], [1 - p]), output([p], regions=True)):
        assert sharpened_per_channel(made, 0.1).flatten()[0].item() == pytest.approx(expected, abs=1e-6)


def test_channels_of_three_classes_stand_for_themselves():
    sharp = sharpened_per_channel(output([0.5], [0.3], [0.2]), 0.1).flatten()
    torch.testing.assert_close(sharp, torch.tensor([0.5, 0.000209, 0.000001]), atol=1e-6, rtol=0)


def test_classes_together():
    sharp = sharpened(output([0.6], [0.3], [0.1]), 0.1).flatten()
    torch.testing.assert_close(sharp, torch.tensor([0.999024, 0.000976, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        sharpened(output([0.45], [0.55]), 0.1).flatten(), torch.tensor([0.1185, 0.8815]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("regions", [False, True])
def test_certain_networks_give_finite_values_and_gradients(dtype, regions):
    for sharpen in (sharpened, sharpened_per_channel):
        logits = torch.tensor([60000.0, -60000.0, 0.0]).to(dtype).view(1, 3, 1, 1).requires_grad_()
        sharp = sharpen(output_of(logits, regions), 0.1)
        assert sharp.dtype == torch.float32 and torch.isfinite(sharp).all()
        sharp.sum().backward()
        assert torch.isfinite(logits.grad).all()
