"""What the data of pretrained weights mean for the training that begins with them."""

import shutil

import pytest
import torch
from lineages import fold_of, hide, in_one_process, loaded, refused, set_split, split_of, train

from nnunet_ssl.data.origin import ORIGIN_FILE, read_origin
from nnunet_ssl.training.lineage import origin_in


@pytest.fixture
def dataset(trained, tmp_path, monkeypatch):
    in_one_process(monkeypatch)
    return trained.copy(tmp_path).use(monkeypatch)


def test_what_pretrained_weights_have_learned_counts(dataset, monkeypatch, capsys):
    """Weights of fold 0 on another split that trains on the same cases and more; then a case of both is hidden."""
    weights = shutil.copy(fold_of(dataset) / "checkpoint_final.pth", dataset.root / "weights.pth")
    first, second = split_of(dataset)["train"]
    set_split(dataset, train=[first])
    train(monkeypatch, "-pretrained_weights", weights)
    assert "which have learned 2 labels, none that the fold hides" in capsys.readouterr().out
    origin = read_origin(fold_of(dataset))
    assert origin.train == (first,) and origin.learned == tuple(sorted((first, second))) and origin.complete
    assert origin.history == ("began with weights of nnUNetTrainerMeanTeacher, 3d_fullres, fold 0 (weights.pth)",)
    assert origin_in(loaded(fold_of(dataset)), "") == origin
    set_split(dataset, unlabeled=[second])
    assert f"({second})" in refused(monkeypatch, "--c", num_epochs=2, accept_other_data=True)


def test_weights_of_another_fold_have_learned_what_this_one_validates_on(dataset, monkeypatch):
    weights = shutil.copy(fold_of(dataset) / "checkpoint_final.pth", dataset.root / "weights.pth")
    message = refused(monkeypatch, "-pretrained_weights", weights, fold="1")
    assert "has learned 2 label(s) that fold 1 now hides or validates on" in message
    assert not fold_of(dataset, fold=1).joinpath(ORIGIN_FILE).exists()


@pytest.mark.parametrize("kind", ["stock", "earlier version", "weights alone"])
def test_weights_of_unknown_data(dataset, monkeypatch, kind, capsys):
    content = loaded(fold_of(dataset))
    if kind == "earlier version":
        del content["semi_supervised"]["origin"]
    if kind == "stock":
        del content["semi_supervised"]
    if kind == "weights alone":
        content = {"network_weights": content["network_weights"]}
    weights = dataset.root / "weights.pth"
    torch.save(content, weights)
    train(monkeypatch, "-pretrained_weights", weights)
    assert "weights.pth carries no record of its data" in capsys.readouterr().out
    assert not read_origin(fold_of(dataset)).complete
    hide(dataset)
    assert "fold 0 hides 1" in refused(monkeypatch, "-pretrained_weights", weights)
    train(monkeypatch, "-pretrained_weights", weights, accept_other_data=True)
    assert "data are unknown (weights.pth)" in read_origin(fold_of(dataset)).history[0]


@pytest.mark.parametrize("known", [True, False])
def test_weights_of_another_dataset_have_learned_none_of_this_one(dataset, monkeypatch, known):
    content = loaded(fold_of(dataset))
    content["init_args"]["plans"]["dataset_name"] = "Dataset008_Other"
    content["semi_supervised"]["origin"]["dataset"] = "Dataset008_Other"
    if not known:
        del content["semi_supervised"]
    torch.save(content, weights := dataset.root / "weights.pth")
    hide(dataset)
    train(monkeypatch, "-pretrained_weights", weights)
    origin = read_origin(fold_of(dataset))
    assert origin.learned == origin.train and origin.complete
    assert origin.history == ("began with weights of Dataset008_Other (weights.pth)",)


def test_a_file_that_is_not_there_is_named(dataset, monkeypatch):
    assert "-pretrained_weights nowhere.pth cannot be read" in refused(
        monkeypatch, "-pretrained_weights", "nowhere.pth"
    )
