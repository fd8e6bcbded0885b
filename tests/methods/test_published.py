"""The presets "published": the weights of the medical code beside nnU-Net's loss, and what else is the papers' own."""

import pytest
import torch
from torch.nn import functional as F
from workbench import kind, task, tiny_network
from workbench import output as output_of

from nnunet_ssl.augmentation.intensity import OPERATIONS
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.bcp import BCP
from nnunet_ssl.methods.cct import CCT, CCTPublished
from nnunet_ssl.methods.cps import CPS
from nnunet_ssl.methods.cross_teaching import CrossTeaching
from nnunet_ssl.methods.cutmix import CutMix
from nnunet_ssl.methods.dan import DAN
from nnunet_ssl.methods.dhc import DHC
from nnunet_ssl.methods.entropy_minimization import EntropyMinimization
from nnunet_ssl.methods.fixmatch import FixMatch
from nnunet_ssl.methods.fixmatch_cta import FixMatchCTA
from nnunet_ssl.methods.ict import ICT
from nnunet_ssl.methods.mean_teacher import MeanTeacher
from nnunet_ssl.methods.r_drop import RDrop
from nnunet_ssl.methods.rot_consistency import RotConsistency
from nnunet_ssl.methods.ua_mt import UAMT
from nnunet_ssl.methods.urpc import URPC
from nnunet_ssl.networks.net import Net

START, END = Now(0, 0, 0.0), Now(100, 1, 1.0)
# SSL4MIS: half of (cross-entropy + Dice) and a weight of 0.1; default here
HALVED = {
    MeanTeacher: 0.1, UAMT: 0.1, ICT: 0.1, EntropyMinimization: 0.1, RotConsistency: 0.1, URPC: 0.1, CCT: 0.1,
    CPS: 0.1, CrossTeaching: 0.1, DAN: 0.01, FixMatch: 0.1,
}  # fmt: skip


@pytest.mark.parametrize(("method", "default"), HALVED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_beside_nnunets_whole_loss_the_weight_is_twice_that_beside_half_of_it(method, default):
    chosen, values = method.of_preset("ssl4mis" if method is FixMatch else "published")
    published = chosen(**values)
    assert published.ramped_weight(END) == pytest.approx(0.1 / 0.5)
    assert published.ramped_weight(START) == pytest.approx(0.2 * 0.00673795)
    assert method().ramped_weight(END) == default


def papers_r_drop(first, second, labels):
    """SSL4MIS's loss of two networks at the end of its ramp, over classes: their last axis is no class axis."""
    z1, z2 = (logits.movedim(1, -1) for logits in (first, second))
    one, other = (F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="none").mean() for a, b in ((z1, z2), (z2, z1)))
    supervised = 0.5 * F.cross_entropy(first, labels) + 0.5 * F.cross_entropy(second, labels)
    return supervised + 4.0 * (one + other) / 2


def test_r_drop_is_ssl4mis_with_the_divergence_over_classes():
    """Half of the loss of each of two passes is the mean of both: the weight stays as it is."""
    torch.manual_seed(0)
    passes = [torch.randn(2, 4, 6, 6, requires_grad=True) for _ in range(2)]
    labels = torch.randint(0, 4, (2, 6, 6))
    method = RDrop(**RDrop.presets["published"])
    method.supervised = lambda output, target: F.cross_entropy(output.logits, target)

    def network(*images):  # the labeled patches are the unlabeled ones
        return tuple(output_of(torch.cat((z, z))) for z in passes)

    image = torch.zeros(2, 1, 6, 6)
    loss = sum(method.losses(network, Labeled(image, labels), Unlabeled(weak=image), END).values())
    expected = papers_r_drop(*passes, labels)
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(*(torch.autograd.grad(each, passes) for each in (loss, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_dhc_takes_half_for_the_dice_of_a_class_that_is_not_there():
    method = DHC(**DHC.presets["published"])
    method.task = task(2, 3)
    method.setup(Net(tiny_network(2, 3), kind(3)), lambda: tiny_network(2, 3, seed=1))
    difficulty, distribution = method.debiasing
    labels = torch.tensor([[[0.0] * 8 + [1.0] * 2]])
    difficulty.update(labels[:, 0].long(), None, method.task.target(labels))
    assert difficulty.dice.tolist() == pytest.approx([1, 1, 0.5])
    assert difficulty.seen.all() and not distribution.skip_absent
    assert DHC().absent == "skip"


def test_cct_has_the_medical_codes_structure():
    assert CCT.of_preset("published") == (CCTPublished, {"weight": 0.2, "perturb": True, "rampup": 1.0})
    assert CCT.presets["official"] == {"weight": 30.0, "rampup": 0.1}


def cut_share(views, images):
    """Share of the voxels that a box has flattened to the patch's mean."""
    return (views == images.mean((2, 3), keepdim=True)).float().mean((1, 2, 3))


def test_cutout_follows_the_policy_of_each_strong_view():
    torch.manual_seed(0)
    images = torch.randn(64, 1, 24, 24)
    method = FixMatchCTA(**FixMatchCTA.presets["published"] | {"depth": 0})
    views = method.strong_view(Unlabeled(images))
    share = cut_share(views, images)
    assert share.min() > 0.05 and 0.24 < share.max() < 0.26  # half of each side, of which a part may lie outside
    assert ((views == images) | (views == images.mean((2, 3), keepdim=True))).all()
    assert torch.equal(FixMatchCTA(depth=0).strong_view(Unlabeled(images)), images)
    method = FixMatchCTA(**FixMatchCTA.presets["published"])
    operations, levels = method.strong_policy(64)
    assert operations.shape == levels.shape == (64, 3)
    assert (operations[:, 2] == list(OPERATIONS).index("cutout")).all() and (levels[:, 2] == 1).all()
    assert FixMatchCTA().strong_policy(64).operations.shape == (64, 2)


@pytest.mark.parametrize("method", [BCP, CutMix])
def test_no_view_is_asked_for_that_the_published_step_does_not_read(method):
    chosen, values = method.of_preset("published")
    assert chosen(**values).views == ("weak",)
    assert method().views == method.views == ("weak", "strong")
