"""Files that `-pretrained_weights` refuses in one line, and a form of another time that it reads."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from donors import assert_taken, begin, content, edited, file_of, networks, trainer_of
from nnunetv2.run.run_training import maybe_load_checkpoint
from workbench import change_a_weight, make_diverged, tiny_network

from nnunet_ssl.errors import InputError
from nnunet_ssl.training.pretrained import begin_with, read_weights


@pytest.fixture
def dataset(donors, monkeypatch):
    return donors.use(monkeypatch)


def refusal(dataset, monkeypatch, weights, method="CPS"):
    trainer = trainer_of(dataset, method, monkeypatch)
    with pytest.raises(InputError) as caught:
        maybe_load_checkpoint(trainer, False, False, str(weights))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 800
    assert message.startswith(f"-pretrained_weights {weights} ")
    return message.removeprefix(f"-pretrained_weights {weights} ")


def test_another_architecture_is_refused_and_nothing_loaded(dataset, monkeypatch, tmp_path):
    def wider(name, value):
        if "decoder.stages.1" in name or name == "decoder.transpconvs.0.bias":
            return None
        return torch.cat((value, value)) if name.startswith("encoder.stages.2") else value

    weights = edited(dataset, tmp_path, wider, "")
    assert refusal(dataset, monkeypatch, weights) == (
        "does not fit this network: encoder.stages.2.0.convs.0.conv.weight is 16x6x3x3x3 in the file, 8x6x3x3x3 here; "
        "encoder.stages.2.0.convs.0.conv.bias is 16 in the file, 8 here; encoder.stages.2.0.convs.0.norm.weight is 16 "
        "in the file, 8 here; and 6 more. Both trainings need plans of one architecture: take one dataset's plans for "
        "the other with nnUNetv2_move_plans_between_datasets, and preprocess and train with these (-p)."
    )
    network = tiny_network(3, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match="does not fit"):
        begin_with(read_weights(str(weights)), network, None, print)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_of_nnssl_that_do_not_fit_name_the_planner(dataset, monkeypatch, tmp_path):
    weights = {"network_weights": {"encoder.stem.convs.0.conv.weight": torch.ones(4, 1, 3, 3, 3)}}
    torch.save(weights | {"nnssl_adaptation_plan": {}}, tmp_path / "mae.pth")
    message = refusal(dataset, monkeypatch, tmp_path / "mae.pth")
    assert message.startswith("does not fit this network: encoder.stages.0.0.convs.0.conv.weight is not in the file; ")
    assert message.endswith(
        "nnssl's ResEnc-L is planned by nnUNetv2_plan_and_preprocess with -pl nnUNetPlannerResEncL, "
        "-overwrite_target_spacing 1 1 1 and -overwrite_plans_name; preprocess and train with these plans (-p)."
    )


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_what_is_no_checkpoint_is_refused_in_a_line(dataset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, what, expected in (
        ("code.pth", {"network_weights": {}, "x": Code()}, "cannot be read (it holds more than data: posix.mkdir). "),
        ("path.pth", {"network_weights": {}, "x": Path()}, "cannot be read (it holds more than data: pathlib."),
        ("state.pth", tiny_network(3, 3).state_dict(), "is no checkpoint of nnU-Net: it has no network_weights. "),
        ("list.pth", [1], "is no checkpoint of nnU-Net: it has no network_weights. "),
        ("empty.pth", {"network_weights": {}}, "is no checkpoint of nnU-Net: it has no network_weights. "),
        (
            "names.pth",
            {"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": 3}},
            "does not fit this network: ",
        ),
    ):
        torch.save(what, name)
        message = refusal(dataset, monkeypatch, name)
        assert message.startswith(expected)
        assert ("Write its weights alone where its code belongs" in message) == ("more than data" in message)
    assert not Path("ran").exists()
    shutil.copy(file_of(dataset, "CPS"), "damaged.pth")
    change_a_weight(Path("damaged.pth"))
    assert "is damaged). Give the checkpoint of a training, or a whole copy of it." in refusal(
        dataset, monkeypatch, "damaged.pth"
    )
    for method in ("CPS", ""):
        shutil.copy(file_of(dataset, method), "diverged.pth")
        make_diverged(Path("diverged.pth"))
        assert refusal(dataset, monkeypatch, "diverged.pth").startswith("has weights that are no numbers: ")
    Path("text.pth").write_text("weights")
    assert refusal(dataset, monkeypatch, "text.pth").startswith("cannot be read (File is not a zip file)")
    assert refusal(dataset, monkeypatch, "nowhere.pth").startswith("cannot be read (No such file or directory)")
    assert refusal(dataset, monkeypatch, ".").startswith("cannot be read (Is a directory)")


def test_logs_of_numpy_1_are_data_too(dataset, monkeypatch, tmp_path):
    """Stock checkpoints of its time name its modules otherwise."""
    saved = content(dataset, "") | {"logging": {"train_losses": [np.float32(0.5), np.float64(1)], "all": np.arange(3)}}
    torch.save(saved, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core", b"numpy.core"))
    assert b"numpy.core.multiarray" in (tmp_path / "old.pth").read_bytes()
    trainer, _ = begin(dataset, "Supervised", tmp_path / "old.pth", monkeypatch)
    assert_taken(trainer.network, networks(dataset, "")[0])
