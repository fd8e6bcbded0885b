"""Vectors of each class that are kept, and voxels that are drawn."""

import torch
from torch import multiprocessing as mp
from workbench import one_rank

from nnunet_ssl.memory.feature_bank import FeatureBank, draw


def scalars(*values):
    """Vectors of length 1 for each class, (C, N, 1)."""
    return torch.tensor(values)[:, :, None]


def test_the_lowest_scores_stay_and_a_class_without_new_ones_keeps_its_own():
    bank = FeatureBank(2, 2, 1)
    scores = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    bank.update(scalars([30.0, 10.0, 20.0], [7.0, 8.0, 9.0]), scores, torch.tensor([[True] * 3, [False, True, False]]))
    assert bank.vectors[0, :, 0].tolist() == [10.0, 20.0] and bank.count.tolist() == [2, 1]
    assert bank.vectors[1, 0, 0] == 8
    bank.update(scalars([1.0], [2.0]), torch.zeros(2, 1), torch.tensor([[False], [True]]))
    assert bank.vectors[0, :, 0].tolist() == [10.0, 20.0] and bank.count.tolist() == [2, 1]
    assert bank.vectors[1, 0, 0] == 2


def test_mean_direction_counts_every_vector_alike_and_none_that_is_not_there():
    bank = FeatureBank(2, 4, 2)
    vectors = torch.tensor([[[0.0, 5.0], [1.0, 0.0]], [[9.0, 9.0], [9.0, 9.0]]])
    bank.update(vectors, torch.zeros(2, 2), torch.tensor([[True, True], [False, False]]))
    assert bank.mean_direction().tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_voxels_are_drawn_from_their_class_as_long_as_it_has_some():
    torch.manual_seed(0)
    masks = torch.zeros(3, 100, dtype=torch.bool)
    masks[0, :60], masks[1, 95:] = True, True
    index, valid = draw(masks, 10)
    assert index.shape == valid.shape == (3, 10)
    assert valid.sum(1).tolist() == [10, 5, 0]
    for number in range(3):
        assert len(set(index[number].tolist())) == 10
        assert masks[number][index[number]].tolist() == valid[number].tolist()
    seen = torch.cat([draw(masks, 10)[0][0] for _ in range(200)])
    assert set(seen.tolist()) == set(range(60))


def keep(rank, world, folder):
    with one_rank(rank, world, folder):
        bank = FeatureBank(2, 2, 1)
        values = [[30.0, 10.0], [5.0, 6.0]] if rank else [[20.0, 40.0], [7.0, 8.0]]
        valid = torch.tensor([[True, True], [rank == 1, False]])
        bank.update(scalars(*values), torch.tensor(values), valid)
        torch.save(bank.state_dict(), folder / f"bank_{rank}")


def test_ranks_keep_the_lowest_of_all(tmp_path):
    mp.spawn(keep, (2, tmp_path), nprocs=2)
    for rank in range(2):
        state = torch.load(tmp_path / f"bank_{rank}", weights_only=True)
        assert state["vectors"][0, :, 0].tolist() == [10.0, 20.0]
        assert state["vectors"][1, 0, 0] == 5 and state["count"].tolist() == [2, 1]
