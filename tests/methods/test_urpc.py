"""URPC against its closed forms, in one process and in two."""

import pytest
import torch
from torch import multiprocessing as mp
from workbench import kind, one_rank, task, tiny_network
from workbench import output as output_of

from nnunet_ssl.losses.divergence import kl
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.urpc import URPC, full_size, pyramid_consistency, scale_means
from nnunet_ssl.networks.net import Net

END = Now(step=99, epoch=9, fraction=1.0)
SCALES = ([2.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0])


def voxels(*logits) -> torch.Tensor:
    """Logits of one voxel each, along the first spatial axis, (1, C, voxels, 1)."""
    return torch.tensor(logits).T[None, :, :, None].clone().requires_grad_()


def log_mean(scales):
    return torch.stack([kind(2).log_probs(scale) for scale in scales]).exp().mean(0).log()


def close(actual, expected):
    torch.testing.assert_close(torch.as_tensor(actual).flatten(), torch.tensor(expected), atol=1e-6, rtol=0)


def per_scale(scales):
    """D and w averaged over voxels, and l, of each scale."""
    mean = log_mean(scales)
    rectified, weight, divergence = torch.stack([scale_means(mean, kind(2).log_probs(z), kind(2)) for z in scales]).T
    return divergence, weight, rectified / weight + divergence


def test_one_voxel():
    scales = [voxels(logits) for logits in SCALES]
    close(torch.cat([z.softmax(1)[:, 0] for z in scales]), [0.880797, 0.731059, 0.5, 0.268941])
    close(log_mean(scales).exp(), [0.595199, 0.404801])
    divergence, weight, loss = per_scale(scales)
    close(divergence, [0.261619, 0.043152, 0.018237, 0.233551])
    close(weight, [0.769804, 0.957766, 0.981928, 0.791717])
    close(loss, [0.343185, 0.061610, 0.027300, 0.339995])
    consistency, mean_divergence = pyramid_consistency(scales, kind(2))
    assert consistency.item() == pytest.approx(0.193022, abs=1e-6)
    assert mean_divergence.item() == pytest.approx(sum([0.261619, 0.043152, 0.018237, 0.233551]) / 4, abs=1e-6)


def test_gradient_flows_through_mean_and_weights():
    scales = [voxels(logits) for logits in SCALES]
    pyramid_consistency(scales, kind(2))[0].backward()
    close(torch.cat([z.grad[:, 0] for z in scales]), [0.083387, 0.041693, -0.042856, -0.119266])
    close(torch.cat([z.grad[:, 1] for z in scales]), [-0.083387, -0.041693, 0.042856, 0.119266])


def test_gradient_over_several_voxels_is_that_of_the_formula():
    """With one voxel w cancels; here a detached w or m gives another gradient."""
    torch.manual_seed(0)
    scales = [(2 * torch.randn(2, 3, 4, 4)).requires_grad_() for _ in range(3)]
    exact = [z.detach().double().requires_grad_() for z in scales]
    p = torch.stack([z.softmax(1) for z in exact])
    m = p.mean(0)
    d = (m * (m.log() - p.log())).sum(2, keepdim=True)
    w = torch.exp(-d)
    axes = (1, 2, 3, 4)
    expected = (((p - m) ** 2 * w).mean(axes) / (w.mean(axes) + 1e-8) + d.mean(axes)).mean()
    expected.backward()
    consistency = pyramid_consistency(scales, kind(2))[0]
    consistency.backward()
    assert consistency.item() == pytest.approx(expected.item(), abs=1e-6)
    for mine, theirs in zip(scales, exact, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad.float(), atol=1e-7, rtol=1e-4)


def test_the_divergence_of_the_paper_has_the_other_direction():
    scales = [voxels(logits) for logits in SCALES]
    papers = torch.stack([kl(output_of(z), output_of(log_mean(scales)[0])) for z in scales])
    close(papers, [0.199478, 0.040333, 0.018463, 0.218480])
    close((-papers).exp(), [0.819158, 0.960469, 0.981707, 0.803740])
    assert ((per_scale(scales)[0] - papers.flatten()).abs() > 1e-4).all()


def test_means_run_over_voxels_before_the_ratio():
    scales = [voxels(logits, [0.0, 0.0]) for logits in SCALES]
    assert pyramid_consistency(scales, kind(2))[0].item() == pytest.approx(0.093578, abs=1e-6)
    close(per_scale(scales)[2], [0.166288, 0.030606, 0.013609, 0.163811])


