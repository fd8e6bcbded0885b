"""pseudo_labels.png: what it shows of which network, that it can be drawn, and that training does not notice it."""

import numpy as np
import pytest
import torch
from PIL import Image
from short_trainings import checkpoint, equal, train, trainer_of
from workbench import target, task

from nnunet_ssl import Method, Teacher, Unlabeled
from nnunet_ssl.methods.cps import CPS
from nnunet_ssl.methods.mean_teacher import MeanTeacher
from nnunet_ssl.training import label_picture
from nnunet_ssl.training.label_picture import Shown, draw, due, look

TWICE = "num_epochs: 2, num_iterations_per_epoch: 2, num_val_iterations_per_epoch: 1, save_every: 1, seed: 0"


def prepared(method, net, **other):
    method.task = task(**other)
    method.setup(net, lambda: tiny_copy(net))
    return method.eval()


def tiny_copy(net):
    import copy

    return copy.deepcopy(net.module)


def batch(dimensions, count=4):
    torch.manual_seed(1)
    image = torch.randn(count, 1, *(16,) * dimensions)
    return Unlabeled(weak=image, strong=image + 1, cases=tuple(f"case_{number}" for number in range(count)))


def test_it_is_drawn_every_fifth_epoch():
    assert [epoch for epoch in range(12) if due(epoch)] == [4, 9]


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_teacher_s_labels_of_three_patches(tiny_net, dimensions, regions):
    net = tiny_net(dimensions, 3, regions)
    method = prepared(MeanTeacher(), net, dimensions=dimensions, channels=3, regions=regions)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.mul_(1.3)  # it is not the student
    unlabeled = batch(dimensions)
    who, shown = look(method, net, unlabeled)
    assert who == "teacher" and [each.case for each in shown] == ["case_0", "case_1", "case_2"]
    probs = method.teacher(unlabeled.weak[:1]).probs[0]
    masks = probs > 0.5 if regions else torch.stack([probs.argmax(0) == c for c in (1, 2)])
    sure = torch.maximum(probs, 1 - probs).amin(0) if regions else probs.amax(0)
    at = int(masks.any(0).sum((1, 2)).argmax()) if dimensions == 3 else ()
    first = shown[0]
    assert first.masks.any() and first.left_out is None
    np.testing.assert_array_equal(first.masks, masks[:, at].numpy() if dimensions == 3 else masks.numpy())
    np.testing.assert_allclose(first.confidence, sure[at].numpy(), atol=1e-6)
    np.testing.assert_array_equal(first.image, unlabeled.weak[0, 0][at].numpy())


def test_without_a_teacher_the_network_that_predicts(tiny_net):
    net = tiny_net(2, 2)
    method = prepared(CPS(), net)
    who, shown = look(method, net, batch(2))
    probs = net.predict(batch(2).weak[:1]).probs[0]
    assert who == "network that predicts"
    np.testing.assert_allclose(shown[0].confidence, probs.amax(0).numpy(), atol=1e-6)


def test_labels_of_whole_cases_with_what_they_leave_out(tiny_net):
    class Labels(Method):
        views = ("strong", "target")

        def setup(self, net, new_net):
            self.start = Teacher(net, decay=0)  # not what labels

    net = tiny_net(2, 3)
    labels = torch.zeros(2, 1, 16, 16)
    labels[:, :, 2:5], labels[:, :, 8:10] = 2, 3
    image = torch.randn(2, 1, 16, 16)
    unlabeled = Unlabeled(strong=image, target=target(labels, 3, ignore=3), cases=("a", "b"))
    who, shown = look(prepared(Labels(), net, channels=3), net, unlabeled)
    assert who == "labels of the cases" and len(shown) == 2
    assert shown[1].masks[1, 2:5].all() and shown[1].masks.sum() == 3 * 16
    assert shown[1].left_out[8:10].all() and shown[1].left_out.sum() == 2 * 16


def test_a_batch_without_unlabeled_patches_has_no_picture(tiny_net):
    net = tiny_net(2, 2)
    assert look(prepared(MeanTeacher(), net), net, Unlabeled())[1] == []


