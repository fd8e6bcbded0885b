"""CutMix: its boxes, what is pasted, and its losses against nnU-Net's and by hand."""

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from workbench import kind, task, tiny_network
from workbench import output as output_of

from nnunet_ssl.augmentation.boxes import cut
from nnunet_ssl.losses.confidence import admitted_supervised
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.cutmix import CutMix
from nnunet_ssl.methods.cutmix_published import CutMixPublished, draw_boxes
from nnunet_ssl.networks.net import Net

BEFORE, NOW = Now(step=5, epoch=0, fraction=0.1), Now(step=90, epoch=9, fraction=0.9, phase=1)


@pytest.mark.parametrize("patch", [(200, 160), (64, 80, 48)])
def test_boxes_have_their_share_of_the_volume_and_lie_anywhere(patch):
    torch.manual_seed(0)
    boxes = draw_boxes(torch.zeros(64, 2, *patch), 0.25)
    assert boxes.shape == (64, 1, *patch) and boxes.dtype == torch.bool
    assert boxes.float().mean().item() == pytest.approx(0.25, abs=0.01)
    lengths = []
    for axis in range(len(patch)):
        others = tuple(a for a in range(len(patch)) if a != axis)
        profile = boxes[:, 0].any(dim=tuple(a + 1 for a in others))
        lengths.append(profile.sum(1))
        assert ((profile.int().diff(dim=1) != 0).sum(1) <= 2).all()  # one run of voxels
        assert profile.any(0).float().mean() > 0.97  # from edge to edge
    assert torch.equal(torch.stack(lengths).prod(0), boxes.flatten(1).sum(1))  # a box, and nothing else
    assert all((length / size).std() > 0.1 for length, size in zip(lengths, patch, strict=True))  # any aspect


def test_no_volume_is_no_box_and_all_of_it_the_whole_patch():
    assert not draw_boxes(torch.zeros(3, 1, 16, 16), 0).any()
    assert draw_boxes(torch.zeros(3, 1, 16, 16), 1).all()


def test_the_box_comes_from_the_entry_before():
    batch = torch.tensor([[[1.0, 2, 3, 4]], [[10, 20, 30, 40]], [[5, 6, 7, 8]]])
    boxes = torch.tensor([[[0, 1, 1, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 0]]], dtype=torch.bool)
    assert cut(batch, boxes).tolist() == [[[1, 6, 7, 4]], [[1, 20, 30, 40]], [[5, 6, 7, 8]]]


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(
    ("dimensions", "channels", "regions", "ignore"),
    [(2, 2, False, None), (3, 4, False, None), (3, 4, False, 4), (2, 3, True, None), (2, 3, True, 4)],
)
def test_the_loss_is_nnunets_where_all_is_admitted(dimensions, channels, regions, ignore, batch_dice):
    torch.manual_seed(1)
    sizes = [(2, *[16] * dimensions), (2, *[8] * dimensions)]
    pyramid = [torch.randn(2, channels, *size[1:]) for size in sizes]
    if regions:
        labels = torch.randint(0, 2, (2, channels, *sizes[0][1:])).float()
    else:
        labels = torch.randint(0, channels, sizes[0])
    target = labels if regions else labels[:, None].float()
    if regions and ignore:  # of pseudo-labels nothing is ignored
        target = torch.cat((target, torch.zeros_like(target[:, :1])), 1)
    targets = [target, torch.nn.functional.interpolate(target, sizes[1][1:], mode="nearest-exact")]
    dice = {"batch_dice": batch_dice, "do_bg": regions, "smooth": 1e-5, "ddp": False}
    parts = {"dice_class": MemoryEfficientSoftDiceLoss}
    if regions:
        loss = DC_and_BCE_loss({}, dice, use_ignore_label=ignore is not None, **parts)
    else:
        loss = DC_and_CE_loss(dice, {}, ignore_label=ignore, **parts)
    expected = DeepSupervisionWrapper(loss, [2 / 3, 1 / 3])(pyramid, targets)
    of = task(dimensions, channels, regions, batch_dice=batch_dice, ignore_label=ignore)
    found = admitted_supervised(output_of(pyramid, regions), labels, torch.ones_like(labels, dtype=torch.bool), of)
    torch.testing.assert_close(found, expected)
    alone = admitted_supervised(output_of(pyramid[:1], regions), labels, torch.ones_like(labels, dtype=torch.bool), of)
    torch.testing.assert_close(alone, loss(pyramid[0], target))


@pytest.mark.parametrize("regions", [False, True])
def test_what_is_not_admitted_does_not_count(regions):
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    labels = torch.randint(0, 2, (2, 3, 8, 8) if regions else (2, 8, 8))
    labels = labels.float() if regions else labels
    admitted = torch.rand(labels.shape) < 0.5
    of = task(2, 3, regions, scale_weights=(1.0,))
    loss = admitted_supervised(output_of(logits, regions), labels, admitted, of)
    [gradient] = torch.autograd.grad(loss, logits)
    kept = admitted if regions else admitted[:, None].expand_as(logits)
    assert (gradient[~kept] == 0).all() and (gradient[kept] != 0).all()
    other = torch.where(admitted, labels, 1 - labels)
    assert torch.equal(admitted_supervised(output_of(logits, regions), other, admitted, of), loss)
    none = admitted_supervised(output_of(logits, regions), labels, torch.zeros_like(admitted), of)
    [gradient] = torch.autograd.grad(none, logits)
    assert none.item() == pytest.approx(-1) and (gradient == 0).all()


