"""Hostile files and arguments, and the small world of datasets, models and records that they are let loose on."""

import copy
import gzip
import json
import math
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
import torch

Spoil = Callable[[Path], None]
GIGANTIC = 60_000  # voxels on each of three axes: 400 TB


@dataclass(frozen=True)
class Hostile:
    """One attack: a file of the world spoiled, then a command.

    Attributes:
        arguments: of `nnunet_ssl`, with {root} for the world; of the trainer if the first is "train".
        file: what is spoiled, below the world's root; "" for nothing.
        told: what the message must contain besides; the name of the file if None.
        fine: the command must work (True), must refuse (False), or may do either, without a traceback (None).
    """

    name: str
    arguments: tuple[str, ...]
    file: str = ""
    spoil: Spoil | None = None
    told: str | None = None
    fine: bool | None = False
    environment: tuple[tuple[str, str], ...] = ()


# ---------------------------------------------------------------------- what is done to a file


def text(content: str, encoding: str = "utf-8") -> Spoil:
    return lambda file: file.write_bytes(content.encode(encoding, "surrogatepass"))


def as_json(content) -> Spoil:
    return text(json.dumps(content))


def bytes_(content: bytes) -> Spoil:
    return lambda file: file.write_bytes(content)


def changed(change: Callable[[bytes], bytes]) -> Spoil:
    """The file's own bytes, changed."""
    return lambda file: file.write_bytes(change(file.read_bytes()))


def cut(share: float) -> Spoil:
    return changed(lambda content: content[: int(len(content) * share)])


def flipped(seed: int, first: int = 400, count: int = 8) -> Spoil:
    """Some of the first bytes replaced by others."""

    def change(content: bytes) -> bytes:
        generator, spoiled = random.Random(seed), bytearray(content)
        for _ in range(count):
            spoiled[generator.randrange(min(first, len(spoiled)))] = generator.randrange(256)
        return bytes(spoiled)

    return changed(change)


def in_gzip(spoil: Callable[[bytes], bytes]) -> Spoil:
    return changed(lambda content: gzip.compress(spoil(gzip.decompress(content))))


def packed(format_: str, offset: int, *values) -> Callable[[bytes], bytes]:
    """Other values at a place of a header."""

    def change(content: bytes) -> bytes:
        spoiled = bytearray(content)
        struct.pack_into(format_, spoiled, offset, *values)
        return bytes(spoiled)

    return change


