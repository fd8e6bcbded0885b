"""nnU-Net's predictor, its labels and its validation, and what they write."""

import json
import multiprocessing.dummy
import multiprocessing.pool  # before get_context is replaced  # noqa: F401
import os
from pathlib import Path
from types import SimpleNamespace

import blosc2
import numpy as np
import pytest
import torch
from acvl_utils.morphology.morphology_helper import label_with_component_sizes
from nnunetv2.evaluation.evaluate_predictions import key_to_label_or_region
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.export_prediction import resample_and_save
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing,
    remove_all_but_largest_component_from_segmentation,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import (
    LabelManager,
    convert_labelmap_to_one_hot,
    determine_num_input_channels,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.results.export import CHECKPOINT, FILES, PREDICTION_KEYS
from nnunet_ssl.results.measured import read_summary
from nnunet_ssl.results.seen import ARGUMENTS

REGIONS = {"background": 0, "whole": [1, 2], "nothing": [0, 0], "core": 2, "ignore": 3}


# ---------------------------------------------------------------------- the predictor


def predictor_of(network, plans, dataset_json) -> nnUNetPredictor:
    """By position, as `training/pseudo_labels.py` has it."""
    made = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    made.manual_initialization(network, manager, configuration, None, dataset_json, "a name", None)
    return made


class Channels(torch.nn.Module):
    """Logits of three classes that an image of one channel says itself."""

    def forward(self, image):
        return torch.cat((0.5 - image, image, image - 1), 1)


def test_window_gives_logits_of_a_preprocessed_image(plans, dataset_json):
    """Pseudo-labels are made of the unlabeled case as it lies there, an array (C, *spatial), with no properties."""
    image = torch.linspace(0, 2, 20).view(1, 20, 1, 1).expand(1, 20, 18, 17)
    predictor = predictor_of(Channels(), plans, dataset_json)
    logits = predictor.predict_sliding_window_return_logits(image.contiguous())
    assert logits.shape == (3, 20, 18, 17)
    assert (logits[1] - image[0]).abs().mean() < 0.01  # in half precision, which fails at corners of windows
    assert isinstance(predictor.label_manager, LabelManager)


def test_labels_of_logits_are_a_tensor(plans, dataset_json):
    """`label_cases` takes `.cpu().numpy()` of them, for classes the largest channel."""
    labels = predictor_of(Channels(), plans, dataset_json).label_manager
    segmentation = labels.convert_logits_to_segmentation(torch.tensor([[[0.0, 3]], [[1, 1]], [[2, 2]]]))
    assert isinstance(segmentation, torch.Tensor) and segmentation.tolist() == [[2, 0]]


@pytest.fixture
def model(trainer, plans, dataset_json) -> Path:
    """A model folder of a trained fold as nnU-Net leaves it."""
    folder = Path(trainer.output_folder_base)
    for name, content in (("plans.json", plans), ("dataset.json", dataset_json)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    trainer.save_checkpoint(str(folder / "fold_0" / CHECKPOINT))
    return folder


def test_a_model_is_built_by_the_class_of_its_trainer(model, monkeypatch):
    """`build_network_architecture` is a class method of ours, asked without deep supervision, by these arguments."""
    calls = []

    class Trainer(nnUNetTrainer):
        @classmethod
        def build_network_architecture(cls, plans_manager, configuration_manager, *sizes, **others):
            calls.append((cls, sizes, others))
            return nnUNetTrainer.build_network_architecture(plans_manager, configuration_manager, *sizes, **others)

    monkeypatch.setattr(predict_from_raw_data, "recursive_find_trainer_class_by_name", lambda name: Trainer)
    nnUNetPredictor(device=torch.device("cpu")).initialize_from_trained_model_folder(str(model), ("0",), CHECKPOINT)
    assert calls == [(Trainer, (1, 3), {"enable_deep_supervision": False})]


def test_a_predictor_of_a_folder_knows_plans_and_labels(model, dataset):
    """`predict_next_stage` reads them off the predictor; an exported checkpoint has these keys alone, and no more."""
    file = model / "fold_0" / CHECKPOINT
    content = torch.load(file, weights_only=False)
    torch.save({key: content[key] for key in (*PREDICTION_KEYS, "trainer_name")}, file)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("0",), CHECKPOINT)
    assert predictor.plans_manager.plans_name == dataset.plans and predictor.allowed_mirroring_axes == (0, 1, 2)
    assert predictor.configuration_manager.next_stage_names is None and "labels" in predictor.dataset_json
    logits = predictor.predict_logits_from_preprocessed_data(torch.zeros(1, 16, 16, 16))
    assert logits.shape == (3, 16, 16, 16) and logits.device.type == "cpu"


def test_prediction_tells_its_plans(model, tmp_path, dataset):
    """`evaluate` finds by these two files, in a folder of predictions, which folds may have made them."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("0",), CHECKPOINT)
    (tmp_path / "in").mkdir()
    predictor.predict_from_files(str(tmp_path / "in"), str(tmp_path / "out"))
    assert {ARGUMENTS, *FILES[:2]} <= {*os.listdir(tmp_path / "out")}
    written = json.loads((tmp_path / "out" / "plans.json").read_text(encoding="utf-8"))
    assert (written["dataset_name"], written["plans_name"]) == (dataset.name, dataset.plans)


def test_logits_are_resampled_with_two_properties_alone(plans, dataset_json, tmp_path):
    """`predict_next_stage` opens no properties of a hidden label's case: these two suffice, and one file is written."""
    manager = PlansManager(plans)
    logits = torch.zeros(3, 4, 4, 4)
    logits[2, :2] = 1
    properties = {"spacing": [1.0] * 3, "shape_after_cropping_and_before_resampling": (8, 8, 8)}
    resample_and_save(
        *(logits, (8, 8, 8), str(tmp_path / "case"), manager, manager.get_configuration("3d_fullres")),
        *(properties, dataset_json),
        num_threads_torch=1,
    )
    assert os.listdir(tmp_path) == ["case.b2nd"]
    written = blosc2.open(str(tmp_path / "case.b2nd"))[:]
    assert written.shape == (8, 8, 8) and (written[0] == 2).all() and (written[-1] == 0).all()


# ---------------------------------------------------------------------- labels


@pytest.fixture
def labels() -> LabelManager:
    """With regions and an ignore label."""
    return LabelManager(REGIONS, [1, 2])


def test_labels_of_a_dataset(labels):
    """Task, pseudo-labels and voxel counts take these: numbers without the ignore label, regions without background."""
    assert (labels.has_regions, labels.has_ignore_label, labels.ignore_label) == (True, True, 3)
    assert list(map(int, labels.all_labels)) == [0, 1, 2] and list(map(int, labels.foreground_labels)) == [1, 2]


def test_regions_keep_the_order_of_the_dataset(labels):
    """`task_of` names the output channels by it, and a region of background alone has no channel."""
    assert [tuple(np.atleast_1d(region)) for region in labels.foreground_regions] == [(1, 2), (2,)]
    assert labels.num_segmentation_heads == 2


def test_classes_have_a_head_each_and_the_ignore_label_none():
    """`task_of` names the channels of classes in the order of their numbers."""
    classes = LabelManager({"background": 0, "b": 2, "a": 1, "ignore": 3}, None)
    assert not classes.has_regions and classes.num_segmentation_heads == 3


def test_ignore_label_must_be_the_largest():
    """Voxel counts leave out whatever lies above the known labels."""
    with pytest.raises(AssertionError):
        LabelManager({"background": 0, "ignore": 1, "a": 2}, None)


def test_first_stage_becomes_one_hot_channels():
    """In a cascade pseudo-labels are made of the image and these, one for each foreground label."""
    made = convert_labelmap_to_one_hot(np.array([[0, 1], [2, 2]], np.uint8), [1, 2], np.dtype("float32"))
    assert made.dtype == np.float32 and made.tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 1]]]


