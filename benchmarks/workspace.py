"""A throw-away dataset with plans of a given size: random images in nnU-Net's formats, so that no data is needed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.data.unlabeled import MANIFEST, manifest_content, unlabeled_folder

NAME = "Dataset999_Benchmark"
PLANS = "nnUNetPlans"
CLASSES = 3


def sized_parser(
    description: str, patch: Sequence[int] = (32, 48, 48), features: Sequence[int] = (8, 16, 32, 64)
) -> argparse.ArgumentParser:
    """Of a measurement on a workspace: the device, the network and the batch."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--patch", type=int, nargs="+", default=[*patch])
    parser.add_argument("--features", type=int, nargs="+", default=[*features])
    parser.add_argument("--batch", type=int, default=2)
    return parser


def make_workspace(folder: Path, patch: list[int], features: list[int], batch: int, cases: int = 4) -> None:
    """Writes plans and `cases` labeled and unlabeled preprocessed cases, and points nnU-Net's variables there."""
    base = folder / "preprocessed" / NAME
    for kind in ("raw", "preprocessed", "results"):
        (folder / kind).mkdir(parents=True)
        os.environ[f"nnUNet_{kind}"] = str(folder / kind)
    dimensions = len(patch)
    (folder / "raw" / NAME).mkdir()
    base.mkdir()
    (base / "dataset_fingerprint.json").write_text("{}", encoding="utf-8")
    labels = {"background": 0} | {f"organ_{i}": i for i in range(1, CLASSES)}
    content = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (base / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    (base / f"{PLANS}.json").write_text(json.dumps(plans(patch, features, batch)), encoding="utf-8")
    splits = [{"train": [f"labeled_{i}" for i in range(cases)], "val": ["labeled_0"]}]
    (base / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")

    manager = PlansManager(str(base / f"{PLANS}.json"))
    configuration = manager.get_configuration("3d_fullres")
    labeled = base / configuration.data_identifier
    unlabeled = unlabeled_folder(base, configuration)
    labeled.mkdir()
    unlabeled.mkdir()
    rng = np.random.default_rng(0)
    shape = tuple(int(1.5 * size) for size in patch) if dimensions == 3 else (8, *[int(1.5 * size) for size in patch])
    for number in range(cases):
        image = rng.normal(size=(1, *shape)).astype(np.float32)
        segmentation = regions_of(rng, shape)[None]
        locations = {c: np.argwhere(segmentation == c)[:10000] for c in range(1, CLASSES)}
        blocks, chunks = comp_blosc2_params(image.shape, tuple(patch), image.itemsize)
        case = labeled / f"labeled_{number}"
        properties = {"class_locations": locations}
        nnUNetDatasetBlosc2.save_case(image, segmentation, properties, str(case), chunks=chunks, blocks=blocks)
        for ending in (".b2nd", ".pkl"):
            shutil.copy(f"{case}{ending}", unlabeled / f"unlabeled_{number}{ending}")
    names = [f"unlabeled_{number}" for number in range(cases)]
    (unlabeled / MANIFEST).write_text(json.dumps(manifest_content(manager, "3d_fullres", names)), encoding="utf-8")


def regions_of(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Labels of boxes of 16 voxels a side, (*shape)."""
    labels = rng.integers(0, CLASSES, [-(-size // 16) for size in shape]).astype(np.int16)
    for axis, size in enumerate(shape):
        labels = labels.repeat(16, axis).take(range(size), axis)
    return labels


def plans(patch: list[int], features: list[int], batch: int) -> dict:
    """Plans for an isotropic data set; a patch of two axes makes a 2D network, also called 3d_fullres here."""
    dimensions, stages = len(patch), len(features)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    network = {
        "n_stages": stages,
        "features_per_stage": features,
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * stages,
        "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": f"{PLANS}_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": [1.0] * dimensions,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
        **{f"resampling_fn_{what}_kwargs": resampling for what in ("data", "seg", "probabilities")},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    return {
        "dataset_name": NAME,
        "plans_name": PLANS,
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [64, 64, 64],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 0.0, "std": 1.0, "percentile_00_5": -2.6, "percentile_99_5": 2.6}
        },
    }


def make_trainer(name: str, device: str) -> nnUNetTrainer:
    """A trainer on the workspace, as `nnUNetv2_train` makes it."""
    return get_trainer_from_args(NAME, "3d_fullres", 0, name, PLANS, False, torch.device(device))


def versions() -> dict[str, str]:
    """What the figures depend on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("nnunet-ssl", "nnunetv2", "torch", "numpy")}
