"""The demo's steps: what they print with and without a terminal, their logs, and the time left."""

import io
import re
import sys

import pytest
from rich.console import Console

from nnunet_ssl.demo import pipeline
from nnunet_ssl.demo import steps as steps_module
from nnunet_ssl.demo.steps import Steps, clock, time_left
from nnunet_ssl.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(steps_module, "find_command", lambda name: sys.executable)
    pipeline._prepare(tmp_path / "demo")
    return tmp_path / "demo"


def make(folder, terminal=False, work=(1, 3)):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, highlight=False)
    return Steps(folder, pipeline._environment(folder), list(work), console)


def test_without_a_terminal_there_is_a_line_for_each_step_and_nothing_else(folder):
    with make(folder) as steps:
        with steps.step("draw"):
            pass
        steps.command("look around", ["x", "-c", "print('much')"])
    assert re.fullmatch(r" 1/2 draw: \d+:\d\d\n 2/2 look around: \d+:\d\d\n", steps.console.file.getvalue())


def test_on_a_terminal_one_bar_goes_over_all_steps(folder):
    with make(folder, terminal=True) as steps:
        with steps.step("draw"):
            pass
        assert steps.bar.tasks[0].completed == 1
        with steps.step("train") as show:
            show(0.5, "epoch 5 of 10")
            [task] = steps.bar.tasks
            assert (task.completed, task.total) == (2.5, 4)
            assert task.description == " 2/2 train, epoch 5 of 10" and task.fields["left"].endswith(" left")
        assert steps.bar.tasks[0].completed == 4


@pytest.mark.parametrize("note", ["", "epoch 10 of 20"])
def test_the_bar_is_one_line_of_80_columns(folder, note):
    steps = make(folder, terminal=True, work=(60, 60))
    title = "train Supervised" if note else "plan and preprocess the labeled cases"
    steps.bar.update(steps.task, description=", ".join(filter(None, (f"10/10 {title}", note))), left="12:34 left")
    [line] = steps.console.render_lines(steps.bar.get_renderable())
    assert "".join(segment.text for segment in line).rstrip().endswith("12:34 left")


def test_what_is_not_to_be_seen_follows_the_clock_but_not_to_the_end(folder, monkeypatch):
    now = 100.0
    monkeypatch.setattr(steps_module.time, "monotonic", lambda: now)
    steps = make(folder, work=(10, 20))
    with steps.step("first"):
        now += 20  # twice as long as thought, and so will be the second
    with steps.step("second") as show:
        now += 10
        show(None)
        assert steps.bar.tasks[0].completed == 10 + 5
        now += 1000
        show(None)
        assert steps.bar.tasks[0].completed == 10 + 0.95 * 20


def test_the_time_left_is_that_of_the_work_left():
    assert time_left(60, 0.25) == "3:00 left"
    assert time_left(60, 0.01) == "" and time_left(60, 1) == ""
    assert clock(59.7) == "1:00" and clock(65) == "1:05"


def test_failed_step_says_the_last_line_and_names_its_log(folder):
    steps = make(folder)
    with pytest.raises(InputError) as error, steps:
        steps.command("train it", ["x", "-c", "print('working'); raise SystemExit('no data')"])
    log = folder / "logs" / "01_train_it.log"
    assert f'The step "train it" failed with exit status 1: no data\nIts output: {log}' == str(error.value)
    assert "working" in log.read_text(encoding="utf-8")
    assert steps.console.file.getvalue() == ""  # what failed is not told as done


def test_command_sees_the_demo_folders_only(folder, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "elsewhere")
    script = "import os; print(os.environ['nnUNet_raw'], os.environ['nnUNet_ssl_config'])"
    make(folder).command("look", ["x", "-c", script], {"nnUNet_ssl_config": "{seed: 1}"})
    expected = f"{folder / 'nnUNet_raw'} {{seed: 1}}"
    assert (folder / "logs" / "01_look.log").read_text(encoding="utf-8").strip() == expected


def test_missing_command_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="nnUNetv2_nothing is not in"):
        pipeline.Steps(tmp_path, {}, [1], Console()).command("look", ["nnUNetv2_nothing"])
