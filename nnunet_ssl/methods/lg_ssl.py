"""Language-guided semi-supervised learning (LG-SSL).

"Language-Guided Visual Representation Learning for Medical Images", repository Lry777/Universal-Medical-SSL, 2025.

    e, d_1        encoder and decoder of the plan's network, with guidance in between, which predict
    d_2           another decoder, which goes up by linear interpolation
    t_c           embedding of the name of class c by a text encoder, never trained
    F             W (t + E), prompts: a number for each class and place of the deepest features; W and E are learned
    h(x)          fusion of e(x) with F for labeled x, with sg(F) for unlabeled x: labels alone teach the prompts
    p_k, q_k      softmax d_k(h(x_l)), softmax d_k(h(x_u)),  k = 1, 2

    L_1 = mean (q_1 - q_2)^2
    L_2 = mean ((p_1 - q_1) - (p_2 - q_2))^2        of pairs of patches (x_l, x_u), voxel by voxel
    L = L_sup(d_1(h(x_l)), y) + L_sup(d_2(h(x_l)), y) + w(r) (L_1 + L_2)

`text_guidance.py` has the fusion. Gradients reach all four maps; of the smaller number of patches the first are paired
again. For regions softmax is sigmoid, with an embedding for each region.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.decoders import further_decoder
from nnunet_ssl.networks.net import Net, run
from nnunet_ssl.networks.taps import require_unet
from nnunet_ssl.networks.text_embeddings import read_embeddings, without_language
from nnunet_ssl.networks.text_guidance import TextGuidance, with_text_guidance


class LGSSL(RampedMethod):
    """Prompts of the classes, learned from labels, guide two decoders that agree on each patch and on differences.

    Args:
        embeddings: JSON file with t; empty for a fixed random table without language.
        weight: lambda, weight of the consistency at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.

    Attributes:
        text: in words, where t comes from.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, embeddings: str = "", weight: float = 1.0, rampup: float = 0.4):
        super().__init__(weight, rampup)
        self.embeddings = embeddings
        self.text = "a fixed random table, NO LANGUAGE PRIOR (embeddings: FILE in nnUNet_ssl_config, see docs/text.md)"

    @classmethod
    def student(cls, architecture: Architecture) -> nn.Module:
        return with_text_guidance(architecture)

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.guidance(net).prompts.text.copy_(self.embedded())
        decoder = further_decoder(new_net(), "linear", scales=new_net.deep_supervision)
        self.decoders, self.further = nn.ModuleList([decoder]), [net.compiled(decoder)]  # its state is the former's
        net.tap("skips", "guided")

    def guidance(self, net: Net) -> TextGuidance:
        guidance: TextGuidance = require_unet(net.module).guidance
        return guidance

    def embedded(self) -> Tensor:
        """t, (C, 768), by the names of the output channels."""
        names = self.task.channels
        if not self.embeddings:
            return without_language(len(names))
        text, others = read_embeddings(Path(self.embeddings), names)
        self.text = f"{self.embeddings}, which has {len(others)} further names"
        return text

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        sizes = [len(labeled.image), len(unlabeled.weak)]
        self.guidance(net).taught = sizes[0]
        first = net(torch.cat((labeled.image, unlabeled.weak)))
        second = run(self.further[0], [*first.features["skips"][:-1], first.features["guided"]], first.kind)
        (seg_1, free_1), (seg_2, free_2) = first.split(sizes), second.split(sizes)
        l_1, l_2 = self.consistency(seg_1.probs - seg_2.probs, free_1.probs - free_2.probs)
        w = self.ramped_weight(now)
        return {
            "supervised": self.supervised(seg_1, labeled.target),
            "supervised_second": self.supervised(seg_2, labeled.target),
            "agreement": w * l_1,
            "differences": w * l_2,
        }

    def consistency(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """L_1 and L_2 of p_1 - p_2 and q_1 - q_2, (B, C, *spatial), since L_2 is mean ((p_1 - p_2) - (q_1 - q_2))^2."""
        pairs = torch.arange(max(len(p), len(q)), device=p.device)
        return q.square().mean(), (p[pairs % len(p)] - q[pairs % len(q)]).square().mean()
