"""FixMatch with CTAugment.

K. Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020, with the
strong augmentation of D. Berthelot et al., "ReMixMatch", ICLR 2020.

    x_s = policy(x_w)        two operations per patch, of strengths that the network still bears   see `ct_augment.py`
    probe                    f(policy'(x_l)) against y, without gradient, updates those strengths in each step
    L                        as in FixMatch, with the paper's constant weight of 1

The strong view is made from the weak one on the device, with changes of intensity and cutout only, so that the geometry
is shared. Labeled patches come with nnU-Net's own augmentation; the probe's policy comes on top. How near the probe's
prediction is to y is balanced over classes, or the background of a patch would hide that an organ is lost; voxels with
the ignore label are left out.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunet_ssl.augmentation.ct_augment import CTAugment, Policy, proximity
from nnunet_ssl.method import Labeled, Now, Unlabeled, check_range
from nnunet_ssl.methods.fixmatch import FixMatch
from nnunet_ssl.networks.net import Net


class FixMatchCTA(FixMatch):
    """FixMatch whose strong views are as strong as the network bears.

    Args:
        depth: number of operations that make a strong view of a patch; 0 for none.
        cutout: side of a box that the policy of a strong view is followed by, as a share of the patch's; 0 for none.
        cut: a strength is used while its rate is at least this share of its operation's best.
        weight: lambda, weight of the pseudo-label term at the end of the ramp-up.
        rampup: rho, length of the ramp-up as a fraction of training; 0 for a constant weight.
        fixmatch: see `FixMatch`.

    Raises:
        ValueError: a value is out of range.
    """

    views = ("weak",)
    presets = {"published": {"cutout": 0.5}, "ssl4mis": {"weight": 0.1, "rampup": 1.0, "cut": 0.85}}

    def __init__(
        self,
        depth: int = 2,
        cut: float = 0.8,
        cutout: float = 0.0,
        weight: float = 1.0,
        rampup: float = 0.0,
        **fixmatch: Any,
    ):
        super().__init__(weight=weight, rampup=rampup, **fixmatch)
        check_range("depth", depth, 0)
        check_range("cut", cut, 0, 1)
        check_range("cutout", cutout, 0, 1)
        self.depth = depth
        self.cutout = cutout
        self.controller = CTAugment(cut)

    def losses(self, net: Net, labeled: Labeled, unlabeled: Unlabeled, now: Now) -> dict[str, Tensor]:
        if self.depth:
            self.probe(net, labeled)
        return super().losses(net, labeled, unlabeled, now)

    def probe(self, net: Net, labeled: Labeled) -> None:
        """Updates the rates; reports the proximity."""
        policy = self.controller.draw_probe(len(labeled.image), self.depth)
        near, known = proximity(net.predict(policy(labeled.image)), labeled.target)
        self.controller.update(policy, near, known)
        self.report["proximity"] = (near * known).sum() / known.sum().clamp_min(1)

    def strong_view(self, unlabeled: Unlabeled) -> Tensor:
        return self.strong_policy(len(unlabeled.weak))(unlabeled.weak)

    def strong_policy(self, patches: int) -> Policy:
        """What makes the strong views of a number of patches."""
        policy = self.controller.draw(patches, self.depth)
        return policy.then("cutout", 2 * self.cutout) if self.cutout else policy  # at level 1 a side of one half
