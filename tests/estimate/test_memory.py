"""The memory of a step that is not computed is that of the step itself."""

import json

import pytest
import torch
from short_trainings import trainer_of
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nnunet_ssl.estimate.memory import HeldBytes, Uncomputed, step_bytes

# without a method, one network and its average, two networks, mixed patches, several decoders, several scales, masks
TRAINERS = ("Supervised", "MeanTeacher", "CPS", "BCP", "MCNet", "URPC", "DHC", "ACMT")
LAST = "num_epochs: 4, num_iterations_per_epoch: 2, num_val_iterations_per_epoch: 1, seed: 0"


@pytest.fixture
def ready(phantom_3d_four_stages, monkeypatch):
    """Factory of trainers in their last epoch, with a batch."""
    phantom_3d_four_stages.use(monkeypatch)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{LAST}}}")

    def make(name):
        trainer = trainer_of(phantom_3d_four_stages, f"nnUNetTrainer{name}")
        trainer.initialize()
        trainer.current_epoch = trainer.num_epochs - 1
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        return trainer, next(trainer.dataloader_train)

    return make


def bytes_of_a_real_step(trainer, batch) -> int:
    counted = HeldBytes()
    with counted:
        held = [*trainer.network.parameters(), *trainer.network.buffers(), *tree_leaves(batch)]
        held += [*trainer.method.parameters(), *trainer.method.buffers()] if trainer.method else []
        for tensor in held:
            if isinstance(tensor, Tensor):
                counted.add(tensor)
        for _ in range(2):
            counted.peak = counted.held
            trainer.train_step(batch)
    return counted.peak


@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_without_values_takes_as_much_as_a_real_one(name, ready):
    found, half = step_bytes(*ready(name), (None, torch.float16))
    assert found == pytest.approx(bytes_of_a_real_step(*ready(name)), rel=0.02)
    assert 0.45 * found < half < found


def test_held_bytes_are_those_of_what_is_alive_once_for_all_that_share_it():
    counted = HeldBytes()
    with counted:
        first = torch.zeros(1000)  # 4000 bytes
        view = first[:10].reshape(2, 5)
        second = first * 2
        assert (counted.held, counted.peak) == (8000, 8000)
        del first
        assert counted.held == 8000  # the view holds it
        del view
        assert (counted.held, counted.peak) == (4000, 8000)
        second.add_(1)
        assert (counted.held, counted.peak) == (4000, 8000)


def test_backward_holds_what_it_needs_and_its_gradient():
    weight = torch.zeros(1000, requires_grad=True)
    counted = HeldBytes()
    with counted:
        counted.add(weight)
        loss = (weight.exp() * 3).sum()  # exp keeps its result
        assert counted.held == 4000 + 4000 + 4
        loss.backward()
        del loss
        assert counted.held == 4000 + 4000  # the weight and its gradient


def test_a_mask_chooses_all_voxels_and_a_value_is_made_up():
    fake = torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
    with fake, Uncomputed(fake):
        image = fake.from_tensor(torch.zeros(2, 3, 4))
        assert image[image > 0].shape == (24,)
        assert torch.masked_select(image, image > 0).shape == (24,)
        assert (image > 0).nonzero().shape == (24, 3)
        assert image.sum().item() == 1.0 and bool((image > 0).any())
        assert torch.tensor([1.0, 2.0]).sum().item() == 3.0  # of real ones it is not


def test_the_recorded_figures_are_within_15_percent_of_the_resident_memory(benchmarks_folder):
    record = json.loads((benchmarks_folder / "timing" / "step_memory.json").read_text(encoding="utf-8"))
    assert {row["trainer"] for row in record["rows"]} >= {f"nnUNetTrainer{name}" for name in TRAINERS[:6]}
    assert {tuple(row["patch"]) for row in record["rows"]} > {(32, 32, 32)}
    for row in record["rows"]:
        assert abs(row["counted_mb"] / row["measured_mb"] - 1) < 0.15, row
