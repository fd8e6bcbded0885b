"""Ambiguity-Consensus Mean Teacher (AC-MT) by probable errors: voxels that prototypes call otherwise (PErr).

Z. Xu, Y. Wang, D. Lu, X. Luo, J. Yan, Y. Zheng, R. K.-Y. Tong, "Ambiguity-selective consistency regularization for
mean-teacher semi-supervised medical image segmentation", Medical Image Analysis 2023. As `ACMT`, with another M:

    f, g          student, and teacher by moving average;  p = softmax f(x_u),  q = softmax g(x_u + eps)
    k             softmax g(x_u)
    g_i, h        the teacher with dropout, i = 1..T; mean of its decoder's features at half resolution, interpolated

    s_c = std_i sigmoid(g_i(x_u)_c / 2)
    y   = argmax_c [s_c < s_max] k_c                    class 0 where all are uncertain
    t_c = sum [y = c] k_c h / sum [y = c] k_c           over the voxels of a patch
    M   = [argmin_c |h - t_c| != argmax p]              of the classes that y has in the patch, without gradient
    L   = L_sup(f(x_l), y) + w(r) [sum M (p - q)^2 / (C sum M) + mean (1 - M) H(p) / ln C]

w(r) as in `ACMT`, H the entropy. A region is a question of its own, inside or outside; where it is uncertain it is
outside. The student predicts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.kinds import Kind
from nnunet_ssl.memory.prototypes import nearest_prototype, prototypes_of
from nnunet_ssl.method import Now, check_range
from nnunet_ssl.methods.ac_mt import AmbiguityConsensus
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.dropout import channel_dropout, dropout_places
from nnunet_ssl.networks.net import Net, Output
from nnunet_ssl.networks.taps import outputs_of, require_unet


class ACMT_PErr(AmbiguityConsensus):
    """Mean Teacher restricted to voxels that prototypes of the classes call otherwise than the student.

    Args:
        passes: T, number of stochastic passes of the teacher.
        dropout: probability with which a feature channel is dropped in such a pass.
        uncertain: s_max, standard deviation from which a class of a voxel is uncertain.
        mean_teacher: see `MeanTeacher`.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, passes: int = 10, dropout: float = 0.5, uncertain: float = 0.1, **mean_teacher: Any):
        super().__init__(**mean_teacher)
        check_range("passes", passes, 2)
        check_range("dropout", dropout, 0, 0.99)
        check_range("uncertain", uncertain, 0)
        self.passes, self.dropout, self.uncertain = passes, dropout, uncertain

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        dropout_places(require_unet(self.teacher.module))

    def ambiguous(self, student: Output, image: Tensor, now: Now) -> Tensor:
        kind, k = student.kind, self.teacher(image).probs
        h, s = self.stochastic_passes(image)
        y = kind.hard(kind.logits_of((s < self.uncertain) * k))
        pairs = zip(questions(kind, y, k), questions(kind, student.hard, k), strict=True)
        return torch.stack([nearest_prototype(h, *prototypes_of(h, *q)) != said for q, (said, _) in pairs], 1)

    def stochastic_passes(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, features, *spatial) and s (B, C, *spatial), by running sums in float32."""
        network: Any = self.teacher.module
        half = network.decoder.stages[-2:][0]  # the only one where there are no two
        h, total, squares = torch.zeros((3,), device=image.device)
        with channel_dropout(network, self.dropout), outputs_of(half) as kept:
            for _ in range(self.passes):
                said = (self.teacher(image).logits.float() / 2).sigmoid()
                total, squares, h = total + said, squares + said.square(), h + kept.pop().float()
        variance = (squares - total.square() / self.passes) / (self.passes - 1)
        mode = "bilinear" if image.ndim == 4 else "trilinear"
        return F.interpolate(h / self.passes, image.shape[2:], mode=mode), variance.clamp_min(0).sqrt()

    def elsewhere(self, student: Output, ambiguous: Tensor) -> Tensor:
        return (~ambiguous * student.kind.entropy(student.probs)).mean() / student.kind.max_entropy


def questions(kind: Kind, labels: Tensor, probs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Which class, or of each region inside (0) or outside (1): (B, *spatial), and probabilities of all answers."""
    said = kind.as_channels(kind.outcome_of(labels))
    number = said.shape[1]
    answers = kind.exhaustive(probs).unflatten(1, (-1, number))
    return [(said[:, each] // number, answers[:, :, each]) for each in range(number)]
