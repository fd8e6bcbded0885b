"""The accuracy benchmark: rows, records and a short run of all its commands."""

import argparse
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import accuracy
import pytest
import records
import steps
import suites
from accuracy_records import content, write
from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from rich.console import Console

from nnunet_ssl.errors import InputError
from nnunet_ssl.report.comparison import make_sections
from nnunet_ssl.report.records import read_records

TINY = suites.Suite(
    name="tiny", data="phantom", classes=("liver", "kidney"), configuration="3d_fullres", spacing=(4.0, 4.0, 4.0),
    features=(4, 6), patch=(8, 16, 16), batch=2, iterations=4, iterations_per_epoch=2, labeled=(1, 2), units=4,
    phantom=(("shape", (20, 28, 28)), ("classes", 3)), test=1,
)  # fmt: skip


def asked(tmp_path: Path, **changes) -> argparse.Namespace:
    options = {"methods": [], "labeled": None, "seeds": [0], "device": "cpu", "preset": "default", "config": ""}
    places = {"source": None, "work": tmp_path / "work", "out": tmp_path / "out"}
    return argparse.Namespace(**options | places | {"iterations": None, "name": None, "half": False} | changes)


def test_rows_have_both_bounds_and_the_baseline_is_the_same_for_every_preset(tmp_path):
    default = accuracy.make_rows(TINY, asked(tmp_path, methods=["CPS"], labeled=[2, 1], seeds=[0, 3]))
    assert [(row.method, row.labeled) for row in default if row.seed == 3] == [
        ("Supervised", 1), ("CPS", 1), ("Supervised", 2), ("CPS", 2), ("Supervised", "all"),
    ]  # fmt: skip
    assert [row.seed for row in default] == [0] * 5 + [3] * 5
    short = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 2, "save_every": 5}
    assert all(row.overrides == short for row in default)
    assert accuracy.record_file(default[1], TINY, tmp_path).name == "tiny_1_CPS_default_4_seed0.json"
    assert accuracy.record_file(default[4], TINY, tmp_path).name == "tiny_all_supervised_default_4_seed0.json"

    changed = {"preset": "published", "config": "{weight: 2.0}", "name": "strong"}
    other = accuracy.make_rows(TINY, asked(tmp_path, methods=["CPS"], labeled=[1, 2], seeds=[0, 3], **changed))
    assert [row for row in other if row.method == "Supervised"] == [row for row in default if row.method != "CPS"]
    assert other[1].overrides == short | {"preset": "published", "weight": 2.0}
    assert accuracy.record_file(other[1], TINY, tmp_path).name == "tiny_1_CPS_strong_4_seed0.json"
    assert accuracy.make_rows(TINY, asked(tmp_path))[-1] == default[4]


def test_slices_stand_beside_full_labels(tmp_path):
    """Methods have the slices, unless other numbers are asked for; the baseline has all of them, whatever is asked."""
    suite = suites.SUITES["la-sparse"]
    rows = accuracy.make_rows(suite, asked(tmp_path, methods=["BCP", "DeSCO"]))
    baselines = [("Supervised", number) for number in (1, 5, "all")]
    assert [(row.method, row.labeled) for row in rows] == [
        ("Supervised", 0), ("BCP", 0), ("DeSCO", 0), *baselines
    ]  # fmt: skip
    assert len(accuracy.make_rows(suite, asked(tmp_path, methods=["BCP"], labeled=[0, 1]))) == 6
    assert accuracy.definition(suite)["sliced"] == 5
    assert "sliced" not in accuracy.definition(suites.SUITES["la-coarse"])


def test_partly_annotated_copies_stand_between_naive_and_full_labels(tmp_path):
    """The baseline knows what is missing, and once takes it for background: two rows of the same files."""
    suite = suites.SUITES["phantom-partial"]
    rows = accuracy.make_rows(suite, asked(tmp_path, methods=["BCP"]))
    assert [(row.method, row.labeled, row.tag) for row in rows] == [
        ("Supervised", 0, "default"), ("Supervised", 0, "naive"), ("BCP", 0, "default"), ("Supervised", 6, "default"),
        ("Supervised", "all", "default"),
    ]  # fmt: skip
    workspace = accuracy.Workspace(suite, tmp_path, "cpu")
    assert len({workspace.fold(row) for row in rows}) == len({str(row) for row in rows}) == 5
    assert "--name" not in accuracy.command_of(rows[1], workspace)
    assert accuracy.definition(suite)["partial"] == 6
    assert "partial" not in accuracy.definition(suites.SUITES["phantom"])
    with pytest.raises(InputError, match="--name naive"):
        accuracy.make_rows(suite, asked(tmp_path, name="naive"))


