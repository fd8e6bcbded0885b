"""CReST: which pseudo-labels a generation takes and what they add; and the class weights of DHC's code."""

import pytest
import torch
from torch.nn import functional as F
from workbench import target as target_of
from workbench import task, tiny_architecture

from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.methods.cps import CPS
from nnunet_ssl.methods.crest import CReST, rates_of
from nnunet_ssl.methods.crest_dhc import CReSTDHC
from nnunet_ssl.networks.net import Net

COUNTS = torch.tensor([1000.0, 125.0, 8.0, 1.0], dtype=torch.float64)
FIRST, LATER = Now(0, 0, 0.0), Now(9, 9, 0.9, phase=1)


def ready(tiny_net, method=CReST, dimensions=2, channels=4, regions=False, counts=COUNTS, **arguments):
    net, made = tiny_net(dimensions, channels, regions), method(**arguments)
    made.task = task(dimensions, channels, regions, voxel_counts=lambda: counts)
    made.setup(net, tiny_architecture(dimensions, channels, seed=7))
    made.supervised = lambda output, target: F.cross_entropy(output.logits, target.labels)
    return net, made


def batch(dimensions=2, channels=4):
    torch.manual_seed(3)
    images = torch.randn(3, 2, 1, *[16] * dimensions)
    labels = torch.randint(0, channels, (2, 2, 1, *[16] * dimensions))
    truth, pseudo = (target_of([y, y[(..., *[slice(None, None, 2)] * dimensions)]], channels) for y in labels)
    return Labeled(images[0], truth), Unlabeled(images[1], images[2], pseudo)


def taken(rates, logits, regions=False):
    """The voxels that a method with these rates takes of logits (C, voxels), as a list."""
    method = CReST()
    method.task = task(2, len(logits), regions)
    method.setup(Net(torch.nn.Identity(), method.task.kind), None)
    method.rates = torch.tensor(rates)
    return method.known_voxels("case", torch.tensor(logits)[:, None, None]).flatten().tolist()


def test_rates_of_the_labeled_cases():
    assert rates_of(COUNTS, 3.0).tolist() == pytest.approx([0.1, 0.2, 0.5, 1.0])
    assert rates_of(COUNTS, 1.0).tolist() == pytest.approx([0.001, 0.008, 0.125, 1.0])


def test_a_class_that_no_case_has_is_not_taken_and_changes_no_other_rate():
    assert rates_of(torch.tensor([1000.0, 0.0, 125.0, 1.0]), 3.0).tolist() == pytest.approx([0.1, 0.0, 0.5, 1.0])
    assert rates_of(torch.zeros(3), 3.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((0.25, 0.5), [0, 0, 1, 0, 1, 0]),  # one of four, one of two: the surest
        ((0.5, 1.0), [0, 1, 1, 0, 1, 1]),
        ((0.0, 1.0), [0, 0, 0, 0, 1, 1]),
        ((1.0, 1.0), [1, 1, 1, 1, 1, 1]),
    ],
)
def test_of_each_class_the_surest_voxels_are_taken(rates, expected):
    background = [1.0, 2.0, 3.0, 0.5, -4.0, -0.1]  # against 0: the last two are foreground
    assert taken(rates, [background, [0.0] * 6]) == [bool(each) for each in expected]


def test_voxels_that_are_certain_in_float32_have_an_order():
    assert taken((0.5, 1.0), [[200.0, 150.0, 180.0, 190.0], [0.0] * 4]) == [True, False, False, True]


def test_a_case_without_a_class_takes_none_of_it():
    assert taken((0.5, 0.5, 1.0), [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]) == [False, True]


