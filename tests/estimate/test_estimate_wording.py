"""The table of an estimate, and what it says to change."""

import pytest

from nnunet_ssl.estimate.wording import GB, advice, card_for, in_lines, loaders_needed

FOUND = {
    "trainer": "nnUNetTrainerBCP", "dataset": "Dataset018_Heart", "configuration": "3d_fullres", "fold": "0",
    "plans": "nnUNetPlans", "device": "cuda", "gpu": "NVIDIA H100", "gpu_bytes": 80 * GB, "cores": 16, "processes": 12,
    "epochs": 1000, "steps": 250, "validation_steps": 50, "patch": [112, 160, 128], "batch": [2, 2],
    "phases": [
        {"epochs": 500, "float32_bytes": 10 * GB, "half_bytes": 6 * GB, "peak_bytes": 6.5 * GB, "batch_core_s": 1.0,
         "step_s": 0.10, "wait_s": 0.001, "first_s": 30.0, "hours": 3.5},
        {"epochs": 500, "float32_bytes": 20 * GB, "half_bytes": 11 * GB, "peak_bytes": 12 * GB, "batch_core_s": 2.0,
         "step_s": 0.25, "wait_s": 0.001, "first_s": 2.0, "hours": 8.0},
    ],
    "start_s": 20.0, "validation_step_s": 0.05, "validation_s": 600.0, "labeling_s": 0.0, "hours": 11.7,
    "checkpoint_bytes": GB // 4, "results_bytes": GB, "free_bytes": 100 * GB,
    "folders": {"labeled": {"cases": 8, "bytes": GB}, "unlabeled": {"cases": 500, "bytes": 200 * GB}},
}  # fmt: skip


def with_second_phase(**changes):
    return FOUND | {"phases": [FOUND["phases"][0], FOUND["phases"][1] | changes]}


def test_the_table():
    assert in_lines(FOUND) == [
        "nnUNetTrainerBCP, Dataset018_Heart, 3d_fullres, fold 0",
        "1000 epochs of 250 steps, batch 2 labeled and 2 unlabeled",
        "patches of 112 x 160 x 128, on NVIDIA H100, cores: 16, loaders: 12",
        "",
        "                                   epoch 0-499  epoch 500-999",
        "memory of a step on a GPU, GB              6.0           11.0",
        "  measured here, GB                        6.5           12.0",
        "in float32, as on a CPU, GB               10.0           20.0",
        "seconds of a core for a batch             1.00           2.00",
        "seconds a step                            0.10           0.25",
        "  waiting for a batch                       1%             0%",
        "hours                                      3.5            8.0",
        "",
        "GPU                     one of 16 GB holds a step",
        "start-up                0:00:50 until the first step is done",
        "validation at the end   0:10:00",
        "hours in all            11.7",
        "held back by            the device",
        "writes                  1.00 GB; 100 GB are free",
        "labeled cases           8, preprocessed 1.00 GB",
        "unlabeled cases         500, preprocessed 200.00 GB",
        "",
        "Nothing to change.",
    ]


def test_without_a_gpu_time_is_not_known_and_memory_is():
    phases = [{key: phase[key] for key in ("float32_bytes", "half_bytes", "batch_core_s")} for phase in FOUND["phases"]]
    keys = ("trainer", "dataset", "configuration", "fold", "device", "cores", "folders")
    lines = in_lines({key: FOUND[key] for key in keys} | {"phases": phases, "free_bytes": 100 * GB})
    assert any(line.split() == ["phase", "0", "phase", "1"] for line in lines)
    assert "seconds a step          not known without a GPU; -device cpu measures the CPU" in lines
    assert max(map(len, lines)) <= 80


def test_many_phases_stand_below_each_other():
    phases = [FOUND["phases"][0]] * 6
    lines = in_lines(FOUND | {"phases": phases})
    assert max(map(len, lines)) <= 80
    assert sum(line.count("epoch ") for line in lines if line.startswith(" ")) == 6


@pytest.mark.parametrize(("half", "card"), [(6 * GB, 8), (9 * GB, 11), (11 * GB, 16), (60 * GB, 80), (200 * GB, 0)])
def test_the_smallest_card(half, card):
    assert card_for(half) == card


def test_loaders_that_are_too_few_are_counted():
    slow = {"step_s": 0.5, "wait_s": 0.25, "batch_core_s": 3.5}  # of 0.25 s each batch takes 3.5 core-seconds
    assert loaders_needed(slow) == 14
    (one,) = advice(with_second_phase(**slow))
    assert "nnUNet_n_proc_DA=14, it is 12" in one
    (one,) = advice(with_second_phase(**slow | {"batch_core_s": 5.0}))
    assert "20 loaders would be needed on 16 cores" in one and "unlabeled_batch_size" in one
    assert any("the loaders" in line for line in in_lines(with_second_phase(**slow)))


def test_a_gpu_that_is_too_small_a_full_disk_and_a_long_night():
    (one,) = advice(FOUND | {"out_of_memory": True})
    assert "too small" in one and "unlabeled_batch_size" in one and "-gpu_memory_target" in one
    (one,) = advice(FOUND | {"free_bytes": GB // 2})
    assert "Make room" in one
    (one,) = advice(FOUND | {"hours": 48.0})
    assert "{num_epochs: 250}" in one