def test_a_pool_of_float16_is_a_row_of_its_own_beside_the_same_baseline(tmp_path):
    suite = suites.SUITES["la-mini"]
    plain = accuracy.make_rows(suite, asked(tmp_path, methods=["BCP"]))
    rows = accuracy.make_rows(suite, asked(tmp_path, methods=["BCP"], half=True))
    assert [row.tag for row in rows] == ["default", "half", "default"]
    assert (rows[0], rows[2]) == (plain[0], plain[2])
    assert rows[1].overrides == plain[1].overrides
    workspace = accuracy.Workspace(suite, tmp_path, "cpu")
    folders = [workspace.data_of(row).parent.name for row in rows]
    assert folders == ["nnUNet_preprocessed", "nnUNet_preprocessed_half_4", "nnUNet_preprocessed"]
    assert accuracy.command_of(rows[1], workspace).endswith(" --half")
    for wrong in ({"name": "a"}, {"config": "{weight: 2.0}"}):
        with pytest.raises(InputError, match="--half stands alone"):
            accuracy.make_rows(suite, asked(tmp_path, methods=["BCP"], half=True, **wrong))
    with pytest.raises(InputError, match="--name half"):
        accuracy.make_rows(suite, asked(tmp_path, name="half"))


@pytest.mark.parametrize(("row", "folder"), [(0, "nnUNet_preprocessed"), (1, "nnUNet_preprocessed_naive")])
def test_the_naive_row_alone_reads_labels_as_if_all_were_annotated(tmp_path, monkeypatch, row, folder):
    places = []

    def stop(title, command, environment, log):
        places.append(environment["nnUNet_preprocessed"])
        raise ZeroDivisionError

    monkeypatch.setattr(accuracy, "run_command", stop)
    suite = suites.SUITES["phantom-partial"]
    with pytest.raises(ZeroDivisionError):
        accuracy.measure(accuracy.Workspace(suite, tmp_path, "cpu"), accuracy.make_rows(suite, asked(tmp_path))[row])
    assert places == [str(tmp_path / folder)]


@pytest.mark.parametrize(("methods", "propagated"), [(["DeSCO"], 1), (["BCP"], 0)])
def test_slices_are_propagated_for_desco_alone(tmp_path, monkeypatch, methods, propagated):
    commands = []
    monkeypatch.setattr(accuracy, "prepare", lambda *args: None)
    monkeypatch.setattr(accuracy, "measure", lambda workspace, row: 1 / 0)
    monkeypatch.setattr(accuracy.Workspace, "run", lambda self, title, command, *others: commands.append(command))
    with pytest.raises(ZeroDivisionError):
        accuracy.run_suite(suites.SUITES["la-sparse"], asked(tmp_path, methods=methods))
    assert [command[:2] for command in commands] == [["nnunet_ssl", "propagate"]] * propagated


