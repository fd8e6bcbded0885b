"""Vectors that are kept of each case, and what is drawn of them."""

import pytest
import torch
from torch import multiprocessing as mp
from workbench import one_rank

from nnunet_ssl.errors import InputError
from nnunet_ssl.memory.case_bank import CaseBank, spread


def entry(value, count, size=4, classes=1):
    """Of one patch: vectors of length 1 that all have a value, and the numbers of voxels."""
    return torch.full((1, classes, size, 1), float(value)), torch.full((1, classes), count)


def of(seed):
    return torch.Generator().manual_seed(seed)


def test_a_case_is_replaced_as_a_whole_by_the_last_of_its_patches():
    bank = CaseBank(("a", "b"), 2, 4, 1)
    bank.update(("b",), *entry(1, 9, classes=2))
    assert bank.count.tolist() == [[0, 0], [9, 9]]
    vectors = torch.arange(16.0).view(2, 2, 4, 1)
    bank.update(("b", "b"), vectors, torch.tensor([[3, 7], [5, 0]]))
    assert bank.count.tolist() == [[0, 0], [5, 0]]
    assert torch.equal(bank.vectors[1], vectors[1])


def test_a_step_that_overflowed_leaves_its_cases_as_they_are():
    bank = CaseBank(("a", "b"), 1, 4, 1)
    bank.update(("a",), *entry(1, 9))
    vectors = torch.stack((torch.full((1, 4, 1), 2.0), torch.full((1, 4, 1), 3.0)))
    vectors[0, 0, 3] = torch.inf
    bank.update(("a", "b"), vectors, torch.tensor([[6], [5]]))
    assert bank.count.tolist() == [[9], [5]] and bank.vectors[:, 0, 0, 0].tolist() == [1, 3]


def test_a_memory_of_another_number_of_cases_is_refused():
    state = CaseBank(("a", "b"), 1, 4, 1).state_dict()
    CaseBank(("a", "c"), 1, 4, 1).load_state_dict(state)
    with pytest.raises(InputError, match="of 2 labeled cases, and the fold has 1: train anew"):
        CaseBank(("a",), 1, 4, 1).load_state_dict(state)


@pytest.mark.parametrize(("voxels", "enough"), [(255, False), (256, True)])
def test_a_class_is_drawn_from_as_soon_as_it_has_as_many(voxels, enough):
    bank = CaseBank(("a", "b"), 1, 256, 1)
    rising = torch.arange(256.0).view(1, 1, 256, 1)
    bank.update(("a",), rising, torch.tensor([[100]]))
    bank.update(("b",), 1000 + rising, torch.tensor([[voxels - 100]]))
    rows, known = bank.draw(of(0))
    assert rows.shape == (1, 256, 1) and known.tolist() == [enough]
    if enough:  # without replacement: all there are, each once
        expected = [*range(100), *range(1000, 1156)]
        assert sorted(rows.flatten().tolist()) == expected
        assert rows.flatten().tolist() != expected


def test_cases_are_drawn_by_their_voxels_and_vectors_of_a_case_alike():
    """Of 24 and 8 voxels 8 are drawn: hypergeometric, mean 6 and variance 8 * 3/4 * 1/4 * 24/31."""
    bank = CaseBank(("a", "b"), 1, 8, 1)
    bank.update(("a",), torch.arange(8.0).view(1, 1, 8, 1), torch.tensor([[24]]))
    bank.update(("b",), 8 + torch.arange(8.0).view(1, 1, 8, 1), torch.tensor([[8]]))
    draws = torch.stack([bank.draw(of(seed))[0].flatten() for seed in range(4000)]).long()
    first = (draws < 8).sum(1).double()
    assert first.mean().item() == pytest.approx(6, abs=0.06)
    assert first.var().item() == pytest.approx(1.5 * 24 / 31, rel=0.08)
    shares = torch.bincount(draws.flatten(), minlength=16) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.75] * 8 + [0.25] * 8), atol=0.04, rtol=0)
    assert all(len(set(draw.tolist())) == 8 for draw in draws[:100])


def test_spread_gives_all_of_a_few_voxels_and_each_of_many_the_same_chance():
    masks = torch.zeros(3, 50, dtype=torch.bool)
    masks[0, [7, 20, 49]], masks[1, 5:45] = True, True
    index, count = spread(masks, 8, 0.3)
    assert count.tolist() == [3, 40, 0] and index[0, :3].tolist() == [7, 20, 49]
    seen = torch.zeros(50)
    for offset in torch.linspace(0, 0.999, 500).tolist():
        chosen = spread(masks, 8, offset)[0][1]
        assert len(chosen.unique()) == 8 and masks[1, chosen].all()
        seen[chosen] += 1
    torch.testing.assert_close(seen[5:45], torch.full((40,), 100.0), atol=2, rtol=0)


def keep(rank, world, folder):
    with one_rank(rank, world, folder):
        bank = CaseBank(("a", "b", "c"), 1, 4, 1)
        bank.update(("b" if rank else "a",), *entry(rank + 1, 5 + rank))
        bank.update(("c",), *entry(rank + 7, 9))
        torch.save((bank.state_dict(), *bank.draw(of(1))), folder / f"bank_{rank}")


def test_ranks_keep_and_draw_the_same(tmp_path):
    mp.spawn(keep, (2, tmp_path), nprocs=2)
    (one, *drawn), (two, *others) = (torch.load(tmp_path / f"bank_{rank}", weights_only=True) for rank in range(2))
    assert one["count"].flatten().tolist() == [5, 6, 9] and one["vectors"][:, 0, 0, 0].tolist() == [1, 2, 8]
    assert all(torch.equal(one[name], two[name]) for name in one) and all(map(torch.equal, drawn, others))
