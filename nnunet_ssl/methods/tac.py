"""Task-Affinity Consistency (TAC).

J. Chen, J. Zhang, K. Debattista, J. Han, "Semi-Supervised Unpaired Medical Image Segmentation Through Task-Affinity
Consistency", IEEE Transactions on Medical Imaging 42(3), 2023; as the code of the authors has it.

    f             the plan's network with a gate in each skip, which predicts
    h_1..h_J      features of its encoder at each resolution: the context
    g_j           what the decoder brings up to the resolution of h_j
    s_j           h_j sigmoid(psi(relu(a(g_j) + b(h_j)))), the skips behind their gates, j < J: the structure
    m_c           the voxels of class c, by the nearest voxel at the resolution of the features: y of labeled patches,
                  p = softmax f(x_u), with gradient, of unlabeled ones

    r_c(h)        sum_v m_c(v) h(v) of a patch / sum_v m_c(v) of all patches of its kind, labeled or not
    d(h)          mean over classes, features and pairs of patches, (x_l, x_u), of (r_c(h(x_u)) - r_c(h(x_l)))^2
    L = L_sup(f(x_l), y) + lambda_s sum_j d(s_j) + lambda_c sum_j d(h_j)

Gradients reach both sides of d and the masks. All classes count, the background too, that labeled patches have at the
resolution at hand. With the pairing "pooled" r_c is the mean feature of a class over all patches of a kind; "index"
takes half of that from each of two patches that share a class equally, and less or more where they do not. For regions
softmax is sigmoid, and m_c are the regions. The preset "published" is a step of its own, `TACPublished`.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.methods.tac_published import TACPublished
from nnunet_ssl.networks.net import Output
from nnunet_ssl.task import Target


class TAC(TACPublished):
    """Features of a class, of an encoder and of its gated skips, agree between labeled and unlabeled patches."""

    presets = {"published": TACPublished}

    def __init__(
        self,
        structure: float = 1.0,
        context: float = 0.5,
        pairing: str = "index",
        present_only: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__(structure, context, pairing, present_only, dropout)

    def read(self, output: Output) -> Output:
        return output

    def learn(self, seg: Output, target: Target) -> Tensor:
        return self.supervised(seg, target)