def test_changes_without_a_name_have_folders_of_their_own(tmp_path):
    rows = [
        accuracy.make_rows(TINY, asked(tmp_path, methods=["CPS"], config=config))
        for config in ("", "{weight: 2.0}", "{weight: 3.0}", "{initial_lr: 0.1}")
    ]
    workspace = accuracy.Workspace(TINY, tmp_path, "cpu")
    assert len({workspace.fold(row[1]) for row in rows}) == 4
    assert len({workspace.fold(row[0]) for row in rows}) == 2  # the weight is not the baseline's, the rate is
    assert workspace.fold(rows[0][1]) == (
        tmp_path / "nnUNet_results" / "default_4" / "seed_0" / "Dataset001_Benchmark"
        / "nnUNetTrainerCPS__nnUNetPlans_bench__3d_fullres" / "fold_0"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labeled": [3]}, "--labeled 3: tiny has 1, 2"),
        ({"iterations": 3}, "multiple of 2"),
        ({"iterations": -1}, "multiple of 2"),
        ({"config": "{num_epochs: 3}"}, "num_epochs"),
        ({"config": "{seed: 3}"}, "seed"),
        ({"config": "{wieght: 3}", "methods": ["CPS"]}, "weight"),
        ({"name": "a_b"}, "--name a_b"),
        ({"name": "published"}, "--name published"),
        ({"methods": ["CPX"]}, "no trainer nnUNetTrainerCPX"),
    ],
)
def test_wrong_options(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        accuracy.make_rows(TINY, asked(tmp_path, **changes))


def test_table_has_means_over_seeds_and_shares_of_the_gap(tmp_path):
    folder = write(
        tmp_path,
        content("supervised", 1, 0, 0.70, postprocessed=0.75),
        content("supervised", 1, 1, 0.74, postprocessed=0.77),
        content("CPS", 1, 0, 0.80, postprocessed=0.8), content("CPS", 1, 1, 0.80, wall_seconds=170.0),
        content("CPS", 1, 0, 0.68, preset="published"),
        content("supervised", "all", 0, 0.92), content("supervised", "all", 1, 0.92, peak_memory_mb=7.0),
    )  # fmt: skip
    [section] = make_sections(read_records([folder]))
    console = Console(width=120)
    with console.capture() as capture:
        console.print(records.make_table(section))
    lines = [line.split() for line in capture.get().splitlines() if line.strip()][3:]
    assert lines == [
        ["supervised", "1", "2", "0.7200", "±", "0.0283", "0.7600", "7.20", "-", "60", "-"],
        ["CPS", "1", "2", "0.8000", "±", "0.0000", "-", "8.00", "40%", "160", "-"],  # one seed lacks it
        ["CPS", "(published)", "1", "1", "0.6800", "-", "6.80", "−9%", "150", "-"],  # from seed 0
        ["supervised", "all", "2", "0.9200", "±", "0.0000", "-", "9.20", "-", "60", "7"],
    ]


def test_table_of_a_suite_that_names_rare_classes(tmp_path):
    """Their mean Dice, and the share of those there are that a prediction hits; 13 classes add no column."""
    rare, classes = ("node", "vein"), ("liver", "node", "vein", *(f"organ {i}" for i in range(10)))
    common = dict.fromkeys(classes, 0.8)
    cases = {
        "a": common | {"node": 0.0, "vein": 0.4}, "b": common | {"node": None, "vein": 0.2},
        "c": common | {"node": 0.3, "vein": 0.0},
    }  # fmt: skip
    definition = {"name": "tiny", "rare": list(rare)}
    folder = write(
        tmp_path,
        content("supervised", 1, 0, per_case=cases, definition=definition),
        content("EntropyMinimization", 1, 0, per_case=cases, definition=definition),
        content("EntropyMinimization", 1, 1, per_case=cases | {"c": common}, definition=definition),
    )  # fmt: skip
    [section] = make_sections(read_records([folder]))
    console = Console(width=100)
    with console.capture() as capture:
        console.print(records.make_table(section))
    head, _, *lines = [line.split() for line in capture.get().splitlines() if line.strip()][1:]
    assert " ".join(head) == "method labeled seeds Dice rare found closed training s"
    assert [line[0] for line in lines] == ["supervised", "EntropyMinimization"]
    assert lines[0][4:6] == ["0.1750", "60%"]  # (0 + 0.3) / 2 and (0.4 + 0.2 + 0) / 3; 3 of 5
    # The second seed has 0.4 for the node and 1.4 / 3 for the vein, and misses the node of a alone: 7 of 10.
    assert lines[1][6:8] == [f"{(0.175 + (0.4 + 1.4 / 3) / 2) / 2:.4f}", "70%"]


def test_rare_classes_are_a_part_of_the_definition_only_where_there_are_some():
    assert not {"rare", "initial_lr", "batch_dice"} & set(accuracy.definition(suites.SUITES["phantom"]))
    assert accuracy.definition(suites.SUITES["organs"])["rare"] == list(suites.SUITES["organs"].rare)


def test_a_suite_with_a_learning_rate_of_its_own(tmp_path):
    """Every row has it, the baseline too; no label tells it and nobody sets another."""
    suite = dataclasses.replace(TINY, initial_lr=0.03)
    rows = accuracy.make_rows(suite, asked(tmp_path, methods=["CPS"]))
    assert [row.overrides["initial_lr"] for row in rows] == [0.03] * 3
    assert all("initial_lr" not in row.overrides for row in accuracy.make_rows(TINY, asked(tmp_path)))
    assert "initial_lr" not in accuracy.command_of(rows[1], accuracy.Workspace(suite, tmp_path, "cpu"))
    with pytest.raises(InputError, match="--config sets initial_lr, which suite"):
        accuracy.make_rows(suite, asked(tmp_path, config="{initial_lr: 0.1}"))
    definition, overrides = accuracy.definition(suite), rows[1].overrides
    folder = write(tmp_path, content("CPS", 1, 0, definition=definition, overrides=overrides | {"weight": 0.5}))
    [group] = make_sections(read_records([folder]))[0].comparisons[0].methods
    assert group.label == "CPS {weight: 0.5}"


def test_a_record_of_other_overrides_or_another_suite_is_no_record_of_the_row(tmp_path):
    row = accuracy.make_rows(TINY, asked(tmp_path))[0]
    assert accuracy.recorded(row, TINY, tmp_path) is None
    made = {"overrides": row.overrides, "definition": accuracy.definition(TINY)}
    accuracy.write_json(made, accuracy.record_file(row, TINY, tmp_path))
    assert accuracy.recorded(row, TINY, tmp_path) == made
    more_numbers = dataclasses.replace(TINY, labeled=(1, 2, 3))
    assert accuracy.recorded(row, more_numbers, tmp_path) == made
    with pytest.raises(InputError, match="batch 2, not 3"):
        accuracy.recorded(row, dataclasses.replace(TINY, batch=3), tmp_path)
    longer = dataclasses.replace(row, overrides=row.overrides | {"weight": 1.0})
    with pytest.raises(InputError, match="weight None, not 1.0"):
        accuracy.recorded(longer, TINY, tmp_path)


def test_predictions_of_another_checkpoint_are_made_again(tmp_path, monkeypatch):
    """Trained anew after its folder was removed: the predictions that lie there are of the old network."""
    [row, _] = accuracy.make_rows(TINY, asked(tmp_path))
    workspace = accuracy.Workspace(TINY, tmp_path, "cpu")
    checkpoint = workspace.fold(row) / "checkpoint_final.pth"
    checkpoint.parent.mkdir(parents=True)

    def predict(self, title, command, *others):
        out = Path(command[command.index("-o") + 1])
        out.mkdir(parents=True)
        (out / "case.nii.gz").write_bytes(checkpoint.read_bytes())

    monkeypatch.setattr(accuracy.Workspace, "run", predict)
    older = tmp_path / "predictions" / str(row)
    older.mkdir(parents=True)  # an older version's, which does not tell its checkpoint
    (older / "metrics.json").touch()
    for content_ in (b"first", b"second"):
        checkpoint.write_bytes(content_)
        predictions = accuracy.predict(workspace, row)
        assert predictions == older and (predictions / "case.nii.gz").read_bytes() == content_
        assert not (predictions / "metrics.json").exists()
        (predictions / "metrics.json").touch()
        accuracy.predict(workspace, row)  # nothing is left to do
        assert (predictions / "metrics.json").exists()


def test_a_machine_without_git_knows_no_commit(monkeypatch):
    assert len(records.commit()) >= 40
    monkeypatch.setenv("PATH", "")
    assert records.commit() is None


def test_a_failing_command_is_told_in_two_lines(tmp_path):
    with pytest.raises(InputError, match="the step failed with exit status 1: nnunet_ssl: .*not a folder") as error:
        command = ["nnunet_ssl", "evaluate", str(tmp_path / "none"), str(tmp_path)]
        steps.run_command("the step", command, os.environ, tmp_path / "logs" / "step.log")
    assert len(str(error.value).splitlines()) == 2 and "step.log" in str(error.value)


def test_an_interrupt_ends_the_command(tmp_path):
    pid = tmp_path / "pid"

    def interrupt():
        while not pid.is_file() or not pid.read_text(encoding="utf-8"):
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    def raise_interrupt(number, frame):
        raise KeyboardInterrupt

    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    before = signal.signal(signal.SIGUSR1, raise_interrupt)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            steps.run_command("sleep", [sys.executable, "-c", code], os.environ, tmp_path / "sleep.log")
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text(encoding="utf-8")), 0)


