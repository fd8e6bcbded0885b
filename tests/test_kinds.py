"""What classes and regions are asked for: entropies of known distributions, labels, masks, counts."""

import math

import pytest
import torch
from workbench import kind, target


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ((0.9, 0.1), 0.325081),
        ((0.8, 0.2), 0.500400),
        ((0.7, 0.3), 0.610862),
        ((0.6, 0.4), 0.673010),
        ((0.5, 0.5), 0.693145),
        ((0.25,) * 4, 1.386290),
    ],
)
def test_entropy_over_classes(probs, expected):
    assert kind(len(probs)).entropy(torch.tensor(probs).view(1, -1, 1)).item() == pytest.approx(expected, abs=1e-6)


def test_regions_are_binary_per_channel():
    result = kind(2, True).entropy(torch.tensor([0.9, 0.5]).view(1, 2, 1)).flatten()
    torch.testing.assert_close(result, torch.tensor([0.325081, 0.693145]), atol=3e-6, rtol=0)


def test_certain_voxels_are_finite():
    assert kind(2).entropy(torch.tensor([1.0, 0.0]).view(1, 2, 1)).item() == pytest.approx(0, abs=2e-6)


def test_largest_entropy():
    assert kind(4).max_entropy == pytest.approx(math.log(4))
    assert kind(4, True).max_entropy == pytest.approx(math.log(2))


@pytest.mark.parametrize("regions", [False, True])
def test_of_logits_equals_that_of_probabilities(regions):
    torch.manual_seed(0)
    logits = 2 * torch.randn(2, 4, 3, 3)
    probs = logits.sigmoid() if regions else logits.softmax(1)
    result = kind(logits.shape[1], regions).entropy_of_logits(logits)
    assert result.shape == ((2, 4, 3, 3) if regions else (2, 1, 3, 3))
    torch.testing.assert_close(result, kind(4, regions).entropy(probs), atol=1e-5, rtol=0)


def test_gradient_of_logits():
    """-p_c (ln p_c + H) for classes, -z p (1 - p) for a region."""
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 5, requires_grad=True)
    kind(logits.shape[1]).entropy_of_logits(logits).sum().backward()
    p = logits.detach().softmax(1)
    expected = -p * (p.log() - (p * p.log()).sum(1, keepdim=True))
    torch.testing.assert_close(logits.grad, expected)
    logits.grad = None
    kind(logits.shape[1], True).entropy_of_logits(logits).sum().backward()
    p = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, -logits.detach() * p * (1 - p))


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("values", [(200.0, 0.0), (60000.0, -60000.0)])
def test_certain_logits_are_zero_and_finite(values, regions):
    logits = torch.tensor(values).view(1, 2, 1).requires_grad_()
    result = kind(logits.shape[1], regions).entropy_of_logits(logits)
    assert (result[0, 0] == 0).all()
    result.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_half_precision_is_computed_in_float32():
    logits = torch.tensor([12.0, 0.0], dtype=torch.float16).view(1, 2, 1)
    exact = kind(2).entropy_of_logits(logits.double().float()).item()
    assert kind(logits.shape[1]).entropy_of_logits(logits).dtype == torch.float32
    assert kind(logits.shape[1]).entropy_of_logits(logits).item() == exact > 0


def test_labels_masks_and_counts_of_classes():
    labels = torch.tensor([[0, 2, 2, 1]])
    classes = kind(3)
    assert classes.masks(labels).int().tolist() == [[[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]]
    assert torch.equal(classes.masks(labels, 1), classes.masks(labels)[:, 1:])
    assert classes.count(labels).tolist() == classes.count_entries(labels).tolist() == [1, 1, 2]
    assert classes.count(labels, labels > 1).tolist() == classes.count_entries(labels, labels > 1).tolist() == [0, 0, 2]
    assert torch.equal(classes.entry_of(labels, torch.tensor([3.0, 2.0, 1.0])), labels)
    assert classes.count(classes.common(labels, torch.tensor([[0, 2, 1, 2]]))).tolist() == [1, 0, 1]
    assert classes.outcome_of(labels).tolist() == labels.tolist() and classes.all_outcomes == 3
    assert classes.weight_of(torch.tensor([0.5, 1.0, 4.0]), labels).tolist() == [[0.5, 4.0, 4.0, 1.0]]
    assert torch.equal(classes.of_channels(classes.as_channels(labels)), labels)
    assert classes.nearest(labels, torch.Size([2])).tolist() == [[2, 1]]


def test_labels_masks_and_counts_of_regions():
    labels = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]])
    regions = kind(2, True)
    assert torch.equal(regions.masks(labels), labels.bool()) and regions.background == 0
    assert regions.count(labels).tolist() == [2, 1]
    assert regions.count_entries(labels).tolist() == [2, 1, 2]  # voxels in none
    assert regions.count_entries(labels, torch.tensor([[True, False, True, False]])).tolist() == [1, 0, 1]
    assert regions.entry_of(labels, torch.tensor([0.5, 1.0, 0.1])).tolist() == [[0, 1, 2, 2]]
    assert regions.entry_of(labels, torch.tensor([1.0, 0.5, 0.1])).tolist() == [[0, 0, 2, 2]]
    assert regions.count(labels, torch.tensor([[[True] * 4, [False] * 4]])).tolist() == [2, 0]
    assert regions.count(regions.common(labels, labels.flip(1))).tolist() == [1, 1]
    assert regions.outcome_of(labels)[0, :, 0].tolist() == [0, 3] and regions.all_outcomes == 4
    assert regions.weight_of(torch.tensor([0.5, 4.0]), labels)[0, :, 0].tolist() == [0.5, 4.0]
    assert regions.spread(torch.tensor([[True, False, True, False]])).shape == labels.shape
    assert regions.exhaustive(labels)[0, :, 0].tolist() == [1, 0, 0, 1]


