"""Other networks behind nnU-Net's constructor: shapes, gradients, sizes, and what they refuse."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from nnunet_ssl.errors import InputError
from nnunet_ssl.networks import backbones

PRIMUS_S = {"embed_dim": 396, "depth": 12, "heads": 6}
STAGES = [32, 64, 128, 256, 320, 320]
# name, class, arch_kwargs, spatial shape, millions of parameters from and to
CASES = [
    ("vnet 3d", backbones.VNet, {"dimensions": 3}, (16, 32, 16), 45, 46),
    ("vnet 2d", backbones.VNet, {"dimensions": 2}, (32, 32), 9, 10),
    ("attention_unet 3d", backbones.AttentionUNet, {"features": STAGES, "downsampling": [[1, 2, 2]] + [[2, 2, 2]] * 4},
     (16, 32, 32), 30, 31),
    ("attention_unet 2d", backbones.AttentionUNet, {"features": [8, 16, 32], "downsampling": [[2, 2], [2, 2]]},
     (16, 24), 0.02, 0.04),
    ("segresnet 3d", backbones.SegResNet, {"dimensions": 3, "features": 32, "groups": 8}, (16, 24, 16), 18, 19),
    ("segresnet 2d", backbones.SegResNet, {"dimensions": 2, "features": 4, "groups": 4}, (16, 16), 0.09, 0.11),
    ("unetr 3d", backbones.UNETR, {"patch_size": [32, 16, 16]}, (32, 16, 16), 92, 100),
    ("unetr 2d", backbones.UNETR, {"patch_size": [32, 16]}, (32, 16), 85, 90),
    ("swin_unetr 3d", backbones.SwinUNETR, {"dimensions": 3}, (64, 32, 32), 62, 63),
    ("swin_unetr 2d", backbones.SwinUNETR, {"dimensions": 2}, (64, 32), 25, 26),
    ("enet 3d", backbones.ENet, {"dimensions": 3}, (16, 24, 8), 0.67, 0.68),
    ("enet 2d", backbones.ENet, {"dimensions": 2}, (16, 24), 0.36, 0.37),
    ("primus_s", backbones.Primus, {"patch_size": [16, 16, 24], "token_size": [8, 8, 8], **PRIMUS_S}, (16, 16, 24),
     22, 24),
    ("primus_s, flat", backbones.Primus, {"patch_size": [5, 20, 16], "token_size": [1, 4, 8], **PRIMUS_S}, (5, 20, 16),
     22, 24),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "sizes", "shape", "low", "high"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_shape_gradients_and_size(cls, sizes, shape, low, high):
    torch.manual_seed(0)
    network = cls(input_channels=2, num_classes=3, deep_supervision=False, **sizes)
    logits = network(torch.randn(2, 2, *shape))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 3, *shape)
    logits.square().mean().backward()
    # DDP refuses parameters without gradient; a bias before batch norm has one that is zero
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    weights = {name: parameter.grad for name, parameter in network.named_parameters() if not name.endswith("bias")}
    assert [name for name, grad in weights.items() if not grad.isfinite().all() or not grad.any()] == []
    assert low < sum(parameter.numel() for parameter in network.parameters()) / 1e6 < high


@pytest.mark.parametrize(
    ("sizes", "low", "high"), [((792, 12, 12), 90, 96), ((864, 16, 12), 143, 150), ((1056, 24, 16), 320, 330)]
)
def test_larger_primus(sizes, low, high):
    """Built without memory."""
    names = ("embed_dim", "depth", "heads")
    with torch.device("meta"):
        network = backbones.Primus(
            1, 2, patch_size=[16] * 3, token_size=[8] * 3, **dict(zip(names, sizes, strict=True))
        )
    assert low < sum(parameter.numel() for parameter in network.parameters()) / 1e6 < high


def test_dropout_in_2d_drops_channels_and_not_images():
    flat, volume = (backbones.VNet(1, 2, dimensions) for dimensions in (2, 3))
    kinds = [{type(module) for module in n.modules() if "Dropout" in type(module).__name__} for n in (flat, volume)]
    assert kinds == [{nn.Dropout2d}, {nn.Dropout3d}]
    # where whole images are dropped, a skip connection of one image vanishes in every fourth pass of two
    dropout = flat.network.up_tr64.dropout2
    torch.manual_seed(0)
    kept = torch.stack([dropout(torch.ones(2, 64, 4, 4)).amax((2, 3)).mean(1) for _ in range(50)])
    assert kept.min() > 0.4


def forget_monai(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)


def test_deep_supervision_is_refused():
    with pytest.raises(InputError, match="VNet has no deep supervision.*nnUNetTrainerSupervised"):
        backbones.VNet(1, 2, 2, deep_supervision=True)


def test_without_monai_the_message_says_what_to_install(monkeypatch):
    forget_monai(monkeypatch)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(InputError, match=r'VNet.*pip install "nnunet-ssl\[networks\]"') as caught:
        backbones.VNet(1, 2, 3)
    assert "\n" not in str(caught.value)


def test_a_broken_monai_is_not_called_missing(monkeypatch, tmp_path):
    forget_monai(monkeypatch)
    (tmp_path / "monai").mkdir()
    (tmp_path / "monai" / "__init__.py").write_text("import no_such_library\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        backbones.VNet(1, 2, 3)


def test_importing_the_adapters_does_not_import_monai():
    code = "import sys, nnunet_ssl.networks.backbones; assert 'monai' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
