"""Addressing class imbalance in semi-supervised image segmentation (ACISSMIS).

H. Basak, S. Ghosal, R. Sarkar, "Addressing Class Imbalance in Semi-supervised Image Segmentation: A Study on Cardiac
MRI", MICCAI 2022; formulas from DHC's code. Classes that score low on labeled patches are sampled more.

    x_l, y; x_u   labeled patches and their targets; unlabeled patches (weak view)
    f, g          student and teacher; g is the moving average of f

    D_1,k = p_k sum_j ln(p_j + 1e-12),  D_2,k = p_k,  D_3,k = max_j p_j - p_k,  p = softmax f(x_l)
    I_i,k         mean of D_i,k over the voxels with y = k of a step, over the steps of T that have any
    R_i = softmax over classes of I_i
    K_ik = 1 - exp(-exp(-2 R_ik)),  F_ik = R_ik      of the max(1, C - 2) classes with the largest R_i, others 0.632, 0
    cc_k = (1 - mean_i F_ik) sum_i K_ik, over its largest;  CC <- m CC + (1 - m) cc every T steps, 0 at first
    q_k = ((1 - CC_k) / max_j (1 - CC_j))^gamma

    y' = argmax g(x_u),  c = argmax f(x_u)                                                     without gradient
    s = 1 with probability q_c, else 0
    L = L_sup(f(x_l), y) + w(r) mean s (max softmax f(x_u))^beta CE(f(x_u), y'),  w(r) = lambda exp(-5 (1 - r)^2)
    g <- alpha g + (1 - alpha) f,  alpha = min(1 - 1 / (t + 1), 0.99), after step t

The mean runs over all voxels, left out or not. D_1 is lowest where a network is sure, and its differences are so large
that R_1 is next to 1 for the class it is least sure of, which so scores lowest and is sampled whole. D_2 points the
other way, weakly. I_i,k stays where T steps have no voxel of k, and before it is that of a guess: -ln C, 1/C, 0. For
regions k is a region with the voxels inside of it, j is inside and outside, the confidence max(p, 1 - p), and q_k holds
inside and outside. The student predicts.
"""

from __future__ import annotations

from nnunet_ssl.memory.class_confidence import FuzzyConfidence
from nnunet_ssl.method import Now
from nnunet_ssl.methods.acissmis_dhc import ACISSMISDHC
from nnunet_ssl.networks.net import Net


class ACISSMIS(ACISSMISDHC):
    """Mean teacher whose pseudo-labels are sampled by class, the more the lower a class scores on labeled patches."""

    presets = {"dhc": ACISSMISDHC, "published": {}}
    memory = FuzzyConfidence

    def after_step(self, net: Net, now: Now) -> None:
        self.teacher.update(net, now.step)