def patch(classes, height=24, width=32, foreground=True):
    masks = np.zeros((classes, height, width), bool)
    for number in range(classes if foreground else 0):
        masks[number, number : number + 2, 3:9] = True
    image = np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)
    return Shown("case_$1", image, masks, np.zeros((height, width), bool), np.full((height, width), 0.7))


@pytest.mark.parametrize("classes", [1, 14, 20])
def test_any_names_can_be_drawn(tmp_path, classes):
    names = ["_organ", "a$b", *[f"Gefäß {number}" for number in range(18)]][:classes]
    draw(tmp_path / "picture.png", "nnUNetTrainerX, epoch 4", "teacher", [patch(classes)] * 3, names, 3.0)
    page = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    assert page.shape[1] == 1040 and (page != 255).any(-1).mean() > 0.2
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


def test_a_patch_without_foreground_and_one_of_a_single_value(tmp_path):
    flat = patch(2, foreground=False)
    flat = Shown(flat.case, np.zeros_like(flat.image), flat.masks, None, flat.confidence)
    draw(tmp_path / "picture.png", "title", "teacher", [flat], ["one", "two"])
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.usefixtures("in_one_process_without_pictures")
@pytest.mark.parametrize("method", ["MeanTeacher", "DHC", "SelfTraining"])
def test_training_does_not_notice_it(phantom_3d, tmp_path, monkeypatch, method):
    """Weights, the method's state and all random generators are those of a training without pictures."""
    saved = {}
    for every in (1, 1000):
        monkeypatch.setattr(label_picture, "EVERY", every)
        dataset = phantom_3d.copy(tmp_path / str(every)).use(monkeypatch)
        trainer = train(dataset, monkeypatch, TWICE, name=f"nnUNetTrainer{method}")
        saved[every] = checkpoint(trainer)
        assert (tmp_path / str(every) / "copy" / "results").is_dir()
        files = [file.name for file in (tmp_path / str(every)).rglob("pseudo_labels.png")]
        assert files == (["pseudo_labels.png"] if every == 1 else [])
    for key in ("network_weights", "optimizer_state", "semi_supervised"):
        pair = [{name: value for name, value in saved[every][key].items() if name != "origin"} for every in saved]
        assert equal(*pair), key


@pytest.mark.usefixtures("in_one_process_without_pictures")
def test_a_picture_that_cannot_be_written_ends_no_training(phantom_2d_regions, tmp_path, monkeypatch):
    monkeypatch.setattr(label_picture, "EVERY", 1)
    dataset = phantom_2d_regions.copy(tmp_path).use(monkeypatch)
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{TWICE}}}")
    trainer = trainer_of(dataset, configuration="2d")
    blocked = tmp_path / trainer.output_folder / "pseudo_labels.png"
    (blocked / "in the way").mkdir(parents=True)
    trainer.run_training()
    with open(trainer.log_file, encoding="utf-8") as file:
        lines = [line for line in file if "pseudo_labels.png" in line]
    assert len(lines) == 2 and "WARNING: no picture of epoch 0" in lines[0] and "cannot be written" in lines[0]
    assert not list(blocked.parent.glob(".pseudo*"))


@pytest.mark.usefixtures("in_one_process_without_pictures")
def test_the_first_rank_alone_keeps_patches_and_only_of_epochs_with_a_picture(phantom_3d, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", f"{{{TWICE}}}")
    dataset = phantom_3d.copy(tmp_path).use(monkeypatch)
    kept = []
    monkeypatch.setattr(label_picture, "picture", lambda trainer, unlabeled, epoch: kept.append(epoch))
    monkeypatch.setattr(label_picture, "EVERY", 2)
    trainer = trainer_of(dataset)
    trainer.run_training()
    assert kept == [1] and trainer._unlabeled is None
    monkeypatch.setattr(label_picture, "EVERY", 1)
    second = trainer_of(dataset)
    second.initialize()
    second.on_train_start()
    second.on_epoch_start()
    second.on_train_epoch_start()
    second.local_rank = 1
    for _ in range(2):
        second.train_step(next(second.dataloader_train))
    assert second._unlabeled is None
