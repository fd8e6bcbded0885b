"""Prototypes against numbers worked out by hand."""

import pytest
import torch

from nnunet_ssl.memory.prototypes import nearest_prototype, prototypes_of

FEATURES = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0]]])  # two features of four voxels
LABELS = torch.tensor([[1, 1, 0, 0]])
FOREGROUND = torch.tensor([0.9, 0.6, 0.2, 0.1])
PROBS = torch.stack((1 - FOREGROUND, FOREGROUND))[None]


def test_weighted_means_of_object_and_background():
    prototypes, present = prototypes_of(FEATURES, LABELS, PROBS)
    torch.testing.assert_close(prototypes[0], torch.tensor([[0.0, 1.529403], [0.999993, 0.0]]), atol=1e-6, rtol=0)
    assert present.tolist() == [[True, True]]
    assert nearest_prototype(FEATURES, prototypes, present).tolist() == [[1, 1, 0, 0]]


def test_nearest_is_by_distance_and_not_by_product():
    features = torch.tensor([[[1.0, 10.0]]])
    prototypes, present = torch.tensor([[[1.0], [10.0]]]), torch.ones(1, 2, dtype=torch.bool)
    assert nearest_prototype(features, prototypes, present).tolist() == [[0, 1]]


def test_a_class_without_voxels_is_nearest_to_none():
    labels = torch.zeros(1, 4, dtype=torch.long)
    features = torch.zeros(1, 2, 4)  # where the prototype of no voxels would lie
    prototypes, present = prototypes_of(features + 1, labels, PROBS)
    assert present.tolist() == [[True, False]]
    assert nearest_prototype(features, prototypes, present).tolist() == [[0, 0, 0, 0]]


def test_patches_have_prototypes_of_their_own():
    features = torch.cat((FEATURES, 5 - FEATURES))
    together, present = prototypes_of(features, LABELS.expand(2, 4), PROBS.expand(2, 2, 4))
    for place in range(2):
        alone, _ = prototypes_of(features[place : place + 1], LABELS, PROBS)
        torch.testing.assert_close(together[place : place + 1], alone)
    assert nearest_prototype(features, together, present).tolist() == [[1, 1, 0, 0]] * 2


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_sums_are_in_float32_under_autocast(precision):
    """70 000 voxels of 1 are more than float16 holds."""
    features = torch.ones(1, 1, 70_000)
    with torch.autocast("cpu", precision):
        prototypes, _ = prototypes_of(features, torch.zeros(1, 70_000, dtype=torch.long), torch.ones(1, 2, 70_000))
    assert prototypes.dtype == torch.float32 and prototypes[0, 0, 0].item() == pytest.approx(1)
