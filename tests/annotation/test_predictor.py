"""One sliding window gives nnU-Net's own logits and, beside them, what the scores are made of."""

import json

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from workbench import kind, tiny_network

from nnunet_ssl.annotation import predictor as module
from nnunet_ssl.annotation.predictor import ScoringPredictor, slabs, unets_of
from nnunet_ssl.annotation.scores import Disagreement, Tally
from nnunet_ssl.networks.average import Average
from nnunet_ssl.networks.net import set_deep_supervision

CPU = torch.device("cpu")


def network_of(dimensions, channels, seed=0, averaged=False):
    networks = [tiny_network(dimensions, channels, seed + place) for place in range(1 + averaged)]
    network = Average(*networks) if averaged else networks[0]
    set_deep_supervision(network, False)
    return network


def predictor_of(type_, dataset, configuration, folds=1, mirroring=True, averaged=False):
    """With the plans of a phantom and networks of random weights, made of one seed for each fold."""
    plans = PlansManager(str(dataset.base / f"{dataset.plans}.json"))
    content = json.loads((dataset.base / "dataset.json").read_text(encoding="utf-8"))
    channels = plans.get_label_manager(content).num_segmentation_heads
    settings = plans.get_configuration(configuration)
    dimensions = len(settings.patch_size)
    networks = [network_of(dimensions, channels, 7 * fold, averaged) for fold in range(folds)]
    made = type_(use_mirroring=mirroring, perform_everything_on_device=False, device=CPU, allow_tqdm=False)
    weights = [network.state_dict() for network in networks]
    axes = tuple(range(dimensions))
    made.manual_initialization(
        network_of(dimensions, channels, 0, averaged), plans, settings, weights, content, "a name", axes
    )
    if type_ is ScoringPredictor:
        made.begin()
    return made


def image_of(shape):
    torch.manual_seed(1)
    return torch.randn(shape)


CASES = [("phantom_3d", "3d_fullres", (1, 18, 20, 24)), ("phantom_2d_regions", "2d", (1, 1, 40, 36))]


@pytest.mark.parametrize(("phantom", "configuration", "shape"), CASES)
@pytest.mark.parametrize(("folds", "mirroring", "averaged"), [(1, True, False), (2, True, True), (2, False, False)])
def test_logits_are_those_of_nnunet_bit_for_bit(phantom, configuration, shape, folds, mirroring, averaged, request):
    dataset, image = request.getfixturevalue(phantom), image_of(shape)
    given = (dataset, configuration, folds, mirroring, averaged)
    scored = predictor_of(ScoringPredictor, *given).score("a", image)
    expected = predictor_of(nnUNetPredictor, *given)
    logits = expected.predict_logits_from_preprocessed_data(image)
    assert torch.equal(scored.logits, logits)
    labels = expected.label_manager.convert_logits_to_segmentation(logits.float())
    np.testing.assert_array_equal(scored.segmentation, labels)
    assert scored.uncertainty.shape == shape[1:] and scored.uncertainty.dtype == np.uint8
    assert scored.scores.instability > 0 and scored.scores.mutual_information > 0


@pytest.mark.parametrize(("phantom", "configuration", "shape"), CASES)
def test_information_is_that_of_the_folds(phantom, configuration, shape, request):
    dataset, image = request.getfixturevalue(phantom), image_of(shape)
    scored = predictor_of(ScoringPredictor, dataset, configuration, 2, False).score("a", image)
    expected = predictor_of(nnUNetPredictor, dataset, configuration, 2, False)
    kind_ = kind(expected.label_manager.num_segmentation_heads, expected.label_manager.has_regions)
    disagreement, total = Disagreement(kind_, CPU), 0
    for parameters in expected.list_of_parameters:
        expected.network.load_state_dict(parameters)
        logits = expected.predict_sliding_window_return_logits(image)
        disagreement.add(logits[None])
        total = total + logits
    tally = Tally(kind_, [str(c) for c in range(kind_.channels - kind_.background)])
    tally.add((total / 2)[None].float(), None, disagreement.result())
    assert scored.scores.mutual_information == pytest.approx(
        tally.scores("a", (False, True), None).mutual_information, rel=1e-3
    )