def test_the_numbers_of_two_voxels():
    logits = torch.tensor([[[0.0, 0.0], [0.0, 2.0]]]).requires_grad_()  # (1, 2, 2): p of the foreground 0.5, 0.880797
    labels, admitted = torch.tensor([[0, 1]]), torch.tensor([[False, True]])
    loss = admitted_supervised(output_of(logits), labels, admitted, task(1, 2, scale_weights=(1.0,)))
    # cross-entropy 0.126928 of one of two voxels; Dice 2 * 0.880797 / (0.880797 + 1)
    assert loss.item() == pytest.approx(0.126928 / 2 - 0.936621, abs=1e-5)


def made(net, step=CutMix, **arguments):
    method = step(**arguments)
    method.task = task(2, 3, scale_weights=(1.0,))
    method.supervised = lambda output, target: output.logits.square().mean()
    method.setup(net, None)
    return method


class Voxelwise(torch.nn.Module):
    """Three logits of each voxel that depend on it alone."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 1)

    def forward(self, image):
        return self.conv(image)


def test_image_and_labels_are_pasted_alike():
    torch.manual_seed(3)
    net, weak = Net(Voxelwise(), kind(3)), torch.randn(2, 1, 16, 16)
    seen = {}
    method = made(net, threshold=0)
    method.pseudo = lambda student, teacher: seen.update(student=student, teacher=teacher) or student.logits.mean()
    method.losses(net, Labeled(weak, torch.zeros(1)), Unlabeled(weak, weak), NOW)
    torch.testing.assert_close(seen["teacher"].logits, seen["student"].logits)
    whole = net.predict(weak).logits
    assert not torch.equal(seen["teacher"].logits, whole)
    assert ((seen["teacher"].logits == whole) | (seen["teacher"].logits == whole.roll(1, 0))).all()


def test_the_papers_form_by_hand():
    net = Net(Voxelwise(), kind(3))
    method = made(net, CutMixPublished)
    student = output_of(torch.tensor([[[0.6, 0.2], [0.3, 0.2], [0.1, 0.6]]]).log())
    teacher = output_of(torch.tensor([[[0.98, 0.1], [0.01, 0.1], [0.01, 0.8]]]).log())
    # squares 0.38^2 + 0.29^2 + 0.09^2 and 0.1^2 + 0.1^2 + 0.2^2, half of the voxels admitted
    assert method.consistency(student, teacher).item() == pytest.approx(0.5 * (0.2366 + 0.06) / 2, abs=1e-6)
    assert method.report["admitted"] == 0.5


def test_the_paper_teaches_on_the_weak_view():
    net, seen = Net(tiny_network(2, 3), kind(3)), []
    for step in (CutMix, CutMixPublished):
        method, weak = made(net, step, volume=0), torch.zeros(2, 1, 16, 16)
        network, method.task = net.network, task(2, 3)
        net.network = lambda image: seen.append(image) or network(image)  # noqa: B023
        method.losses(net, Labeled(weak, torch.zeros(1)), Unlabeled(weak, weak + 1), NOW)
        net.network = network
    assert [images[2:].mean().item() for images in seen] == [1, 0]


def test_until_the_start_nnunets_loss_alone_then_the_student_is_the_teacher():
    net, weak = Net(Voxelwise(), kind(3)), torch.randn(2, 1, 16, 16)
    method, labeled, unlabeled = made(net), Labeled(weak, torch.zeros(1)), Unlabeled(weak, weak)
    assert method.phases == (0.5,)
    assert set(method.losses(net, labeled, unlabeled, BEFORE)) == {"supervised"}
    with torch.no_grad():
        for parameter in net.module.parameters():
            parameter.add_(1)
    method.begin_phase(net, 1)
    for mine, theirs in zip(method.teacher.module.parameters(), net.module.parameters(), strict=True):
        assert torch.equal(mine, theirs) and not mine.requires_grad
    assert set(method.losses(net, labeled, unlabeled, NOW)) == {"supervised", "pseudo"}


def test_the_paper_starts_with_the_first_step():
    net, weak = Net(Voxelwise(), kind(3)), torch.randn(2, 1, 16, 16)
    method = made(net, CutMixPublished)
    assert method.phases == ()
    assert "consistency" in method.losses(net, Labeled(weak, torch.zeros(1)), Unlabeled(weak, weak), BEFORE)


def test_one_patch_has_no_partner():
    method = CutMix()
    method.task = task(2, 3, unlabeled_batch_size=1)
    with pytest.raises(NotImplementedError, match="unlabeled_batch_size to 2 or more"):
        method.setup(Net(Voxelwise(), kind(3)), None)


@pytest.mark.parametrize("arguments", [{"threshold": 1.1}, {"volume": -0.1}, {"weight": -1}])
def test_values_out_of_range(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} = "):
        CutMix(**arguments)
