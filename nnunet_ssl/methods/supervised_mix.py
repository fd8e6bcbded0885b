"""Supervised training with boxes of labeled patches in one another (CutMix), without an unlabeled scan.

S. Yun, D. Han, S. J. Oh, S. Chun, J. Choe, Y. Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features", ICCV 2019, with labels that are pasted as images are.

    x_l, y        labeled patches and their labels, as nnU-Net augments them
    B             a box for a patch, each side s_min to s_max of the patch's, or none with probability 1 - p
    mix(t)        t outside of B, inside B the t of another patch of the batch

    L = c L_sup(f(x_l), y) + L_sup(f(mix(x_l)), mix(y))
    and the learning rate starts anew at `restart`

With c = 0 there are mixed patches alone, in one pass. It is the baseline that tells what of a semi-supervised method's
gain comes of its unlabeled scans, and what of mixing, of two passes, or of a learning rate that starts anew.
"""

from __future__ import annotations

from torch import Tensor

from nnunet_ssl.augmentation.mixing import BoxMixing
from nnunet_ssl.method import Labeled, Method, Now, Unlabeled, check_range
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net


class SupervisedMix(Method):
    """Boxes of labeled patches in one another, and no unlabeled scan: a baseline for methods that mix.

    Args:
        clean_weight: c, weight of the patches as they are, beside 1 of the mixed ones; 0 for mixed ones alone, in one
            pass.
        probability: p, with which a patch gets a box; 0 for no mixing.
        smallest: s_min, of each side of a box, as a share of the patch's.
        largest: s_max, of each side of a box, as a share of the patch's.
        restart: where the learning rate starts anew, as a fraction of training; 0 for one that comes down once.

    Raises:
        ValueError: a value is out of range.
    """

    views: tuple[str, ...] = ()
    presets = {"published": {"clean_weight": 0.0, "smallest": 0.0, "largest": 1.0, "restart": 0.0}}

    def __init__(
        self,
        clean_weight: float = 1.0,
        probability: float = 0.5,
        smallest: float = 0.25,
        largest: float = 0.75,
        restart: float = 0.5,
    ):
        super().__init__()
        check_range("clean_weight", clean_weight, 0)
        check_range("restart", restart, 0, 0.99)
        self.clean_weight = clean_weight
        self.mix = BoxMixing(probability, smallest, largest)
        self.phases = (restart,) if restart else ()

    def setup(self, net: Net, new_net: Architecture) -> None:
        self.mix.require_pairs(self.task.labeled_batch_size)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        mixed = self.mix(labeled)
        if self.clean_weight == 0:
            return {"supervised": self.supervised(net(mixed.image), mixed.target)}
        seg, output = net(labeled.image, mixed.image)
        return {
            "supervised": self.clean_weight * self.supervised(seg, labeled.target),
            "mixed": self.supervised(output, mixed.target),
        }