@pytest.mark.parametrize("regions", [False, True])
def test_confident_networks_give_finite_losses(regions):
    scales = [voxels([200.0, 0.0]), voxels([0.0, 0.0]), voxels([-1000.0, 1000.0])]
    for used in (scales[:2], scales):
        consistency = pyramid_consistency(used, kind(2, regions))[0]
        consistency.backward()
        assert torch.isfinite(consistency)
        assert all(torch.isfinite(z.grad).all() for z in used)


@pytest.mark.parametrize("regions", [False, True])
def test_equal_scales_give_zero_and_no_gradient(regions):
    scales = [torch.full((2, 3, 4, 4, 4), 0.7).requires_grad_() for _ in range(3)]
    for z in scales:
        z.data[:, 1] = -1.2
    consistency, divergence = pyramid_consistency(scales, kind(2, regions))
    consistency.backward()
    assert consistency.item() == pytest.approx(0, abs=1e-6) and divergence.item() == pytest.approx(0, abs=1e-6)
    assert all(z.grad.abs().max() < 1e-7 for z in scales)


def test_a_region_equals_two_classes():
    regions = [voxels([first - second]) for first, second in SCALES]
    consistency = pyramid_consistency(regions, kind(2, True))[0]
    assert consistency.item() == pytest.approx(0.193022, abs=1e-6)
    consistency.backward()
    close(torch.cat([z.grad[:, 0] for z in regions]), [0.083387, 0.041693, -0.042856, -0.119266])


def test_scales_become_full_size_linearly_also_along_one_axis():
    logits = torch.tensor([[[[0.0, 2.0]]]])
    assert full_size(logits, (1, 4)).flatten().tolist() == [0.0, 0.5, 1.5, 2.0]
    assert full_size(logits, (1, 4), nearest=True).flatten().tolist() == [0.0, 0.0, 2.0, 2.0]
    assert full_size(torch.zeros(2, 3, 4, 5, 6, dtype=torch.bfloat16), (4, 10, 12)).shape == (2, 3, 4, 10, 12)
    assert full_size(torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16), (8, 8)).dtype == torch.float32


def test_the_published_2d_code_takes_the_nearest_voxel():
    """Of two scales in 2D (1, 4) and (1, 2); in 3D it interpolates linearly, too."""
    full, half = voxels(*SCALES), voxels([1.0, 0.0], [0.0, 2.0])
    exact, nearest = (pyramid_consistency([full, half], kind(2), nearest)[0] for nearest in (False, True))
    repeated = pyramid_consistency([full, half.repeat_interleave(2, 2)], kind(2))[0]
    torch.testing.assert_close(nearest, repeated)
    assert (nearest - exact).abs() > 0.01
    for dimensions, same in ((2, False), (3, True)):
        consistencies = []
        for nearest_in_2d in (False, True):
            net, method = ready(dimensions, perturb=False, nearest_in_2d=nearest_in_2d)
            consistencies.append(method.losses(net, *batches(dimensions), END)["consistency"].item())
        assert (consistencies[0] == consistencies[1]) == same


