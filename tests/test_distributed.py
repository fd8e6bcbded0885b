"""What two ranks agree on where one of them lacks what the other has: gradients, and figures of an epoch."""

import pytest
import torch
from torch import multiprocessing as mp
from workbench import one_rank

from nnunet_ssl.distributed import average_gradients, require_equal_batches, world_of_batches
from nnunet_ssl.errors import InputError
from nnunet_ssl.training.progress import epoch_means

# gradients of three parameters by rank, None for none, and what both then have
GRADIENTS = {
    "each its own": ([1.0, None, None], [None, 2.0, None], [0.5, 1.0, None]),
    "one has all": ([1.0, 2.0, None], [None, None, None], [0.5, 1.0, None]),
    "both the same": ([1.0, None, 4.0], [3.0, None, 2.0], [2.0, None, 3.0]),
    "none any": ([None] * 3, [None] * 3, [None] * 3),
}
STEPS = (
    [{"loss": torch.tensor(1.0), "supervised": 2.0}, {"loss": torch.tensor(3.0), "supervised": 4.0, "late": 8.0}],
    [{"loss": torch.tensor(5.0), "rare": torch.tensor(7.0)}, {"loss": torch.tensor(7.0), "supervised": 9.0}],
)


def agree(rank, world, folder):
    with one_rank(rank, world, folder):
        found = {}
        for name, ranks in GRADIENTS.items():
            parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
            for parameter, value in zip(parameters, ranks[rank], strict=True):
                parameter.grad = None if value is None else torch.full((3,), value)
            average_gradients(parameters)
            found[name] = [None if parameter.grad is None else parameter.grad.tolist() for parameter in parameters]
        average_gradients([])
        found["epoch"] = epoch_means(STEPS[rank], torch.device("cpu"))
        torch.save(found, folder / f"{rank}")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(agree, (2, folder), nprocs=2)
    return [torch.load(folder / f"{rank}") for rank in range(2)]


@pytest.mark.parametrize("case", GRADIENTS)
def test_a_rank_without_a_gradient_counts_as_zero(ranks, case):
    """As for the network that DDP wraps; a parameter that is without on all ranks stays so, and its momentum too."""
    expected = [None if value is None else [value] * 3 for value in GRADIENTS[case][2]]
    assert [rank[case] for rank in ranks] == [expected] * 2


def test_figures_of_an_epoch_are_means_over_the_steps_of_all_ranks_that_have_them(ranks):
    for rank in ranks:
        assert rank["epoch"] == {"loss": 4.0, "supervised": 5.0, "late": 8.0, "rare": 7.0}


def test_a_figure_that_comes_late_or_goes_early_is_a_mean_of_its_own_steps():
    steps = [
        {"loss": 1.0, "early": torch.tensor(3.0)}, {"loss": 2.0, "late": 5.0, "early": 1}, {"loss": 6.0, "late": 7.0}
    ]  # fmt: skip
    means = epoch_means(steps, torch.device("cpu"))
    assert list(means) == ["loss", "early", "late"]
    assert means == {"loss": 3.0, "early": 2.0, "late": 6.0}


def join(rank, world, folder):
    with one_rank(rank, world, folder):
        mine = torch.tensor([[1.0 + rank], [3.0 + rank]], requires_grad=True)
        together = world_of_batches(mine)
        ((rank + 1) * together.squeeze() * torch.tensor([1.0, 10, 100, 1000])).sum().backward()
        require_equal_batches(3)
        try:
            require_equal_batches(2 - rank)
            said = ""
        except InputError as error:
            said = str(error)
        torch.save((together.detach(), mine.grad, said), folder / f"joined_{rank}")


def test_batches_of_all_ranks_are_one_with_gradients_and_must_be_of_one_size(tmp_path):
    mp.spawn(join, (2, tmp_path), nprocs=2)
    for rank in range(2):
        together, gradient, said = torch.load(tmp_path / f"joined_{rank}", weights_only=True)
        assert together.flatten().tolist() == [1, 3, 2, 4]
        assert gradient.flatten().tolist() == [3 * weight for weight in ([1, 10], [100, 1000])[rank]]
        assert "they have 2 and 1 labeled ones: take a batch_size" in said
