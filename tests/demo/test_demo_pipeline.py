"""What surrounds the demo's commands: its folder, its logs, its table, its plans."""

import json
import sys

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


@pytest.fixture
def steps(tmp_path):
    pipeline._prepare(tmp_path / "demo")
    return pipeline._Steps(tmp_path / "demo", pipeline._environment(tmp_path / "demo"), total=2)


def test_failed_step_says_the_last_line_and_names_its_log(steps, monkeypatch):
    monkeypatch.setattr(pipeline, "find_command", lambda name: sys.executable)
    with pytest.raises(InputError) as error:
        steps.command("train it", ["x", "-c", "print('working'); raise SystemExit('no data')"])
    log = steps.folder / "logs" / "01_train_it.log"
    assert f'The step "train it" failed with exit status 1: no data\nIts output: {log}' == str(error.value)
    assert "working" in log.read_text(encoding="utf-8")


def test_command_sees_the_demo_folders_only(steps, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "elsewhere")
    monkeypatch.setattr(pipeline, "find_command", lambda name: sys.executable)
    steps.environment = pipeline._environment(steps.folder)
    script = "import os; print(os.environ['nnUNet_raw'], os.environ['nnUNet_ssl_config'])"
    steps.command("look", ["x", "-c", script], {"nnUNet_ssl_config": "{seed: 1}"})
    expected = f"{steps.folder / 'nnUNet_raw'} {{seed: 1}}"
    assert (steps.folder / "logs" / "01_look.log").read_text(encoding="utf-8").strip() == expected


def test_missing_command_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="nnUNetv2_nothing is not in"):
        pipeline.find_command("nnUNetv2_nothing")


def test_progress_is_read_from_the_log():
    assert pipeline._training_progress("starting", 10) == ""
    assert pipeline._training_progress("Epoch 0\nEpoch time: 3 s\nEpoch 4 \n", 10) == "epoch 5 of 10"


def test_plans_are_made_small_and_one_case_validates(tmp_path):
    plans = {
        "plans_name": "nnUNetPlans",
        "configurations": {
            "2d": {},
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "patch_size": [48, 64, 64],
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
    assert list(written["configurations"]) == ["3d_fullres"]
    configuration = written["configurations"]["3d_fullres"]
    assert configuration["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert configuration["patch_size"] == [32, 48, 48]
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

    metrics = {"Supervised": result(0.5, 12.34, 0), "Mean Teacher": result(0.75, 8.0, 2)}
    text = pipeline._markdown(metrics, pipeline.Size())
    assert text.splitlines() == [
        "4 labeled and 24 unlabeled training cases, 300 iterations each.",
        "",
        "| class | Dice Supervised | Dice Mean Teacher | HD95 mm Supervised | HD95 mm Mean Teacher |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| liver | 0.500 | 0.750 | 12.3 | 8.0 |",
        "| gland | - | - | - | - |",
        "| mean | 0.500 | 0.750 | 12.3 | 8.0 |",
        "",
        "Not found at all (Dice 0, left out of HD95): Mean Teacher 2 x gland. " + pipeline.CAUTION,
    ]
    pipeline._print_table(Console(width=120), metrics, pipeline.Size(), tmp_path)
    printed = capsys.readouterr().out
    assert "0.750" in printed
    assert str(tmp_path / "comparison.png") in printed
