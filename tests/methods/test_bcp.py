"""BCP: what is pasted into what, both of its steps by hand, and its phases."""

import pytest
import torch
from torch import multiprocessing as mp
from workbench import kind, one_rank, target, task, tiny_network
from workbench import output as output_of

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.bcp import BCP
from nnunet_ssl.methods.bcp_published import BCPPublished, Mixed
from nnunet_ssl.networks.net import Net, Output

BEFORE, AFTER = Now(step=5, epoch=0, fraction=0.1), Now(step=90, epoch=9, fraction=0.9, phase=1)


class Voxelwise(torch.nn.Module):
    """Logits (x, -x): class 0 where the image is positive."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, image):
        return torch.cat((self.w * image, -self.w * image), 1)


def made(net, ignore_label=None, regions=False, batch_dice=False, step=BCP, **arguments):
    """A method whose loss of nnU-Net keeps what it is called with in `method.seen`."""
    method = step(**arguments)
    method.task = task(2, 2, regions, scale_weights=(1.0,), ignore_label=ignore_label, batch_dice=batch_dice)
    method.seen = []
    method.supervised = lambda output, target: method.seen.append((output, target)) or output.logits.square().mean()
    method.setup(net, None)
    return method


def streams(labeled=4, unlabeled=4):
    """Labeled images are 100 with label 1, weak views -1 (pseudo-label 1, see `Voxelwise`) or 1, strong ones 7."""
    image = torch.full((labeled, 1, 12, 12), 100.0)
    weak = torch.ones(unlabeled, 1, 12, 12)
    weak[..., :6] = -1
    return Labeled(image, target(torch.ones(labeled, 1, 12, 12), 2)), Unlabeled(weak, torch.full_like(weak, 7.0))


def test_before_the_start_it_is_nnunets_own_step():
    net = Net(tiny_network(2, 2), kind(2))
    method = made(net)
    labeled, unlabeled = streams()
    terms = method.losses(net, labeled, unlabeled, BEFORE)
    assert list(terms) == ["supervised"]
    assert method.seen[0][1] is labeled.target
    torch.testing.assert_close(method.seen[0][0].logits, net.predict(labeled.image).logits)


@pytest.mark.parametrize(("labeled", "unlabeled"), [(4, 4), (2, 5), (3, 1)])
def test_boxes_go_both_ways_with_the_labels_of_both(labeled, unlabeled):
    torch.manual_seed(0)
    net = Net(Voxelwise(), kind(2))
    method = made(net, side=0.5, probability=1.0, weight=3.0)
    terms = method.losses(net, *streams(labeled, unlabeled), AFTER)
    (seg, _), (mixed, of_mixed) = method.seen
    pasted = of_mixed.full
    assert len(seg.logits) == labeled and len(mixed.logits) == len(pasted) == unlabeled
    from_labeled = mixed.logits[:, :1] == 100
    assert ((mixed.logits[:, :1] == 7) | from_labeled).all()
    box = 6 * 6
    counts = from_labeled.flatten(1).sum(1).tolist()
    into_labeled = counts.count(144 - box)
    assert counts == [144 - box] * into_labeled + [box] * (unlabeled - into_labeled)
    assert into_labeled in (unlabeled // 2, unlabeled - unlabeled // 2)
    expected = torch.zeros(unlabeled, 1, 12, 12)
    expected[..., :6] = 1  # pseudo-labels of the weak view
    assert torch.equal(pasted, torch.where(from_labeled, 1.0, expected))
    assert terms["mixed"].item() == pytest.approx(3 * mixed.logits.square().mean().item())
    assert terms["supervised"].item() == pytest.approx(10000)
    assert method.report["pseudo_foreground"] == 0.5


def test_pairs_that_are_not_mixed_are_unlabeled_patches_as_they_are():
    torch.manual_seed(0)
    net = Net(Voxelwise(), kind(2))
    method, mixed = made(net), []
    for _ in range(50):
        method.losses(net, *streams(), AFTER)
        mixed.append((method.seen[-1][0].logits[:, 0] == 100).flatten(1).any(1))
    mixed = torch.stack(mixed).float()
    assert mixed.mean().item() == pytest.approx(0.5, abs=0.1)
    assert (mixed.mean(0) > 0.3).all()  # of both directions
    method = made(net, probability=0.0)
    method.losses(net, *streams(), AFTER)
    assert (method.seen[-1][0].logits[:, 0] == 7).all()


@pytest.mark.parametrize("pairs", [1, 3])
def test_the_odd_pair_goes_either_way(pairs):
    """A batch of two on two GPUs has one pair on each."""
    torch.manual_seed(0)
    boxes = torch.zeros(pairs, 1, 2, 2, dtype=torch.bool)
    into_labeled = torch.stack([BCP().directions(boxes)[1].sum() for _ in range(400)]) - pairs // 2
    assert set(into_labeled.tolist()) == {0, 1}
    assert into_labeled.float().mean().item() == pytest.approx(0.5, abs=0.08)
    for seed in range(5):
        torch.manual_seed(seed)
        first = BCP().directions(boxes)
        torch.manual_seed(seed)
        assert all(map(torch.equal, first, BCP().directions(boxes)))


def test_of_an_even_number_half_goes_each_way_without_a_draw():
    torch.manual_seed(0)
    boxes = torch.ones(4, 1, 2, 2, dtype=torch.bool)
    boxes[..., 0] = False
    from_labeled, is_in = BCP().directions(boxes)
    torch.manual_seed(0)
    chosen = torch.rand(4) < 0.5
    assert is_in.tolist() == [True, True, False, False]
    assert from_labeled[:, 0, 0].tolist() == [
        [bool(mixed and into), bool(mixed and not into)] for mixed, into in zip(chosen, is_in, strict=True)
    ]


@pytest.mark.parametrize("preset", ["default", "published"])
def test_one_pair_makes_both_kinds_of_patches(preset):
    torch.manual_seed(0)
    net, seen = Net(Voxelwise(), kind(2)), []
    step, values = BCP.of_preset(preset)
    method = made(net, step=step, **(values | {"side": 0.5} | ({"probability": 1.0} if step is BCP else {})))
    network = net.network
    net.network = lambda image: seen.append(image[-1:]) or network(image)
    for _ in range(20):
        terms = method.losses(net, *streams(1, 1), AFTER)
        assert all(torch.isfinite(term) for term in terms.values())
    assert {(image == 100).sum().item() for image in seen} == {36, 144 - 36}


def test_sides_of_the_boxes():
    """Those of the paper's code: int(2/3 of the side), 0.289210, 0.440979 and 0.288889 of the volume."""
    method = BCP()
    for patch, lengths in (((112, 112, 80), (74, 74, 53)), ((256, 256), (170, 170)), ((40, 192, 192), (26, 128, 128))):
        boxes = method.boxes(torch.zeros(1, 1, *patch))
        share = torch.tensor(lengths).prod() / torch.tensor(patch).prod()
        assert boxes.float().mean().item() == pytest.approx(share.item(), abs=1e-6)