def folder(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def link(target: str) -> Spoil:
    def spoil(file: Path) -> None:
        file.unlink(missing_ok=True)
        file.symlink_to(target)

    return spoil


def moved(name: str) -> Spoil:
    """Another name for the same file."""
    return lambda file: file.rename(file.with_name(name))


def mutated(path: tuple, value) -> Spoil:
    """The JSON file with one value replaced, or left out if it is `...`."""

    def spoil(file: Path) -> None:
        content = json.loads(file.read_text(encoding="utf-8"))
        place = content
        for key in path[:-1]:
            place = place[key]
        if value is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        file.write_text(json.dumps(content), encoding="utf-8")

    return spoil


NASTY = [
    ...,
    None,
    True,
    -1,
    0,
    1.5,
    math.nan,
    math.inf,
    10**30,
    "",
    "x",
    "../../x",
    "a\nb\x1b[31m",
    "x" * 3000,
    [],
    {},
    [None],
    [[1]],
    ["../x"],
    {"x": None},
]
DEEP = "[" * 100_000
WHOLE_FILE: dict[str, Spoil] = {
    "empty": bytes_(b""),
    "folder": folder,
    "broken link": link("nowhere"),
    "link to itself": lambda file: link(file.name)(file),
    "utf-16": changed(lambda content: content.decode().encode("utf-16")),
    "latin-1": bytes_('{"ä": 1}'.encode("latin-1")),
    "binary": bytes_(bytes(range(256)) * 4),
    "truncated": cut(0.6),
    "deep": text(DEEP),
    "list": text("[1]"),
    "null": text("null"),
    "string": text('"x"'),
    "number": text("5"),
    "long number": text("9" * 5000),
    "NUL": bytes_(b"\0" * 100),
    "two values": text("{} {}"),
    "double key": changed(lambda content: doubled(content)),
}


def doubled(content: bytes) -> bytes:
    """JSON in which the first key of the first object stands twice."""
    loaded = json.loads(content)
    first = loaded[0] if isinstance(loaded, list) else loaded
    key, value = next(iter(first.items()))
    return content.replace(b"{", b"{" + json.dumps(key).encode() + b": " + json.dumps(value).encode() + b", ", 1)


def paths(content, at: tuple = ()) -> Iterator[tuple]:
    """The places of a JSON value; of a list the first two entries only."""
    items = (
        content.items() if isinstance(content, dict) else enumerate(content[:2]) if isinstance(content, list) else ()
    )
    for key, value in items:
        yield (*at, key)
        yield from paths(value, (*at, key))


def mutations(
    name: str, arguments: tuple[str, ...], root: Path, file: str, count: int, keep=lambda path: True, told=None
):
    """`count` single replacements in a JSON file, chosen by seed; what is not needed may be anything."""
    content = json.loads((root / file).read_text(encoding="utf-8"))
    all_ = [(path, number) for path in paths(content) if keep(path) for number in range(len(NASTY))]
    for path, number in random.Random(name).sample(all_, min(count, len(all_))):
        title = f"{name}: {'.'.join(map(str, path))} = {str(NASTY[number])[:20]!r}"
        yield Hostile(title, arguments, file, mutated(path, NASTY[number]), told, None)


def whole_files(name: str, arguments: tuple[str, ...], file: str, told: str | None = None, but=()) -> Iterator[Hostile]:
    for fault, spoil in WHOLE_FILE.items():
        if fault not in but:
            yield Hostile(f"{name}: {fault}", arguments, file, spoil, told)


# ---------------------------------------------------------------------- the world

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
    _build_sources(root / "sources")
    (root / "outside").mkdir()
    (root / "outside" / "secret.txt").write_text("not to be read", encoding="utf-8")


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
    from nnunet_ssl.data.protocols import published

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


# ---------------------------------------------------------------------- the attacks


def all_cases(root: Path) -> list[Hostile]:
    found = [
        case
        for make in (
            overrides,
            splits,
            dataset_files,
            plans,
            manifests,
            lists,
            task_files,
            images,
            sources,
            records,
            models,
            arguments,
            names,
        )
        for case in make(root)
    ]
    assert len({case.name for case in found}) == len(found)
    return found


RUN = ("run", "-d", ID, "-c", "3d_fullres", "-p", PLANS, "--methods", "MeanTeacher", "--device", "cpu")
CHECK = ("check", "-d", ID, "-np", "1")
PREPROCESS = ("preprocess", "-d", ID, "-c", "3d_fullres", "-p", PLANS, "-np", "1")
SPLIT = ("split", "-d", ID, "--folds", "2")
BACKBONE = ("backbone", "-d", ID, "-p", PLANS, "-c", "3d_fullres", "--network", "primus_s", "-o", "nnUNetPlans_new")
EVALUATE = ("evaluate", "{root}/references/labels", "{root}/predictions", "-np", "1")
REPORT = ("report", "{root}/records", "-o", "{root}/report")
EXPORT = ("export", "-d", ID, "-c", "3d_fullres", "-tr", "nnUNetTrainerMeanTeacher", "-p", PLANS, "-o", "{root}/model")
TRAIN = ("train",)
PLAN = ("plan", "-d", ID, "-f", "0", "-np", "1")


def convert(dataset: str, source: str, *more: str) -> tuple[str, ...]:
    return ("convert", dataset, f"{{root}}/sources/{source}", "--dataset-id", "9", "-np", "1", *more)


def overrides(root: Path) -> Iterator[Hostile]:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    texts = {
        "python/object": "num_epochs: !!python/object/apply:os.system ['touch pwned']",
        "python/name": "num_epochs: !!python/name:os.system",
        "python/module": "!!python/object/new:os.system ['touch pwned']",
        "unknown tag": "num_epochs: !evil 3",
        "int tag": "num_epochs: !!int ''",
        "bool tag": "deploy_teacher: !!bool maybe",
        "timestamp tag": "num_epochs: !!timestamp x",
        "float tag": "weight: !!float x",
        "binary tag": "weight: !!binary ä",
        "impossible date": "weight: 2001-99-99",
        "bomb": bomb,
        "bomb as a value": bomb + "weight: *a11",
        "alias to itself": "weight: &a [*a]",
        "merge": "<<: {num_epochs: 3}",
        "merge of itself": "&a\n<<: *a",
        "double key": "weight: 1\nweight: 2",
        "list": "- 1",
        "number": "5",
        "colon": "a: b: c",
        "tab": "\tweight: 1",
        "two documents": "weight: 1\n---\nweight: 2",
        "list as key": "? [a]\n: 1",
        "null key": "~: 1",
        "deep": "weight: " + DEEP,
        "deep mapping": "{a: " * 50_000,
        "long number": "num_epochs: " + "9" * 5000,
        "huge number": "num_epochs: " + "9" * 400,
        "huge seed": "seed: " + "9" * 40,
        "sexagesimal": "num_epochs: -1:30",
        "null value": "num_epochs: null",
        "list value": "num_epochs: [1]",
        "mapping value": "num_epochs: {a: 1}",
        "text": "num_epochs: many",
        "negative": "num_epochs: -1",
        "fraction": "num_epochs: 0.5",
        "nan": "initial_lr: .nan",
        "infinity": "initial_lr: .inf",
        "nan weight": "weight: .nan",
        "huge weight": "weight: 1e400",
        "infinite decay": "weight_decay: .inf",
        "other method's key": "passes: 4",
        "long key": "x" * 10_000 + ": 1",
        "long value": "num_epochs: " + "x" * 10_000,
        "control characters": 'num_epochs: "\\e[31m\\n\\n\\n"',
        "preset list": "preset: [published]",
        "preset mapping": "preset: {a: 1}",
        "preset null": "preset: null",
    }
    file = "overrides.yaml"
    for name, content in texts.items():
        yield Hostile(f"overrides {name}", (*RUN, "--config", f"{{root}}/{file}"), file, text(content))
        if len(content) < 100_000 and "\0" not in content:
            yield Hostile(
                f"overrides {name} (train)",
                TRAIN,
                file,
                text(content),
                None,
                False,
                (("nnUNet_ssl_config", f"{{root}}/{file}"),),
            )
    for fault in ("empty", "folder", "broken link", "link to itself", "latin-1", "binary", "NUL"):
        fine = fault == "empty"
        yield Hostile(
            f"overrides file: {fault}", (*RUN, "--config", f"{{root}}/{file}"), file, WHOLE_FILE[fault], fine=fine
        )
    inline = {
        "no file": "nowhere.yaml",
        "long name": "x" * 5000,
        "folder": "/",
        "device": "/dev/null",
        "open": "{a: [",
        "lines": "num_epochs: 3\nseed: 1",
        "key": "{../../x: 1}",
        "control": "{num_epochs: \x1b}",
    }
    for name, content in inline.items():
        yield Hostile(f"overrides inline {name}", (*RUN, "--config", content), told="nnUNet_ssl_config")
    for name, content in {
        "BOM": "\ufeffnum_epochs: 3\n",
        "unicode": "# Bären 漢字\nnum_epochs: 3\n",
        "empty mapping": "{}",
    }.items():
        yield Hostile(f"overrides {name}", (*RUN, "--config", f"{{root}}/{file}"), file, text(content), fine=True)


def splits(root: Path) -> Iterator[Hostile]:
    file = f"{BASE}/splits_final.json"
    good = json.loads((root / file).read_text(encoding="utf-8"))
    case, *others = good[0]["train"]

    def fold(**changes) -> list[dict]:
        return [good[0] | changes, good[1]]

    shapes = {
        "mapping": {"train": [], "val": []},
        "fold list": [[case]],
        "fold null": [None],
        "no val": [{"train": [case]}],
        "train text": fold(train="abc"),
        "train mapping": fold(train={case: 1}),
        "train null": fold(train=None),
        "id number": fold(train=[1, 2]),
        "id null": fold(val=[None]),
        "id list": fold(val=[[case]]),
        "unlabeled text": fold(unlabeled="abc"),
        "unlabeled numbers": fold(unlabeled=[7]),
        "no folds": [],
        "traversal": fold(unlabeled=["../../outside/secret"]),
        "absolute": fold(unlabeled=["/etc/passwd"]),
        "newline": fold(unlabeled=["a\nb"]),
        "control": fold(train=[*others, "\x1b[31m"]),
        "empty id": fold(unlabeled=[""]),
        "dot": fold(train=[".", ".."]),
        "backslash": fold(val=["..\\x"]),
        "surrogate": fold(unlabeled=["\ud800"]),
        "NUL": fold(unlabeled=["a\0b"]),
        "long": fold(unlabeled=["x" * 5000]),
    }
    for verb in (RUN, CHECK, SPLIT, PLAN, TRAIN):
        for name, content in shapes.items():
            yield Hostile(f"splits {name}: {verb[0]}", verb, file, as_json(content))
        yield from whole_files(f"splits {verb[0]}", verb, file, but=("folder", "broken link", "link to itself"))
    for name, content in {"in both": fold(unlabeled=[case]), "unknown case": fold(unlabeled=["nobody"])}.items():
        yield Hostile(f"splits {name}: train", TRAIN, file, as_json(content), told="nobody" if "unk" in name else None)
    for fault in ("folder", "broken link", "link to itself"):
        yield Hostile(f"splits {fault}: run", RUN, file, WHOLE_FILE[fault], "", None)


def dataset_files(root: Path) -> Iterator[Hostile]:
    raw, base, reference = f"{RAW}/dataset.json", f"{BASE}/dataset.json", "predictions/dataset.json"
    for verb, file in (
        (CHECK, raw),
        (PREPROCESS, base),
        (SPLIT, base),
        (BACKBONE, base),
        (RUN, base),
        (EVALUATE, reference),
    ):
        but = ("folder", "broken link", "link to itself") if verb is EVALUATE else ()
        yield from whole_files(f"dataset.json {verb[0]}", verb, file, but=but)
        yield from mutations(f"dataset.json {verb[0]}", verb, root, file, 30, told="")
        for name, value in {"../": "/../x", "none": None, "list": [".nii.gz"], "empty": "", "number": 5}.items():
            if verb not in (BACKBONE, RUN):
                yield Hostile(f"dataset.json {verb[0]} ending {name}", verb, file, mutated(("file_ending",), value))
    labels = {
        "list": [1],
        "null": None,
        "text": "x",
        "empty": {},
        "nested": {"a": [[1]]},
        "float": {"a": 1.5},
        "empty list": {"a": []},
        "null value": {"a": None},
        "ignore list": {"a": 1, "ignore": []},
        "background only": {"background": 0},
    }
    for name, value in labels.items():
        for verb, file in ((EVALUATE, reference), (RUN, base)):
            yield Hostile(f"labels {name}: {verb[0]}", verb, file, mutated(("labels",), value))
    entry = {"images": ["../../outside/x_0000.nii.gz"], "label": "../x.nii.gz"}
    for name, value in {
        "list": ["a"],
        "entry": {"a": 1},
        "no images": {"a": {}},
        "ids": {"../x": entry},
        "null": None,
    }.items():
        yield Hostile(f"dataset list {name}: check", CHECK, raw, mutated(("dataset",), value))
        yield Hostile(f"dataset list {name}: preprocess", PREPROCESS, base, mutated(("dataset",), value))
        yield Hostile(f"dataset list {name}: split", SPLIT, base, mutated(("dataset",), value))
    fingerprint = f"{BASE}/dataset_fingerprint.json"
    for fault in WHOLE_FILE.keys() - {"folder", "broken link", "link to itself", "double key"}:
        yield Hostile(f"fingerprint: {fault}", CHECK, fingerprint, _where_labels_are_hidden(WHOLE_FILE[fault]))


def _where_labels_are_hidden(spoil: Spoil) -> Spoil:
    """The fingerprint is read only where a fold hides labels."""

    def make(file: Path) -> None:
        splits_file = file.with_name("splits_final.json")
        first, second = json.loads(splits_file.read_text(encoding="utf-8"))
        first["unlabeled"] = [first["train"].pop()]
        splits_file.write_text(json.dumps([first, second]), encoding="utf-8")
        spoil(file)

    return make


def plans(root: Path) -> Iterator[Hostile]:
    file = f"{BASE}/{PLANS}.json"
    for verb in (PREPROCESS, BACKBONE, RUN):
        yield from whole_files(f"plans {verb[0]}", verb, file)
    keep = lambda path: "arch_kwargs" not in path and "2d" not in path  # noqa: E731
    yield from mutations("plans preprocess", PREPROCESS, root, file, 110, keep, told="")
    yield from mutations("plans backbone", BACKBONE, root, file, 60, lambda path: "2d" not in path, told="")
    yield from mutations("plans run", RUN, root, file, 25, lambda path: "2d" not in path, told="")
    settings = ("configurations", "3d_fullres")
    for key, value in {
        "data_identifier": "../../../outside",
        "inherits_from": "3d_fullres",
        "spacing": [math.nan, 1, 1],
        "patch_size": [10**9] * 3,
        "preprocessor_name": "os.system",
        "resampling_fn_data": "os.system",
        "normalization_schemes": ["os.system"],
    }.items():
        for verb in (PREPROCESS, BACKBONE):
            if verb is PREPROCESS or key in ("data_identifier", "inherits_from", "patch_size", "spacing"):
                yield Hostile(f"plans {key}: {verb[0]}", verb, file, mutated((*settings, key), value))
    yield Hostile("plans reader", PREPROCESS, file, mutated(("image_reader_writer",), "os.system"))
    yield Hostile("plans name", RUN, file, mutated(("plans_name",), "../../outside"))


def manifests(root: Path) -> Iterator[Hostile]:
    file = f"{BASE}/{PLANS}_3d_fullres_unlabeled/unlabeled.json"
    yield from whole_files("manifest", TRAIN, file, told="unlabeled")
    good = json.loads((root / file).read_text(encoding="utf-8"))["cases"]
    lists_ = {
        "null": None,
        "empty": [],
        "text": "abc",
        "mapping": {},
        "number": [1],
        "nested": [[good[0]]],
        "traversal": ["../../../outside/secret"],
        "absolute": ["/etc/passwd"],
        "newline": [*good, "a\nb"],
        "gone": [*good, "gone"],
        "twice": [*good, good[0]],
        "NUL": ["a\0"],
        "long": ["x" * 5000],
    }
    for name, value in lists_.items():
        yield Hostile(f"manifest cases {name}", TRAIN, file, mutated(("cases",), value), told="unlabeled")
    for name, value in {"format": 99, "fingerprint": 5}.items():
        yield Hostile(f"manifest {name}", TRAIN, file, mutated((name,), value), told="unlabeled")
    labeled = json.loads((root / BASE / "splits_final.json").read_text(encoding="utf-8"))[0]["train"][0]
    image = f"{BASE}/{PLANS}_3d_fullres_unlabeled/{good[0]}.b2nd"
    yield Hostile("a labeled case in the manifest", TRAIN, file, mutated(("cases", 0), labeled), told=labeled)
    pkl = f"{BASE}/{PLANS}_3d_fullres_unlabeled/{good[0]}.pkl"
    yield Hostile("preprocessed pkl code: preprocess", PREPROCESS, pkl, bytes_(pickle.dumps(Evil())), fine=True)
    for fault in ("empty", "truncated", "binary"):  # these are made again
        for ending in ("b2nd", "pkl"):
            yield Hostile(
                f"preprocessed {ending} {fault}: preprocess",
                PREPROCESS,
                image.replace("b2nd", ending),
                WHOLE_FILE[fault],
                fine=True,
            )


def lists(root: Path) -> Iterator[Hostile]:
    contents = {
        "empty": b"",
        "blank": b"\n \n",
        "twice": b"a\na\n",
        "unknown": b"nobody\n",
        "test case": b"c\n",
        "traversal": b"../../outside/secret\n",
        "absolute": b"/etc/passwd\n",
        "utf-16": "a\n".encode("utf-16"),
        "latin-1": "ä\n".encode("latin-1"),
        "binary": bytes(range(256)),
        "NUL": b"a\0\n",
        "control": b"\x1b[31m\n",
        "JSON": b'["a"]',
        "long": b"x" * 100_000,
        "hidden": b".a\n",
        "many": b"x\n" * 100_000,
        "separator": "a\u2028b\n".encode(),
    }
    for name, content in contents.items():
        told = "own.list"
        yield Hostile(
            f"labeled list {name}",
            convert("la", "la_h5", "--labeled-list", "{root}/own.list"),
            "own.list",
            bytes_(content),
            told,
        )
        if name != "test case":
            yield Hostile(f"train.list {name}", convert("la", "la_h5"), "sources/la_h5/train.list", bytes_(content), "")
    for fault in ("folder", "broken link", "link to itself"):
        yield Hostile(
            f"labeled list {fault}",
            convert("la", "la_h5", "--labeled-list", "{root}/own.list"),
            "own.list",
            WHOLE_FILE[fault],
        )
    yield Hostile("train.list BOM", convert("la", "la_h5"), "sources/la_h5/train.list", text("\ufeffa\nb\n"), "", None)
    yield Hostile("train.list CRLF", convert("la", "la_h5"), "sources/la_h5/train.list", text("a\r\nb\r\n"), fine=True)


def task_files(root: Path) -> Iterator[Hostile]:
    file = "sources/Task01_One/dataset.json"
    yield from whole_files("task", convert("msd", "Task01_One"), file)
    yield from mutations("task", convert("msd", "Task01_One"), root, file, 60, told="")
    for name, entry in {
        "traversal": "../../outside/secret.nii.gz",
        "newline": "x\ny.nii.gz",
        "root": "/etc/passwd",
    }.items():
        yield Hostile(f"task {name}", convert("msd", "Task01_One"), file, mutated(("training", 0, "image"), entry))
    info = f"sources/acdc/training/{ids('acdc')[0]}/Info.cfg"
    contents = {
        "empty": b"",
        "text": b"ED: one\nES: two\n",
        "huge": b"ED: " + b"9" * 5000 + b"\nES: 9\n",
        "zero": b"ED: 0\nES: 9",
        "negative": b"ED: -1\nES: 9",
        "latin-1": "ED: 1\nES: ä".encode("latin-1"),
        "same": b"ED: 1\nES: 1",
        "binary": bytes(range(256)),
        "traversal": b"ED: ../../x\nES: 9",
    }
    for name, content in contents.items():
        told = "" if name in ("zero", "negative", "same") else None
        yield Hostile(f"Info.cfg {name}", convert("acdc", "acdc"), info, bytes_(content), told)
    for fault in ("folder", "broken link", "link to itself"):
        yield Hostile(f"Info.cfg {fault}", convert("acdc", "acdc"), info, WHOLE_FILE[fault], "")
    for name in ("empty", "list", "null", "deep", "binary", "latin-1"):
        yield Hostile(
            f"conversion.json {name}",
            convert("la", "la_h5"),
            "raw/Dataset009_LA",
            _conversion(WHOLE_FILE[name]),
            "conversion.json",
        )
    yield Hostile(
        "conversion.json source",
        convert("la", "la_h5"),
        "raw/Dataset009_LA",
        _conversion(text('{"source": [1]}')),
        "Dataset009_LA",
    )


def _conversion(spoil: Spoil) -> Spoil:
    def make(folder_: Path) -> None:
        folder_.mkdir()
        spoil(folder_ / "conversion.json")

    return make


NIFTI_HEADER: dict[str, Callable[[bytes], bytes]] = {
    "gigantic": packed("<8h", 40, 3, 32767, 32767, 32767, 1, 1, 1, 1),
    "gigantic in seven axes": packed("<8h", 40, 7, *[32767] * 7),
    "zero axis": packed("<8h", 40, 3, 0, 6, 5, 1, 1, 1, 1),
    "negative axis": packed("<8h", 40, 3, -7, 6, 5, 1, 1, 1, 1),
    "no axes": packed("<h", 40, 0),
    "nine axes": packed("<h", 40, 9),
    "unknown voxels": packed("<2h", 70, 31000, 77),
    "complex voxels": packed("<2h", 70, 32, 64),
    "text offset": packed("<f", 108, math.nan),
    "endless offset": packed("<f", 108, math.inf),
    "huge offset": packed("<f", 108, 1e30),
    "wrong size of header": packed("<i", 0, 123),
    "no magic": packed("4s", 344, b"\0\0\0\0"),
    "NaN spacing": packed("<8f", 76, 1, math.nan, math.nan, math.nan, 1, 1, 1, 1),
    "zero spacing": packed("<8f", 76, 1, 0, 0, 0, 1, 1, 1, 1),
    "infinite spacing": packed("<8f", 76, 1, math.inf, 1, 1, 1, 1, 1, 1),
    "huge spacing": packed("<8f", 76, 1, 1e30, 1e30, 1e30, 1, 1, 1, 1),
    "NaN matrix": packed("<2h12f", 252, 0, 1, *[math.nan] * 12),
    "flat matrix": packed("<2h12f", 252, 0, 1, *[0.0] * 12),
    "NaN slope": packed("<2f", 112, math.nan, math.nan),
    "infinite slope": packed("<2f", 112, math.inf, 0),
}
DAMAGE: dict[str, Spoil] = {
    "empty": bytes_(b""),
    "one byte": cut(0.001),
    "half": cut(0.5),
    "last bytes": changed(lambda content: content[:-20]),
    "text": text("no image"),
    "folder": folder,
    "broken link": link("nowhere"),
    "HTML": text("<html>404</html>"),
    "link to text": link("../../../outside/secret.txt"),
}
HARMLESS_HEADER = (
    "NaN matrix",
    "no magic",
    "wrong size of header",
    "huge offset",
    "NaN slope",
    "infinite slope",
    "text offset",
    "endless offset",
)


def images(root: Path) -> Iterator[Hostile]:
    case = "phantom_004"
    unlabeled, prediction = (
        f"{RAW}/imagesUnlabeled/{case}_0000.nii.gz",
        sorted((root / "predictions").glob("*.nii.gz"))[0],
    )
    reference = f"references/labels/{prediction.name}"
    prediction = f"predictions/{prediction.name}"
    first = f"sources/synapse/img/{ids('synapse')[0]}.nii.gz"
    lits = f"sources/lits/{ids('lits')[0]}.nii"
    places = {
        "preprocess": (PREPROCESS, unlabeled),
        "check": (CHECK, unlabeled),
        "prediction": (EVALUATE, prediction),
        "reference": (EVALUATE, reference),
        "synapse": (convert("synapse", "synapse"), first),
        "lits": (convert("lits", "lits"), lits),
        "amos": (convert("amos", "amos"), f"sources/amos/labelsTr/{ids('amos')[0]}.nii.gz"),
        "msd 4D": (convert("msd", "Task02_Two"), "sources/Task02_Two/imagesTr/a.nii.gz"),
    }
    for place, (verb, file) in places.items():
        told = Path(file).name.split(".")[0]
        told = told.removesuffix("_0000")
        for name, spoil in DAMAGE.items():
            if not (place == "reference" and "folder" in name):
                yield Hostile(f"{place} {name}", verb, file, spoil, told)
        for name, change in NIFTI_HEADER.items():
            spoil = in_gzip(change) if file.endswith(".gz") else changed(change)
            yield Hostile(
                f"{place} header: {name}", verb, file, spoil, told, None if name in HARMLESS_HEADER else False
            )
        for seed in range(4):
            spoil = in_gzip(partial(_flip, seed=seed)) if file.endswith(".gz") else flipped(seed)
            yield Hostile(f"{place} flipped header {seed}", verb, file, spoil, told, None)
        yield Hostile(f"{place} flipped bytes", verb, file, flipped(7, 300), told, None)
        if not place.startswith("msd"):
            yield Hostile(f"{place} 4D", verb, file, lambda f: put(sitk.JoinSeries([volume(1), volume(2)]), f), told)
        yield Hostile(f"{place} 2D", verb, file, lambda f: put(volume(1)[:, :, 0], f), told)
        yield Hostile(f"{place} colors", verb, file, lambda f: put(sitk.Compose([volume(1)] * 3), f), told)
        yield Hostile(
            f"{place} another NIfTI",
            verb,
            file,
            lambda f: put(volume(1, False, (2, 3, 4)), f),
            told,
            None if place in ("check", "preprocess", "lits", "synapse", "msd 4D") else False,
        )


def _flip(content: bytes, seed: int) -> bytes:
    generator, spoiled = random.Random(seed), bytearray(content)
    for _ in range(6):
        spoiled[generator.randrange(348)] = generator.randrange(256)
    return bytes(spoiled)


def nrrd(**changes: str) -> Spoil:
    """An uncompressed NRRD of a small volume with header lines replaced, added, or (for "") left out."""

    def spoil(file: Path) -> None:
        lines = {
            "type": "short",
            "dimension": "3",
            "sizes": "7 6 5",
            "encoding": "raw",
            "endian": "little",
            "space": "left-posterior-superior",
            "space directions": "(1,0,0) (0,1,0) (0,0,1)",
            "space origin": "(0,0,0)",
        }
        lines |= {key.replace("_", " "): value for key, value in changes.items()}
        header = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items() if value)
        file.write_bytes(header.encode() + b"\n" + sitk.GetArrayFromImage(volume(0)).tobytes())

    return spoil


