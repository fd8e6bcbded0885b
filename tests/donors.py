"""Checkpoints of all kinds of trainers (the fixture `donors`), and trainers that begin with their weights."""

import json
from pathlib import Path

import torch
from battery import method_of, tiny
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

CPU = torch.device("cpu")
DONORS = ("", "Supervised", "MeanTeacher", "CPS", "DHC", "CrossTeaching")  # "": nnU-Net's own trainer


def trainer_of(dataset, method, patched, **settings):
    name = f"nnUNetTrainer{method}"
    settings = settings | (tiny(method_of(method)) if method_of(method) else {})
    patched.setenv("nnUNet_ssl_config", json.dumps(settings))
    return get_trainer_from_args(dataset.name, "3d_fullres", 0, name, dataset.plans, device=CPU)


def file_of(dataset, donor) -> Path:
    return dataset.root / f"nnUNetTrainer{donor}.pth"


def write_donor(dataset, method, patched) -> None:
    """The checkpoint of a trainer of whose networks no tensor is as it is drawn."""
    trainer = trainer_of(dataset, method, patched)
    trainer.initialize()
    torch.manual_seed(len(method))
    networks = [trainer.network] + ([trainer.method] if getattr(trainer, "method", None) is not None else [])
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                parameter.normal_()
    trainer.save_checkpoint(str(file_of(dataset, method)))


def content(dataset, donor) -> dict:
    return torch.load(file_of(dataset, donor), weights_only=False)


def networks(dataset, donor) -> tuple[dict, dict | None]:
    """The weights of a checkpoint's student and twin."""
    saved = content(dataset, donor)
    if donor in ("DHC", "MCF"):
        return below(saved["network_weights"], "first."), below(saved["network_weights"], "second.")
    state = saved.get("semi_supervised", {}).get("method", {})
    return saved["network_weights"], below(state, "twin.") or None


def below(weights, prefix):
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def begin(dataset, method, weights, patched, **settings):
    """A trainer as `nnUNetv2_train -pretrained_weights` has it before the first step, and what its log says."""
    trainer, said = trainer_of(dataset, method, patched, **settings), []
    trainer.print_to_log_file = lambda *words: said.append(" ".join(map(str, words)))
    maybe_load_checkpoint(trainer, False, False, str(weights))
    return trainer, [line.removeprefix("-pretrained_weights, ") for line in said if "-pretrained_weights, " in line]


def assert_taken(network, weights, taken=lambda name: "seg_layers" not in name):
    """All tensors that are `taken` equal those of the file, no other does."""
    state = network.state_dict()
    assert any(map(taken, state))
    for name, value in state.items():
        same = weights[name].shape == value.shape and torch.equal(value, weights[name])
        assert same == taken(name), name


def edited(dataset, tmp_path, edit, donor="CPS"):
    """A donor's checkpoint with `edit(name, tensor)` of each of its networks' tensors, or without it if None."""
    saved = content(dataset, donor)
    places = [saved["network_weights"], saved.get("semi_supervised", {}).get("method", {})]
    for place in places:
        for name, value in list(place.items()):
            new = edit(name, value) if isinstance(value, torch.Tensor) else value
            place[name] = new
            if new is None:
                del place[name]
    torch.save(saved, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"
