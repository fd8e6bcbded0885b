"""The timing of `nnunet_ssl suggest` beside nnU-Net's prediction."""

import pytest
import suggest_time
from suites import edit_plans

NNUNETS = {"configurations": {"3d_fullres": {"spacing": [2.0, 2.0, 2.0], "architecture": {"arch_kwargs": {}}}}}


def test_the_sizes_asked_for_are_planned():
    suite = suggest_time.suite_of(3, [32, 64, 64], [16, 32, 32], [4, 8], 2)
    assert (suite.units, suite.test, dict(suite.phantom)) == (2, 3, {"shape": (32, 64, 64)})
    planned = edit_plans(NNUNETS, suite, "other")["configurations"]["3d_fullres"]
    assert planned["patch_size"] == [16, 32, 32]
    assert planned["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 8]


def test_the_ratio_is_of_medians():
    found = suggest_time.figures({suggest_time.THEIRS: [4.0, 2.0, 100.0], suggest_time.OURS: [3.0, 9.0, 1.0]})
    assert found == {suggest_time.THEIRS: 4.0, suggest_time.OURS: 3.0, "ratio": 0.75}


@pytest.mark.long
def test_both_commands_run(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_ssl_config", "nnUNet_compile"):
        monkeypatch.setenv(name, "")  # to be as it was afterwards
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    # with fewer than three stages nnU-Net's deep supervision has one scale, of weight 0 / 0
    suite = suggest_time.suite_of(2, [32, 48, 48], [16, 32, 32], [4, 6, 8], 2)
    for times in suggest_time.measure(suite, tmp_path, "cpu", 1):
        assert all(len(each) == 1 and each[0] > 0 for each in times.values())
    assert len(list((tmp_path / "nnUNetv2_predict_0").glob("*.nii.gz"))) == 2
    assert (tmp_path / "suggest_0" / "index.html").is_file()