def in_h5(change: Callable[[h5py.File], None]) -> Spoil:
    def spoil(file: Path) -> None:
        with h5py.File(file, "a") as content:
            change(content)

    return spoil


def replaced(key: str, value) -> Spoil:
    def change(content: h5py.File) -> None:
        del content[key]
        content[key] = value

    return in_h5(change)


def created(key: str, **options) -> Spoil:
    def change(content: h5py.File) -> None:
        del content[key]
        content.create_dataset(key, **options)

    return in_h5(change)


def attribute(name: str, value) -> Spoil:
    return in_h5(lambda content: content["image"].attrs.__setitem__(name, value))


def sources(root: Path) -> Iterator[Hostile]:
    huge = str(GIGANTIC)
    la_nrrd = "sources/la_nrrd/scans/a/lgemri.nrrd"
    nrrds = {
        "gigantic": nrrd(sizes=f"{huge} {huge} {huge}"),
        "gigantic gzip": nrrd(sizes=f"{huge} {huge} {huge}", encoding="gzip"),
        "large": nrrd(sizes="3000 3000 3000"),
        "large gzip": nrrd(sizes="2000 2000 2000", encoding="gzip"),
        "zero axis": nrrd(sizes="0 6 5"),
        "negative axis": nrrd(sizes="-7 6 5"),
        "text sizes": nrrd(sizes="a b c"),
        "overflow": nrrd(sizes="99999999999999999999 6 5"),
        "four axes": nrrd(dimension="4"),
        "no type": nrrd(type=""),
        "NaN directions": nrrd(space_directions="(nan,0,0) (0,nan,0) (0,0,nan)"),
        "unknown encoding": nrrd(encoding="x"),
        "zero directions": nrrd(space_directions="(0,0,0) (0,0,0) (0,0,0)"),
        "bzip2": nrrd(encoding="bzip2"),
        "voxels elsewhere": nrrd(data_file="/etc/passwd"),
        "voxels above": nrrd(data_file="../../../../outside/secret.txt"),
        "list of files": nrrd(data_file="LIST"),
        "NaN origin": nrrd(space_origin="(nan,0,0)"),
        "short": nrrd(sizes="7 6 500"),
    }
    for name, spoil in (nrrds | DAMAGE).items():
        yield Hostile(f"nrrd {name}", convert("la", "la_nrrd"), la_nrrd, spoil, "" if "link" in name else None)
    for seed in range(6):
        yield Hostile(f"nrrd flipped {seed}", convert("la", "la_nrrd"), la_nrrd, flipped(seed, 200), fine=None)
    la_h5 = "sources/la_h5/scans/a/mri_norm2.h5"
    voxels = np.zeros(SHAPE, np.float32)
    h5s = {
        "gigantic": created("image", shape=(GIGANTIC,) * 3, chunks=(64, 64, 64), dtype="f4"),
        "large": created("image", shape=(3000,) * 3, chunks=(64, 64, 64), dtype="f4", compression="gzip"),
        "group": lambda file: (
            in_h5(lambda f: f.__delitem__("image"))(file),
            in_h5(lambda f: f.create_group("image"))(file),
        ),
        "text": replaced("image", "no image"),
        "texts": replaced("image", ["a", "b"]),
        "scalar": replaced("image", 5.0),
        "empty": replaced("image", np.zeros((0, 4, 5))),
        "two axes": replaced("image", voxels[0]),
        "four axes": replaced("image", voxels[None]),
        "complex": replaced("image", voxels.astype(complex)),
        "records": replaced("image", np.zeros((3, 4, 5), [("a", "f4")])),
        "NaN": replaced("image", voxels * np.nan),
        "constant": replaced("image", voxels),
        "none": replaced("image", h5py.Empty("f4")),
        "other shape": replaced("label", np.zeros((3, 4, 5), np.uint8) + 1),
        "label of NaN": replaced("label", voxels * np.nan),
        "large label value": replaced("label", np.full((5, 6, 7), 300)),
        "no label": in_h5(lambda f: f.__delitem__("label")),
        "link outside": replaced("image", h5py.ExternalLink("/etc/passwd", "/x")),
        "link to nothing": replaced("image", h5py.SoftLink("/nothing")),
        "link to itself": replaced("image", h5py.SoftLink("/image")),
        "voxels elsewhere": created("image", shape=(3, 4, 5), dtype="u1", external=[("/etc/passwd", 0, 60)]),
        "scale text": attribute("scale", "big"),
        "scale NaN": attribute("scale", math.nan),
        "scale list": attribute("scale", [1, 2]),
        "offset infinite": attribute("offset", math.inf),
        "offset text": attribute("offset", b"x"),
    }
    for name, spoil in (h5s | DAMAGE).items():
        told = "" if name in DAMAGE and "link" in name else None
        yield Hostile(f"h5 {name}", convert("la", "la_h5"), la_h5, spoil, told)
    for seed in range(8):
        yield Hostile(f"h5 flipped {seed}", convert("la", "la_h5"), la_h5, flipped(seed, 2000, 30), fine=None)
    acdc = f"sources/acdc_h5/data/{ids('acdc')[0]}_frame01.h5"
    for name in ("gigantic", "text", "two axes", "scale text", "voxels elsewhere", "link outside"):
        yield Hostile(f"acdc h5 {name}", convert("acdc", "acdc_h5"), acdc, h5s[name])
    series = f"sources/pancreas/{ids('pancreas')[0]}/study/series"
    for name, spoil in DAMAGE.items():
        yield Hostile(
            f"DICOM {name}", convert("pancreas", "pancreas"), f"{series}/1-003.dcm", spoil, ids("pancreas")[0]
        )
    for seed in range(6):
        yield Hostile(
            f"DICOM flipped {seed}",
            convert("pancreas", "pancreas"),
            f"{series}/1-002.dcm",
            flipped(seed, 1000, 20),
            ids("pancreas")[0],
            None,
        )
    for tag, value in {
        "rows": (b"\x28\0\x10\0", 65535),
        "columns": (b"\x28\0\x11\0", 65535),
        "no rows": (b"\x28\0\x10\0", 0),
    }.items():
        yield Hostile(
            f"DICOM {tag}", convert("pancreas", "pancreas"), f"{series}/1-001.dcm", _dicom(*value), ids("pancreas")[0]
        )
        yield Hostile(
            f"DICOM all {tag}", convert("pancreas", "pancreas"), series, _all_dicom(*value), ids("pancreas")[0]
        )
    yield Hostile(
        "DICOM second series",
        convert("pancreas", "pancreas"),
        f"{series}/1-001.dcm",
        changed(lambda content: content.replace(b"1.2.3.0", b"1.2.3.9")),
        ids("pancreas")[0],
    )
    yield Hostile(
        "DICOM position",
        convert("pancreas", "pancreas"),
        f"{series}/1-003.dcm",
        changed(lambda content: content.replace(b"0\\0\\4", b"x\\0\\4")),
        ids("pancreas")[0],
    )
    yield Hostile(
        "a link that leads around", convert("synapse", "synapse"), "sources/synapse/around", link("."), "", True
    )
    yield Hostile(
        "a link to the folder above", convert("lits", "lits"), "sources/lits/above", link("../lits"), "", True
    )


