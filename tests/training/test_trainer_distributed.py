"""Two processes in nnU-Net's own loop: equal networks and statistics, split batches, the state of both ranks saved."""

import json

import pytest
import torch
from torch import multiprocessing as mp
from two_ranks import train_rank


def where_the_liver_is(method, case, segmentation, spacing):
    return segmentation[None] == 1


@pytest.mark.gpu  # both on the one that is there
@pytest.mark.parametrize("name", ["nnUNetTrainerMeanTeacher", "nnUNetTrainerDHC"])
def test_two_ranks_stay_equal(phantom_3d, tmp_path, name):
    dataset = phantom_3d.copy(tmp_path)
    mp.spawn(train_rank, (2, dataset, name, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank_{rank}", weights_only=True) for rank in range(2)]
    for part in ("net", "method"):
        for key, value in ranks[0][part].items():
            torch.testing.assert_close(value, ranks[1][part][key], msg=f"{part} {key} differs between ranks")
    assert ranks[0]["sizes"] == ranks[1]["sizes"] == [(1, 2)] * 3
    results = dataset.root / "results" / dataset.name / f"{name}__nnUNetPlans_tiny__3d_fullres" / "fold_0"
    saved = torch.load(results / "checkpoint_final.pth", weights_only=False)["semi_supervised"]
    assert len(saved["random_states"]) == 2
    assert not torch.equal(saved["random_states"][0]["torch"], saved["random_states"][1]["torch"])
    assert json.loads((results / "debug.json").read_text(encoding="utf-8"))["hyperparameters"]


def test_ranks_share_the_making_of_maps_and_get_the_patches_that_they_would_without(phantom_3d, tmp_path):
    given = []
    for case_maps in (None, where_the_liver_is):
        folder = tmp_path / str(case_maps is not None)
        folder.mkdir()
        dataset = phantom_3d.copy(folder)
        mp.spawn(train_rank, (2, dataset, "nnUNetTrainerMeanTeacher", folder, case_maps), nprocs=2)
        given.append([torch.load(folder / f"rank_{rank}", weights_only=True)["given"] for rank in range(2)])
    (made,) = (dataset.root / "results").glob("*/*/fold_0/case_maps")
    train = json.loads((dataset.base / "splits_final.json").read_text(encoding="utf-8"))[0]["train"]
    assert {file.stem for file in made.iterdir()} == set(train)
    for without, with_maps in zip(*given, strict=True):
        assert len(without) == len(with_maps) == 3
        for (image, target, nothing), (same_image, same_target, maps) in zip(without, with_maps, strict=True):
            assert torch.equal(image, same_image) and torch.equal(target, same_target)
            assert nothing.shape[1] == 0 and maps.shape == image.shape
            sure = (maps - 0.5).abs() > 0.45
            assert torch.equal((maps > 0.5)[sure], (target == 1)[sure])
    assert not torch.equal(given[1][0][0][0], given[1][1][0][0])  # each rank has patches of its own
