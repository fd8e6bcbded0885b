"""What surrounds the demo's commands: its folder, its logs, its table, its plans."""

import json

import pytest
from rich.console import Console

from nnunet_ssl.demo import pipeline
from nnunet_ssl.errors import InputError


def test_folder_of_another_purpose_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="not a demo's folder"):
        pipeline.run_demo(tmp_path, "cpu")
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file"):
        pipeline.run_demo(tmp_path / "thesis.txt", "cpu")


def test_earlier_demo_is_replaced_but_nothing_else(tmp_path):
    folder = tmp_path / "demo"
    pipeline._prepare(folder)
    (folder / "nnUNet_raw" / "old").mkdir()
    (folder / "table.md").write_text("old", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    pipeline._prepare(folder)
    assert not (folder / "nnUNet_raw" / "old").exists()
    assert not (folder / "table.md").exists()
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_progress_of_a_training_is_read_from_its_log():
    """Four epochs, of which the last two take twice as long: 2 + 1 + 1 + 2 + 2 = 8 parts with start and validation."""

    def progress(log):
        return pipeline._training_progress(log, 4, 2.0)

    assert progress("loading") == (0, "starting")
    first = "2026-01-01 10:00:00.0: \n2026-01-01 10:00:00.0: Epoch 0 \n"
    assert progress(first) == (1 / 8, "epoch 1 of 4")
    epochs = "".join(f"x: Epoch {i} \nx: train_loss -0.5 \nx: Epoch time: 3.1 s\n" for i in range(4))
    assert progress(epochs.rpartition("x: Epoch time")[0]) == (5 / 8, "epoch 4 of 4")
    assert progress(epochs + "x: Training done.\n") == (7 / 8, "validating")


def test_the_bar_knows_how_long_each_step_takes():
    size = pipeline.Size(epochs=10, iterations_per_epoch=10)
    work = pipeline._work(size)
    supervised, bcp = work[4:6]
    assert len(work) == 10
    assert bcp - supervised == pytest.approx(100 * pipeline.ITERATION * 0.5)  # half of them twice as long


def test_plans_are_made_small_and_one_case_validates(tmp_path):
    plans = {
        "plans_name": "nnUNetPlans",
        "configurations": {
            "3d_fullres": {},
            "2d": {
                "data_identifier": "nnUNetPlans_2d",
                "patch_size": [56, 56],
                "architecture": {"arch_kwargs": {"n_stages": 5, "conv_bias": True}},
            },
        },
    }
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans), encoding="utf-8")
    (tmp_path / "gt_segmentations").mkdir()
    for case in "cab":
        (tmp_path / "gt_segmentations" / f"{case}.nii.gz").touch()
    pipeline._write_plans_and_split(tmp_path)
    written = json.loads((tmp_path / "nnUNetPlans_demo.json").read_text(encoding="utf-8"))
    assert written["plans_name"] == "nnUNetPlans_demo"
    assert list(written["configurations"]) == ["2d"]
    configuration = written["configurations"]["2d"]
    assert configuration["data_identifier"] == "nnUNetPlans_2d"
    assert configuration["patch_size"] == [64, 64]
    architecture = configuration["architecture"]["arch_kwargs"]
    assert architecture["features_per_stage"] == [8, 16, 32, 64]
    assert architecture["conv_bias"] is True
    assert json.loads((tmp_path / "splits_final.json").read_text(encoding="utf-8")) == [
        {"train": ["a", "b"], "val": ["c"]}
    ]


def test_table(capsys, tmp_path):
    def result(dice, hd95, missed):
        measure = {"dice": dice, "hd95_mm": hd95}
        return {
            "metrics": {m: {"mean": v, "per_class": {"liver": v, "gland": None}} for m, v in measure.items()},
            "absent": {"liver": [], "gland": []},
            "missed": {"liver": 0, "gland": missed},
        }

    metrics = {"Supervised": result(0.5, 12.34, 0), "BCP": result(0.75, 8.0, 2)}
    text = pipeline._markdown(metrics, pipeline.Size())
    assert text.splitlines() == [
        pipeline.Size().text + ".",
        "",
        "| class | Dice Supervised | Dice BCP | HD95 mm Supervised | HD95 mm BCP |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| liver | 0.500 | 0.750 | 12.3 | 8.0 |",
        "| gland | - | - | - | - |",
        "| mean | 0.500 | 0.750 | 12.3 | 8.0 |",
        "",
        "Not found at all (Dice 0, left out of HD95): BCP 2 x gland. " + pipeline.CAUTION,
    ]
    pipeline._print_table(Console(width=120), metrics, pipeline.Size(), tmp_path)
    printed = capsys.readouterr().out
    assert "0.750" in printed
    assert str(tmp_path / "comparison.png") in printed


def test_the_picture_has_the_largest_the_median_and_the_smallest_gain():
    baseline = {case: {"liver": 0.5, "gland": 0.5} for case in "abcde"}
    method = {
        case: {"liver": 0.5, "gland": dice} for case, dice in zip("abcde", (0.6, 0.1, 0.9, 0.4, 0.5), strict=True)
    }
    assert pipeline._typical(baseline, method) == {"largest gain": "c", "median gain": "e", "smallest gain": "b"}
    baseline["f"], method["f"] = {"liver": 0.2, "gland": None}, {"liver": 0.9, "gland": None}
    assert pipeline._typical(baseline, method)["largest gain"] == "f"


@pytest.mark.long
def test_the_whole_demo_runs_and_leaves_table_measures_and_picture(tmp_path, capsys):
    size = pipeline.Size(labeled=3, unlabeled=4, test=3, epochs=2, iterations_per_epoch=2)
    pipeline.run_demo(tmp_path / "demo", "cpu", seed=1, size=size)
    printed = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in printed[:10]] == [f"{number:2d}/10" for number in range(1, 11)]
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics) == {"Supervised", "BCP"}
    assert len(metrics["BCP"]["metrics"]["dice"]["per_case"]) == 3
    assert "| mean |" in (tmp_path / "demo" / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "demo" / "comparison.png").stat().st_size > 10_000
    assert "phase 1 begins" in next((tmp_path / "demo" / "logs").glob("*train_BCP.log")).read_text(encoding="utf-8")
