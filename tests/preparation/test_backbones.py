"""Plans with another network: what changes, what is refused, and that our trainers train and nnU-Net predicts."""

import copy
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import typer
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from typer.testing import CliRunner

from nnunet_ssl.cli.backbone import backbone
from nnunet_ssl.errors import InputError
from nnunet_ssl.networks.net import unwrap
from nnunet_ssl.preparation.backbones import NETWORKS, write_plans

CPU = torch.device("cpu")
SHORT = "{num_epochs: 1, num_iterations_per_epoch: 2, num_val_iterations_per_epoch: 1, seed: 0}"


def configuration(patch, identifier, blocks="n_conv_per_stage", cls="PlainConvUNet"):
    dimensions = len(patch)
    return {
        "data_identifier": identifier,
        "batch_size": 2,
        "patch_size": patch,
        "spacing": [1.5] * dimensions,
        "batch_dice": True,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{cls}",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [8, 16, 32],
                "strides": [[1] * dimensions, [1] + [2] * (dimensions - 1), [2] * dimensions],
                blocks: [1, 1, 1],
            },
            "_kw_requires_import": [],
        },
    }


@pytest.fixture
def base(tmp_path):
    """A dataset with a 2D configuration, two 3D ones and a cascade, as far as plans go."""
    plans = {
        "dataset_name": "Dataset007_Phantom",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "configurations": {
            "2d": configuration([64, 96], "nnUNetPlans_2d"),
            "3d_lowres": configuration([32, 64, 64], "nnUNetPlans_3d_lowres"),
            "3d_fullres": configuration([64, 32, 64], "nnUNetPlans_3d_fullres"),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }
    write(tmp_path / "nnUNetPlans.json", plans)
    labels = {"background": 0, "liver": 1, "kidney": 2, "gland": 3}
    write(tmp_path / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"})
    return tmp_path


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def write(file, content):
    file.write_text(json.dumps(content), encoding="utf-8")


def change(base, name, **values):
    plans = read(base / "nnUNetPlans.json")
    plans["configurations"][name] |= values
    write(base / "nnUNetPlans.json", plans)


@pytest.mark.parametrize("network", [name for name in NETWORKS if name not in ("primus_b", "primus_m", "primus_l")])
def test_all_but_name_and_network_stays(base, network):
    old = read(base / "nnUNetPlans.json")
    written = write_plans(base, "nnUNetPlans", network, "other", ["3d_fullres"])
    assert written.file == base / "other.json"
    new = read(written.file)
    assert read(base / "nnUNetPlans.json") == old
    assert new.pop("plans_name") == "other" and old.pop("plans_name") == "nnUNetPlans"
    architecture = new["configurations"]["3d_fullres"].pop("architecture")
    del old["configurations"]["3d_fullres"]["architecture"]
    assert new.pop("configurations") == {"3d_fullres": old.pop("configurations")["3d_fullres"]}
    assert new == old
    assert architecture["network_class_name"] == f"nnunet_ssl.networks.backbones.{NETWORKS[network][0].__name__}"
    assert written.parameters["3d_fullres"] > 1e4


def test_sizes_follow_from_the_plans(base):
    kwargs = {}
    for network in ("attention_unet", "segresnet", "unetr", "primus_s"):
        file = write_plans(base, "nnUNetPlans", network, network, ["3d_fullres"]).file
        kwargs[network] = read(file)["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert kwargs["attention_unet"] == {"features": [8, 16, 32], "downsampling": [[1, 2, 2], [2, 2, 2]]}
    assert kwargs["segresnet"] == {"dimensions": 3, "features": 8, "groups": 8}
    assert kwargs["unetr"] == {"patch_size": [64, 32, 64]}
    assert kwargs["primus_s"]["token_size"] == [8, 8, 8]
    change(base, "3d_fullres", patch_size=[5, 20, 48])
    file = write_plans(base, "nnUNetPlans", "primus_s", "flat", ["3d_fullres"]).file
    flat = read(file)["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert (flat["token_size"], flat["patch_size"]) == ([1, 4, 8], [5, 20, 48])


def test_a_cascade_inherits_all_but_the_network_and_takes_the_labels_as_channels(base):
    written = write_plans(base, "nnUNetPlans", "segresnet", "other", ["3d_cascade_fullres"])
    old, new = (PlansManager(str(base / f"{name}.json")) for name in ("nnUNetPlans", "other"))
    before, after = (copy.deepcopy(m.get_configuration("3d_cascade_fullres").configuration) for m in (old, new))
    assert before.pop("architecture") != after.pop("architecture")
    assert before.pop("inherits_from") == "3d_fullres"
    assert before == after
    assert new.get_configuration("3d_cascade_fullres").data_identifier == "nnUNetPlans_3d_fullres"
    alone = write_plans(base, "nnUNetPlans", "segresnet", "alone", ["3d_fullres"])
    # three more input channels, for the first stage's labels, in a convolution of 3 x 3 x 3 with 8 features
    extra = written.parameters["3d_cascade_fullres"] - alone.parameters["3d_fullres"]
    assert extra == 3 * 27 * 8


def test_residual_encoder_plans_too(base):
    change(base, "3d_fullres", **configuration([16, 16, 16], "x", "n_blocks_per_stage", "ResidualEncoderUNet"))
    written = write_plans(base, "nnUNetPlans", "attention_unet", "other", ["3d_fullres"])
    assert read(written.file)["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features"] == [8, 16, 32]


def test_configurations_that_the_network_cannot_do_are_left_out_with_the_reason(base):
    written = write_plans(base, "nnUNetPlans", "primus_s", "other", None)
    assert list(written.parameters) == ["3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert written.left_out == {"2d": "2d of nnUNetPlans: Primus is made for 3D only."}
    assert list(read(written.file)["configurations"]) == list(written.parameters)
    assert list(write_plans(base, "nnUNetPlans", "segresnet", "all", None).parameters)[0] == "2d"


def refusal(base, network="vnet", name="other", configurations=("3d_fullres",), plans="nnUNetPlans"):
    before = {file.name: file.read_bytes() for file in base.iterdir()}
    with pytest.raises(InputError) as caught:
        write_plans(base, plans, network, name, configurations and list(configurations))
    assert {file.name: file.read_bytes() for file in base.iterdir()} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("network", "patch", "fitting"),
    [
        ("vnet", [20, 160, 100], [16, 160, 96]),
        ("attention_unet", [5, 64, 64], [4, 64, 64]),
        ("segresnet", [3, 64, 60], [8, 64, 64]),
        ("unetr", [40, 80, 90], [32, 80, 96]),
        ("swin_unetr", [80, 192, 160], [64, 192, 160]),
        ("enet", [5, 160, 100], [8, 160, 96]),
        ("primus_s", [5, 25, 9], [8, 24, 8]),
    ],
)
def test_a_wrong_patch_is_refused_with_one_that_fits(base, network, patch, fitting):
    change(base, "3d_fullres", patch_size=patch)
    message = refusal(base, network)
    assert message.startswith("3d_fullres of nnUNetPlans:") and str(patch) in message
    assert json.loads(re.search(r'set "patch_size" to (\[.*?\])', message)[1]) == fitting
    change(base, "3d_fullres", patch_size=fitting)
    write_plans(base, "nnUNetPlans", network, "other", ["3d_fullres"])


def test_what_else_is_refused(base):
    known = "vnet, attention_unet, segresnet, unetr, swin_unetr, enet, primus_s, primus_b, primus_m, primus_l"
    assert refusal(base, "p_net") == f"No network p_net. Known: {known}."
    assert "no configuration 3d. " in refusal(base, configurations=("3d",))
    assert "nnUNetResEncPlans.json does not exist" in refusal(base, plans="nnUNetResEncPlans")
    assert "3D only" in refusal(base, "primus_s", configurations=("2d",))
    for name in ("other.json", "folder/other", "my__plans", ""):
        assert "no name for plans" in refusal(base, name=name)
    assert "exists already" in refusal(base, name="nnUNetPlans")
    change(base, "3d_fullres", patch_size=[32, 32, 32])
    assert "64 or more" in refusal(base, "swin_unetr")
    write_plans(base, "nnUNetPlans", "segresnet", "made", ["3d_fullres"])
    assert "no U-Net of nnU-Net's planner" in refusal(base, plans="made")
    write(base / "dataset.json", read(base / "dataset.json") | {"channel_names": dict.fromkeys("012", "CT")})
    assert "not 3" in refusal(base)
    write_plans(base, "nnUNetPlans", "enet", "three", ["3d_fullres"])
    write(base / "dataset.json", read(base / "dataset.json") | {"channel_names": {str(n): "CT" for n in range(16)}})
    assert "enet takes 1 to 15 input channels, not 16." in refusal(base, "enet")
    (base / "nnUNetPlans.json").write_text("{", encoding="utf-8")
    assert "not valid JSON" in refusal(base)
    (base / "dataset.json").unlink()
    assert "dataset.json does not exist" in refusal(base, plans="made")


def test_nothing_is_left_to_write(base):
    for name in ("3d_lowres", "3d_fullres"):
        change(base, name, patch_size=[5, 64, 64])
    change(base, "2d", patch_size=[33, 32])
    with pytest.raises(InputError) as caught:
        write_plans(base, "nnUNetPlans", "unetr", "other", None)
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres",
    ]  # fmt: skip
    assert not (base / "other.json").exists()


def test_the_same_plans_twice_are_no_fault_but_other_content_is(base):
    write_plans(base, "nnUNetPlans", "segresnet", "other", ["3d_fullres"])
    write_plans(base, "nnUNetPlans", "segresnet", "other", ["3d_fullres"])
    assert "exists already" in refusal(base, "attention_unet")


def test_without_monai_nothing_is_written_and_primus_works(base, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "monai", None)
    assert 'pip install "nnunet-ssl[networks]"' in refusal(base)
    assert 'pip install "nnunet-ssl[networks]"' in refusal(base, configurations=None)
    assert write_plans(base, "nnUNetPlans", "primus_s", "other", ["3d_fullres"]).parameters["3d_fullres"] > 2e7


def test_the_command(base, monkeypatch):
    folder = base / "preprocessed" / "Dataset007_Phantom"
    folder.mkdir(parents=True)
    for name in ("nnUNetPlans.json", "dataset.json"):
        shutil.copy(base / name, folder)
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    app = typer.Typer()
    app.command()(backbone)

    def invoke(*arguments):
        return CliRunner().invoke(app, ["-d", "7", "--network", *arguments])

    done = invoke("primus_s", "-o", "nnUNetPrimusPlans", "-c", "3d_fullres", "-c", "3d_lowres")
    assert done.exit_code == 0
    assert "3d_lowres: primus_s, 23." in done.output
    assert "nnUNetv2_train 7 3d_fullres 0 -p nnUNetPrimusPlans -tr nnUNetTrainerBCP" in done.output
    assert "left out: 2d of nnUNetPlans: Primus" in invoke("primus_s", "-o", "all").output
    assert isinstance(invoke("p_net", "-o", "other").exception, InputError)


@pytest.fixture
def short_training(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_ssl_config", SHORT)
    monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)


@pytest.mark.parametrize(
    ("network", "name", "configuration"),
    [
        ("vnet", "nnUNetTrainerMeanTeacher", "2d"),
        ("vnet", "nnUNetTrainerSupervised", "2d"),
        ("attention_unet", "nnUNetTrainerMeanTeacher", "3d_fullres"),
        ("attention_unet", "nnUNetTrainerSupervised", "3d_fullres"),
        ("attention_unet", "nnUNetTrainerDHC", "3d_fullres"),
        ("enet", "nnUNetTrainerMeanTeacher", "2d"),
        ("enet", "nnUNetTrainerCPS", "3d_fullres"),
        ("enet", "nnUNetTrainerSupervised", "3d_fullres"),
    ],
)
def test_trains_and_predicts(
    network, name, configuration, phantom_2d_regions, phantom_3d, tmp_path, monkeypatch, short_training
):
    """One epoch and the validation on preprocessed data of the old plans; nnU-Net's predictor then loads the model."""
    dataset = {"2d": phantom_2d_regions, "3d_fullres": phantom_3d}[configuration].copy(tmp_path).use(monkeypatch)
    write_plans(dataset.base, dataset.plans, network, "other", [configuration])
    trainer = get_trainer_from_args(dataset.name, configuration, 0, name, "other", device=CPU)
    assert not trainer.enable_deep_supervision
    trainer.run_training()
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()
    trainer.perform_actual_validation()

    predictor = nnUNetPredictor(
        use_gaussian=False, use_mirroring=False, perform_everything_on_device=False, device=CPU, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    patch = trainer.configuration_manager.patch_size
    image = torch.randn(1, *([1] * (3 - len(patch))), *patch)
    logits = predictor.predict_logits_from_preprocessed_data(image)
    trained = unwrap(trainer.network) if name == "nnUNetTrainerSupervised" else trainer.method.deployed(trainer.net)
    with torch.no_grad():
        expected = trained.eval()(image.reshape(1, 1, *patch))[0].reshape(logits.shape)
    torch.testing.assert_close(logits.float(), expected, atol=1e-2, rtol=1e-2)  # nnU-Net sums in half precision
    shutil.rmtree(dataset.root)  # the checkpoints of a V-Net fill disks


@pytest.mark.parametrize("encoder", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_networks_of_the_planner_keep_deep_supervision(encoder, phantom_3d, tmp_path, monkeypatch, short_training):
    dataset = phantom_3d.copy(tmp_path).use(monkeypatch)
    plans = read(dataset.base / f"{dataset.plans}.json")
    network = plans["configurations"]["3d_fullres"]["architecture"]
    network["network_class_name"] = f"dynamic_network_architectures.architectures.unet.{encoder}"
    if encoder == "ResidualEncoderUNet":
        network["arch_kwargs"]["n_blocks_per_stage"] = network["arch_kwargs"].pop("n_conv_per_stage")
    write(dataset.base / f"{dataset.plans}.json", plans)
    trainer = get_trainer_from_args(dataset.name, "3d_fullres", 0, "nnUNetTrainerSupervised", dataset.plans, device=CPU)
    trainer.initialize()
    assert trainer.enable_deep_supervision
    image = torch.randn(1, 1, 16, 16, 16)
    assert [tuple(scale.shape[2:]) for scale in trainer.network(image)] == [(16, 16, 16), (8, 8, 8)]
    trainer.set_deep_supervision_enabled(False)
    assert trainer.network(image).shape == (1, 3, 16, 16, 16)