def test_input_channels_of_a_second_stage(plans, dataset_json):
    """`backbone` sizes networks by it: channels of the image, and in a cascade one for each foreground label."""
    plans["configurations"]["second"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_fullres"}
    manager = PlansManager(plans)
    assert determine_num_input_channels(manager, "3d_fullres", dataset_json) == 1
    assert determine_num_input_channels(manager, "second", dataset_json) == 3


@pytest.mark.parametrize(("structure", "kept"), [(1, [1, 0, 2, 0, 2, 2]), (2, [1, 0, 0, 1, 2, 2])])
def test_largest_component_of_a_structure(structure, kept):
    """Pseudo-labels and the benchmark's figures after postprocessing keep it of a label."""
    segmentation = np.array([[1, 0, 2, 1, 2, 2]])
    if structure == 1:
        segmentation[0, 0:2], kept = 1, [1, 1, 2, 0, 2, 2]
    assert remove_all_but_largest_component_from_segmentation(segmentation, structure).tolist() == [kept]


def test_largest_component_of_a_region():
    """Of a tuple of labels, as one."""
    segmentation = np.array([[1, 0, 2, 1, 2, 2]])
    made = remove_all_but_largest_component_from_segmentation(segmentation, (1, 2))
    assert made.tolist() == [[0, 0, 2, 1, 2, 2]] and segmentation[0, 0] == 1


def test_rules_of_postprocessing():
    """The benchmark writes such functions and arguments for `nnUNetv2_apply_postprocessing`."""
    rule = ([remove_all_but_largest_component_from_segmentation], [{"labels_or_regions": (1, 2)}])
    assert apply_postprocessing(np.array([[1, 0, 2, 1]]), *rule).tolist() == [[0, 0, 2, 1]]


def test_components_and_their_sizes():
    """`single_components` compares the largest with the structure; corners that touch are one, as in nnU-Net's rule."""
    _, sizes = label_with_component_sizes(np.array([[1, 0, 0, 1], [0, 1, 0, 1]], bool))
    assert sorted(sizes.values()) == [2, 2]


# ---------------------------------------------------------------------- validation


@pytest.fixture
def validated(trainer, monkeypatch):
    """nnU-Net's own validation of a fold, in this process: what it asked for and what it wrote."""
    monkeypatch.setattr("multiprocessing.get_context", lambda method: multiprocessing.dummy)
    states, seen, network = [], [], trainer.network
    enable = trainer.set_deep_supervision_enabled

    def deployed(image):
        seen.append(image.shape)
        return network(image)

    stand_in = torch.nn.Module()
    stand_in.forward, stand_in.decoder = deployed, network.decoder
    trainer.network = stand_in
    trainer.set_deep_supervision_enabled = lambda enabled: (states.append(enabled), enable(enabled))
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    trainer.perform_actual_validation(save_probabilities=True)
    return SimpleNamespace(folder=Path(trainer.output_folder), states=states, seen=seen)


def test_validation(validated, dataset):
    """All that we read of a validated fold, of one run of it, since a validation takes a second.

    - The network in `trainer.network` predicts: the trainer puts the deployed one there, and back afterwards.
    - Deep supervision is switched by the trainer's own method, which knows compiled and averaged networks.
    - The runner knows by `validation/summary.json` with "mean" that a fold is finished, and its table reads the Dice of
      each class there; `find_best_configuration` ensembles the `.npz` that the runner asks for by `--npz`.
    """
    assert validated.seen and validated.states == [False, True]
    folds = json.loads((dataset.base / "splits_final.json").read_text(encoding="utf-8"))
    summary = read_summary(validated.folder)
    assert summary["mean"].keys() == {"1", "2"} and 0 <= summary["mean"]["1"]["Dice"] <= 1
    written = {file.name for file in (validated.folder / "validation").iterdir()}
    for case in folds[0]["val"]:
        assert {f"{case}.nii.gz", f"{case}.npz"} <= written


@pytest.mark.parametrize(("key", "label"), [("2", 2), ("(1, 2)", (1, 2)), ("(1,)", (1,))])
def test_keys_of_a_summary(key, label):
    """The runner's table finds the name of a class or region by them."""
    assert key_to_label_or_region(key) == label
