"""What a training is made of, and how it differs from what it would be made of now."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_ssl.data.origin import (
    ORIGIN_FILE,
    Origin,
    data_differences,
    differences,
    leaked,
    present_origin,
    read_origin,
    training_fingerprint,
)
from nnunet_ssl.data.splits import make_splits
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_json

ORIGIN = Origin(
    version="1",
    trainer="nnUNetTrainerBCP",
    dataset="Dataset007_X",
    configuration="2d",
    plans="nnUNetPlans",
    fold=0,
    train=("a", "b", "c"),
    val=("v",),
    hidden=("h",),
    unlabeled=("u1", "u2"),
    learned=("a", "b", "c"),
    plans_fingerprint="0",
    num_epochs=1000,
    num_iterations_per_epoch=250,
    overrides={"weight": 1.0},
)


def test_an_origin_survives_its_file(tmp_path):
    origin = replace(ORIGIN, history=("from other weights",), fold="all", complete=False)
    write_json(origin.as_dict(), tmp_path / ORIGIN_FILE)
    assert read_origin(tmp_path) == origin
    assert read_origin(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    "change",
    [
        {"train": "abc"},
        {"learned": [1]},
        {"hidden": ["../x"]},
        {"fold": "first"},
        {"fold": True},
        {"num_epochs": 1.5},
        {"overrides": []},
        {"history": [None]},
        {"more": 1},
        {"plans_fingerprint": None},
    ],
)
def test_damaged_origins_are_named(tmp_path, change):
    write_json(ORIGIN.as_dict() | change, tmp_path / ORIGIN_FILE)
    with pytest.raises(InputError, match=f"{ORIGIN_FILE}.*origin") as error:
        read_origin(tmp_path)
    assert next(iter(change)) in str(error.value)


@pytest.mark.parametrize(
    "change", [{"overrides": {"a": {1}}}, {"overrides": {(1,): 1}}, {"train": {1: {2}}}, {"version": np.zeros(2)}]
)
def test_what_a_checkpoint_may_hold_and_json_cannot_is_damage(change):
    with pytest.raises(InputError, match=f"x.pth: origin.{next(iter(change))}"):
        Origin.from_dict(ORIGIN.as_dict() | change, Path("x.pth"))


def test_what_was_not_annotated_is_kept_and_compared():
    partly = replace(ORIGIN, not_annotated={ORIGIN.train[0]: ["liver"]})
    assert Origin.from_dict(json.loads(json.dumps(partly.as_dict())), ORIGIN_FILE) == partly
    assert "not_annotated" not in ORIGIN.as_dict()
    assert data_differences(ORIGIN, partly) == [f"not annotated in {ORIGIN.train[0]}: nothing then, liver now"]
    for odd in ({"a": "liver"}, {"../a": ["liver"]}, {"a": [1]}):
        with pytest.raises(InputError, match="origin.not_annotated must list classes by case id"):
            Origin.from_dict(ORIGIN.as_dict() | {"not_annotated": odd}, ORIGIN_FILE)


def test_every_missing_part_is_damage(tmp_path):
    for key in ORIGIN.as_dict():
        write_json({k: v for k, v in ORIGIN.as_dict().items() if k != key}, tmp_path / ORIGIN_FILE)
        with pytest.raises(InputError, match=f"lacks the key origin.{key}"):
            read_origin(tmp_path)


@pytest.mark.parametrize(
    ("change", "phrases"),
    [
        ({}, []),
        ({"version": "2", "learned": ("a",), "history": ("x",)}, []),  # tell of the past, not of what it is made of
        ({"train": ("a",), "hidden": ("b", "c", "h")}, ["2 cases are now hidden (b, c)"]),
        ({"train": ("a", "b", "c", "h"), "hidden": ()}, ["1 case is now trained on (h)"]),
        ({"train": ("a", "b", "v"), "val": ("c",)}, ["1 case is now trained on (v)", "1 case is now validated on (c)"]),
        ({"train": ("b", "c")}, ["1 case is no longer trained on (a)"]),
        ({"unlabeled": ("u2", "u3", "u4")}, ["2 unlabeled cases are new (u3, u4)", "1 unlabeled case is gone (u1)"]),
        ({"plans_fingerprint": "1"}, ["other plans"]),
        ({"trainer": "nnUNetTrainerDHC"}, ["trainer nnUNetTrainerBCP then, nnUNetTrainerDHC now"]),
        ({"fold": 1}, ["fold 0 then, 1 now"]),
        ({"num_epochs": 20}, ["1000 epochs then, 20 now"]),
        ({"num_iterations_per_epoch": 2}, ["250 steps per epoch then, 2 now"]),
        ({"overrides": {"seed": 1}}, ["seed not set then, 1 now", "weight 1.0 then, not set now"]),
    ],
)
def test_differences_are_told_in_words(change, phrases):
    assert differences(ORIGIN, replace(ORIGIN, **change)) == phrases


def test_long_lists_are_cut():
    many = tuple(f"n{number:02d}" for number in range(12))
    assert differences(ORIGIN, replace(ORIGIN, unlabeled=("u1", "u2", *many))) == [
        "12 unlabeled cases are new (n00, n01, n02, n03, n04, n05, n06, n07, n08, n09, and 2 more)"
    ]


@pytest.mark.parametrize(
    ("now", "cases"),
    [
        ({}, []),
        ({"train": ("a",), "hidden": ("c", "b")}, ["b", "c"]),
        ({"train": ("b", "c"), "val": ("v", "a")}, ["a"]),
        ({"train": ("b", "c"), "unlabeled": ("u1", "a")}, ["a"]),  # its label was taken away
        ({"train": ("b", "c")}, []),  # learned, and in no role now
        ({"val": ("a", "v")}, []),  # trained and validated on, which nnU-Net only warns of
        ({"train": ("a", "b", "c", "v"), "val": ("a", "b", "c", "v")}, []),  # fold all
    ],
)
def test_leaks_are_learned_labels_that_are_without_one_now(now, cases):
    assert leaked(ORIGIN, replace(ORIGIN, **now)) == cases


def test_what_earlier_weights_learned_stays():
    second = replace(ORIGIN, train=("d",), learned=("d",)).after(ORIGIN, "12 unlabeled cases are new")
    assert second.learned == ("a", "b", "c", "d") and second.complete
    assert second.history == ("12 unlabeled cases are new",)
    assert leaked(second, replace(ORIGIN, train=("d",), hidden=("a",))) == ["a"]
    unknown = second.after(None, "from unknown weights")
    assert not unknown.complete and not ORIGIN.after(unknown).complete


# ---------------------------------------------------------------------- of a dataset


def origin_now(dataset, fold=0, semi_supervised=True, **overrides) -> Origin:
    plans = json.loads((dataset.base / f"{dataset.plans}.json").read_text(encoding="utf-8"))
    return present_origin(dataset.base, plans, "3d_fullres", fold, "nnUNetTrainerX", semi_supervised, overrides)


@pytest.fixture
def dataset(phantom_3d, tmp_path):
    return phantom_3d.copy(tmp_path)


def test_the_present_origin_of_a_fold(dataset):
    cases = sorted(file.name[:-7] for file in (dataset.raw / "labelsTr").iterdir())
    unlabeled = {file.name[:-12] for file in (dataset.raw / "imagesUnlabeled").iterdir()}
    splits = make_splits(cases, 1, folds=2)
    write_json(splits, dataset.base / "splits_final.json")
    origin = origin_now(dataset, num_epochs=3, weight=0.5)
    assert (origin.dataset, origin.configuration, origin.plans) == (dataset.name, "3d_fullres", dataset.plans)
    assert list(origin.train) == list(origin.learned) == splits[0]["train"]
    assert list(origin.val) == sorted(splits[0]["val"]) and list(origin.hidden) == splits[0]["unlabeled"]
    assert set(origin.unlabeled) == unlabeled and len(unlabeled) == 5
    assert (origin.num_epochs, origin.num_iterations_per_epoch) == (3, 250)
    assert origin.overrides == {"num_epochs": 3, "weight": 0.5}
    supervised = origin_now(dataset, semi_supervised=False)
    assert supervised.unlabeled == () and supervised.hidden == origin.hidden


@pytest.mark.parametrize("fold", ["all", 0, 1, 3, 9])
@pytest.mark.parametrize("file", [True, False])
def test_folds_are_those_of_nnunets_trainer(dataset, monkeypatch, fold, file):
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    dataset.use(monkeypatch)
    if not file:
        (dataset.base / "splits_final.json").unlink()
        extra = sorted((dataset.base / f"{dataset.plans}_3d_fullres").glob("*.pkl"))[0]
        for ending in (".b2nd", "_seg.b2nd", ".pkl"):  # nnU-Net's five folds need five cases
            source = extra.with_name(extra.stem + ending)
            source.with_name("zz" + ending).write_bytes(source.read_bytes())
    plans = json.loads((dataset.base / f"{dataset.plans}.json").read_text(encoding="utf-8"))
    content = json.loads((dataset.base / "dataset.json").read_text(encoding="utf-8"))
    ours = origin_now(dataset, str(fold), semi_supervised=False)
    trainer = nnUNetTrainer(plans | {"continue_training": False}, "3d_fullres", fold, content, torch.device("cpu"))
    train, val = trainer.do_split()
    assert ours.train == tuple(sorted(map(str, train))) and ours.val == tuple(sorted(map(str, val)))
    assert ours.fold == fold and np.all([type(case) is str for case in (*ours.train, *ours.val)])


def test_the_fingerprint_follows_what_decides_a_training(phantom_3d):
    plans = json.loads((phantom_3d.base / f"{phantom_3d.plans}.json").read_text(encoding="utf-8"))

    def fingerprint(change=lambda plans, settings: None):
        other = json.loads(json.dumps(plans))
        change(other, other["configurations"]["3d_fullres"])
        return training_fingerprint(other, "3d_fullres", phantom_3d.base)

    same = [
        lambda plans, settings: plans.update(plans_name="other", experiment_planner_used="other"),
        lambda plans, settings: settings.update(data_identifier="other"),
        lambda plans, settings: plans["configurations"]["2d"].update(patch_size=[8, 8]),
    ]
    different = [
        lambda plans, settings: settings.update(patch_size=[8, 8, 8]),
        lambda plans, settings: settings.update(batch_size=3),
        lambda plans, settings: settings["spacing"].append(1),
        lambda plans, settings: settings["architecture"]["arch_kwargs"].update(n_stages=2),
        lambda plans, settings: settings["normalization_schemes"].append("x"),
        lambda plans, settings: plans.update(transpose_forward=[1, 0, 2]),
        lambda plans, settings: plans["foreground_intensity_properties_per_channel"]["0"].update(mean=0.5),
    ]
    assert {fingerprint(change) for change in same} == {fingerprint()}
    assert len({fingerprint(change) for change in [*different, lambda *args: None]}) == len(different) + 1


def test_names_apart_a_copy_of_the_plans_is_no_difference(dataset):
    before = origin_now(dataset)
    (dataset.base / f"{dataset.plans}_copy.json").write_text(
        (dataset.base / f"{dataset.plans}.json").read_text().replace('"nnUNetPlans_tiny"', '"nnUNetPlans_tiny_copy"')
    )
    dataset.plans += "_copy"
    assert data_differences(before, origin_now(dataset)) == ["plans nnUNetPlans_tiny then, nnUNetPlans_tiny_copy now"]
