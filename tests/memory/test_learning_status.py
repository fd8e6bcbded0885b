"""The share of sure voxels against its counts."""

import pytest
import torch
from workbench import one_rank

from nnunet_ssl.memory.learning_status import LearningStatus


def sure_of(count, voxels=1000):
    """Confidences of voxels, so many of them above 0.95."""
    return torch.where(torch.arange(voxels) < count, 0.96, 0.95)


def after(*counts, voxels=1000):
    """Each count is an epoch of two steps; another epoch has begun."""
    status = LearningStatus(0.95)
    for epoch, count in enumerate(counts):
        status.record(sure_of(count, voxels), epoch)
        status.record(sure_of(count, voxels), epoch)
    status.record(sure_of(voxels), len(counts))
    return status


@pytest.mark.parametrize(
    ("counts", "ratio"),
    [((), 1), ((800,), 1), ((1000, 800), 0.8), ((800, 1000), 1), ((0, 800), 1), ((800, 0), 0), ((9, 1000, 800), 0.8)],
)
def test_ratio_of_the_last_two_complete_epochs(counts, ratio):
    assert after(*counts).ratio().item() == pytest.approx(ratio)


def test_an_epoch_is_counted_over_all_of_its_steps():
    status = LearningStatus(0.95)
    for count in (0, 500, 1000):
        status.record(sure_of(count), 0)
    assert status.counted.tolist() == [1500, 3000] and not status.shares.any()
    status.record(sure_of(100), 1)
    assert status.shares.tolist() == [0, 0.5] and status.counted.tolist() == [100, 1000] and status.epoch == 1


def test_shares_and_not_counts_are_compared():
    status = after(500)
    status.counted.copy_(torch.tensor([100, 400]))  # of another number of voxels
    status.record(sure_of(0), 2)
    assert status.shares.tolist() == [0.5, 0.25] and status.ratio() == 0.5


def test_what_overflowed_is_not_counted():
    status = LearningStatus(0.95)
    status.record(torch.tensor([0.99, 0.5, float("nan"), float("nan")]), 0)
    assert status.counted.tolist() == [1, 2]
    status.record(torch.full((4,), float("nan")), 1)
    status.record(sure_of(0), 2)  # of epoch 1 nothing is known
    assert status.shares.tolist() == [0, 0.5]


def test_the_state_goes_on_within_an_epoch():
    whole, first = after(1000, 800), after(1000, 800)
    resumed = LearningStatus(0.95)
    resumed.load_state_dict(first.state_dict())
    for status in (whole, resumed):
        status.record(sure_of(10), 2)
        status.record(sure_of(20), 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), resumed.buffers(), strict=True))
    assert whole.shares.tolist() == pytest.approx([0.8, (1000 + 10) / 2000])


def share(rank, world, folder):
    with one_rank(rank, world, folder):
        status = LearningStatus(0.95)
        status.record(sure_of(100 + 200 * rank), 0)
        torch.save(status.counted, folder / f"counted_{rank}")


def test_ranks_count_together(tmp_path):
    torch.multiprocessing.spawn(share, (2, tmp_path), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"counted_{rank}", weights_only=True).tolist() == [400, 2000]
