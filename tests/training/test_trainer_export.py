"""Trained models, exported and through nnU-Net's own predictor."""

from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from short_trainings import CPU, checkpoint, equal, train
from workbench import change_a_weight, make_diverged

from nnunet_ssl.errors import InputError
from nnunet_ssl.networks.net import unwrap
from nnunet_ssl.results.export import export_model

pytestmark = pytest.mark.usefixtures("in_one_process_without_pictures")


@pytest.fixture
def dataset(phantom_3d, tmp_path, monkeypatch):
    return phantom_3d.copy(tmp_path).use(monkeypatch)


def test_export_is_a_stock_model(dataset, monkeypatch, tmp_path):
    trainer = train(dataset, monkeypatch)
    out = tmp_path / "model"
    assert export_model(Path(trainer.output_folder_base), ["0"], out) == ["0"]
    exported = torch.load(out / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert exported["trainer_name"] == "nnUNetTrainer"
    assert "semi_supervised" not in exported
    assert equal(dict(exported["network_weights"]), dict(checkpoint(trainer)["network_weights"]))
    assert {file.name for file in out.iterdir()} == {"plans.json", "dataset.json", "dataset_fingerprint.json", "fold_0"}
    with pytest.raises(InputError, match="exists already"):
        export_model(out, ["0"], out)
    with pytest.raises(InputError, match="fold 3"):
        export_model(out, ["3"], tmp_path / "other")
    with pytest.raises(InputError, match="one network only"):
        export_model(out, ["0"], tmp_path / "other", "second")
    change_a_weight(out / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(InputError, match="checkpoint_final.pth cannot be read: it is damaged"):
        export_model(out, ["0"], tmp_path / "other")
    make_diverged(Path(trainer.output_folder) / "checkpoint_final.pth")
    with pytest.raises(InputError, match="checkpoint_final.pth has weights that are no numbers: .* train it anew"):
        export_model(Path(trainer.output_folder_base), ["0"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def predictor(folder, folds=(0,)):
    made = nnUNetPredictor(
        use_gaussian=False,  # its weights vanish in half precision at the border
        use_mirroring=False,
        perform_everything_on_device=False,
        device=CPU,
        allow_tqdm=False,
    )
    made.initialize_from_trained_model_folder(str(folder), folds)
    return made


def test_two_networks_predict_as_one_through_stock_nnunet(dataset, monkeypatch, tmp_path):
    """nnU-Net's predictor on DHC's own model, and on its export as two stock folds, gives the mean of both."""
    trainer = train(dataset, monkeypatch, name="nnUNetTrainerDHC")
    assert {key.split(".")[0] for key in checkpoint(trainer)["network_weights"]} == {"first", "second"}
    folder = Path(trainer.output_folder_base)
    image = torch.randn(1, 20, 28, 28)
    ours = predictor(folder).predict_logits_from_preprocessed_data(image)
    assert export_model(folder, ["0"], tmp_path / "both") == ["0", "1"]
    stock = predictor(tmp_path / "both", (0, 1)).predict_logits_from_preprocessed_data(image)
    torch.testing.assert_close(ours, stock, atol=1e-2, rtol=1e-2)  # nnU-Net sums in half precision
    for member in ("first", "second"):
        assert export_model(folder, ["0"], tmp_path / member, member) == ["0"]
    single = [predictor(tmp_path / m).predict_logits_from_preprocessed_data(image) for m in ("first", "second")]
    assert not torch.allclose(single[0], single[1], atol=1e-2)


def test_networks_of_two_forms_predict_as_one_and_the_plans_own_is_a_stock_model(dataset, monkeypatch, tmp_path):
    trainer = train(dataset, monkeypatch, name="nnUNetTrainerMCF")
    folder = Path(trainer.output_folder_base)
    image = torch.randn(1, 20, 28, 28)
    predictor(folder).predict_logits_from_preprocessed_data(image)
    for member in (None, "second", "both"):
        with pytest.raises(InputError, match="of another kind.* --member first"):
            export_model(folder, ["0"], tmp_path / "model", member)
        assert not (tmp_path / "model").exists()
    assert export_model(folder, ["0"], tmp_path / "model", "first") == ["0"]
    exported = predictor(tmp_path / "model").network.state_dict()
    assert all(torch.equal(exported[key], value) for key, value in unwrap(trainer.network).state_dict().items())


@pytest.mark.parametrize(("name", "part"), [("TAC", r"decoder\.gates\.0"), ("LGSSL", r"guidance\.fusion")])
def test_a_network_that_stock_nnunet_cannot_build_predicts_with_this_package_and_is_not_exported(
    dataset, monkeypatch, tmp_path, name, part
):
    trainer = train(dataset, monkeypatch, name=f"nnUNetTrainer{name}")
    folder = Path(trainer.output_folder_base)
    made = predictor(folder)
    made.predict_logits_from_preprocessed_data(torch.randn(1, 20, 28, 28))
    trained = unwrap(trainer.network).state_dict()
    assert all(torch.equal(made.network.state_dict()[key], value) for key, value in trained.items())
    with pytest.raises(InputError, match=rf"not that of its plans \({part}\..*and \d+ more\), so that only"):
        export_model(folder, ["0"], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_trains_beside_the_plans_network_is_not_in_the_model(dataset, monkeypatch, tmp_path):
    """Decoders, layers of the time and a first layer that are not needed to predict: stock nnU-Net builds the rest."""
    trainer = train(dataset, monkeypatch, name="nnUNetTrainerGenericSSL")
    folder, image = Path(trainer.output_folder_base), torch.randn(1, 20, 28, 28)
    assert {"xi", "psi"} <= {key.split(".")[0] for key in checkpoint(trainer)["semi_supervised"]["method"]}
    ours = predictor(folder).predict_logits_from_preprocessed_data(image)
    assert export_model(folder, ["0"], tmp_path / "model") == ["0"]
    stock = predictor(tmp_path / "model")
    assert stock.trainer_name == "nnUNetTrainer" and type(stock.network).__module__.startswith("dynamic_network_archi")
    weights = torch.load(tmp_path / "model" / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    stock.network.load_state_dict(weights, strict=True)
    assert torch.equal(stock.predict_logits_from_preprocessed_data(image), ours)
