"""Task-Affinity Consistency (TAC) as the authors' code has it.

J. Chen, J. Zhang, K. Debattista, J. Han, "Semi-Supervised Unpaired Medical Image Segmentation Through Task-Affinity
Consistency", IEEE Transactions on Medical Imaging 42(3), 2023.

    f             the plan's network with a gate in each skip, and dropout in training
    h_j, s_j      features of its encoder at each resolution, and its skips behind their gates
    p             sigmoid f(x): one for each class, the background too
    m_c           the voxels of class c: y of labeled patches, p of unlabeled ones, with gradient

    r_c(h)        sum_v m_c(v) h(v) of a patch / sum_v m_c(v) of all patches of its kind, labeled or not
    d(h)          mean over all classes, features and pairs of patches, (x_l, x_u), of (r_c(h(x_u)) - r_c(h(x_l)))^2
    L = sum_c Dice_c(p(x_l), y) + lambda_s sum_j d(s_j) + lambda_c sum_j d(h_j)

Dice has squares in its denominator and is taken at nnU-Net's scales with nnU-Net's weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_ssl.kinds import Regions, nearest
from nnunet_ssl.losses.affinity import affinity_distance, class_masks, pooled
from nnunet_ssl.losses.dice import squared_dice
from nnunet_ssl.method import Labeled, Method, Now, Unlabeled, check_range
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.dropout import add_dropout
from nnunet_ssl.networks.gated_skips import with_gated_skips
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.task import Target


class TACPublished(Method):
    """Features of a class agree between labeled and unlabeled patches; each class has a sigmoid and a Dice loss.

    Args:
        structure: lambda_s, weight of the gated skips.
        context: lambda_c, weight of the encoder's features.
        pairing: "index", patches in their order; or "pooled", mean features of all patches.
        present_only: only classes that the labeled patches have count.
        dropout: probability of a channel to be dropped in training, of the last encoder stage and before the head.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        structure: float = 1.0,
        context: float = 0.5,
        pairing: str = "index",
        present_only: bool = False,
        dropout: float = 0.5,
    ):
        super().__init__()
        check_range("structure", structure, 0)
        check_range("context", context, 0)
        check_range("dropout", dropout, 0, 0.99)
        if pairing not in ("index", "pooled"):
            raise ValueError(f"pairing = {pairing!r} must be index or pooled")
        self.structure, self.context, self.dropout = structure, context, dropout
        self.by_pair, self.present_only = pairing == "index", present_only

    @classmethod
    def student(cls, architecture: Architecture) -> nn.Module:
        return with_gated_skips(architecture)

    def setup(self, net: Net, new_net: Architecture) -> None:
        if self.dropout:
            add_dropout(net.module, self.dropout)
        net.tap("skips", "gated")

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        seg, free = map(self.read, net(labeled.image, unlabeled.weak))
        sizes = [skip.shape[2:] for skip in free.features["skips"]]
        masks = [(class_masks(labeled.target, size), nearest(free.probs, size)) for size in sizes]
        return {
            "supervised": self.learn(seg, labeled.target),
            "structure": self.structure * self.distance("gated", seg, free, masks),
            "context": self.context * self.distance("skips", seg, free, masks),
        }

    def distance(self, name: str, seg: Output, free: Output, masks: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Sum of d over the resolutions of a tap, of masks of labeled and of unlabeled patches at each."""
        levels = zip(seg.features[name], free.features[name], masks, strict=False)  # no gate before the bottleneck
        kinds = [(pooled(h_l, m_l), pooled(h_u, m_u)) for h_l, h_u, (m_l, m_u) in levels]
        return torch.stack([affinity_distance(*each, self.by_pair, self.present_only) for each in kinds]).sum()

    def read(self, output: Output) -> Output:
        """The output with the probabilities p."""
        return Output(output.pyramid, Regions(output.kind.channels), output.features)

    def learn(self, seg: Output, target: Target) -> Tensor:
        """L_sup, over nnU-Net's scales with nnU-Net's weights."""
        losses = []
        for weight, output, y in zip(self.task.scale_weights, seg.by_scale(), target.by_scale(), strict=True):
            m, p = class_masks(y, y.full.shape[2:]), self.read(output).probs
            known = 1 if y.annotated is None else y.annotated[:, None]
            losses.append(weight * p.shape[1] * squared_dice(p * known, m.float()))
        return torch.stack(losses).sum()
