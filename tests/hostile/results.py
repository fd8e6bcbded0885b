"""Attacks on records, models, origins, arguments and file names."""

import copy
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from hostile.scans import DAMAGE
from hostile.spoil import WHOLE_FILE, Hostile, Spoil, flipped, folder, moved, mutated, mutations, whole_files
from hostile.world import (
    BACKBONE,
    CHECK,
    EVALUATE,
    EVALUATE_VALIDATION,
    EXPORT,
    ID,
    MODEL,
    NEXT_STAGE,
    PLANS,
    PREPROCESS,
    RAW,
    REPORT,
    RUN,
    RUN_TRAINED,
    SPLIT,
    convert,
)
from nnunet_ssl.data.origin import ORIGIN_FILE


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


def origins(root: Path) -> Iterator[Hostile]:
    """The origin of a trained fold, which `run` must have, `evaluate` reads, and `split` names if it cannot."""
    file = f"{MODEL}/fold_0/{ORIGIN_FILE}"
    for verb in (RUN_TRAINED, EVALUATE_VALIDATION):
        but = ("folder", "broken link", "link to itself")  # as if there were none
        yield from whole_files(f"origin {verb[0]}", verb, file, but=but)
        yield from mutations(f"origin {verb[0]}", verb, root, file, 40, told="")
        yield Hostile(f"origin as it is: {verb[0]}", verb, fine=True)
    for fault in but:
        yield Hostile(f"origin {fault}: run", RUN_TRAINED, file, WHOLE_FILE[fault], told=ORIGIN_FILE)
    for fault, spoil in WHOLE_FILE.items():
        yield Hostile(f"origin {fault}: split", SPLIT, file, spoil, fine=True)
    yield Hostile("origin of another split", RUN_TRAINED, file, mutated(("hidden",), ["x"]), told="x")
    yield Hostile("no origin", RUN_TRAINED, file, moved("x.json"), told=ORIGIN_FILE)
    for name, value in {"list": [1], "text": "x", "number": 5, "of nothing": {"train": 5}}.items():
        yield Hostile(f"record's origin {name}", REPORT, "records/CPS0.json", mutated(("origin",), value))


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
        "next stage trainer": (*NEXT_STAGE[:-1], "../../x", "-f", "0"),
        "next stage plans": (*NEXT_STAGE, "-p", "../../x", "-f", "0"),
        "next stage configuration": (*NEXT_STAGE, "-c", "../x", "-f", "0"),
        "next stage fold": (*NEXT_STAGE, "-c", "3d_fullres", "-p", PLANS, "-f", "../x"),
        "next stage no first": (*NEXT_STAGE, "-c", "3d_fullres", "-p", PLANS, "-f", "0"),
        "next stage untrained": (*NEXT_STAGE, "-c", "3d_fullres", "-p", PLANS, "-f", "1"),
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
