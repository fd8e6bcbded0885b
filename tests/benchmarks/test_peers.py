"""The loops of others make the passes that `benchmarks/peers.md` says, on the patches that ours gets, and learn."""

from collections import Counter

import peers
import plan
import pytest
import torch
from small_workspace import BATCH, FEATURES, PATCH, watch
from step_time import make_batch, ready_trainer

PASSES = {  # patches by network: with gradient, and without
    "MeanTeacher": {("student", True): 4, ("teacher", False): 2},
    "UAMT": {("student", True): 4, ("teacher", False): 2 + 8 * 2},
    "CPS": {("student", True): 4, ("second", True): 4},
    "URPC": {("student", True): 4},
    "DHC": {("student", True): 4, ("second", True): 4},
    "FixMatch": {("student", True): 4, ("student", False): 2},
}


@pytest.mark.parametrize("method", peers.PEERS)
def test_a_loop_makes_its_passes_and_changes_its_networks(method, small_workspace):
    trainer = ready_trainer(f"nnUNetTrainer{method}", "cpu")
    batch = peers.scripts_batch(make_batch(trainer, PATCH, len(FEATURES), BATCH))
    assert batch["image"].shape == (2 * BATCH, 1, *PATCH)
    assert batch["label"].shape == (2 * BATCH, *PATCH)
    loop, found = peers.PEERS[method][1]("cpu", BATCH), Counter()
    networks = {name: each for name, each in vars(loop).items() if isinstance(each, torch.nn.Module)}
    networks.pop("loss", None)
    before = {name: [weights.detach().clone() for weights in each.parameters()] for name, each in networks.items()}
    for name, network in networks.items():
        watch(network, name, found)
    loop(batch)
    assert found == PASSES[method]
    for name, network in networks.items():
        weights = list(network.parameters())
        assert all(torch.isfinite(each).all() for each in weights)
        changed = sum(not torch.equal(*pair) for pair in zip(weights, before[name], strict=True))
        assert changed > len(weights) / 2, f"{method}: the {name} has hardly changed"


def test_dice_of_the_scripts_is_nought_for_labels_and_weighs_classes():
    labels = torch.randint(0, peers.CLASSES, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    probs = torch.nn.functional.one_hot(labels, peers.CLASSES).movedim(-1, 1).float()
    assert peers.scripts_dice(probs, labels).item() == pytest.approx(0, abs=1e-6)
    wrong = probs.roll(1, 1)  # no voxel is right
    assert peers.scripts_dice(wrong, labels).item() == pytest.approx(1, abs=1e-3)
    weights = torch.tensor([3.0, 0.0, 0.0])
    assert peers.scripts_dice(wrong, labels, weights).item() == pytest.approx(1, abs=1e-3)  # one of three counts thrice


def test_the_gpu_kit_times_every_loop():
    assert {*plan.LOOPS} == {*peers.PEERS} == {*PASSES}