@pytest.mark.slow
def test_a_run_where_the_bounds_are_there_and_the_same_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_ssl_config", "{num_epochs: 77}")  # of the caller's shell; not for the benchmark
    options = asked(tmp_path, methods=["MeanTeacher"])
    for row, dice in zip(accuracy.make_rows(TINY, asked(tmp_path)), (-1.0, 2.0), strict=True):
        bound = content(
            labeled=row.labeled, iterations=4, per_case={"phantom_004": dict.fromkeys(TINY.classes, dice)},
            definition=accuracy.definition(TINY),
        )  # fmt: skip
        accuracy.write_json(bound | {"overrides": row.overrides}, accuracy.record_file(row, TINY, options.out))
    accuracy.run_suite(TINY, options)
    trained = [file.parents[1].name for file in options.work.glob("**/checkpoint_final.pth")]
    assert trained == ["nnUNetTrainerMeanTeacher__nnUNetPlans_bench__3d_fullres"]
    files = {file.name: file for file in options.out.iterdir()}
    assert len(files) == 3
    made = json.loads(files["tiny_1_MeanTeacher_default_4_seed0.json"].read_text(encoding="utf-8"))
    assert set(made) == {
        "suite", "method", "preset", "labeled", "seed", "device", "iterations", "wall_seconds", "peak_memory_mb",
        "commit", "versions", "command", "overrides", "name", "definition", "metrics", "learning_curve",
        "largest_component", "origin",
    }  # fmt: skip
    assert (made["method"], made["labeled"], made["iterations"]) == ("MeanTeacher", 1, 4)
    assert set(made["metrics"]) == {"dice", "jaccard", "hd95_mm", "asd_mm", "missed"}
    dice = made["metrics"]["dice"]
    assert 0 <= dice["mean"] <= 1 and set(dice["per_class"]) == set(TINY.classes)
    assert list(dice["per_case"]) == ["phantom_004"]
    largest = made["largest_component"]
    assert set(largest["metrics"]) == set(made["metrics"]) and [2] in largest["structures"]  # the kidney is one
    kept = options.work / "tiny" / "predictions" / "1_MeanTeacher_default_4_seed0" / "largest_component"
    kidney = SimpleITKIO().read_seg(str(kept / "phantom_004.nii.gz"))[0][0] == 2
    assert kidney.sum() == remove_all_but_largest_component(kidney).sum()
    assert [len(values) for values in made["learning_curve"].values()] == [2, 2, 2, 2]
    assert made["wall_seconds"] == pytest.approx(sum(made["learning_curve"]["epoch_seconds"]))
    assert str(tmp_path) not in json.dumps(made)

    base = options.work / "tiny" / "nnUNet_preprocessed" / accuracy.DATASET
    folds = json.loads((base / "splits_final.json").read_text(encoding="utf-8"))
    assert [len(fold["train"]) for fold in folds] == [1, 2, 4]
    assert "3 with hidden labels" in "".join(
        log.read_text(encoding="utf-8") for log in (options.work / "tiny").glob("**/fold_0/training_log_*.txt")
    )

    assert {role: made["origin"][role]["cases"] for role in ("train", "val", "hidden")} == {
        "train": 1, "val": 1, "hidden": 3
    }  # fmt: skip
    assert (made["origin"]["num_epochs"], made["origin"]["num_iterations_per_epoch"]) == (2, 2)

    file = files["tiny_1_MeanTeacher_default_4_seed0.json"]
    file.rename(tmp_path / file.name)
    other = [{**folds[0], "train": folds[1]["train"], "unlabeled": folds[1]["unlabeled"]}, *folds[1:]]
    (base / "splits_final.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(InputError, match="training failed .*MeanTeacher fold 0 seed 0: 1 case is now trained on"):
        accuracy.run_suite(TINY, options)  # what lies in the work folder is not the row
    (tmp_path / file.name).rename(file)

    monkeypatch.setattr(accuracy, "run_command", None)  # nothing is left to run
    (options.work / "tiny" / "suite.json").unlink()
    capsys.readouterr()
    accuracy.run_suite(TINY, options)
    assert f"{round(100 * (dice['mean'] + 1) / 3)}%" in capsys.readouterr().out  # of the way from -1 to 2
