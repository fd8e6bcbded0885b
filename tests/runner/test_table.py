"""Means and spreads over folds and seeds."""

import json

import pytest
from trainings import finish

from nnunet_ssl.runner.plan import Run, plan
from nnunet_ssl.runner.table import make_table, markdown, write_table


def test_table_numbers(dataset):
    experiment, runs = plan(7, "2d", ["UAMT", "MeanTeacher"], [0, 1, 2], baseline="Supervised", program="x")
    nan = float("nan")
    for run, liver, spleen in [
        (Run("Supervised", 0), 0.6, 0.8),
        (Run("Supervised", 1), 0.8, nan),
        (Run("Supervised", 2), 0.7, 1.0),
        (Run("MeanTeacher", 0), 0.9, 0.5),
    ]:
        finish(experiment, run, {"1": liver, "2": spleen})
    debug = experiment.folder(Run("Supervised", 0)) / "debug.json"
    debug.write_text('{"plans_saw_hidden_labels": "3"}', encoding="utf-8")
    table = make_table(experiment, runs, {"liver": (1,), "spleen": (2,)})
    assert [run["plans_saw_hidden_labels"] for run in table["runs"]] == [3, None, None, None]
    assert list(table["methods"]) == ["Supervised", "UAMT", "MeanTeacher"]
    supervised = table["methods"]["Supervised"]
    assert supervised["finished"] == supervised["runs"] == 3
    assert supervised["per_class"]["liver"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.1)}
    assert supervised["per_class"]["spleen"] == {"mean": pytest.approx(0.9), "std": pytest.approx(0.02**0.5)}
    # of the runs' means 0.7, 0.8 (spleen left out), 0.85
    assert supervised["mean"] == {"mean": pytest.approx(2.35 / 3), "std": pytest.approx((0.0175 / 3) ** 0.5)}
    assert table["methods"]["MeanTeacher"]["mean"] == {"mean": pytest.approx(0.7), "std": None}
    assert table["methods"]["UAMT"]["mean"] == {"mean": None, "std": None}
    assert [run["dice"]["per_class"]["spleen"] for run in table["runs"]] == [0.8, 0.5, None, 1.0]
    assert markdown(table) == (
        "Dataset007_X 2d nnUNetPlans, folds 0 1 2: Dice of nnU-Net's validation, "
        "mean ± standard deviation over runs\n\n"
        "| method      |          mean |         liver |        spleen |   runs |\n"
        "| ----------- | ------------: | ------------: | ------------: | -----: |\n"
        "| Supervised  | 0.783 ± 0.076 | 0.700 ± 0.100 | 0.900 ± 0.141 | 3 of 3 |\n"
        "| UAMT        |             - |             - |             - | 0 of 3 |\n"
        "| MeanTeacher |         0.700 |         0.900 |         0.500 | 1 of 3 |\n"
    )


def test_table_over_seeds_and_regions(dataset):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    (dataset / "dataset.json").write_text(json.dumps({"file_ending": ".png", "labels": labels}), encoding="utf-8")
    experiment, runs = plan(7, "2d", ["MeanTeacher"], [0, 1], [0, 1], program="x")
    for i, run in enumerate(runs):
        finish(experiment, run, {"(1, 2)": 0.2 * i, "(2,)": 1.0})
    text, file = write_table(experiment, runs)
    assert file == experiment.results / "Dataset007_X" / "nnunet_ssl_2d.md"
    assert file.read_text(encoding="utf-8") == text and "folds 0 1, seeds 0 1" in text and "4 of 4" in text
    table = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    whole = {"mean": pytest.approx(0.3), "std": pytest.approx((0.2 / 3) ** 0.5)}  # of 0, 0.2, 0.4, 0.6
    assert table["methods"]["MeanTeacher"]["per_class"] == {"whole": whole, "core": {"mean": 1.0, "std": 0.0}}
    assert sorted(entry.name for entry in file.parent.iterdir()) == ["nnunet_ssl_2d.json", "nnunet_ssl_2d.md"]


def test_the_baseline_of_the_grid_stands_first(dataset):
    methods = ["Supervised", "UAMT", "SupervisedMix"]
    experiment, runs = plan(7, "2d", methods, [0], baseline="SupervisedMix", program="x")
    assert list(make_table(experiment, runs, {"liver": (1,)})["methods"]) == ["SupervisedMix", "Supervised", "UAMT"]
    experiment, runs = plan(7, "2d", methods[::-1], [0], program="x")
    assert list(make_table(experiment, runs, {"liver": (1,)})["methods"]) == ["Supervised", "SupervisedMix", "UAMT"]


def test_a_wide_table_has_a_row_for_each_class_and_fits_80_columns():
    value = {"mean": 0.8125, "std": 0.0125}
    names = ["portal_and_splenic_veins", *(f"organ_{number}" for number in range(12))]
    row = {"mean": value, "per_class": dict.fromkeys(names, value), "finished": 2, "runs": 2}
    methods = dict.fromkeys(["Supervised", "MeanTeacher", "EntropyMinimization", "BCP"], row)
    content = {"dataset": "D", "configuration": "2d", "plans": "P", "folds": [0], "seeds": [], "methods": methods}
    content["runs"] = [{"method": "BCP", "fold": 1, "origin": {"stopped": "stopped early after 3 of 9 epochs"}}]
    assert "BCP fold 1: stopped early after 3 of 9 epochs\n" in markdown(content)
    lines = [line for line in markdown(content).splitlines() if line.startswith("|")]
    assert max(map(len, lines)) <= 80
    first = [line.split()[1] for line in lines]
    assert first.count("portal_and_splenic_veins") == first.count("mean") == first.count("runs") == 2  # two tables
    titles = " ".join(line for line in lines if line.split()[1] == "class")
    assert all(titles.count(method) == 1 for method in methods)
