"""A result is of this grid only if it was made of what the grid asks for: anything else is refused and named."""

import json
from dataclasses import replace

import pytest
from trainings import begin, finish

from nnunet_ssl.data.origin import ORIGIN_FILE
from nnunet_ssl.data.splits import make_splits, write_splits
from nnunet_ssl.errors import InputError
from nnunet_ssl.runner.plan import Run, plan
from nnunet_ssl.runner.slurm import Job
from nnunet_ssl.runner.table import make_table

CASES = [f"case{i}" for i in range(10)]


def grid(methods=("MeanTeacher",), folds=(0,), **options):
    return plan(7, "2d", list(methods), list(folds), program="x", **options)


@pytest.fixture
def refused():
    """The refusal of a grid: what it says of all, and the lines of its runs."""

    def read(*arguments, **options):
        with pytest.raises(InputError) as error:
            grid(*arguments, **options)
        first, *lines = str(error.value).splitlines()
        return first, [line.strip() for line in lines]

    return read


def test_a_network_of_other_folds_is_no_result(dataset, refused):
    """Train on 4 labels, hide all but 2, run: this was `finished before`."""
    write_splits(7, 4, 12345, 5, force=False)
    experiment, runs = grid(["Supervised", "MeanTeacher"], [0, 1])
    for run in runs:
        finish(experiment, run, {"1": 1.0})
    grid(["Supervised", "MeanTeacher"], [0, 1])  # all finished
    write_splits(7, 2, 12345, 5, force=True)
    first, lines = refused(["Supervised", "MeanTeacher"], [0, 1])
    assert first.startswith("4 of 4 runs are there, but of another experiment than this one. Remove their folders")
    assert "another nnUNet_results" in first and "--config" in first
    before, now = (make_splits(CASES, labeled)[0] for labeled in (4, 2))
    hidden = sorted({*now["unlabeled"]} - {*before["unlabeled"]})
    assert len(hidden) == 2
    told = f"2 cases are now hidden ({', '.join(hidden)})"
    assert lines[0] == f"Supervised fold 0: {told} [{experiment.folder(runs[0])}]"
    assert lines[1] == f"MeanTeacher fold 0: {told} [{experiment.folder(runs[1])}]"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_epochs": 2}, "2 epochs then, 1000 now"),
        ({"num_iterations_per_epoch": 3}, "3 steps per epoch then, 250 now"),
        ({"overrides": {"seed": 1}}, "seed 1 then, not set now"),
        ({"plans_fingerprint": "0"}, "other plans"),
        ({"unlabeled": ("more", "still_more")}, "1 unlabeled case is gone (still_more)"),
        ({"val": ("case0",)}, "1 case is now validated on (case7)"),
        ({"learned": (*CASES[:9],)}, "earlier weights or a first stage have learned others, too (case"),
        ({"complete": False}, "not all that its weights or first stage have learned is known"),
        ({"history": ("continued with\n3 epochs",)}, "continued with 3 epochs"),
    ],
)
@pytest.mark.parametrize("leave", [finish, begin])
def test_what_differs_is_named(dataset, refused, changes, told, leave):
    experiment, [run, other] = grid(folds=[0, 1])
    leave(experiment, run, *([{"1": 1.0}] if leave is finish else []), **changes)
    first, [line] = refused(folds=[0, 1])
    assert first.startswith("1 of 2 runs are there, but of another experiment than this one.")
    assert line.startswith("MeanTeacher fold 0: ") and told in line and line.endswith(f"[{experiment.folder(run)}]")


def test_of_unknown_origin(dataset, refused):
    experiment, [run] = grid()
    folder = finish(experiment, run, {"1": 1.0})
    (folder / ORIGIN_FILE).unlink()
    (folder / "nnunet_ssl_run.json").write_text('{"overrides": {}}', encoding="utf-8")  # an older version's record
    _, [line] = refused()
    assert f"its origin is unknown: no {ORIGIN_FILE}" in line