def pyramid(seed=0):
    """Two scales of 4 patches that disagree more in some patches than in others."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(4, 1, 1, 1)
    return [spread * torch.randn(4, 3, size, size, generator=generator) for size in (8, 4)]


def rank_gradient(rank, world, folder):
    with one_rank(rank, world, folder):
        part = [logits[2 * rank : 2 * rank + 2].clone().requires_grad_() for logits in pyramid()]
        consistency, divergence = pyramid_consistency(part, kind(2))
        consistency.backward()
        torch.save(([logits.grad / 2 for logits in part], consistency.detach(), divergence), folder / f"result_{rank}")


def test_the_ratio_over_two_processes_is_that_of_the_joint_batch(tmp_path):
    mp.spawn(rank_gradient, (2, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"result_{rank}", weights_only=True) for rank in range(2)]
    joint = [logits.clone().requires_grad_() for logits in pyramid()]
    consistency, divergence = pyramid_consistency(joint, kind(2))
    consistency.backward()
    for index, logits in enumerate(joint):  # gradients are averaged over ranks: each brings half
        torch.testing.assert_close(torch.cat([rank[0][index] for rank in ranks]), logits.grad)
    for rank in ranks:
        torch.testing.assert_close(rank[1:], (consistency.detach(), divergence))
    halves = [pyramid_consistency([z[part] for z in pyramid()], kind(2))[0] for part in (slice(2), slice(2, 4))]
    assert abs(sum(halves) / 2 - consistency.item()) > 1e-3  # the mean of the ranks' ratios is another number


def ready(dimensions=2, scale_weights=(2 / 3, 1 / 3), network=None, **arguments):
    net = Net(network or tiny_network(dimensions, 3), kind(3))
    method = URPC(**arguments)
    method.task = task(dimensions, 3, scale_weights=scale_weights)
    method.supervised = lambda output, target: sum(z.square().mean() for z in output.pyramid)
    method.setup(net, lambda: tiny_network(dimensions, 3))
    return net, method


def batches(dimensions=2):
    torch.manual_seed(1)
    size = [16] * dimensions
    return Labeled(torch.randn(2, 1, *size), torch.zeros(2)), Unlabeled(torch.randn(3, 1, *size))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_only_lower_outputs_of_unlabeled_patches_vary_in_training(dimensions):
    net, method = ready(dimensions)
    labeled, unlabeled = batches(dimensions)
    consistencies, supervised = [], []
    for _ in range(2):
        terms = method.losses(net, labeled, unlabeled, END)
        consistencies.append(terms["consistency"].item())
        supervised.append(terms["supervised"].item())
    assert consistencies[0] != consistencies[1]
    assert supervised[0] == supervised[1]
    (seg, output), (same, other) = (net(labeled.image, unlabeled.weak) for _ in range(2))
    assert torch.equal(output.logits, other.logits)
    assert not torch.equal(output.pyramid[1], other.pyramid[1])
    assert all(torch.equal(a, b) for a, b in zip(seg.pyramid, same.pyramid, strict=True))
    net.module.eval()
    first, second = (net(unlabeled.weak) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.pyramid, second.pyramid, strict=True))


def test_the_supervised_gradient_is_that_without_perturbation():
    found = []
    for perturb in (True, False):
        net, method = ready(perturb=perturb)
        method.losses(net, *batches(), END)["supervised"].backward()
        found.append([parameter.grad for parameter in net.module.parameters()])
    for perturbed, clean in zip(*found, strict=True):
        torch.testing.assert_close(perturbed, clean)


def test_each_scale_has_its_own_perturbation():
    """At most four scales: noise at the second, F-Drop at the third, dropout of one half at the fourth, no more."""

    class Heads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = torch.nn.Module()
            self.decoder.seg_layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(6))

    network = Heads()
    net, method = Net(network, kind(3)), URPC()
    method.task = task(scale_weights=(0.5, 0.2, 0.1, 0.1, 0.1, 0.0))
    method.setup(net, None)
    method.heads.first = 1
    assert method.scales == 4
    torch.manual_seed(0)
    features = torch.linspace(0.01, 1, 400).view(1, 1, 20, 20).repeat(2, 4, 1, 1)
    lowest, fifth, fourth, third, second, full = (head(features) for head in network.decoder.seg_layers)
    for untouched in (lowest, fifth, full, fourth[:1], third[:1], second[:1]):
        assert torch.equal(untouched, features[: len(untouched)])
    assert 0.25 < (second[1:] / features[1:] - 1).abs().max() <= 0.3 + 1e-5
    kept = third[1:] != 0
    assert 0.69 < kept.float().mean() < 0.91 and features[1:][kept].max() <= features[1:][~kept].min()
    assert torch.equal(third[1:][kept], features[1:][kept])
    assert 0.4 < (fourth[1:] == 0).float().mean() < 0.6


def test_scales_that_nnunet_leaves_out_do_not_count():
    assert ready(scale_weights=(0.5, 0.3, 0.2, 0.0), perturb=False)[1].scales == 3
    assert ready(scale_weights=(0.6, 0.4, 5e-7), perturb=False)[1].scales == 2  # the same with DDP


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0)])
def test_fewer_than_two_scales_are_refused(weights):
    with pytest.raises(NotImplementedError, match="needs two"):
        ready(scale_weights=weights)


def test_networks_without_heads_by_scale_are_refused():
    with pytest.raises(NotImplementedError, match="no decoder.seg_layers"):
        ready(network=torch.nn.Conv2d(1, 2, 3))