def test_large_counts_stay_exact():
    assert kind(2).count(torch.zeros(1, 4200, 4200, dtype=torch.long)).tolist() == [17640000, 0]


@pytest.mark.parametrize("regions", [False, True])
def test_the_hard_label_is_the_likeliest_and_confidence_its_probability(regions):
    torch.manual_seed(0)
    found, logits = kind(3, regions), torch.randn(2, 3, 5)
    probs, labels = found.probs(logits), found.hard(logits)
    both = found.masks(labels) * probs + (~found.masks(labels) * (1 - probs) if regions else 0)
    torch.testing.assert_close(found.confidence(probs), both if regions else both.sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_of_equal_logits_the_first_class_is_the_hard_label(dtype):
    inf, nan = math.inf, math.nan
    voxels = [(0, 2, 2), (1, 1, 1), (-inf, -inf, -inf), (inf, 0, inf), (0, inf, inf), (0, nan, 1), (nan, 0, nan)]
    logits = torch.tensor(voxels, dtype=dtype).T[None]
    assert kind(3).hard(logits).tolist() == [[1, 0, 0, 0, 1, 1, 0]] == logits.argmax(1).tolist()


@pytest.mark.parametrize("regions", [False, True])
def test_doubt_is_the_odds_against_the_hard_label(regions):
    torch.manual_seed(0)
    found, logits = kind(3, regions), 3 * torch.randn(2, 3, 5)
    confidence = found.confidence(found.probs(logits))
    torch.testing.assert_close(found.doubt(logits), (1 - confidence).log() - confidence.log(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("regions", [False, True])
def test_doubt_tells_voxels_apart_that_are_certain_in_float32(regions):
    logits = torch.tensor([[40.0, 0.0], [90.0, 0.0], [60000.0, -60000.0]]).T[None]
    found = kind(2, regions)
    assert (found.confidence(found.probs(logits))[:, :1] == 1).all()
    doubt = found.doubt(logits[:, :1] if regions else logits).flatten()
    assert doubt.tolist() == ([-40, -90, -60000] if regions else [-40, -90, -120000])


def test_targets_say_what_is_annotated_and_come_to_all_scales():
    full = torch.tensor([[[0.0, 1.0, 3.0, 2.0]]])
    made = target([full, full[..., ::2]], 3, ignore=3)
    assert made.labels.tolist() == [[0, 1, 0, 2]]
    assert made.annotated.tolist() == [[True, True, False, True]]
    assert [part.labels.tolist() for part in made.by_scale()] == [[[0, 1, 0, 2]], [[0, 0]]]
    other = made.resized(made.form(torch.tensor([[2, 2, 1, 1]])))
    assert [scale.tolist() for scale in other.scales] == [[[[2, 2, 1, 1]]], [[[2, 1]]]] and other.annotated.all()


def test_targets_of_regions_carry_the_mask_of_ignored_voxels():
    full = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])  # two regions and the mask
    made = target(full, 2, regions=True, ignore=3)
    assert torch.equal(made.labels, full[:, :2]) and made.annotated.tolist() == [[True, True, False]]
    assert made.resized(made.form(made.labels)).annotated.all()
    assert target(full[:, :2], 2, regions=True).annotated is None


@pytest.mark.parametrize("regions", [False, True])
def test_logits_of_probabilities(regions):
    probs = kind(3, regions).probs(torch.tensor([2.0, 1.0, 0.5]).view(1, 3, 1))
    logits = kind(3, regions).logits_of(probs)
    torch.testing.assert_close(kind(3, regions).probs(logits), probs)
    assert kind(2, regions).logits_of(torch.tensor([0.0, 1.0])).isfinite().all()


@pytest.mark.parametrize("regions", [False, True])
def test_labels_of_noisy_logits_are_drawn_by_their_probabilities(regions):
    torch.manual_seed(0)
    made, logits = kind(3, regions), torch.tensor([1.0, 0.0, -0.5]).view(1, 3, 1, 1).expand(40_000, -1, 1, 1).half()
    noise = made.noise(logits)
    assert noise.shape == logits.shape and noise.dtype is torch.float32
    share = made.masks(made.hard(logits + noise)).float().mean((0, 2, 3))
    torch.testing.assert_close(share, made.probs(logits[:1]).flatten(), atol=0.01, rtol=0)


@pytest.mark.parametrize(("regions", "mean", "variance"), [(False, 0.577216, 1.644934), (True, 0.0, 3.289868)])
def test_noise_is_gumbels_for_classes_and_logistic_for_regions(regions, mean, variance):
    torch.manual_seed(0)
    noise = kind(2, regions).noise(torch.zeros(200_000, 2))
    assert noise.mean().item() == pytest.approx(mean, abs=0.01)
    assert noise.var().item() == pytest.approx(variance, abs=0.03)
