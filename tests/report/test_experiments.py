"""One's own experiments: records of the folds that lie trained in an `nnUNet_results`, and the page of them."""

import json

import pytest
from accuracy_records import content, write
from origins import leave_origin

from nnunet_ssl.errors import InputError
from nnunet_ssl.report.comparison import make_sections
from nnunet_ssl.report.experiments import is_results_folder, read_experiments
from nnunet_ssl.report.page import write_report

LENGTH = {"num_epochs": 2, "num_iterations_per_epoch": 5}
LOG = """
2026-01-01 00:00:00.1: Epoch 0
2026-01-01 00:00:01.1: Pseudo dice [0.25, 0.5]
2026-01-01 00:00:01.1: Epoch time: 10.0 s
2026-01-01 00:00:02.1: Epoch 1
2026-01-01 00:00:03.1: Pseudo dice [{last}, 0.75]
2026-01-01 00:00:03.1: Epoch time: 20.0 s
"""


def measures(dice, there=True):
    """Of nnU-Net: Dice NaN where nothing is and nothing is found, 0 where something is found that is not there."""
    return {"Dice": dice, "IoU": dice, "n_ref": 100 if there else 0, "n_pred": 100}


def train(results, method, fold, dice, seed=None, spleen=0.5, last=0.75, test=None, **changes):
    """A finished fold that validates on two cases, the second without a spleen; `dice` is that of the liver."""
    root = results if seed is None else results / f"seed_{seed}"
    model = root / "Dataset007_X" / f"nnUNetTrainer{method}__nnUNetPlans__2d"
    place = model / f"fold_{fold}"
    (place / "validation").mkdir(parents=True)
    cases = [f"case{2 * fold}", f"case{2 * fold + 1}"]
    origin = {"trainer": f"nnUNetTrainer{method}", "fold": fold, "val": tuple(cases), "overrides": dict(LENGTH)}
    leave_origin(place, **origin | LENGTH | changes)
    per_case = [
        {"prediction_file": f"/x/{cases[0]}.png", "metrics": {"1": measures(dice), "2": measures(spleen)}},
        {"prediction_file": f"/x/{cases[1]}.png", "metrics": {"1": measures(dice + 0.1), "2": measures(0.0, False)}},
    ]
    per_case[1]["metrics"]["2"]["Dice"] = 0.0 if method == "BCP" else float("nan")
    (place / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": per_case, "mean": {}}))
    (place / "checkpoint_final.pth").touch()
    (place / "training_log_1.txt").write_text(LOG.format(last=last))
    (place / "debug.json").write_text(json.dumps({"device": "cuda:0"}))
    (place / "nnunet_ssl_run.log").write_text(f"\n=== 2026-01-01 nnUNetv2_train 7 2d {fold}\nEpoch 0\n")
    labels = {"background": 0, "liver": 1, "spleen": 2}
    (model / "dataset.json").write_text(json.dumps({"file_ending": ".png", "labels": labels}))
    if test:
        (place / "test").mkdir()
        metric = {"per_case": {case: {"liver": value, "spleen": None} for case, value in test.items()}}
        (place / "test" / "metrics.json").write_text(
            json.dumps({"metrics": dict.fromkeys(("dice", "jaccard", "hd95_mm", "asd_mm"), metric)})
        )
    return place


def test_a_record_holds_the_cases_of_all_folds(tmp_path):
    train(tmp_path, "Supervised", 0, 0.5, seed=1)
    train(tmp_path, "Supervised", 1, 0.7, seed=1, last=0.25, train=("a", "b"))
    [record], left_out = read_experiments(tmp_path)
    assert left_out == [] and is_results_folder(tmp_path)
    assert (record.method, record.seed, record.labeled, record.iterations) == ("supervised", 1, 3, 10)
    assert record.suite == "Dataset007_X 2d, validation of folds 0 1" and record.device == "cuda"
    assert record.definition["labeled in a fold"] == ["2", "3"]
    dice = record.metrics["dice"]
    assert {case: values["liver"] for case, values in dice["per_case"].items()} == pytest.approx(
        {"case0": 0.5, "case1": 0.6, "case2": 0.7, "case3": 0.8}
    )
    assert [values["spleen"] for values in dice["per_case"].values()] == [0.5, None, 0.5, None]
    assert dice["per_class"] == pytest.approx({"liver": 0.65, "spleen": 0.5}) and dice["mean"] == pytest.approx(0.575)
    assert record.metrics["hd95_mm"]["mean"] is None
    assert record.learning_curve["pseudo_dice"] == [[0.25, 0.5], [0.5, 0.75]]
    assert record.wall_seconds == 60 and record.command == "2026-01-01 nnUNetv2_train 7 2d 0"


def test_methods_are_compared_on_the_folds_that_they_share(tmp_path):
    """BCP has one fold, so that both are compared on it, and the baseline stands with both folds, too."""
    for fold in (0, 1):
        train(tmp_path, "Supervised", fold, 0.5)
    train(tmp_path, "BCP", 0, 0.6)
    records, _ = read_experiments(tmp_path)
    sections = {section.suite: section for section in make_sections(records)}
    assert set(sections) == {f"Dataset007_X 2d, validation of {folds}" for folds in ("folds 0 1", "fold 0")}
    [row] = sections["Dataset007_X 2d, validation of fold 0"].comparisons[0].rows
    assert row.gain == pytest.approx(0.05) and row.p is None and row.interval is None  # liver +0.1, spleen as it was


def test_an_override_of_all_is_no_part_of_a_name(tmp_path):
    for method, own in (("Supervised", {}), ("BCP", {"weight": 0.5})):
        train(tmp_path, method, 0, 0.5, overrides=LENGTH | {"initial_lr": 0.03} | own)
    [section] = make_sections(read_experiments(tmp_path)[0])
    assert [group.label for group in section.comparisons[0].groups] == ["supervised", "BCP {weight: 0.5}"]
    assert section.definition["initial_lr"] == 0.03


def test_seeds_and_test_cases(tmp_path):
    for seed in (0, 1):
        for fold in (0, 1):
            test = {f"t{i}": 0.5 + 0.1 * fold + 0.01 * i for i in range(6)}
            train(tmp_path, "Supervised", fold, 0.5, seed=seed, test=test)
            better = {case: value + 0.1 + 0.01 * seed for case, value in test.items()}
            train(tmp_path, "BCP", fold, 0.6 + 0.1 * seed, seed=seed, test=better)
    records, _ = read_experiments(tmp_path)
    sections = {section.suite: section for section in make_sections(records)}
    comparison = sections["Dataset007_X 2d, test of folds 0 1"].comparisons[0]
    assert comparison.lower.case_dice["t0"] == pytest.approx(0.55)  # mean of both folds
    [row] = comparison.rows
    assert row.group.seeds == 2 and row.gain == pytest.approx(0.105) and row.p == pytest.approx(2 / 2**6)
    assert row.interval == pytest.approx((0.105, 0.105))


def test_a_baseline_with_all_labels_is_the_upper_bound(tmp_path):
    train(tmp_path / "few", "Supervised", 0, 0.5)
    train(tmp_path / "few", "BCP", 0, 0.6)
    train(tmp_path / "few", "Supervised", 0, 0.9, seed=0, hidden=(), train=("a", "b", "c", "h"))
    records, _ = read_experiments(tmp_path / "few")
    [section] = make_sections(records)
    [comparison] = [c for c in section.comparisons if c.methods]
    assert comparison.labeled == 3 and comparison.upper.dice == pytest.approx((0.95 + 0.5) / 2)


def test_what_is_no_result_is_named(tmp_path):
    supervised = train(tmp_path, "Supervised", 0, 0.5)
    (train(tmp_path, "BCP", 0, 0.5) / "checkpoint_final.pth").unlink()
    (train(tmp_path, "CPS", 0, 0.5) / "nnunet_ssl_origin.json").unlink()
    (train(tmp_path, "DHC", 0, 0.5) / "validation" / "summary.json").unlink()
    page = write_report([tmp_path], tmp_path / "page").read_text(encoding="utf-8")
    for method, reason in (
        ("BCP", "not finished"), ("CPS", "of unknown origin: no nnunet_ssl_origin.json"), ("DHC", "not validated"),
    ):  # fmt: skip
        assert f"Left out: Dataset007_X/nnUNetTrainer{method}__nnUNetPlans__2d/fold_0: {reason}." in page
    (supervised / "checkpoint_final.pth").unlink()
    with pytest.raises(InputError, match="has no finished fold: .*Supervised.*not finished"):
        read_experiments(tmp_path)


def test_the_same_run_twice_is_refused(tmp_path):
    train(tmp_path, "BCP", 0, 0.5, overrides=LENGTH | {"seed": 1})
    train(tmp_path, "BCP", 0, 0.5, seed=1)
    with pytest.raises(InputError, match="are the same run: keep one of them"):
        read_experiments(tmp_path)


def test_one_page_of_both_kinds_of_folder(tmp_path):
    train(tmp_path / "results", "Supervised", 0, 0.5)
    train(tmp_path / "results", "BCP", 0, 0.6)
    records = write(tmp_path / "records", content(), content("CPS", dice=0.7))
    page = write_report([records, tmp_path / "results"], tmp_path / "page").read_text(encoding="utf-8")
    assert "4 trainings" in page and "tiny, 10 iterations" in page
    assert "Dataset007_X 2d, validation of fold 0, 10 iterations" in page
    assert page.count("<h4>Learning curves</h4>") == 2
    assert "BCP +0.050" in page and "One seed only, which proves nothing" in page
