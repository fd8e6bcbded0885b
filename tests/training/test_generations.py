"""CReST on prepared phantoms: what each generation takes of the last one's labels, and going on within one."""

from functools import partial
from pathlib import Path

import blosc2
import pytest
import torch
from short_trainings import SHORT, checkpoint, equal, trainer_of, whole_and_resumed

from nnunet_ssl.methods.crest import CReST, rates_of
from nnunet_ssl.methods.crest_dhc import CReSTDHC
from nnunet_ssl.training.pseudo_labels import unknown_label

KINDS = pytest.mark.parametrize("kind", ["phantom_3d", "phantom_2d_regions"])


@pytest.fixture
def made(phantom_3d, phantom_2d_regions, tmp_path, monkeypatch, in_one_process_without_pictures):
    """Factory of trainers of three epochs, one for each generation, in 3D with classes or 2D with regions."""

    def make(kind, resume=False):
        if not (copy := tmp_path / kind).is_dir():
            copy.mkdir()
            phantom = phantom_3d if kind == "phantom_3d" else phantom_2d_regions
            make.dataset = phantom.copy(copy).use(monkeypatch)
        monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}, threshold: 0.4}}")
        configuration = "3d_fullres" if kind == "phantom_3d" else "2d"
        return trainer_of(make.dataset, "nnUNetTrainerCReST", configuration, resume=resume)

    return make


@KINDS
def test_each_generation_takes_the_shares_of_the_labeled_cases(made, kind, monkeypatch):
    trainer, seen = made(kind), []
    known_voxels = CReST.known_voxels

    def look(self, case, logits):
        known = known_voxels(self, case, logits)
        said = self.task.kind.entry_of(self.task.kind.hard(logits[None]), self.rates)[0]
        seen.append((case, said.cpu(), known.cpu()))
        return known

    monkeypatch.setattr(CReST, "known_voxels", look)
    trainer.run_training()
    rates = rates_of(trainer.method.task.voxel_counts(), 3.0)
    torch.testing.assert_close(trainer.method.rates, rates.float())
    assert rates.max() == 1 and rates.argmin() == (0 if kind == "phantom_3d" else 2) and (rates > 0).all()
    assert len(seen) == 2 * 5
    for case, said, known in seen:
        of_each = [(int((said == k).sum()), int(known[said == k].sum())) for k in range(len(rates))]
        for (voxels, taken), rate in zip(of_each, rates.tolist(), strict=True):
            assert round(rate * voxels) <= taken <= rate * voxels + 0.02 * voxels + 1, case  # equally sure ones
    folder, unknown = Path(trainer.output_folder) / "pseudo_labels", unknown_label(trainer.label_manager)
    assert sorted(part.name for part in folder.iterdir()) == ["phase_1", "phase_2"]
    for case, _, known in seen[5:]:
        labels = torch.from_numpy(blosc2.open(str(folder / "phase_2" / f"{case}.b2nd"))[:])
        assert torch.equal(labels != unknown, known)


@KINDS
def test_a_resume_within_a_generation_ends_with_the_same_bits(made, kind, monkeypatch):
    whole, resumed = whole_and_resumed(partial(made, kind), monkeypatch)
    assert resumed.phases.starts == [1, 2]
    resumed.run_training()
    again = checkpoint(resumed)
    for part in ("network_weights", "optimizer_state"):
        assert equal(again[part], whole[part])
    assert equal(again["semi_supervised"]["method"], whole["semi_supervised"]["method"])


def test_the_step_of_dhcs_code_saves_a_network_that_nnunet_builds(made, monkeypatch):
    made("phantom_3d")
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}, preset: dhc}}")
    trainer = trainer_of(made.dataset, "nnUNetTrainerCReST")
    trainer.run_training()
    assert isinstance(trainer.method, CReSTDHC) and trainer.phases.starts == []
    network = type(trainer).build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 3, enable_deep_supervision=False
    )
    network.load_state_dict(checkpoint(trainer)["network_weights"])