def _dicom(tag: bytes, value: int) -> Spoil:
    def change(content: bytes) -> bytes:
        at = content.index(tag) + 8  # after the kind and the length of the value
        return content[:at] + struct.pack("<H", value) + content[at + 2 :]

    return changed(change)


def _all_dicom(tag: bytes, value: int) -> Spoil:
    return lambda folder_: [_dicom(tag, value)(file) for file in folder_.iterdir()]


def records(root: Path) -> Iterator[Hostile]:
    file = "records/CPS0.json"
    yield from whole_files("record", REPORT, file, but=("list", "null", "string", "number"))
    for name in ("list", "null", "string", "number"):  # JSON of another kind
        yield Hostile(f"record {name}", REPORT, file, WHOLE_FILE[name], fine=True)
    yield from mutations("record", REPORT, root, file, 150)
    per_case = ("metrics", "dice", "per_case")
    for name, (path, value) in {
        "Dice text": ((*per_case, "a", "heart"), "good"),
        "Dice NaN": ((*per_case, "a", "heart"), math.nan),
        "mean NaN": (("metrics", "dice", "mean"), math.nan),
        "mean infinite": (("metrics", "dice", "mean"), math.inf),
        "case list": ((*per_case, "a"), [1]),
        "overrides list": (("overrides",), [1]),
        "name number": (("name",), 5),
        "curve text": (("learning_curve",), "x"),
        "suite above": (("suite",), "../../outside"),
        "huge iterations": (("iterations",), 10**400),
        "labeled text": (("labeled",), "many"),
    }.items():
        yield Hostile(f"record {name}", REPORT, file, mutated(path, value))
    script = "<script>alert(1)</script>"
    yield Hostile("record with a script", REPORT, file, mutated(("commit",), script), fine=True)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def models(root: Path) -> Iterator[Hostile]:
    file = f"{MODEL}/fold_0/checkpoint_final.pth"
    good = torch.load(root / file, weights_only=True)

    def without(*keys: str, **changes) -> Spoil:
        content = copy.deepcopy({key: value for key, value in good.items() if key not in keys}) | changes
        return lambda f: torch.save(content, f)

    init = good["init_args"]
    contents = {
        "code": lambda f: torch.save({"network_weights": Evil()}, f),
        "old format": lambda f: torch.save({"network_weights": Evil()}, f, _use_new_zipfile_serialization=False),
        "list": lambda f: torch.save([1], f),
        "tensor": lambda f: torch.save(torch.zeros(3), f),
        "no weights": without("network_weights"),
        "no init": without("init_args"),
        "init list": without(init_args=[1]),
        "init empty": without(init_args={}),
        "no plans": without(init_args={"configuration": "3d_fullres"}),
        "plans text": without(init_args=init | {"plans": "x"}),
        "unknown configuration": without(init_args=init | {"configuration": "nope"}),
        "weights list": without(network_weights=[1]),
        "plans empty": without(init_args=init | {"plans": {}}),
        "weights numbers": without(network_weights={1: torch.zeros(2)}),
        "method list": without(semi_supervised=[1]),
        "axes text": without(inference_allowed_mirroring_axes="x"),
    }
    for name, spoil in contents.items():
        yield Hostile(f"checkpoint {name}", EXPORT, file, spoil)
    for name, spoil in DAMAGE.items():
        yield Hostile(f"checkpoint {name}", EXPORT, file, spoil, told="checkpoint_final.pth")
    for seed in range(5):
        yield Hostile(f"checkpoint flipped {seed}", EXPORT, file, flipped(seed, 3000, 30), told="", fine=None)
    yield Hostile("checkpoint as it is", EXPORT, fine=True)
    for name in ("plans.json", "dataset.json"):
        yield Hostile(f"model folder: {name} broken", EXPORT, f"{MODEL}/{name}", folder, fine=None)


