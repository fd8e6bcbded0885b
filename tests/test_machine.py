"""How many processes a command starts that was not told."""

import pytest

from nnunet_ssl import machine


@pytest.fixture
def computer(tmp_path, monkeypatch):
    """A machine of some cores and GB, a container's limits with it."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    for name in ("nnUNet_def_n_proc", "nnUNet_npp", "nnUNet_nps", "nnUNet_n_proc_DA"):
        monkeypatch.delenv(name, raising=False)

    def has(cores, gigabytes):
        monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: range(cores))
        monkeypatch.setattr(machine, "_free_memory", lambda: gigabytes * 2**30)

    return has


@pytest.mark.parametrize(
    ("cores", "gigabytes", "most", "expected"),
    [(2, 64, 8, 2), (16, 64, 8, 8), (16, 5, 8, 2), (1, 1, 8, 1)],
)
def test_one_for_each_core_and_two_gigabytes(computer, cores, gigabytes, most, expected):
    computer(cores, gigabytes)
    assert machine.processes(most) == expected


def test_nnunets_variable_leads(computer, monkeypatch):
    computer(2, 8)
    monkeypatch.setenv("nnUNet_def_n_proc", "5")
    assert machine.processes() == machine.processes(3) == 5


def test_a_container_has_the_cores_and_memory_that_it_may_use(computer, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: range(16))
    assert machine.cores() == 16
    (tmp_path / "cpu.max").write_text("200000 100000\n", encoding="utf-8")
    assert machine.cores() == 2
    (tmp_path / "cpu.max").write_text("max 100000\n", encoding="utf-8")
    assert machine.cores() == 16
    (tmp_path / "memory.max").write_text("3000000\n", encoding="utf-8")
    (tmp_path / "memory.current").write_text("1000000\n", encoding="utf-8")
    assert machine._free_memory() == 2_000_000


def test_trainings_beside_each_other_share_the_machine(computer, monkeypatch):
    computer(8, 64)
    names = ("nnUNet_def_n_proc", "nnUNet_npp", "nnUNet_nps")
    assert [machine.nnunets_variables()[name] for name in names] == ["8", "3", "3"]
    assert [machine.nnunets_variables(at_once=4)[name] for name in names] == ["2", "2", "2"]
    assert int(machine.nnunets_variables(at_once=4)["nnUNet_n_proc_DA"]) <= 2
    monkeypatch.setenv("nnUNet_npp", "7")
    assert machine.nnunets_variables(at_once=4)["nnUNet_npp"] == "7"