def test_the_teacher_is_the_student_when_its_phase_begins():
    net = Net(tiny_network(2, 2, seed=0), kind(2))
    method = made(net)
    with torch.no_grad():
        for parameter in net.module.parameters():
            parameter.add_(1)
    method.begin_phase(net, 1)
    assert method.phases == (0.5,)
    for mine, theirs in zip(method.teacher.module.parameters(), net.module.parameters(), strict=True):
        assert torch.equal(mine, theirs) and not mine.requires_grad


def apart(method, logits, labels, from_labeled, is_in):
    """The paper's terms for mixed patches with these logits and labels, where R is given by `from_labeled`."""
    mixed = Mixed(None, method.task.target(labels), from_labeled, is_in)
    return method.terms(Output([logits], method.task.kind), mixed, weight=1.0)


LOGITS = torch.tensor([[[0.0, 2, 0, -1], [1, 0, 0, 3]]])
LABELED = torch.tensor([[[True, True, False, False]]])
INSIDE = torch.tensor([True])


def test_the_papers_loss_by_hand():
    method = made(Net(Voxelwise(), kind(2)), step=BCPPublished)
    terms = apart(method, LOGITS, torch.tensor([[[1.0, 0, 1, 1]]]), LABELED, INSIDE)
    # cross-entropy 0.220095 and 0.355648; nnU-Net's Dice of the foreground 0.790222 and 0.851239
    assert terms["supervised"].item() == pytest.approx(0.220095 - 0.790222, abs=1e-5)
    assert terms["pseudo"].item() == pytest.approx(0.5 * (0.355648 - 0.851239), abs=1e-5)


# x_in, of which three voxels are labeled, and x_out, of which one is: cross-entropies 0.313262, 0.126928, 0.693147 and
# 0.018150 of either; Dice of a region's foreground 2 overlap / (sum p + sum y), p = 0.731059, 0.119203, 0.5, 0.982014
BOTH, TARGETS = LOGITS.repeat(2, 1, 1), torch.tensor([[[1.0, 0, 1, 1]], [[1.0, 0, 1, 1]]])
OF_BOTH, KINDS = torch.tensor([[[True, True, True, False]], [[False, False, False, True]]]), torch.tensor([True, False])
LARGE, SMALL = (0.313262 + 0.126928 + 0.693147) / 3, 0.018150
DICE_OF_LARGE, DICE_OF_SMALL = 2 * 1.231059 / (1.350262 + 2), 2 * 0.982014 / 1.982014


