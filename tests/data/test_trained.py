"""Which trained folds new folds make worthless, as `split` tells it."""

import json
from pathlib import Path

import pytest
import typer
from origins import leave_origin
from typer.testing import CliRunner

from nnunet_ssl.cli.split import split
from nnunet_ssl.data.origin import ORIGIN_FILE
from nnunet_ssl.data.splits import make_splits, read_splits, write_splits
from nnunet_ssl.data.trained import estranged, trained_folds
from nnunet_ssl.errors import InputError

NAME = "Dataset007_X"
CASES = [f"case_{i:02d}" for i in range(20)]


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Path:
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    base = tmp_path / "preprocessed" / NAME
    (base / "gt_segmentations").mkdir(parents=True)
    (base / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}), encoding="utf-8")
    for case in CASES:
        (base / "gt_segmentations" / f"{case}.nii.gz").touch()
    return base


def train(dataset: Path, fold, model="nnUNetTrainerBCP__nnUNetPlans__2d", seed=None, lists=None, **changes) -> str:
    """Leaves a trained fold and its origin, none if `lists` is None; returns its path in the results."""
    root = dataset.parents[1] / "results"
    folder = (root if seed is None else root / f"seed_{seed}") / NAME / model / f"fold_{fold}"
    folder.mkdir(parents=True)
    (folder / "checkpoint_latest.pth").touch()
    if lists is not None:
        roles = {"train": lists["train"], "val": lists["val"], "hidden": lists.get("unlabeled", [])}
        roles["learned"] = lists["train"]
        leave_origin(folder, fold=fold, **{role: tuple(sorted(ids)) for role, ids in roles.items()} | changes)
    return folder.relative_to(root).as_posix()


def test_what_was_learned_and_is_hidden_or_validated_on_now(dataset):
    before, now = make_splits(CASES, 4), make_splits(CASES, 2)
    name = train(dataset, 0, lists=before[0])
    assert estranged(NAME, before) == []
    hidden = sorted({*before[0]["train"]} - {*now[0]["train"]})
    assert len(hidden) == 2
    assert estranged(NAME, now) == [f"{name}: has learned 2 label(s) that are hidden ({', '.join(hidden)})"]
    swapped = [{"train": before[0]["val"], "val": before[0]["train"][:1], "unlabeled": before[0]["train"][1:]}]
    [line] = estranged(NAME, swapped)
    assert "has learned 3 label(s) that are hidden (" in line
    assert line.endswith(f"and 1 label(s) that are validated on ({before[0]['train'][0]})")


def test_folds_without_a_leak_are_of_other_folds_all_the_same(dataset):
    before, now = make_splits(CASES, 2), make_splits(CASES, 4)
    name = train(dataset, 0, lists=before[0])
    new = sorted({*now[0]["train"]} - {*before[0]["train"]})
    assert estranged(NAME, now) == [f"{name}: 2 cases are now trained on ({', '.join(new)})"]
    last = train(dataset, 4, lists=before[4])
    assert estranged(NAME, before[:4]) == [f"{last}: there is no such fold"]


def test_what_earlier_weights_have_learned_counts(dataset):
    fold = make_splits(CASES, 2)[0]
    hidden = fold["unlabeled"][0]
    train(dataset, 0, lists=fold, learned=tuple(sorted([*fold["train"], hidden])))
    [line] = estranged(NAME, [fold])
    assert line.endswith(f"has learned 1 label(s) that are hidden ({hidden})")


def test_folds_of_unknown_origin_seeds_and_fold_all(dataset):
    folds = make_splits(CASES, 2)
    stock = train(dataset, 1, "nnUNetTrainer__nnUNetPlans__2d")
    seed = train(dataset, 0, seed=3, lists=make_splits(CASES, 4)[0])
    train(dataset, "all", lists=make_splits(CASES)[0])
    damaged = train(dataset, 2, lists=folds[2])
    (dataset.parents[1] / "results" / damaged / ORIGIN_FILE).write_text("{", encoding="utf-8")
    empty = train(dataset, 3)
    (dataset.parents[1] / "results" / empty / "checkpoint_latest.pth").unlink()  # nothing was trained there
    told = dict(line.split(": ", 1) for line in estranged(NAME, folds))
    assert list(told) == [damaged, stock, seed]
    assert told[stock].startswith(f"what it has learned cannot be told (no {ORIGIN_FILE}")
    assert told[seed].startswith("has learned 2 label(s)") and seed.startswith("seed_3/")
    assert "not valid JSON" in told[damaged]
    assert len(trained_folds(NAME)) == 4 and list(trained_folds(NAME, "nnUNetTrainer__*")) == [stock]


def test_the_command_names_them_with_and_without_force(dataset, monkeypatch):
    write_splits(7, 4, 12345, 5, force=False)
    name = train(dataset, 0, lists=make_splits(CASES, 4)[0])
    app = typer.Typer()
    app.command()(split)
    result = CliRunner().invoke(app, ["-d", "7", "--labeled", "2"])
    assert isinstance(result.exception, InputError)
    message = str(result.exception)
    assert "--force replaces it" in message and f"\n  {name}: has learned 2 label(s) that are hidden (" in message
    assert read_splits(dataset / "splits_final.json") == make_splits(CASES, 4)
    same = CliRunner().invoke(app, ["-d", "7", "--labeled", "4"])
    assert same.exit_code == 0 and "trained fold" not in same.output
    forced = CliRunner().invoke(app, ["-d", "7", "--labeled", "2", "--force"])
    assert forced.exit_code == 0
    assert "Note: 1 trained fold(s) are not, or not known to be, results of these folds" in forced.output
    assert f"; train them anew:\n  {name}: has" in forced.output
    monkeypatch.delenv("nnUNet_results")
    assert "nnUNet_results is not set" in CliRunner().invoke(app, ["-d", "7", "--labeled", "3", "--force"]).output
