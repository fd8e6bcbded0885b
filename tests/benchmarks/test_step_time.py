"""The passes that the facts of a method state are those of its step, and its cost is their sum."""

import json
from collections import Counter

import pytest
import step_time
from small_workspace import BATCH, FEATURES, PATCH, watch
from step_time import make_batch, make_passes, ready_trainer
from torch import nn

from nnunet_ssl.catalog import PREFIX, read_catalog
from nnunet_ssl.networks.projection import VoxelHead

TRAINERS = step_time.trainers()
# small, or arithmetic: no networks of patches, but for heads of all their voxels
OF_FEATURES = ("nnunet_ssl.memory", "nnunet_ssl.networks.projection", "nnunet_ssl.networks.diffusion")
FACTS = {PREFIX + entry.name: entry.facts for entry in read_catalog()}


def count_passes(trainer) -> Counter:
    """Filled by all networks that run from now on: patches by name of the network, with gradient or without."""
    found = Counter()

    watch(trainer.network, "student", found)
    paths = getattr(trainer.method, "paths", [])  # of the student's encoder with another decoder: each is a whole pass
    for path in paths:
        watch(path, "student", found)
    parts = [part for path in paths for part in path.modules()]
    for name, child in trainer.method.named_children() if trainer.method else ():
        of_patches = isinstance(child, VoxelHead) or not type(child).__module__.startswith(OF_FEATURES)
        if of_patches and child not in parts:
            for place, member in enumerate(child if isinstance(child, nn.ModuleList) else [child]):
                watch(member, f"{name}[{place}]", found)
    return found


@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_makes_the_passes_of_the_facts(name, small_workspace, monkeypatch):
    settings = {"seed": 0} | (FACTS[name].tests.tiny if name in FACTS else {})
    monkeypatch.setenv("nnUNet_ssl_config", json.dumps(settings))
    trainer = ready_trainer(name, "cpu")
    batch = make_batch(trainer, PATCH, len(FEATURES), BATCH)
    found = count_passes(trainer)
    trainer.train_step(batch)
    of_step = dict(found)  # patches by (network, with gradient)
    found.clear()
    sum(make_passes(trainer, batch["data"], TRAINERS[name])).backward()
    assert of_step == found, f"patches by network: the step has {of_step}, passes of facts.yaml have {dict(found)}"


def test_memory_is_that_of_weights_optimizer_and_a_step(small_workspace):
    """Of nnU-Net alone at least its weights, momentum and gradients; of two networks on twice the patches far more."""
    found = {}
    for name in ("Supervised", "CPS"):
        trainer = ready_trainer(PREFIX + name, "cpu")
        batch = make_batch(trainer, PATCH, len(FEATURES), BATCH)
        trainer.train_step(batch)
        found[name] = step_time.memory_mb(lambda trainer=trainer, batch=batch: trainer.train_step(batch), trainer)
        weights = sum(parameter.nbytes for parameter in trainer.network.parameters()) / 2**20
        images = batch["data"].nbytes / 2**20
        assert found[name] > 3 * weights + FEATURES[0] * images
        lasting = sum(tensor.nbytes for tensor in step_time.lasting_tensors(trainer)) / 2**20
        assert lasting == pytest.approx(2 * len(found) * weights, rel=0.01)
    assert 2.5 * found["Supervised"] < found["CPS"] < 4.5 * found["Supervised"]


PLANNED = {"student", "teacher", "second"}


@pytest.mark.parametrize("name", FACTS)
def test_the_cost_is_the_sum_of_the_passes(name):
    """Where all networks are as large as the plan's; else it is at least that of the student."""
    facts = FACTS[name]
    stated = float(facts.cost.split()[0])
    if {each.network for each in facts.passes} <= PLANNED and " + " not in facts.cost:
        total = sum(each.cost for each in facts.passes)
        assert stated == pytest.approx(total, abs=0.04), f"facts.yaml: cost {facts.cost}, its passes make {total:.2f}"
    else:
        assert stated >= sum(each.cost for each in facts.passes if each.network == "student")
