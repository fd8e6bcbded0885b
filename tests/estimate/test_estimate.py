"""What a training takes is told by a few of its steps, and nothing of them is left."""

import json
import tempfile
from pathlib import Path

import pytest

from nnunet_ssl.errors import InputError
from nnunet_ssl.estimate.estimate import estimate

SHORT = "{num_epochs: 40, num_iterations_per_epoch: 5, num_val_iterations_per_epoch: 2}"


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "aside"))
    (tmp_path / "aside").mkdir()
    return phantom_3d.copy(tmp_path).use(monkeypatch)


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_both_phases_are_measured_and_nothing_is_left(dataset, tmp_path, called):
    (dataset.base / "splits_final.json").unlink()
    before = files_of(tmp_path)
    file = tmp_path / "estimate.json"
    status, text, said = called(
        *("estimate", "-d", "7", "-c", "3d_fullres", "-tr", "BCP", "-p", dataset.plans, "-device", "cpu"),
        *("-f", "all", "--config", SHORT, "-o", str(file)),
    )
    assert status == 0, said
    found = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    assert files_of(tmp_path) == before

    first, second = found["phases"]  # BCP trains on labeled patches alone at first
    assert (first["epochs"], second["epochs"]) == (20, 20)
    assert first["float32_bytes"] < second["float32_bytes"]
    assert all(phase["half_bytes"] < phase["float32_bytes"] for phase in found["phases"])
    assert all(phase["batch_core_s"] > 0 for phase in found["phases"])
    for phase in found["phases"]:
        assert 0 <= phase["wait_s"] < phase["step_s"]
        epoch = 5 * phase["step_s"] + 2 * found["validation_step_s"]
        assert phase["hours"] == pytest.approx((phase["first_s"] + 20 * epoch) / 3600)
    once = (found["start_s"] + found["validation_s"]) / 3600
    assert found["hours"] == pytest.approx(once + first["hours"] + second["hours"])
    assert found["folders"]["labeled"]["cases"] == 4 and found["folders"]["unlabeled"]["cases"] == 5
    assert found["results_bytes"] > 3 * found["checkpoint_bytes"] > 0
    assert found["processes"] == 1 and found["patch"] == [16, 16, 16] and found["batch"] == [2, 2]

    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("epoch 0-19" in line and "epoch 20-39" in line for line in lines)
    assert any(line.startswith("hours in all") for line in lines)


def test_pseudo_labels_are_counted_and_not_made(dataset):
    found = estimate(7, "3d_fullres", "SelfTraining", plans=dataset.plans, device="cpu", config=SHORT)
    assert len(found["phases"]) > 1 and found["labeling_s"] > 0
    assert files_of(dataset.root / "results") == []


def test_the_baseline_reads_no_unlabeled_case(dataset):
    found = estimate(7, "3d_fullres", "Supervised", plans=dataset.plans, device="cpu", config=SHORT)
    (phase,) = found["phases"]
    assert "unlabeled" not in found["folders"] and found["batch"] == [2, 0] and phase["step_s"] > 0


def remove_unlabeled(dataset):
    (folder,) = dataset.base.glob("*_unlabeled")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def remove_labeled(dataset):
    for file in (dataset.base / f"{dataset.plans}_3d_fullres").iterdir():
        file.unlink()


def damage_an_image(dataset):
    (folder,) = dataset.base.glob("*_unlabeled")
    for file in folder.glob("*.b2nd"):
        file.write_bytes(b"no image")


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (remove_unlabeled, {}, "No preprocessed unlabeled cases: .*run `nnunet_ssl preprocess -d 7 -c 3d_fullres"),
        (remove_labeled, {}, "nnU-Net has not preprocessed 3d_fullres: .*Run nnUNetv2_preprocess -d 7 -c 3d_fullres"),
        (None, {"configuration": "3d_lowres"}, "no configuration 3d_lowres"),
        (None, {"trainer": "BPC"}, "There is no trainer nnUNetTrainerBPC. Did you mean BCP"),
        (None, {"fold": "first"}, "-f first: give the number of a fold, or all"),
        (None, {"config": "{epochs: 3}"}, "epochs"),
        (lambda dataset: (dataset.base / "splits_final.json").unlink(), {}, "4 labeled cases cannot make nnU-Net's 5"),
        (damage_an_image, {}, "unlabeled case .*run `nnunet_ssl preprocess` again"),
    ],
)
def test_what_is_missing_is_said_as_the_training_would(dataset, spoil, arguments, message):
    if spoil:
        spoil(dataset)
    asked = {"configuration": "3d_fullres", "trainer": "MeanTeacher"} | arguments
    with pytest.raises(InputError, match=message) as refused:
        estimate(7, plans=dataset.plans, device="cpu", **asked)
    assert len(str(refused.value).splitlines()) <= 2
    assert "nnunet_ssl_estimate_" not in str(refused.value)  # no folder that is gone
    assert files_of(dataset.root / "results") == []