def arguments(root: Path) -> Iterator[Hostile]:
    secret = "{root}/outside/secret.txt"
    bad = {
        "split id": ("split", "-d", "8"),
        "split negative id": ("split", "-d", "-7"),
        "split labeled": (*SPLIT, "--labeled", "1e999999999"),
        "split labeled text": (*SPLIT, "--labeled", "many"),
        "split labeled percent": (*SPLIT, "--labeled", "1e999999999%"),
        "split labeled NaN": (*SPLIT, "--labeled", "nan%"),
        "split labeled 0": (*SPLIT, "--labeled", "0"),
        "split labeled fraction": (*SPLIT, "--labeled", "1/0%"),
        "split folds": ("split", "-d", ID, "--folds", "99"),
        "split labeled long": (*SPLIT, "--labeled", "9" * 5000),
        "split seed": (*SPLIT, "--seed", "9" * 30),
        "preprocess plans": ("preprocess", "-d", ID, "-p", "../../outside/secret"),
        "preprocess name": (*PREPROCESS[:3], "-c", "../x"),
        "run plans": (*RUN[:5], "-p", "../../outside/secret", "--methods", "CPS"),
        "run method": (*RUN[:7], "--methods", "../../x"),
        "run configuration": ("run", "-d", ID, "-c", "../../x", "-p", PLANS, "--baseline"),
        "run folds": (*RUN, "--folds", "7"),
        "run folds text": (*RUN, "--folds", "../x"),
        "run folds long": (*RUN, "--folds", "9" * 5000),
        "run seeds": (*RUN, "--seeds", "-1"),
        "run seeds long": (*RUN, "--seeds", "9" * 5000),
        "run seeds digits": (*RUN, "--seeds", "9" * 300),
        "run gpus": (*RUN, "--gpus", "0"),
        "run nothing": RUN[:7],
        "run method control": (*RUN[:7], "--methods", "\x1b[31m"),
        "backbone network": (*BACKBONE[:8], "nope", "-o", "x"),
        "backbone out": (*BACKBONE[:-1], "../../outside/x"),
        "backbone out empty": (*BACKBONE[:-1], ""),
        "backbone out long": (*BACKBONE[:-1], "x" * 300),
        "backbone out newline": (*BACKBONE[:-1], "a\nb"),
        "backbone plans": ("backbone", "-d", ID, "-p", "../../outside/x", "--network", "vnet", "-o", "x"),
        "backbone configuration": ("backbone", "-d", ID, "-p", PLANS, "-c", "../x", "--network", "primus_s", "-o", "x"),
        "backbone out dot": (*BACKBONE[:-1], ".."),
        "backbone out NUL": (*BACKBONE[:-1], "a\0b"),
        "evaluate reference": ("evaluate", "{root}/nowhere", "{root}/predictions"),
        "evaluate file": ("evaluate", secret, "{root}/predictions"),
        "evaluate output folder": (*EVALUATE, "-o", "{root}/outside"),
        "evaluate output below a file": (*EVALUATE, "-o", f"{secret}/x.json"),
        "evaluate dataset.json": (*EVALUATE, "--dataset-json", secret),
        "evaluate dataset folder": (*EVALUATE, "--dataset-json", "{root}/outside"),
        "check output": (*CHECK, "-o", "{root}/nowhere/x.json"),
        "check output folder": (*CHECK, "-o", "{root}/outside"),
        "report nothing": ("report", "{root}/outside", "-o", "{root}/report"),
        "report file": ("report", secret, "-o", "{root}/report"),
        "report over others": ("report", "{root}/records", "-o", "{root}/outside"),
        "report into a file": ("report", "{root}/records", "-o", secret),
        "report below a file": ("report", "{root}/records", "-o", f"{secret}/report"),
        "report overlays": (*REPORT, "--overlays", "{root}/nowhere"),
        "methods": ("methods", "../../x"),
        "methods empty": ("methods", ""),
        "methods control": ("methods", "\x1b[31m\n"),
        "export trainer": ("export", "-d", ID, "-c", "3d_fullres", "-tr", "../../x", "-o", "{root}/model"),
        "export fold": (*EXPORT, "-f", "../../x"),
        "export over others": (*EXPORT[:-1], "{root}/outside"),
        "export below a file": (*EXPORT[:-1], f"{secret}/model"),
        "export checkpoint": (*EXPORT, "-chk", "../../../secret.txt"),
        "export no checkpoint": (*EXPORT, "-chk", "nope.pth"),
        "export member": (*EXPORT, "--member", "second"),
        "demo into a file": ("demo", "--folder", secret),
        "demo over others": ("demo", "--folder", "{root}/outside"),
        "demo below a file": ("demo", "--folder", f"{secret}/demo"),
        "convert source": convert("la", "nowhere"),
        "convert file": convert("msd", "../outside/secret.txt"),
        "convert name": convert("la", "la_h5", "--name", "../../outside/x"),
        "convert name empty": convert("la", "la_h5", "--name", "a b"),
        "convert name long": convert("la", "la_h5", "--name", "x" * 300),
        "convert labeled": convert("la", "la_h5", "--labeled", "99"),
        "convert labeled 0": convert("la", "la_h5", "--labeled", "0"),
        "convert labeled 200%": convert("la", "la_h5", "--labeled", "200%"),
        "convert labeled long": convert("la", "la_h5", "--labeled", "9" * 5000),
        "convert labeled file": convert("la", "la_h5", "--labeled", "nope"),
        "convert labeled long percent": convert("la", "la_h5", "--labeled", "9" * 5000 + "%"),
        "convert protocol": convert("la", "la_h5", "--protocol", "../x"),
        "convert spacing": convert("acdc", "acdc_h5", "--spacing", "nan", "1", "1"),
        "convert two": convert("la", "la_h5", "--labeled", "1", "--protocol", "ua-mt-8"),
        "convert taken": (*convert("la", "la_h5")[:4], ID),
        "convert id 0": (*convert("la", "la_h5")[:4], "0"),
        "convert id 1000": (*convert("la", "la_h5")[:4], "1000"),
        **{
            f"convert {name} nothing": convert(name, "../outside")
            for name in ("la", "acdc", "synapse", "amos", "lits", "msd", "pancreas")
        },
    }
    for name, given in bad.items():
        yield Hostile(f"argument {name}", given, told="")
    for kind in ("raw", "preprocessed", "results"):
        for name, value in {"empty": "", "nowhere": "{root}/nowhere", "file": "{root}/outside/secret.txt"}.items():
            verbs = {"raw": (CHECK, PREPROCESS), "preprocessed": (SPLIT, RUN, BACKBONE), "results": (EXPORT,)}[kind]
            for verb in verbs:
                yield Hostile(
                    f"variable {kind} {name}: {verb[0]}", verb, told="", environment=((f"nnUNet_{kind}", value),)
                )
    yield Hostile(
        "variable raw is a file: convert", convert("la", "la_h5"), told="", environment=(("nnUNet_raw", secret),)
    )


