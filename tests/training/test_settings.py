"""Overrides by variable: strict about keys, types and ranges, and clear about what is known."""

import pytest

from nnunet_ssl.errors import InputError
from nnunet_ssl.methods.mean_teacher import MeanTeacher
from nnunet_ssl.methods.supervised_mix import SupervisedMix
from nnunet_ssl.methods.ua_mt import UAMT
from nnunet_ssl.training.settings import read_settings


def test_nothing_asked_nothing_changed():
    settings = read_settings(MeanTeacher, "")
    assert (settings.trainer, settings.method, settings.preset) == ({}, {}, "default")


def test_inline_mapping_is_sorted_into_trainer_and_method():
    settings = read_settings(UAMT, "{num_epochs: 20, weight: 1, passes: 4, seed: 3, initial_lr: 1e-3}")
    assert settings.trainer == {"num_epochs": 20, "seed": 3, "initial_lr": 0.001}
    assert settings.method == {"weight": 1.0, "passes": 4}
    assert isinstance(settings.method["weight"], float)


def test_a_yaml_file(tmp_path):
    file = tmp_path / "my settings.yaml"
    file.write_text("num_epochs: 5\nnoise: 0.2  # more\n", encoding="utf-8")
    assert read_settings(MeanTeacher, str(file)).method == {"noise": 0.2}


def test_the_variable_is_read(monkeypatch):
    monkeypatch.setenv("nnUNet_ssl_config", "{num_epochs: 7}")
    assert read_settings(MeanTeacher).trainer == {"num_epochs": 7}


def test_presets_are_named_and_can_be_overridden():
    assert read_settings(MeanTeacher, "{preset: published, weight: 3}").method["weight"] == 3
    with pytest.raises(InputError, match="unknown preset 'best'.*published"):
        read_settings(MeanTeacher, "{preset: best}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{num_epoch: 20}", r"unknown key 'num_epoch'. Did you mean num_epochs\? Known: .*weight"),
        ("{passes: 4}", "unknown key 'passes'"),  # UA-MT's, not Mean Teacher's
        ("{num_epochs: 0}", "num_epochs = 0 must lie between 1 and 2147483647"),
        ("{num_epochs: 1.5}", "num_epochs must be of type int"),
        ("{num_epochs: true}", "num_epochs must be of type int"),
        ("{noise: loud}", "noise must be of type float"),
        ("{deploy_teacher: 1}", "deploy_teacher must be of type bool"),
        ("{oversample_foreground_percent: 1.2}", "between 0 and 1"),
        ("{weight: -1}", "weight = -1.0 is out of range"),
        ("{weight: .nan}", "weight = nan is out of range"),
        ("{unlabeled_batch_size: 0}", "unlabeled_batch_size = 0 must lie"),
        ("{a: [}", "not valid YAML"),
        ("nowhere.yaml", "there is no file nowhere.yaml"),
        ("{augmentation: da6}", "augmentation = da6 is unknown; there are default, da5"),
        ("{augmentation: 5}", "augmentation must be of type str"),
        ("{mix_labeled: 1.5}", "mix_labeled = 1.5 must lie between 0 and 1"),
        ("{1: 2}", "must be a mapping of names"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_settings(MeanTeacher, text)
    assert "\n" not in str(caught.value)


def test_a_list_in_a_file_is_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(InputError, match="must be a mapping"):
        read_settings(MeanTeacher, str(tmp_path / "list.yaml"))


def test_yaml_is_data_only(tmp_path):
    (tmp_path / "evil.yaml").write_text("num_epochs: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(InputError, match="not valid YAML"):
        read_settings(MeanTeacher, str(tmp_path / "evil.yaml"))


def test_the_supervised_trainer_knows_no_method_key():
    assert read_settings(None, "{num_epochs: 2}").trainer == {"num_epochs": 2}
    with pytest.raises(InputError, match="unknown key 'unlabeled_batch_size'"):
        read_settings(None, "{unlabeled_batch_size: 2}")


@pytest.mark.parametrize("key", ["unlabeled_batch_size", "mix_labeled", "mix_labeled_until", "lean"])
def test_a_method_without_unlabeled_scans_knows_no_key_of_theirs(key):
    assert read_settings(SupervisedMix, "{probability: 1}").method == {"probability": 1.0}
    with pytest.raises(InputError, match=f"unknown key '{key}'"):
        read_settings(SupervisedMix, f"{{{key}: 1}}")
