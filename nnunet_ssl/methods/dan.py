"""Deep Adversarial Networks (DAN).

Y. Zhang, L. Yang, J. Chen, M. Fredericksen, D. P. Hughes, D. Z. Chen, "Deep Adversarial Networks for Biomedical Image
Segmentation Utilizing Unannotated Images", MICCAI 2017.

    f             student
    e(p, x)       evaluation network: two logits, class 1 for "x was labeled", class 0 for "x was not"
    p = softmax f([x_l; x_u])

    L   = L_sup(f(x_l), y) + w(r) CE(e(p_u, x_u), 1)         step of the student; e fixed, without dropout
    L_e = CE(e(p_l, x_l), 1) + CE(e(p_u, x_u), 0)            step of e, p without gradient; mean over all patches

The student learns to make predictions that look as if the image had been labeled. Both steps are taken in every
iteration, on the p of one forward; L_e has no ramp-up. For regions p is a sigmoid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.families import RampedMethod
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.discriminator import Discriminator
from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.own_optimizer import OwnOptimizer


class DAN(RampedMethod):
    """Adversarial training against a network that tells labeled from unlabeled patches by their prediction.

    Args:
        weight: lambda, weight of the adversarial term at the end of the ramp-up.
        dropout: probability with which the evaluation network drops a channel in its own step.
        discriminator_lr: learning rate of the evaluation network's Adam, constant.
        ramped: see `RampedMethod`.

    Raises:
        ValueError: a value is out of range.
    """

    presets = {"published": {"weight": 0.2}}

    def __init__(self, weight: float = 0.01, dropout: float = 0.5, discriminator_lr: float = 1e-4, **ramped: Any):
        super().__init__(weight, **ramped)
        check_range("dropout", dropout, 0, 1)
        check_range("discriminator_lr", discriminator_lr, 0)
        self.dropout = dropout
        self.discriminator_lr = discriminator_lr

    def setup(self, net: Net, new_net: Architecture) -> None:
        task = self.task
        self.evaluator = Discriminator(len(task.channels), task.image_channels, task.patch_size, self.dropout)
        self.evaluator.requires_grad_(False)  # but for its own step
        adam = torch.optim.Adam(self.evaluator.parameters(), self.discriminator_lr, betas=(0.9, 0.99))
        self.optimizer = OwnOptimizer(adam)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        seg, output = net(labeled.image, unlabeled.weak)
        self.evaluator.eval()
        verdict = self.evaluator(output.probs, unlabeled.weak).float()
        wanted = torch.ones(len(verdict), dtype=torch.long, device=verdict.device)
        self.seen = (labeled.image, seg.probs.detach()), (unlabeled.weak, output.probs.detach())  # until `after_step`
        return {
            "supervised": self.supervised(seg, labeled.target),
            "adversarial": self.ramped_weight(now) * F.cross_entropy(verdict, wanted),
        }

    def after_step(self, net: Net, now: Now) -> None:
        """The evaluation network's own step on the predictions of this iteration, in float32."""
        (labeled, p_labeled), (unlabeled, p_unlabeled) = self.seen
        del self.seen
        p, x = torch.cat((p_labeled, p_unlabeled)), torch.cat((labeled, unlabeled))
        truth = (torch.arange(len(x), device=x.device) < len(labeled)).long()
        self.evaluator.train()
        self.report["evaluator"] = self.optimizer.minimize(lambda: F.cross_entropy(self.evaluator(p, x), truth))
