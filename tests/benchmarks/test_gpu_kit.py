"""The kit for a GPU machine without a network: loads that arrive whole, and steps that end with the minutes."""

import json
import sys
import tarfile
import time
from pathlib import Path

import loads
import measure
import plan
import pytest

GPU = Path(measure.__file__).resolve().parent


def files(folder, **sizes):
    made = {}
    for name, size in sizes.items():
        (folder / name).write_bytes(name.encode() * (size // len(name)))
        made[f"data/a folder/{name}"] = folder / name
    return made


def test_what_is_there_is_not_carried(tmp_path):
    report = [{"metadata": {"name": name, "version": "1.0"}} for name in ("Torch", "typing_extensions", "SimpleITK")]
    (tmp_path / "report.json").write_text(json.dumps({"install": report}), encoding="utf-8")
    (tmp_path / "machine.txt").write_text("# what is there\ntorch==1.0\ntyping-extensions\n", encoding="utf-8")
    assert list(loads.missing(tmp_path / "report.json", tmp_path / "machine.txt")) == ["simpleitk==1.0"]


def test_loads_are_small_enough_and_arrive_whole(tmp_path):
    made = files(tmp_path, first=400_000, second=300_000, third=90_000, fourth=10_000)
    folders = loads.fill(tmp_path / "out", made, room=500_000)
    assert [sum(file.stat().st_size for file in folder.iterdir()) < 505_000 for folder in folders] == [True, True]
    state = tmp_path / "state"
    assert [loads.take(folder, state) for folder in folders] == [(1, 2), (2, 2)]
    assert loads.taken(state) == ({1, 2}, 2)
    assert all((state / name).read_bytes() == file.read_bytes() for name, file in made.items())


def test_a_file_that_no_load_can_hold_is_named(tmp_path):
    with pytest.raises(loads.LoadError, match="data/a folder/large has 1.0 MiB: a load has 0.5"):
        loads.divide(files(tmp_path, small=10, large=2**20), room=2**19)


def test_a_damaged_load_is_refused(tmp_path):
    [load] = loads.fill(tmp_path / "out", files(tmp_path, one=5000), room=10**6)
    content = bytearray((load / "files.tar").read_bytes())
    content[1000] ^= 1  # within the file
    (load / "files.tar").write_bytes(content)
    with pytest.raises(loads.LoadError, match="data/a folder/one of .*load_1 did not arrive whole"):
        loads.take(load, tmp_path / "state")
    assert loads.taken(tmp_path / "state") == (set(), 0)


def test_a_load_writes_nowhere_else(tmp_path):
    [load] = loads.fill(tmp_path / "out", files(tmp_path, one=5000), room=10**6)
    with tarfile.open(load / "files.tar", "w") as archive:
        archive.add(tmp_path / "one", "../elsewhere")
    with pytest.raises(tarfile.OutsideDestinationError):
        loads.take(load, tmp_path / "state")
    assert not (tmp_path / "elsewhere").exists()


# ---------------------------------------------------------------------- steps


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "machine", lambda place: {"device": "none"})
    monkeypatch.setattr(measure, "GRACE", 0.5)
    place = plan.Place(Path(sys.executable), tmp_path, tmp_path, "cpu", 4, 10)

    def run(seconds, *wanted):
        made = measure.Session(place, measure.Results(tmp_path, tmp_path / "out"), time.monotonic() + seconds)
        made.run(wanted)
        return json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["steps"]

    (tmp_path / "out").mkdir()
    return run


def step(name, code, group="one", **other):
    """Of a shell, which begins at once on a busy machine too."""
    return plan.Step(name, group, ("sh", "-c", code), **({"least": 0.0} | other))


def test_a_step_tells_its_figures_and_a_failure_its_last_words(session, tmp_path):
    (tmp_path / "made.json").write_text('{"rows": {"a": {"step_ms": 2.5}}}', encoding="utf-8")
    leaves = tmp_path / "rows.json"
    told = session(
        20, step("good", f"cp {tmp_path}/made.json {leaves}", leaves=leaves), step("bad", "echo no card; false")
    )
    assert (told["good"]["status"], told["bad"]["status"]) == ("done", "failed")
    assert told["good"]["figures"]["rows"] == {"a": {"step_ms": 2.5}} and "no card" in told["bad"]["output"]


def test_what_the_minutes_cut_off_goes_on_and_the_rest_waits(session, tmp_path):
    wanted = [step("long", f"printf x >> {tmp_path}/begun; exec sleep 60"), step("unbegun", "true", least=500.0)]
    assert {name: each["status"] for name, each in session(2, *wanted).items()} == {"long": "cut off"}
    session(2, *wanted)
    assert (tmp_path / "begun").read_text() == "xx"


def test_a_step_that_runs_over_its_own_limit_is_not_tried_again(session, tmp_path):
    for _ in range(2):
        slow = step("slow", f"printf x >> {tmp_path}/begun; exec sleep 60", limit=1.0)
        told = session(20, slow, step("next", "true"))
        assert (told["slow"]["status"], told["next"]["status"]) == ("too long", "done")
    assert (tmp_path / "begun").read_text() == "x"


def test_a_group_with_lanes_runs_side_by_side_and_the_next_group_waits(session, tmp_path):
    def code(name):
        return f"printf '{name} begins,' >> {tmp_path}/log; sleep 1; printf '{name} ends,' >> {tmp_path}/log"

    both = [step(name, code(name), "pair", lanes=2) for name in ("a", "b")]
    session(30, *both, step("c", code("c"), "alone"))
    order = (tmp_path / "log").read_text().split(",")
    assert {*order[:2]} == {"a begins", "b begins"} and order[4] == "c begins"


def test_what_reads_scans_waits_for_the_loads_that_are_missing(session, tmp_path):
    (tmp_path / "load_1.json").write_text("[1, 2]", encoding="utf-8")
    assert [*session(20, step("of scans", "true", needs="la"), step("without", "true"))] == ["without"]


@pytest.mark.parametrize(
    "output",
    [
        "[gw0] [ 50%] PASSED tests/a.py::b[one] \n[gw1] [100%] FAILED tests/a.py::b[two] \n",
        "tests/a.py::b[one] PASSED   [ 50%]\ntests/a.py::b[two] FAILED   [100%]\n",
    ],
    ids=["processes", "one process"],
)
def test_tests_are_counted_from_what_a_cut_off_run_has_told(output):
    found = measure.of_tests(output + "\ntests/a.py::b[thr")
    assert (found["passed"], found["failed"], found["not passed"]) == (1, 1, ["tests/a.py::b[two]"])


def test_every_step_of_the_plan_has_a_name_of_its_own_and_what_it_runs_exists(tmp_path):
    checkout = GPU.parents[1]
    for tiny in (False, True):
        made = [*plan.steps(plan.Place(Path(sys.executable), checkout, tmp_path, "cuda", 16, 6000, tiny))]
        assert len({each.name for each in made}) == len(made)
        assert all((checkout / word).exists() for each in made for word in each.command if word.startswith("tests/"))
        scripts = {word for each in made for word in each.command if word.endswith(".py") and "benchmarks" in word}
        assert scripts and all(Path(script).is_file() for script in scripts)
        trainers = {word for each in made for word in each.command if word.startswith("nnUNetTrainer")}
        assert all((checkout / "trainers" / f"{trainer}.py").is_file() for trainer in trainers)
    assert [each.group for each in made if each.group == "tests"]
