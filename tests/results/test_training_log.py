"""Curves, time and memory of a training that was cut off and went on."""

from nnunet_ssl.results.training_log import read_logs

LOG = """
2026-01-01 00:00:00.1: Epoch 0
2026-01-01 00:00:01.1: train_loss -0.5
2026-01-01 00:00:01.1: val_loss nan
2026-01-01 00:00:01.1: Pseudo dice [np.float32(0.25), np.float32(nan)]
2026-01-01 00:00:01.1: Epoch time: 10.5 s
2026-01-01 00:00:02.1: Epoch 1
2026-01-01 00:00:03.1: train_loss -0.6
2026-01-01 00:00:03.1: val_loss -0.7
2026-01-01 00:00:03.1: Pseudo dice [0.5, 1e-05]
2026-01-01 00:00:03.1: Epoch time: 11.0 s
2026-01-01 00:00:04.1: peak memory: 900 MB
"""
RESUMED = """
2026-01-02 00:00:02.1: Epoch 1
2026-01-02 00:00:03.1: train_loss -0.8
2026-01-02 00:00:03.1: val_loss -0.9
2026-01-02 00:00:03.1: Pseudo dice [0.5, 0.75]
2026-01-02 00:00:03.1: Epoch time: 12.0 s
2026-01-02 00:00:04.1: peak memory: 1234.5 MB
"""


def test_logs_of_a_resumed_training():
    curve, seconds, peak = read_logs([LOG, RESUMED])
    assert curve == {
        "train_loss": [-0.5, -0.8],
        "val_loss": [None, -0.9],
        "epoch_seconds": [10.5, 12.0],
        "pseudo_dice": [[0.25, None], [0.5, 0.75]],
    }
    assert (seconds, peak) == (22.5, 1234.5)
    curve, seconds, peak = read_logs([LOG])
    assert (seconds, peak) == (21.5, 900) and curve["pseudo_dice"][1] == [0.5, 1e-05]
    assert read_logs([""])[1:] == (None, None)
