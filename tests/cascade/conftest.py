"""A phantom planned for a cascade, its first stage trained, and its unlabeled cases predicted."""

import json
import multiprocessing.dummy
import sys

import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.run.run_training import run_training_entry
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from two_stages import FIRST, PLANS, SECOND, SHORT, TRAINER, predict
from workbench import InProcess, phantom

from nnunet_ssl.preparation.preprocessing import preprocess_dataset


@pytest.fixture(scope="session")
def cascade(tmp_path_factory):
    """A phantom planned for both stages, two folds: the first hides the label of one of its two training cases."""
    dataset = phantom(tmp_path_factory.mktemp("cascade"), "3d_fullres", [16, 16, 16], stages=4, shape=(20, 28, 28))
    file = dataset.base / "nnUNetPlans_tiny.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    fullres = plans["configurations"]["3d_fullres"]
    coarse = [1.6 * spacing for spacing in fullres["spacing"]]
    lowres = {"data_identifier": "nnUNetPlans_tiny_3d_lowres", "spacing": coarse, "next_stage": SECOND}
    plans["configurations"] |= {FIRST: fullres | lowres}
    plans["configurations"] |= {SECOND: {"inherits_from": "3d_fullres", "previous_stage": FIRST}}
    file.write_text(json.dumps(plans), encoding="utf-8")
    manager = PlansManager(str(file))
    content = json.loads((dataset.raw / "dataset.json").read_text(encoding="utf-8"))
    (dataset.base / lowres["data_identifier"]).mkdir()
    with pytest.MonkeyPatch.context() as patched:
        dataset.use(patched)
        patched.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)
        for case, files in get_filenames_of_train_images_and_targets(str(dataset.raw), content).items():
            DefaultPreprocessor(verbose=False).run_case_save(
                str(dataset.base / lowres["data_identifier"] / case), files["images"], files["label"], manager,
                manager.get_configuration(FIRST), content,
            )  # fmt: skip
        preprocess_dataset(7, [FIRST, SECOND], dataset.plans, 1)
    splits = json.loads((dataset.base / "splits_final.json").read_text(encoding="utf-8"))
    splits[0]["unlabeled"] = [splits[0]["train"].pop()]
    (dataset.base / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")
    return dataset


@pytest.fixture
def in_process(monkeypatch):
    """nnU-Net's processes and ours as threads or calls: starting one takes seconds."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
    monkeypatch.setattr("multiprocessing.get_context", lambda method: multiprocessing.dummy)
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    monkeypatch.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)


@pytest.fixture(scope="session")
def first_stage(cascade):
    """Both folds of the first stage trained, by which nnU-Net predicts the labeled cases, but no unlabeled one."""
    with pytest.MonkeyPatch.context() as patched:
        cascade.use(patched)
        patched.setenv("nnUNet_n_proc_DA", "0")
        patched.setenv("nnUNet_ssl_config", json.dumps(SHORT))
        patched.setattr("nnunet_ssl.training.progress.ProgressLogger.plot_progress_png", lambda *args: None)
        patched.setattr("multiprocessing.get_context", lambda method: multiprocessing.dummy)
        patched.setattr("torch.set_num_threads", lambda number: None)
        for fold in (0, 1):
            patched.setattr(sys, "argv", ["command", "7", FIRST, str(fold), "-tr", TRAINER, *PLANS])
            run_training_entry()
    return cascade


@pytest.fixture
def dataset(first_stage, tmp_path, monkeypatch):
    return first_stage.copy(tmp_path).use(monkeypatch)


@pytest.fixture(scope="session")
def predicted(first_stage, tmp_path_factory):
    """The same with the unlabeled cases predicted for fold 0."""
    dataset = first_stage.copy(tmp_path_factory.mktemp("predicted"))
    with pytest.MonkeyPatch.context() as patched:
        dataset.use(patched)
        patched.setattr("nnunet_ssl.pools.ProcessPoolExecutor", InProcess)
        predict(dataset)
    return dataset
