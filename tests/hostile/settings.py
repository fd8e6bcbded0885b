"""Attacks on what users write by hand: overrides, split files, dataset.json, plans, manifests, lists."""

import json
import math
import pickle
from collections.abc import Iterator
from pathlib import Path

from hostile.results import Evil
from hostile.spoil import DEEP, WHOLE_FILE, Hostile, Spoil, as_json, bytes_, mutated, mutations, text, whole_files
from hostile.world import BACKBONE, BASE, CHECK, EVALUATE, PLAN, PLANS, PREPROCESS, RAW, RUN, SPLIT, TRAIN, convert


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