@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_papers_loss_is_the_mean_of_both_kinds_of_patches_apart(batch_dice):
    method = made(Net(Voxelwise(), kind(2)), step=BCPPublished, batch_dice=batch_dice)
    terms = apart(method, BOTH, TARGETS, OF_BOTH, KINDS)
    expected = (LARGE + SMALL - DICE_OF_LARGE - DICE_OF_SMALL) / 2
    assert terms["supervised"].item() == pytest.approx(expected, abs=1e-5)
    assert terms["pseudo"].item() == pytest.approx(0.5 * expected, abs=1e-5)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_several_patches_of_one_kind_are_one_region(batch_dice):
    """Of the labeled voxels: those of two patches x_in together, and those of x_out."""
    method = made(Net(Voxelwise(), kind(2)), step=BCPPublished, batch_dice=batch_dice)
    rows = [0, 0, 1]
    terms = apart(method, BOTH[rows], TARGETS[rows], OF_BOTH[rows], KINDS[rows])
    assert terms["supervised"].item() == pytest.approx((LARGE + SMALL - DICE_OF_LARGE - DICE_OF_SMALL) / 2, abs=1e-5)


def papers_gradient(rows, batch_dice=False):
    """Gradient of the paper's loss for some of five patches, the first three x_in."""
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 2, 12, 12), torch.randint(0, 2, (5, 1, 12, 12)).float()
    from_labeled = torch.rand(5, 1, 12, 12) < torch.tensor([0.7, 0.7, 0.7, 0.3, 0.3]).view(5, 1, 1, 1)
    part = logits[rows].clone().requires_grad_()
    method = made(Net(Voxelwise(), kind(2)), step=BCPPublished, batch_dice=batch_dice)
    kinds = torch.tensor([True, True, True, False, False])
    sum(apart(method, part, labels[rows], from_labeled[rows], kinds[rows]).values()).backward()
    return part.grad


PARTS = {"one pair on each": ([0], [4]), "all the same": ([0], [1]), "odd": ([0, 1, 3], [2, 3, 4])}


def papers_gradient_of_rank(rank, world, folder):
    with one_rank(rank, world, folder):
        found = {(name, dice): papers_gradient(PARTS[name][rank], dice) for name in PARTS for dice in (False, True)}
        torch.save(found, folder / f"{rank}")


def test_the_papers_loss_on_two_ranks_is_that_of_the_joint_batch(tmp_path):
    mp.spawn(papers_gradient_of_rank, (2, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}") for rank in range(2)]
    for name, rows in PARTS.items():
        for dice in (False, True):
            together = torch.cat([rank[name, dice] for rank in ranks]) / 2
            torch.testing.assert_close(together, papers_gradient(sum(rows, []), dice), msg=f"{name}, {dice}")


def test_ignored_voxels_do_not_count_in_the_papers_loss():
    method = made(Net(Voxelwise(), kind(2)), ignore_label=2, step=BCPPublished)
    terms = apart(method, LOGITS, torch.tensor([[[1.0, 2, 1, 1]]]), LABELED, INSIDE)
    assert terms["supervised"].item() == pytest.approx(0.313262 - 2 * 0.731059 / 1.731059, abs=1e-5)


def test_regions_of_the_papers_loss_and_of_pseudo_labels():
    net = Net(Voxelwise(), kind(2, True))
    method = made(net, ignore_label=3, regions=True, step=BCPPublished)
    labels = torch.tensor([[[1.0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 0]]])  # two regions, and what is ignored
    terms = apart(method, LOGITS, labels, LABELED, INSIDE)
    # of the first voxel alone: channels (0 -> 1) and (1 -> 0); with an ignore label nnU-Net sums over regions
    assert terms["supervised"].item() == pytest.approx(0.693147 + 1.313262 - (1 / 1.5 + 0) / 2, abs=1e-5)
    pseudo = method.task.target(labels).form(output_of(LOGITS, True).hard)
    assert pseudo.tolist() == [[[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]]


def test_the_papers_step_has_mixed_patches_alone():
    torch.manual_seed(0)
    net, seen = Net(Voxelwise(), kind(2)), []
    method = made(net, side=0.5, step=BCPPublished)
    network = net.network
    net.network = lambda image: seen.append(image) or network(image)
    labeled, unlabeled = streams()
    assert list(method.losses(net, labeled, unlabeled, AFTER)) == ["supervised", "pseudo"]
    assert seen[0].shape == (4, 1, 12, 12) and set(seen[0].unique().tolist()) == {-1, 1, 100}

    numbered = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 12, 12)
    method.losses(net, Labeled(numbered, target(numbered, 2)), unlabeled, BEFORE)
    assert torch.equal(method.seen[-1][1].full, seen[1])  # labels are pasted as images are
    for patch, number in zip(seen[1], range(4), strict=True):
        assert (patch == number).sum() == 144 - 36 and (patch == (number - 1) % 4).sum() == 36


def test_pseudo_labels_under_true_ones_do_not_matter():
    method = made(Net(Voxelwise(), kind(2)), step=BCPPublished)
    labels = torch.tensor([[[1.0, 0, 1, 1]]])
    first, second = (
        apart(method, LOGITS, each, LABELED, INSIDE)["pseudo"]
        for each in (labels, torch.where(LABELED, 1 - labels, labels))
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("arguments", [{"start": 0}, {"start": 1}, {"side": 1.1}, {"probability": 2}])
def test_values_out_of_range(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} = "):
        BCP(**arguments)