def test_the_sliding_windows_logits_are_taken_plane_by_plane_as_at_once(tiny_net):
    _, method = ready(tiny_net, dimensions=3)
    method.rates.copy_(torch.tensor([0.1, 0.2, 0.5, 1.0]))
    torch.manual_seed(0)
    logits = torch.randn(4, 6, 10, 12)
    known = method.known_voxels("case", logits)
    said, sure = logits.argmax(0), logits.softmax(0).amax(0)
    assert known.dtype == torch.bool and known.shape == (6, 10, 12)
    for number, rate in enumerate((0.1, 0.2, 0.5, 1.0)):
        of_it = said == number
        assert known[of_it].sum() == round(rate * int(of_it.sum()))
        assert sure[of_it & known].min() > sure[of_it & ~known].max() if rate < 1 else known[of_it].all()


def test_a_voxel_of_regions_counts_as_one_of_the_rarest_that_it_is_in():
    """Columns: in none, twice; in the large region, twice; in both, twice."""
    large, small = [-3.0, -2.0, 2.0, 3.0, 5.0, 4.0], [-3.0, -3.0, -3.0, -1.0, 1.0, 2.0]
    assert taken((0.5, 1.0, 0.5), [large, small], True) == [True, False, True, False, True, True]
    assert taken((0.5, 1.0, 0.0), [large, small], True) == [False, False, True, False, True, True]
    assert taken((1.0, 0.5, 0.0), [large, small], True) == [False, False, True, True, True, True]
    # of the small region no case has a label: what is said of it is not taken, though the large one is
    assert taken((1.0, 0.0, 0.5), [large, small], True) == [True, False, True, True, False, False]


@pytest.mark.parametrize(
    ("generations", "phases"), [(2, (0.5,)), (3, (1 / 3, 2 / 3)), (6, (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6))]
)
def test_generations_share_training_equally(generations, phases):
    assert CReST(generations=generations).phases == pytest.approx(phases)
    assert CReST.labeled_first and CReST().views == ("weak", "strong", "target")


def test_each_generation_starts_from_the_first_weights(tiny_net):
    net, method = ready(tiny_net)
    before = [parameter.clone() for parameter in net.module.parameters()]
    with torch.no_grad():
        for parameter in net.module.parameters():
            parameter.fill_(1.0)
    method.begin_phase(net, 1)
    assert all(map(torch.equal, net.module.parameters(), before))


def test_the_first_generation_has_labels_alone_and_counts_them_once(tiny_net):
    net, method = ready(tiny_net)
    assert set(method.losses(net, batch()[0], Unlabeled(), FIRST)) == {"supervised"}
    torch.testing.assert_close(method.state_dict()["rates"], torch.tensor([0.1, 0.2, 0.5, 1.0]))
    method.task = task(2, 4, voxel_counts=lambda: 1 / 0)
    method.losses(net, batch()[0], Unlabeled(), Now(1, 0, 0.1))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_terms_of_a_later_generation(tiny_net, dimensions):
    net, method = ready(tiny_net, dimensions=dimensions, weight=2.0, consistency=3.0, threshold=0.4)
    labeled, unlabeled = batch(dimensions)
    terms = method.losses(net, labeled, unlabeled, LATER)
    seg, strong = net(labeled.image, unlabeled.strong)
    q, y = net(unlabeled.weak).logits.softmax(1).max(1)
    torch.testing.assert_close(terms["supervised"], F.cross_entropy(seg.logits, labeled.target.labels))
    torch.testing.assert_close(terms["pseudo"], 2 * F.cross_entropy(strong.logits, unlabeled.target.labels))
    expected = ((q >= 0.4) * F.cross_entropy(strong.logits, y, reduction="none")).mean()
    assert 0 < (q >= 0.4).float().mean() == method.report["admitted"] < 1
    torch.testing.assert_close(terms["consistency"], 3 * expected)


def test_presets():
    assert CReST.of_preset("published") == (CReST, {"generations": 6, "consistency": 1.0})
    assert CReST.of_preset("dhc") == (CReSTDHC, {"alpha": 3.0, "momentum": 0.99, "weight": 0.1, "rampup": 1.0})


