"""The trainers in nnU-Net's loop on a tiny phantom: what they save, resume, refuse, and never read."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import run_training
from real_device import DEVICE, ON_GPU
from short_trainings import (
    CPU,
    SHORT,
    Interrupted,
    batches_of,
    checkpoint,
    equal,
    interrupt,
    train,
    trainer_of,
)

from nnunet_ssl.errors import InputError
from nnunet_ssl.kinds import Regions
from nnunet_ssl.networks.net import unwrap
from nnunet_ssl.networks.own_optimizer import OwnOptimizer

pytestmark = pytest.mark.usefixtures("in_one_process_without_pictures")

# a teacher, two networks with class statistics, optimizers of a method's own, a buffer that random draws move
RESUMED = {
    "MeanTeacher": "",
    "DHC": "",
    "DAN": "",
    "CrossTeaching": ", width: 48, layers: 2, heads: 2",
    "FixMatchCTA": ", threshold: 0.3, deploy_teacher: true",
    "SelfTraining": ", first_round: 0.7",
    "BCP": "",
}
STOCK_KEYS = {
    "network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch", "init_args",
    "trainer_name", "inference_allowed_mirroring_axes",
}  # fmt: skip


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch):
    return phantom_3d.copy(tmp_path).use(monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("method", RESUMED)
def test_resume_equals_the_uninterrupted_run_bit_for_bit(dataset, monkeypatch, method, tmp_path):
    """On a GPU nearly so."""
    monkeypatch.setenv("nnUNet_compile", "false")
    monkeypatch.setattr("torch.backends.cudnn.deterministic", True)
    name = f"nnUNetTrainer{method}"
    whole = train(dataset, monkeypatch, f"{SHORT}{RESUMED[method]}", name=name, device=DEVICE)
    expected = checkpoint(whole)
    shutil.move(whole.output_folder, tmp_path / "whole")

    broken = trainer_of(dataset, name, device=DEVICE)
    interrupt(broken, 2, monkeypatch)
    resumed = trainer_of(dataset, name, resume=True, device=DEVICE)
    resumed.load_checkpoint(f"{resumed.output_folder}/checkpoint_latest.pth")
    assert resumed.current_epoch == 2
    resumed.run_training()
    actual = checkpoint(resumed)
    own = [module.optimizer for module in resumed.method.modules() if isinstance(module, OwnOptimizer)]
    counts = [state["step"] for optimizer in own for state in optimizer.state.values() if "step" in state]
    assert bool(counts) == (method in ("DAN", "CrossTeaching"))
    assert all(count.device.type == "cpu" for count in counts)  # the host reads them in every step of Adam
    if ON_GPU:
        actual["semi_supervised"].pop("random_states"), expected["semi_supervised"].pop("random_states")
    for key in ("network_weights", "optimizer_state", "semi_supervised", "current_epoch"):
        assert equal(actual[key], expected[key], nearly=ON_GPU), key
    for key, values in expected["logging"].items() if not ON_GPU else ():
        if "timestamps" not in key:
            np.testing.assert_array_equal(actual["logging"][key], values)


def test_every_optimizer_sees_unscaled_gradients(dataset, monkeypatch, tmp_path):
    """With a gradient scaler, as on a GPU, nnU-Net's optimizer and the transformer's own step as without."""
    settings, name = f"{SHORT}{RESUMED['CrossTeaching']}", "nnUNetTrainerCrossTeaching"
    plain = train(dataset, monkeypatch, settings, name=name)
    expected = checkpoint(plain)
    shutil.move(plain.output_folder, tmp_path / "plain")
    scaled = trainer_of(dataset, name)
    scaled.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled.run_training()
    actual = checkpoint(scaled)
    assert actual["grad_scaler_state"]["scale"] == 2.0**10
    for key in ("network_weights", "semi_supervised"):
        assert equal(actual[key], expected[key])


def test_checkpoint_holds_nnunets_keys_and_one_of_ours(dataset, monkeypatch):
    trainer = train(dataset, monkeypatch, f"{SHORT}, weight: 2.5")
    saved = checkpoint(trainer)
    assert set(saved) == STOCK_KEYS | {"semi_supervised"}
    stock = trainer_of(dataset, "nnUNetTrainer")
    stock.initialize()
    stock.save_checkpoint(f"{stock.output_folder}/checkpoint_final.pth")
    assert set(checkpoint(stock)) == STOCK_KEYS
    stock.network.load_state_dict(saved["network_weights"], strict=True)
    ours = saved["semi_supervised"]
    assert ours["hyperparameters"]["weight"] == 2.5
    assert ours["student"] is None
    assert any(key.startswith("teacher.") for key in ours["method"])


def test_a_checkpoint_is_read_to_the_cpu_whatever_device_trains(dataset):
    """On a GPU Adam would have its counts of steps there, and the host would wait to read them in every step."""
    trainer = trainer_of(dataset, "nnUNetTrainerSupervised")
    trainer.initialize()
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    expected = trainer.network.state_dict()
    resumed = trainer_of(dataset, "nnUNetTrainerSupervised")
    resumed.initialize()
    resumed.device = torch.device("meta")  # what is read there has no values
    resumed.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    assert equal(dict(resumed.network.state_dict()), dict(expected))


def test_every_term_is_logged_once_per_epoch(dataset, monkeypatch):
    trainer = train(dataset, monkeypatch, name="nnUNetTrainerUAMT")
    log = checkpoint(trainer)["logging"]
    for term in ("supervised", "consistency", "unsupervised_weight", "certain_voxels"):
        values = log[f"semi_supervised/{term}"]
        assert len(values) == 3 and np.isfinite(values).all()
    shares = [values for name, values in log.items() if name.startswith("semi_supervised/predicted_share[")]
    assert len(shares) == len(trainer.method.task.channels) - 1
    assert all(len(values) == 3 and 0 <= min(values) <= max(values) <= 1 for values in shares)
    with open(trainer.log_file, encoding="utf-8") as file:
        text = file.read()
    assert "nnUNetTrainerUAMT.py" in text and "nnunet_ssl 0." in text
    assert text.count("terms supervised") == text.count("terms predicted_share[") == 3


def test_the_teacher_is_deployed_on_request_and_the_student_kept(dataset, monkeypatch):
    trainer = train(dataset, monkeypatch, f"{SHORT}, deploy_teacher: true")
    saved = checkpoint(trainer)
    teacher = {key.removeprefix("teacher.module."): value for key, value in saved["semi_supervised"]["method"].items()}
    assert equal(dict(saved["network_weights"]), teacher)
    student = saved["semi_supervised"]["student"]
    assert not equal(dict(student), teacher)
    resumed = trainer_of(dataset, resume=True)
    resumed.load_checkpoint(f"{trainer.output_folder}/checkpoint_final.pth")
    assert equal(dict(unwrap(resumed.network).state_dict()), dict(student))
    assert unwrap(resumed.network).decoder.deep_supervision
    assert not resumed.method.teacher.module.decoder.deep_supervision


def test_2d_regions_train(phantom_2d_regions, tmp_path, monkeypatch):
    dataset = phantom_2d_regions.copy(tmp_path).use(monkeypatch)
    trainer = train(dataset, monkeypatch, name="nnUNetTrainerUAMT", configuration="2d")
    assert isinstance(trainer.net.kind, Regions)
    assert np.isfinite(checkpoint(trainer)["logging"]["train_losses"]).all()


def test_the_unlabeled_stream_opens_no_segmentation(dataset, monkeypatch):
    """Hidden labels: the segmentations and properties of the cases whose labels the fold must not use are deleted."""
    splits_file = dataset.base / "splits_final.json"
    train_cases = json.loads(splits_file.read_text(encoding="utf-8"))[0]["train"]
    val = json.loads(splits_file.read_text(encoding="utf-8"))[0]["val"]
    splits_file.write_text(
        json.dumps([{"train": train_cases[:1], "val": val, "unlabeled": train_cases[1:]}]), encoding="utf-8"
    )
    folder = dataset.base / "nnUNetPlans_tiny_3d_fullres"
    for case in train_cases[1:]:
        (folder / f"{case}_seg.b2nd").unlink()
        (folder / f"{case}.pkl").unlink()
    assert not list((dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled").glob("*_seg*"))
    opened = []
    from nnunet_ssl.data.loader import UnlabeledPool

    load = UnlabeledPool.load_image
    monkeypatch.setattr(UnlabeledPool, "load_image", lambda self, case: opened.append(case) or load(self, case))
    trainer = train(dataset, monkeypatch, SHORT.replace("num_iterations_per_epoch: 2", "num_iterations_per_epoch: 12"))
    assert checkpoint(trainer)["current_epoch"] == 3
    assert set(opened) & set(train_cases[1:])
    assert not set(opened) & set(val)


def test_stock_trainer_on_the_same_fold_is_the_baseline(dataset, monkeypatch):
    """nnU-Net ignores the list of hidden labels and sees the labeled cases of the fold only."""
    splits_file = dataset.base / "splits_final.json"
    fold = json.loads(splits_file.read_text(encoding="utf-8"))[0]
    hidden = {"train": fold["train"][:1], "val": fold["val"], "unlabeled": fold["train"][1:]}
    splits_file.write_text(json.dumps([hidden]), encoding="utf-8")
    for name in ("nnUNetTrainer", "nnUNetTrainerSupervised", "nnUNetTrainerMeanTeacher"):
        trainer = trainer_of(dataset, name)
        trainer.initialize()
        labeled, validation = trainer.get_tr_and_val_datasets()
        assert labeled.identifiers == fold["train"][:1]
        assert validation.identifiers == fold["val"]


def refusal(dataset, monkeypatch, kind=InputError, **arguments):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    with pytest.raises(kind) as caught:
        trainer_of(dataset, **arguments).run_training()
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)


def test_no_unlabeled_case_names_the_folder_and_the_command(dataset, monkeypatch):
    shutil.rmtree(dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled")
    message = refusal(dataset, monkeypatch)
    assert "imagesUnlabeled" in message
    assert "nnunet_ssl preprocess -d 7 -c 3d_fullres -p nnUNetPlans_tiny" in message


def test_unlabeled_cases_of_other_plans_are_refused(dataset, monkeypatch):
    file = dataset.base / "nnUNetPlans_tiny.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["spacing"] = [3.0, 2.0, 2.0]
    file.write_text(json.dumps(plans), encoding="utf-8")
    assert "other plans" in refusal(dataset, monkeypatch)


def test_an_id_that_is_labeled_and_unlabeled_is_refused(dataset, monkeypatch):
    case = json.loads((dataset.base / "splits_final.json").read_text(encoding="utf-8"))[0]["val"][0]
    folder = dataset.base / "nnUNetPlans_tiny_3d_fullres_unlabeled"
    manifest = json.loads((folder / "unlabeled.json").read_text(encoding="utf-8"))
    old = manifest["cases"][0]
    for ending in (".b2nd", ".pkl"):
        (folder / f"{old}{ending}").rename(folder / f"{case}{ending}")
    manifest["cases"][0] = case
    (folder / "unlabeled.json").write_text(json.dumps(manifest), encoding="utf-8")
    message = refusal(dataset, monkeypatch)
    assert case in message and "labeled" in message


def test_a_validation_case_in_the_unlabeled_list_is_refused(dataset, monkeypatch):
    file = dataset.base / "splits_final.json"
    splits = json.loads(file.read_text(encoding="utf-8"))
    splits[0]["unlabeled"] = splits[0]["val"][:1]
    file.write_text(json.dumps(splits), encoding="utf-8")
    message = refusal(dataset, monkeypatch)
    assert splits[0]["val"][0] in message and "splits_final.json" in message


def test_a_checkpoint_of_another_trainer_is_refused(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    stock = trainer_of(dataset, "nnUNetTrainerSupervised")
    stock.initialize()
    stock.save_checkpoint(f"{stock.output_folder}/checkpoint_final.pth")
    with pytest.raises(InputError, match="nnUNetTrainerSupervised.*pretrained_weights"):
        trainer_of(dataset).load_checkpoint(f"{stock.output_folder}/checkpoint_final.pth")


def test_a_failed_write_leaves_the_last_checkpoint_whole(dataset, monkeypatch):
    trainer = trainer_of(dataset)
    trainer.initialize()
    file = f"{trainer.output_folder}/checkpoint_latest.pth"
    trainer.save_checkpoint(file)
    before = checkpoint(trainer, "checkpoint_latest.pth")["network_weights"]

    def full_disk(data, stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(InputError, match="checkpoint_latest.pth cannot be written: No space left on device"):
        trainer.save_checkpoint(file)
    assert not Path(f"{file}.partial").exists()
    assert equal(dict(checkpoint(trainer, "checkpoint_latest.pth")["network_weights"]), dict(before))


def test_pretrained_weights_reach_the_teacher(dataset, monkeypatch, tmp_path):
    donor = train(dataset, monkeypatch, name="nnUNetTrainerSupervised")
    monkeypatch.setattr("nnunet_ssl.training.trainer.SemiSupervisedTrainer.train_step", lambda self, batch: seen(self))

    def seen(trainer):
        student, teacher = trainer.net.module.state_dict(), trainer.method.teacher.module.state_dict()
        expected = checkpoint(donor)["network_weights"]
        shared = [key for key in expected if "seg_layers" not in key]  # nnU-Net leaves the output layers out
        assert shared and all(torch.equal(student[key], expected[key]) for key in shared)
        assert equal(dict(student), dict(teacher))
        raise Interrupted

    with pytest.raises(Interrupted):
        run_training(
            dataset.name, "3d_fullres", 0, "nnUNetTrainerMeanTeacher", dataset.plans,
            pretrained_weights=f"{donor.output_folder}/checkpoint_final.pth", device=CPU,
        )  # fmt: skip


def test_channels_are_named_by_label_whatever_the_order_in_the_file(dataset, monkeypatch):
    file = dataset.base / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["labels"] = dict(reversed(content["labels"].items()))
    file.write_text(json.dumps(content), encoding="utf-8")
    trainer = trainer_of(dataset, "nnUNetTrainerDHC")
    trainer.initialize()
    assert trainer.method.task.channels == ("background", "liver", "kidney")


def test_class_counts_are_of_the_labeled_training_cases(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    trainer = trainer_of(dataset, "nnUNetTrainerDHC")
    trainer.initialize()
    labeled, _ = trainer.get_tr_and_val_datasets()
    total = sum(np.prod(labeled.load_case(case)[1].shape) for case in labeled.identifiers)
    counts = trainer.method.task.voxel_counts()
    assert trainer.method.task.channels == ("background", "liver", "kidney")
    assert counts.sum() == total
    segmentation = [np.asarray(labeled.load_case(case)[1][:]) for case in labeled.identifiers]
    assert counts[2] == sum((array == 2).sum() for array in segmentation)


def test_patches_carry_the_cases_that_they_come_from(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    trainer = trainer_of(dataset)
    seen = batches_of(trainer, monkeypatch)
    trainer.run_training()
    train, _ = trainer.do_split()
    assert trainer.method.task.labeled_cases == tuple(train)
    unlabeled_ids = {file.stem for file in (dataset.base / f"{dataset.plans}_3d_fullres_unlabeled").glob("*.b2nd")}
    for labeled, unlabeled in seen:
        assert len(labeled.cases) == len(labeled.image) and set(labeled.cases) <= set(train)
        assert len(unlabeled.cases) == len(unlabeled.weak) and set(unlabeled.cases) <= unlabeled_ids


def test_workers_make_the_views_that_the_method_at_hand_reads(dataset, monkeypatch):
    """Its hyperparameters may ask for fewer than its class."""
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{SHORT}}}")
    trainer = trainer_of(dataset, "nnUNetTrainerFixMatch")
    trainer.initialize()
    trainer.method.views = ("weak",)
    seen = []

    def step(batch):
        seen.append({key for key in batch if key.startswith("unlabeled_")})
        raise Interrupted

    trainer.train_step = step
    with pytest.raises(Interrupted):
        trainer.run_training()
    assert seen == [{"unlabeled_weak", "unlabeled_cases"}]


def test_pseudo_labels_of_cases_before_any_network_could_make_them_are_refused(dataset, monkeypatch):
    trainer = trainer_of(dataset)
    monkeypatch.setattr(type(trainer).method, "views", ("weak", "target"))
    with pytest.raises(NotImplementedError, match='view "target" without labeled_first'):
        trainer.initialize()
