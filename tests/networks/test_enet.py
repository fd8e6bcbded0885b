"""ENet: the size of the paper's network, its places of maxima, and its layers in 2D and 3D."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nnunet_ssl.networks.enet import DILATIONS, Bottleneck, Down, ENetModule, Initial, Kit, unpool


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def expected_count(channels: int, classes: int) -> int:
    """The paper's table by hand, in 2D: weights of convolutions, two per norm and one per slope of each feature."""
    initial = 9 * channels * (16 - channels) + 2 * 16 + 16
    down1 = 4 * 16 * 16 + 9 * 16 * 16 + 16 * 64 + 3 * (16 + 16 + 64)
    stage1 = 4 * (64 * 16 + 9 * 16 * 16 + 16 * 64 + 3 * (16 + 16 + 64))
    down2 = 4 * 64 * 32 + 9 * 32 * 32 + 32 * 128 + 3 * (32 + 32 + 128)
    regular = 128 * 32 + 9 * 32 * 32 + 32 * 128 + 3 * (32 + 32 + 128)
    asymmetric = 128 * 32 + (5 + 5) * 32 * 32 + 32 * 128 + 3 * (32 + 32 + 32 + 128)
    up4 = 128 * 16 + 9 * 16 * 16 + 16 * 64 + 2 * (16 + 16 + 64) + 128 * 64 + 2 * 64
    stage4 = 2 * (64 * 16 + 9 * 16 * 16 + 16 * 64 + 2 * (16 + 16 + 64))
    up5 = 64 * 4 + 9 * 4 * 4 + 4 * 16 + 2 * (4 + 4 + 16) + 64 * 16 + 2 * 16
    stage5 = 16 * 4 + 9 * 4 * 4 + 4 * 16 + 2 * (4 + 4 + 16)
    head = 9 * 16 * classes + classes
    return initial + down1 + stage1 + down2 + 2 * (6 * regular + 2 * asymmetric) + up4 + stage4 + up5 + stage5 + head


@pytest.mark.parametrize(("classes", "number"), [(12, 364_507), (19, 365_522)])
def test_the_paper_has_0_37_million_parameters(classes, number):
    assert expected_count(3, classes) == number
    assert count(ENetModule(3, classes, 2)) == number
    assert 0.36 < number / 1e6 < 0.37  # the paper's table, of 19 classes, says 0.37


@pytest.mark.parametrize("dimensions", [2, 3])
def test_layers_of_the_paper(dimensions):
    network = ENetModule(1, 2, dimensions)
    dropouts = [module.p for module in network.modules() if isinstance(module, nn.Dropout2d | nn.Dropout3d)]
    assert dropouts == [0.01] * 5 + [0.1] * (1 + 16 + 3 + 2)
    encoder = [network.initial, network.down1, network.stage1, network.down2, network.stage2, network.stage3]
    decoder = [network.up4, network.stage4, network.up5, network.stage5]
    for parts, there, absent in ((encoder, nn.PReLU, nn.ReLU), (decoder, nn.ReLU, nn.PReLU)):
        kinds = [type(module) for part in parts for module in part.modules()]
        assert there in kinds and absent not in kinds
    for stage in (network.stage2, network.stage3):
        kernels = [[(m.kernel_size, m.dilation[0]) for m in block.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
                   for block in stage]  # fmt: skip
        for dilation, (_, *middle, _) in zip(DILATIONS, kernels, strict=True):
            lines = [tuple(5 if axis == other else 1 for other in range(dimensions)) for axis in range(dimensions)]
            assert middle == ([((3,) * dimensions, dilation)] if dilation else [(line, 1) for line in lines])
    assert [dilation for dilation in DILATIONS if dilation > 1] == [2, 4, 8, 16]


@pytest.mark.parametrize("shape", [(8, 12), (8, 4, 6)])
def test_maxima_return_to_their_places(shape):
    x = torch.randn(2, 3, *shape)
    kit = Kit(len(shape))
    pooled, places = kit.layer("MaxPool", 2, return_indices=True)(x)
    back = unpool(pooled, places, x)
    torch.testing.assert_close(back, kit.layer("MaxUnpool", 2)(pooled, places), rtol=0, atol=0)
    assert (back != 0).sum() == pooled.numel()
    assert torch.equal(back[back != 0], x[back != 0])


def test_the_decoder_looks_where_the_encoder_found_its_maxima():
    """Without what the branches say, features come back to the very places of the image's maxima, and nowhere else."""
    network = ENetModule(1, 2, 2).eval()
    for block in (network.down1, network.up5):
        nn.init.zeros_(block.branch[-2][1].weight)  # the norm of the expansion; its shift is zero
    x = torch.randn(1, 16, 8, 8)
    pooled, places = network.down1.forward_and_remember(x)
    up = network.up5.forward_to(torch.rand_like(pooled), places)
    expected = functional.max_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3) == x
    assert up.shape == x.shape and up.any()
    assert not up[~expected].any()


def test_pooled_image_and_empty_maps():
    kit = Kit(3)
    initial = Initial(kit, 2).eval()
    for parameter in initial.activation.parameters():
        nn.init.ones_(parameter)  # the identity; a new norm nearly is
    image = torch.randn(1, 2, 4, 4, 8)
    out = initial(image)
    assert out.shape == (1, 16, 2, 2, 4)
    torch.testing.assert_close(out[:, -2:], functional.max_pool3d(image, 2), rtol=1e-4, atol=1e-4)
    down = Down(kit, 16, 64, 0.01).eval()
    nn.init.zeros_(down.branch[-2][1].weight)
    more, places = down.forward_and_remember(out.relu())
    assert more.shape == (1, 64, 1, 1, 2) and places.shape == (1, 16, 1, 1, 2)
    assert more[:, :16].any() and not more[:, 16:].any()


def test_an_asymmetric_bottleneck_sees_two_voxels_along_each_axis():
    block = Bottleneck(Kit(3), 8, 8, 0.0, "prelu", dilation=0).eval()
    x = torch.zeros(1, 8, 9, 9, 9, requires_grad=True)
    block.branch(x)[0, :, 4, 4, 4].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen[2:7, 2:7, 2:7].all() and seen.sum() == 5**3


@pytest.mark.parametrize("shape", [(16, 24), (40, 16, 8)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_bfloat16_and_deterministic(shape, precision):
    """In 3D with 5 voxels along the first axis of the smallest maps: see the module of oneDNN's bfloat16."""
    torch.manual_seed(0)
    network, image = ENetModule(1, 3, len(shape)), torch.randn(2, 1, *shape)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = network(image)
        logits.float().square().mean().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert logits.dtype == precision and logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
