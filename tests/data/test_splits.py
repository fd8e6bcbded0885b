"""Folds with hidden labels."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_ssl.data.splits import (
    check_fold,
    labeled_cases,
    make_splits,
    parse_labeled,
    read_splits,
    unlabeled_of_fold,
    write_splits,
)
from nnunet_ssl.errors import InputError

CASES = [f"case_{i:03d}" for i in range(23)]


def test_without_labeled_folds_are_nnunets():
    theirs = generate_crossval_split(list(np.sort(CASES)), seed=12345, n_splits=5)
    assert make_splits(CASES[::-1]) == theirs  # any order of the input, no extra key


@settings(max_examples=30, deadline=None)
@given(count=st.integers(10, 60), share=st.integers(1, 100), seed=st.integers(0, 1000))
def test_labels_are_hidden_not_moved(count, share, seed):
    cases = [f"c{i}" for i in range(count)]
    full, part = make_splits(cases, seed=seed), make_splits(cases, Fraction(share, 100), seed=seed)
    for all_labels, some in zip(full, part, strict=True):
        check_fold(some)
        assert some["val"] == all_labels["val"]
        assert sorted(some["train"] + some["unlabeled"]) == sorted(all_labels["train"])
        exact = len(all_labels["train"]) * share / 100
        assert len(some["train"]) >= 1
        assert abs(len(some["train"]) - exact) <= 0.5 or len(some["train"]) == 1


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(7, 40),
    folds=st.integers(2, 7),
    labeled=st.one_of(st.integers(1, 3), st.integers(1, 100).map(lambda percent: Fraction(percent, 100))),
    seed=st.integers(0, 1000),
)
def test_no_fold_trains_on_its_validation_cases(count, folds, labeled, seed):
    cases = [f"c{i}" for i in range(count)]
    splits = make_splits(cases, labeled, seed, folds)
    assert sorted(case for split in splits for case in split["val"]) == sorted(cases)  # each case in one fold
    for fold, split in enumerate(splits):
        unlabeled = unlabeled_of_fold(splits, fold)
        assert not set(unlabeled) & set(split["val"])
        assert sorted(split["train"] + unlabeled + split["val"]) == sorted(cases)


def test_subsets_of_one_seed_are_nested():
    previous = [set()] * 5
    for share in (5, 10, 20, 50, 100):
        now = [set(split["train"]) for split in make_splits(CASES, Fraction(share, 100), seed=3)]
        assert all(small <= large for small, large in zip(previous, now, strict=True))
        previous = now
    other = make_splits(CASES, 5, seed=4)
    assert [split["train"] for split in other] != [split["train"] for split in make_splits(CASES, 5, seed=3)]


def test_counts_and_rounding():
    # 20 cases in 5 folds: 16 training cases; 10 % = 1.6 -> 2, 3 % = 0.48 -> at least 1, half rounds up (2.5 -> 3)
    cases = CASES[:20]
    for share, count in ((Fraction("0.1"), 2), (Fraction("0.03"), 1), (Fraction(5, 32), 3), (Fraction(1), 16), (8, 8)):
        assert {len(split["train"]) for split in make_splits(cases, share)} == {count}
    assert make_splits(cases, Fraction(1))[0]["unlabeled"] == []


def test_too_many_labeled_or_folds():
    with pytest.raises(InputError, match="17.*only 16 training cases"):
        make_splits(CASES[:20], 17)
    with pytest.raises(InputError, match="4 labeled case.*5 folds"):
        make_splits(CASES[:4])


def test_parse_labeled():
    assert parse_labeled("8") == 8
    assert isinstance(parse_labeled("1"), int)
    assert parse_labeled("10%") == Fraction(1, 10)
    assert parse_labeled(" 12.5 % ") == Fraction(1, 8)
    for text in ("0", "0%", "-3", "101%", "x", "", "%", "1.5", "nan%"):
        with pytest.raises(InputError, match="--labeled"):
            parse_labeled(text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ('{"train": []}', "a list of folds"),
        ("[[]]", "a list of folds"),
        ('[{"train": ["a"]}]', 'no list "val"'),
        ('[{"train": "a", "val": []}]', '"train" of fold 0'),
        ('[{"train": ["a"], "val": []}, {"train": ["a"], "val": [], "unlabeled": [1]}]', '"unlabeled" of fold 1'),
    ],
)
def test_damaged_split_files(tmp_path, content, words):
    file = tmp_path / "splits_final.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        read_splits(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(("first", "second"), [("train", "unlabeled"), ("val", "unlabeled")])
def test_an_unlabeled_case_stands_in_no_other_list(first, second):
    split = {"train": ["a"], "val": ["b"], "unlabeled": ["c"]}
    check_fold(split)
    check_fold({"train": ["a", "b"], "val": ["b"], "unlabeled": ["c"]})  # nnU-Net warns of this itself
    check_fold({"train": ["a"], "val": ["b"]})
    split[first], split[second] = ["twice", "x"], ["y", "twice"]
    with pytest.raises(InputError, match=f'somewhere.json: twice in both "{first}" and "{second}"'):
        check_fold(split, "somewhere.json")


def test_unlabeled_of_fold():
    splits = make_splits(CASES, 5)
    assert unlabeled_of_fold(splits, 1) == unlabeled_of_fold(splits, "1") == splits[1]["unlabeled"] != []
    assert unlabeled_of_fold(splits, "all") == []
    assert unlabeled_of_fold(make_splits(CASES), 0) == []
    assert unlabeled_of_fold(make_splits(CASES), 7) == []
    with pytest.raises(InputError, match="no fold 7"):
        unlabeled_of_fold(splits, 7)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
        (tmp_path / kind).mkdir()
    base = tmp_path / "preprocessed" / "Dataset007_X"
    (base / "gt_segmentations").mkdir(parents=True)
    (base / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}), encoding="utf-8")
    for case in CASES:
        (base / "gt_segmentations" / f"{case}.nii.gz").touch()
    return base


def test_write_and_refuse_to_overwrite(dataset):
    file = write_splits(7, Fraction(1, 10), 12345, 5, force=False)
    assert file == dataset / "splits_final.json"
    assert read_splits(file) == make_splits(CASES, Fraction(1, 10))
    before = file.stat().st_mtime_ns
    write_splits(7, Fraction(1, 10), 12345, 5, force=False)  # the same again is fine
    assert file.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="--force"):
        write_splits(7, 5, 12345, 5, force=False)
    assert read_splits(file) == make_splits(CASES, Fraction(1, 10))
    write_splits(7, 5, 12345, 5, force=True)
    assert read_splits(file) == make_splits(CASES, 5)
    assert sorted(path.name for path in dataset.iterdir()) == ["dataset.json", "gt_segmentations", file.name]


def test_cases_come_from_raw_labels_if_there(dataset, tmp_path):
    assert labeled_cases(7) == CASES
    labels = tmp_path / "raw" / "Dataset007_X" / "labelsTr"
    labels.mkdir(parents=True)
    (labels / "only.nii.gz").touch()
    (labels / "only.json").touch()
    assert labeled_cases(7) == ["only"]


def test_verb_prints_counts_and_which_plans_saw_hidden_labels(dataset):
    import typer
    from typer.testing import CliRunner

    from nnunet_ssl.cli.split import split

    app = typer.Typer()
    app.command()(split)
    plans = {"plans_name": "nnUNetPlans", "configurations": {}}
    (dataset / "nnUNetPlans.json").write_text(json.dumps(plans), encoding="utf-8")
    (dataset / "dataset_fingerprint.json").write_text(json.dumps({"spacings": CASES}), encoding="utf-8")
    result = CliRunner().invoke(app, ["-d", "7"])
    assert result.exit_code == 0
    assert "Note" not in result.output
    result = CliRunner().invoke(app, ["-d", "7", "--labeled", "10%", "--force"])
    assert result.exit_code == 0
    assert "fold 0: 2 train, 5 val, 16 unlabeled" in result.output
    assert "intensity statistics" in result.output
    counts = "16 label(s) hidden by fold 0, 16 by fold 1, 16 by fold 2, 17 by fold 3, 17 by fold 4"
    assert f"  nnUNetPlans: {counts}\n" in result.output
    assert "nnunet_ssl plan -d 7 -f FOLD" in result.output