def test_mirrored_passes_of_a_network_that_mirrors_with_its_input_agree(phantom_3d):
    """Convolutions with a single weight at their center see no direction."""
    predictor = predictor_of(ScoringPredictor, phantom_3d, "3d_fullres")
    (weights,) = predictor.list_of_parameters
    for name, tensor in weights.items():
        if tensor.ndim == 5 and set(tensor.shape[2:]) == {3}:
            center = tensor[..., 1, 1, 1].clone()
            tensor.zero_()[..., 1, 1, 1] = center
        elif "transpconvs" in name and tensor.ndim == 5:
            tensor.copy_(tensor.mean((2, 3, 4), keepdim=True).expand_as(tensor))
    image = torch.nn.functional.interpolate(image_of((1, 1, 4, 4, 4)), scale_factor=4)[0]  # strides keep its blocks
    assert predictor.score("a", image).scores.mutual_information < 1e-5


@pytest.mark.parametrize(("phantom", "configuration", "shape"), CASES)
@pytest.mark.parametrize(("folds", "averaged"), [(1, False), (2, True)])
def test_a_labeled_case_has_the_descriptor_of_the_same_unlabeled_one(
    phantom, configuration, shape, folds, averaged, request
):
    predictor = predictor_of(ScoringPredictor, request.getfixturevalue(phantom), configuration, folds, True, averaged)
    image = image_of(shape)
    descriptor = predictor.descriptor(image)
    assert predictor.score("a", image).scores.descriptor == pytest.approx(descriptor.tolist(), abs=1e-6)
    assert len(descriptor) == 8 * folds * (1 + averaged)  # features of the deepest stage
    assert np.linalg.norm(descriptor) == pytest.approx(folds**0.5)


def test_slabs_cover_a_case_and_leave_its_scores(phantom_3d, monkeypatch):
    logits = torch.zeros(3, 10, 4, 4)
    assert [len(range(10)[slab]) for slab in slabs(logits)] == [10]
    image = image_of((1, 18, 20, 24))
    whole = predictor_of(ScoringPredictor, phantom_3d, "3d_fullres", 2).score("a", image)
    monkeypatch.setattr(module, "SLAB", 3 * 20 * 24 * 4)
    assert [len(range(18)[slab]) for slab in slabs(whole.logits)] == [4, 4, 4, 4, 2]
    other = predictor_of(ScoringPredictor, phantom_3d, "3d_fullres", 2).score("a", image)
    np.testing.assert_array_equal(whole.uncertainty, other.uncertainty)
    np.testing.assert_array_equal(whole.segmentation, other.segmentation)
    for name in ("instability", "mutual_information", "entropy"):
        assert getattr(whole.scores, name) == pytest.approx(getattr(other.scores, name), rel=1e-6)


def test_no_features_are_held_when_a_case_is_done(phantom_3d):
    predictor = predictor_of(ScoringPredictor, phantom_3d, "3d_fullres")
    predictor.score("a", image_of((1, 16, 16, 16)))
    assert predictor.kept == [[]] and not predictor.network.encoder._forward_hooks


def test_a_network_that_is_no_unet_gives_the_other_scores(phantom_3d, monkeypatch):
    assert unets_of(torch.nn.Conv3d(1, 3, 1)) == []
    monkeypatch.setattr(module, "unets_of", lambda network: [])
    predictor = predictor_of(ScoringPredictor, phantom_3d, "3d_fullres")
    scores = predictor.score("a", image_of((1, 16, 16, 16))).scores
    assert scores.instability is None and scores.descriptor is None
    assert scores.mutual_information > 0 and scores.entropy > 0
    assert predictor.gives == {"mutual_information"}
    assert predictor_of(ScoringPredictor, phantom_3d, "3d_fullres", mirroring=False).gives == set()