@pytest.mark.parametrize(
    "wrong", [{"generations": 1}, {"alpha": 0.5}, {"threshold": 1.1}, {"weight": -1.0}, {"consistency": -1.0}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="out of range"):
        CReST(**wrong)


# ---------------------------------------------------------------------- the class weights of DHC's code


def pair(tiny_net, supervised, counts=COUNTS, **arguments):
    """DHC's form and CPS on all patches with a supervised loss, of equal networks."""
    net, method = ready(tiny_net, CReSTDHC, counts=counts, **arguments)
    _, plain = ready(tiny_net, CPS, labeled_too=True)
    plain.supervised = supervised
    return net, method, plain


def nnunets(output, target):
    """CE - mean foreground Dice over both scales, by hand."""

    def of_scale(logits, labels):
        p, y = logits.softmax(1), F.one_hot(labels, 4).movedim(-1, 1)
        dice = (2 * (p * y).sum((2, 3)) + 1e-5) / (p.sum((2, 3)) + y.sum((2, 3)) + 1e-5)
        return F.cross_entropy(logits, labels) - dice[:, 1:].mean()

    first, second = (of_scale(z, y[:, 0]) for z, y in zip(output.pyramid, target.scales, strict=True))
    return (2 * first + second) / 3


def test_in_dhcs_code_equal_counts_give_cps_with_nnunets_loss(tiny_net):
    net, method, plain = pair(tiny_net, nnunets, torch.full((4,), 50.0), momentum=1.0)
    labeled, unlabeled = batch()
    terms, expected = (each.losses(net, labeled, unlabeled, FIRST) for each in (method, plain))
    assert [method.report[f"class_weight_A[channel_{c}]"] for c in range(4)] == [1, 1, 1, 1]
    assert terms.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term)


def test_in_dhcs_code_weights_follow_the_unlabeled_patches_of_each_network(tiny_net):
    net, method = ready(tiny_net, CReSTDHC)
    labeled, unlabeled = batch()
    method.losses(net, labeled, unlabeled, FIRST)
    for name, network in (("A", net), ("B", method.second)):
        n = network(unlabeled.weak).hard.flatten().bincount(minlength=4).float()
        mu = ((n + 1e-8) / (n.max() + 1e-8)) ** (1 / 3)
        order = sorted(range(4), key=lambda k: -mu[k])
        now = {order[rank]: mu[order[3 - rank]] for rank in range(4)}
        expected = [0.99 * first + 0.01 * now[k] for k, first in enumerate((0.1, 0.2, 0.5, 1.0))]
        reported = [method.report[f"class_weight_{name}[channel_{k}]"].item() for k in range(4)]
        assert reported == pytest.approx([float(value) for value in expected], abs=1e-6)


def test_in_dhcs_code_cross_entropies_are_weighted_by_the_learners_weights(tiny_net):
    net, method = ready(tiny_net, CReSTDHC, momentum=1.0, rampup=0.0, weight=1.0)
    method.debiasing[0].average.copy_(torch.tensor([0.1, 0.2, 0.5, 1.0]))
    method.debiasing[1].average.copy_(torch.tensor([1.0, 0.4, 0.3, 0.2]))
    labeled, unlabeled = batch()
    images = torch.cat((labeled.image, unlabeled.weak))
    a, b = net(images).logits, method.second(images).logits
    expected = F.cross_entropy(a, b.argmax(1), torch.tensor([0.1, 0.2, 0.5, 1.0]))
    expected = expected + F.cross_entropy(b, a.argmax(1), torch.tensor([1.0, 0.4, 0.3, 0.2]))
    torch.testing.assert_close(method.losses(net, labeled, unlabeled, LATER)["cross"], expected)


def test_in_dhcs_code_the_first_network_predicts_as_the_plans_own(tiny_net):
    net, method = ready(tiny_net, CReSTDHC)
    assert method.deployed(net) is net.module
    CReST.model(tiny_architecture(2, 4)).load_state_dict(net.module.state_dict())
    assert type(CReSTDHC.model(tiny_architecture(2, 4))) is type(net.module)
    assert method.views == ("weak",) and not method.phases and method.known_voxels is None


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"momentum": 2.0}, {"weight": -1.0}])
def test_in_dhcs_code_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CReSTDHC(**wrong)
