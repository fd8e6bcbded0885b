"""The small world of datasets, models and records that hostile files are let loose on, and the commands."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
import torch

from nnunet_ssl.data.origin import ORIGIN_FILE, present_origin
from nnunet_ssl.files import write_json

NAME, ID, PLANS = "Dataset007_Phantom", "7", "nnUNetPlans_tiny"
RAW, BASE, RESULTS = f"raw/{NAME}", f"preprocessed/{NAME}", "results"
MODEL = f"{RESULTS}/{NAME}/nnUNetTrainerMeanTeacher__{PLANS}__3d_fullres"
SHAPE = (5, 6, 7)


def build(root: Path) -> None:
    """Adds to a prepared phantom what the other verbs read."""
    shutil.copytree(root / RAW / "labelsTs", root / "predictions")
    shutil.copytree(root / RAW / "labelsTs", root / "references" / "labels")
    shutil.copy(root / RAW / "dataset.json", root / "references")
    shutil.copy(root / RAW / "dataset.json", root / "predictions")
    (root / "records").mkdir()
    for method, seed in (("supervised", 0), ("CPS", 0), ("CPS", 1)):
        (root / "records" / f"{method}{seed}.json").write_text(json.dumps(record(method, seed)), encoding="utf-8")
    model = root / MODEL / "fold_0"
    model.mkdir(parents=True)
    plans = json.loads((root / BASE / f"{PLANS}.json").read_text(encoding="utf-8"))
    for name in (f"{PLANS}.json", "dataset.json"):
        shutil.copy(root / BASE / name, root / MODEL / ("plans.json" if "Plans" in name else name))
    torch.save(
        {
            "network_weights": {"w": torch.zeros(2)},
            "inference_allowed_mirroring_axes": (0, 1, 2),
            "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": {}},
        },
        model / "checkpoint_final.pth",
    )
    shutil.copytree(root / "predictions", model / "validation")
    leave_origin(root, plans)
    _build_sources(root / "sources")
    (root / "outside").mkdir()
    (root / "outside" / "secret.txt").write_text("not to be read", encoding="utf-8")


def leave_origin(root: Path, plans: dict) -> None:
    """Of the model, as `nnunet_ssl run` would make it."""
    origin = present_origin(root / BASE, plans, "3d_fullres", 0, "nnUNetTrainerMeanTeacher", True, {})
    write_json(origin.as_dict(), root / MODEL / "fold_0" / ORIGIN_FILE)


def record(method: str, seed: int) -> dict:
    """An accuracy record of two test cases."""
    dice = {case: {"heart": value + 0.01 * seed} for case, value in {"a": 0.5, "b": 0.7}.items()}
    measure = {"mean": 0.6, "per_class": {"heart": 0.6}, "per_case": dice}
    return {
        "suite": "tiny",
        "method": method,
        "preset": "default",
        "labeled": 4,
        "seed": seed,
        "device": "cpu",
        "iterations": 10,
        "wall_seconds": 60.0,
        "peak_memory_mb": None,
        "commit": "0123456789abcdef",
        "versions": {"torch": "2.5"},
        "command": "accuracy.py",
        "overrides": {"num_epochs": 2},
        "name": None,
        "definition": {"name": "tiny", "units": 20, "patch": [8, 8, 8]},
        "metrics": dict.fromkeys(("dice", "jaccard", "hd95_mm", "asd_mm"), measure) | {"missed": {"heart": 0}},
        "learning_curve": {"pseudo_dice": [[0.2], [None]]},
    }


def volume(seed: int, label: bool = False, shape: tuple[int, ...] = SHAPE) -> sitk.Image:
    if label:
        voxels = np.zeros(shape, np.uint8)
        voxels[1:3, 2:5, 3:6] = 1
    else:
        voxels = np.random.default_rng(seed).integers(-100, 150, shape).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.7, 2.0))
    return image


def put(image: sitk.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file), useCompression=file.name.endswith((".gz", ".nrrd")))


def _build_sources(root: Path) -> None:
    """Every converter's layout, with the first two training ids and the first test id of the published lists."""
    for seed, name in enumerate(("a", "b", "c")):
        for layout in ("la_h5", "la_nrrd"):
            (root / layout / "scans" / name).mkdir(parents=True)
        with h5py.File(root / "la_h5" / "scans" / name / "mri_norm2.h5", "w") as file:
            file["image"] = sitk.GetArrayFromImage(volume(seed)).astype(np.float32)
            file["label"] = sitk.GetArrayFromImage(volume(seed, True))
        put(volume(seed), root / "la_nrrd" / "scans" / name / "lgemri.nrrd")
        put(volume(seed, True) * 255, root / "la_nrrd" / "scans" / name / "laendo.nrrd")
    for layout in ("la_h5", "la_nrrd"):
        (root / layout / "train.list").write_text("a\nb\n", encoding="utf-8")
        (root / layout / "test.list").write_text("c\n", encoding="utf-8")
    for layout, channels in (("Task01_One", ["MRI"]), ("Task02_Two", ["T1", "T2"])):
        for seed, name in enumerate(("a", "b", "c")):
            images = [volume(seed + 10 * channel) for channel in range(len(channels))]
            part = "Ts" if name == "c" else "Tr"
            put(
                images[0] if len(channels) == 1 else sitk.JoinSeries(images),
                root / layout / f"images{part}/{name}.nii.gz",
            )
            if part == "Tr":
                put(volume(seed, True), root / layout / f"labelsTr/{name}.nii.gz")
        pairs = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
        task = {
            "modality": {str(i): c for i, c in enumerate(channels)},
            "labels": {"0": "background", "1": "organ"},
            "training": pairs,
            "test": ["./imagesTs/c.nii.gz"],
        }
        (root / layout / "dataset.json").write_text(json.dumps(task), encoding="utf-8")
    for seed, patient in enumerate(ids("acdc")):
        for frame in (1, 9):
            name = f"{patient}_frame{frame:02d}"
            put(volume(seed + frame), root / "acdc" / "training" / patient / f"{name}.nii.gz")
            put(volume(seed, True), root / "acdc" / "training" / patient / f"{name}_gt.nii.gz")
            (root / "acdc_h5" / "data").mkdir(parents=True, exist_ok=True)
            with h5py.File(root / "acdc_h5" / "data" / f"{name}.h5", "w") as file:
                file["image"] = sitk.GetArrayFromImage(volume(seed))
                file["label"] = sitk.GetArrayFromImage(volume(seed, True))
        (root / "acdc" / "training" / patient / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: DCM\n", encoding="utf-8")
    for seed, name in enumerate(ids("synapse")):
        put(volume(seed), root / "synapse" / "img" / f"{name}.nii.gz")
        put(volume(seed, True), root / "synapse" / "label" / f"label{name[3:]}.nii.gz")
    for seed, name in enumerate(ids("amos")):
        put(volume(seed), root / "amos" / "imagesTr" / f"{name}.nii.gz")
        put(volume(seed, True), root / "amos" / "labelsTr" / f"{name}.nii.gz")
    for seed, name in enumerate(ids("lits")):
        put(volume(seed), root / "lits" / f"{name}.nii")
        put(volume(seed, True), root / "lits" / f"segmentation-{name.removeprefix('volume-')}.nii")
    for seed, name in enumerate(ids("pancreas")):
        write_series(root / "pancreas" / name / "study" / "series", volume(seed))
        label = volume(seed, True)
        label.SetSpacing((0.7, 0.7, 2.0))
        put(label, root / "pancreas" / f"label{name[-4:]}.nii.gz")


def ids(dataset: str) -> list[str]:
    content = next(iter(few_published(dataset).values()))
    return content["train"] + content["test"]


def few_published(dataset: str) -> dict[str, dict]:
    """The published protocols with two training cases and one test case, so that a source is small."""
    from nnunet_ssl.conversion.protocols import published

    protocols = published(dataset)
    first = next(iter(protocols.values()), None)
    return {
        name: content
        | {"train": first["train"][:2], "test": first["test"][:1], "validation": []}
        | {"labeled": dict.fromkeys(content["labeled"], 1)}
        for name, content in protocols.items()
    }


def write_series(folder_: Path, image: sitk.Image) -> None:
    """One DICOM file a slice."""
    folder_.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(image.GetSize()[2]):
        slice_ = image[:, :, z : z + 1]
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.{z + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.0",
            "0020|0013": str(z),
            "0020|0032": f"0\\0\\{2.0 * z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            slice_.SetMetaData(tag, value)
        writer.SetFileName(str(folder_ / f"1-{z + 1:03d}.dcm"))
        writer.Execute(slice_)


RUN = ("run", "-d", ID, "-c", "3d_fullres", "-p", PLANS, "--methods", "ICT", "--device", "cpu")
RUN_TRAINED = tuple("MeanTeacher" if word == "ICT" else word for word in RUN)
CHECK = ("check", "-d", ID, "-np", "1")
PREPROCESS = ("preprocess", "-d", ID, "-c", "3d_fullres", "-p", PLANS, "-np", "1")
SPLIT = ("split", "-d", ID, "--folds", "2")
EVALUATE_VALIDATION = ("evaluate", "{root}/references/labels", f"{{root}}/{MODEL}/fold_0/validation", "-np", "1")
BACKBONE = ("backbone", "-d", ID, "-p", PLANS, "-c", "3d_fullres", "--network", "primus_s", "-o", "nnUNetPlans_new")
EVALUATE = ("evaluate", "{root}/references/labels", "{root}/predictions", "-np", "1")
REPORT = ("report", "{root}/records", "-o", "{root}/report")
EXPORT = ("export", "-d", ID, "-c", "3d_fullres", "-tr", "nnUNetTrainerMeanTeacher", "-p", PLANS, "-o", "{root}/model")
TRAIN = ("train",)
NEXT_STAGE = ("predict_next_stage", "-d", ID, "-device", "cpu", "-np", "1", "-tr", "nnUNetTrainerMeanTeacher")
PLAN = ("plan", "-d", ID, "-f", "0", "-np", "1")


def convert(dataset: str, source: str, *more: str) -> tuple[str, ...]:
    return ("convert", dataset, f"{{root}}/sources/{source}", "--dataset-id", "9", "-np", "1", *more)