def names(root: Path) -> Iterator[Hostile]:
    file = f"{RAW}/imagesUnlabeled/phantom_004_0000.nii.gz"
    for title, name in {
        "spaces": "a b  c",
        "unicode": "Bär_漢字_é",
        "dash": "-c",
        "quote": "a'b\"c",
        "percent": "100%{x}",
        "dots": "a.b..c",
        "brackets": "[red]x",
        "long": "x" * 200,
    }.items():
        for verb in (CHECK, PREPROCESS):
            yield Hostile(f"name {title}: {verb[0]}", verb, file, moved(f"{name}_0000.nii.gz"), fine=True)
    for title, name in {
        "newline": "a\nb",
        "control": "\x1b[31mx",
        "not unicode": os.fsdecode(b"\xff\xfe"),
        "two lines": "a\u2028b",
    }.items():
        for verb in (CHECK, PREPROCESS):
            yield Hostile(f"name {title}: {verb[0]}", verb, file, moved(f"{name}_0000.nii.gz"), told="imagesUnlabeled")
    scan = "sources/la_nrrd/scans/a"
    for title, name in {
        "newline": "a\nb",
        "control": "\x1b[31m",
        "not unicode": os.fsdecode(b"\xff\xfe"),
        "hidden": ".a",
    }.items():

        def spoil(folder_: Path, name=name) -> None:
            folder_.rename(folder_.with_name(name))
            (folder_.parents[1] / "train.list").write_bytes(os.fsencode(f"{name}\nb\n"))

        yield Hostile(f"scan folder {title}", convert("la", "la_nrrd"), scan, spoil, told="")
    case = sorted((root / "predictions").glob("*.nii.gz"))[0].name
    yield Hostile("prediction renamed", EVALUATE, f"predictions/{case}", moved("a b.nii.gz"), told=case)