def test_a_damaged_origin_is_an_error(dataset, refused):
    experiment, [run] = grid()
    (finish(experiment, run, {"1": 1.0}) / ORIGIN_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=f"{ORIGIN_FILE} is not valid JSON"):
        grid()


def test_seeds_are_looked_at_apart_and_long_lists_are_cut(dataset, refused):
    experiment, runs = grid(folds=range(4), seeds=[0, 1, 2])
    finish(experiment, runs[0], {"1": 1.0})
    grid(folds=range(4), seeds=[0, 1, 2])
    for run in runs[1:]:
        begin(experiment, run, version="0", num_epochs=2)
    first, lines = refused(folds=range(4), seeds=[0, 1, 2])
    assert first.startswith("11 of 12 runs") and len(lines) == 11 and lines[-1] == "and 1 more"
    assert lines[0].startswith("MeanTeacher fold 1 seed 0: 2 epochs then, 1000 now [")
    grid(folds=[0], seeds=[0])  # a part of the grid is judged by its own runs
    grid(folds=range(4))  # without seeds there is nothing yet


def test_the_overrides_that_it_was_trained_with_make_it_a_result(dataset, refused):
    experiment, [run] = grid(config="{num_epochs: 2, weight: 3}")
    finish(experiment, run, {"1": 1.0})
    _, [line] = refused()
    assert "2 epochs then, 1000 now; weight 3.0 then, not set now" in line
    grid(config="{weight: 3, num_epochs: 2}")


def test_a_fold_trained_by_hand_of_the_same_is_a_result(dataset):
    """Our trainers write the origin, whoever starts them; the version of the package is no difference."""
    experiment, [run] = grid()
    finish(experiment, run, {"1": 1.0}, version="0.0.1")
    grid()
    assert experiment.state(run) == "finished"


def test_folds_that_change_while_the_grid_runs(dataset):
    """The table is made hours after the plan, a job on a cluster starts hours after it."""
    write_splits(7, 4, 12345, 5, force=False)
    experiment, runs = grid(folds=[0, 1])
    finish(experiment, runs[0], {"1": 1.0})
    write_splits(7, 2, 12345, 5, force=True)
    finish(experiment, runs[1], {"1": 1.0})
    with pytest.raises(InputError, match="1 of 2 runs .*\n  MeanTeacher fold 0: 2 cases are now hidden"):
        make_table(experiment, runs, {"liver": (1,)})
    with pytest.raises(InputError, match="1 of 1 runs .*\n  MeanTeacher fold 0: 2 cases are now hidden"):
        Job(experiment, runs[0])()


def test_the_table_tells_the_origin_of_its_runs(dataset):
    write_splits(7, 4, 12345, 5, force=False)
    experiment, runs = grid(["Supervised", "MeanTeacher"], config="{num_epochs: 2, weight: 3}")
    for run in runs:
        finish(experiment, run, {"1": 1.0})
    supervised, teacher = (run["origin"] for run in make_table(experiment, runs, {"liver": (1,)})["runs"])
    counts = {"train": 4, "val": 2, "hidden": 4}
    for origin, unlabeled in ((supervised, 0), (teacher, 1)):
        assert {key: origin[key]["cases"] for key in (*counts, "unlabeled")} == counts | {"unlabeled": unlabeled}
        assert (origin["num_epochs"], origin["num_iterations_per_epoch"]) == (2, 250)
    assert supervised["train"] == teacher["train"] and supervised["plans_fingerprint"] == teacher["plans_fingerprint"]
    assert supervised["unlabeled"]["sha256"] != teacher["unlabeled"]["sha256"]
    json.dumps(teacher)
    origin = experiment.origin(Run("Supervised", 0))
    other = replace(origin, train=(*origin.train[:-1], "z")).facts()
    assert other["train"]["cases"] == 4 and other["train"]["sha256"] != supervised["train"]["sha256"]
    assert other["val"] == supervised["val"]
