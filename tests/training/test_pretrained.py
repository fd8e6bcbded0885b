"""`-pretrained_weights` from every kind of checkpoint to every kind of trainer: who takes what, and what is refused."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run import run_training
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from torch import multiprocessing as mp
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from workbench import change_a_weight, one_rank, tiny_network

from nnunet_ssl.errors import InputError
from nnunet_ssl.networks.net import unwrap
from nnunet_ssl.training.configured import ConfiguredTrainer
from nnunet_ssl.training.pretrained import begin_with, read_weights

CPU = torch.device("cpu")
SMALL = {"width": 48, "layers": 2, "heads": 2}  # the transformer of cross teaching
DONORS = ("", "Supervised", "MeanTeacher", "CPS", "DHC", "CrossTeaching")  # "": nnU-Net's own trainer
RECIPIENTS = ("Supervised", "MeanTeacher", "CPS", "DHC", "CrossTeaching", "CCT", "BCP")
# of the phantom's network 28 tensors are its own, 12 of them of its encoder and 4 of its heads
BUT_HEADS = "{}: 24 of 28 tensors of the file's {}; random: heads, 4 tensors (nnU-Net leaves heads out)"
TWIN_FROM_TWIN = BUT_HEADS.format("twin", "second network")
TWIN_FROM_FIRST = (
    "twin: 12 of 28 tensors of the encoder of the file's {}; random: decoder and heads, 16 tensors (else both networks "
    "would be one)"
)
FURTHER = {
    "MeanTeacher": ["teacher: a copy of the student, when training starts"],
    "BCP": ["teacher: a copy of the student, when training starts"],
    "CCT": [f"decoders.{number}: random, no weights of the file fit it" for number in range(3)],
}


def trainer_of(dataset, method, patched, **settings):
    name = f"nnUNetTrainer{method}"
    settings = settings | (SMALL if method == "CrossTeaching" else {})
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


@pytest.fixture(scope="module")
def donors(phantom_3d, tmp_path_factory):
    dataset = phantom_3d.copy(tmp_path_factory.mktemp("donors"))
    with pytest.MonkeyPatch.context() as patched:
        dataset.use(patched)
        for method in (*DONORS, "CCT", "DAN"):
            write_donor(dataset, method, patched)
    return dataset


@pytest.fixture
def dataset(donors, monkeypatch):
    return donors.use(monkeypatch)


def content(dataset, donor) -> dict:
    return torch.load(file_of(dataset, donor), weights_only=False)


def networks(dataset, donor) -> tuple[dict, dict | None]:
    """The weights of a checkpoint's student and twin."""
    saved = content(dataset, donor)
    if donor == "DHC":
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


def of_encoder(name):
    return "encoder." in name


@pytest.mark.parametrize("donor", DONORS)
@pytest.mark.parametrize("method", RECIPIENTS)
def test_every_trainer_begins_with_the_weights_of_every_other(dataset, monkeypatch, donor, method):
    first, second = networks(dataset, donor)
    trainer, log = begin(dataset, method, file_of(dataset, donor), monkeypatch)
    assert_taken(trainer.network, first)
    source = "first network" if second else "network"
    assert log[0] == BUT_HEADS.format("student", source)
    if method in ("CPS", "DHC"):
        if donor in ("CPS", "DHC"):
            assert_taken(trainer.method.twin, second)
            assert log[1:] == [TWIN_FROM_TWIN]
        else:
            assert_taken(trainer.method.twin, first, of_encoder)
            assert log[1:] == [TWIN_FROM_FIRST.format(source)]
    elif method == "CrossTeaching" and donor == method:
        assert_taken(trainer.method.twin, second, lambda name: True)
        assert log[1:] == ["twin: 62 of 62 tensors of the file's second network"]
    elif method == "CrossTeaching":
        assert log[1:] == ["twin: random, no weights of the file fit it"]
    else:
        left_out = ["second network: left out, there is one here"] if second else []
        assert log[1:] == FURTHER.get(method, []) + left_out
    if method in ("MeanTeacher", "BCP"):
        monkeypatch.setattr(ConfiguredTrainer, "on_train_start", lambda self: None)
        trainer.on_train_start()
        assert_taken(trainer.method.teacher.module, trainer.network.state_dict(), lambda name: True)


def test_decoders_go_to_decoders_and_a_discriminator_begins_anew(dataset, monkeypatch):
    trainer, log = begin(dataset, "CCT", file_of(dataset, "CCT"), monkeypatch)
    saved = content(dataset, "CCT")["semi_supervised"]["method"]
    for number, decoder in enumerate(trainer.method.decoders):
        assert_taken(decoder, below(saved, f"decoders.{number}."))
        assert log[1 + number] == (
            f"decoders.{number}: 12 of 14 tensors of the file's decoders.{number}; random: heads, 2 tensors (nnU-Net "
            "leaves heads out)"
        )
    trainer, log = begin(dataset, "DAN", file_of(dataset, "DAN"), monkeypatch)
    assert log[1:] == ["evaluator: random, it learns from what the student predicts"]
    theirs = below(content(dataset, "DAN")["semi_supervised"]["method"], "evaluator.")
    for name, parameter in trainer.method.evaluator.named_parameters():
        assert not torch.equal(parameter, theirs[name]), name


def test_the_network_that_predicts_is_taken_where_it_is_a_teacher(dataset, monkeypatch, tmp_path):
    donor = trainer_of(dataset, "MeanTeacher", monkeypatch, deploy_teacher=True)
    donor.initialize()
    with torch.no_grad():
        for parameter in donor.method.teacher.parameters():
            parameter.normal_()
    donor.save_checkpoint(str(tmp_path / "teacher.pth"))
    trainer, _ = begin(dataset, "Supervised", tmp_path / "teacher.pth", monkeypatch)
    assert_taken(trainer.network, donor.method.teacher.module.state_dict())


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


@pytest.mark.parametrize("method", ["Supervised", "DHC"])
def test_weights_of_another_number_of_classes(dataset, monkeypatch, tmp_path, method):
    def seven(name, value):
        return value.new_ones(7, *value.shape[1:]) if "seg_layers" in name else value

    trainer, log = begin(dataset, method, edited(dataset, tmp_path, seven), monkeypatch)
    first, second = networks(dataset, "CPS")
    assert_taken(trainer.network, first)
    assert log[0] == BUT_HEADS.format("student", "first network")
    if method == "DHC":
        assert_taken(trainer.method.twin, second)
        assert log[1] == TWIN_FROM_TWIN


INPUT = re.compile(r"encoder\.stages\.0\.0\.convs\.0\.(conv|all_modules\.0)\.weight")


def test_weights_for_another_number_of_channels(dataset, monkeypatch, tmp_path):
    def three(name, value):
        return torch.cat((value, 2 * value, 4 * value), 1) if "encoder" in name and value.shape[1:2] == (1,) else value

    trainer, log = begin(dataset, "CPS", edited(dataset, tmp_path, three), monkeypatch)
    for network, donor in zip((trainer.network, trainer.method.twin), networks(dataset, "CPS"), strict=True):
        expected = 7 * donor["encoder.stages.0.0.convs.0.conv.weight"]
        torch.testing.assert_close(network.state_dict()["encoder.stages.0.0.convs.0.conv.weight"], expected)
        assert_taken(network, donor, lambda name: not (INPUT.search(name) or "seg_layers" in name))
    for line, which in zip(log, ("first", "second"), strict=True):
        assert f"of the file's {which} network, its input layer for 3 channel(s) shared among 1; random: heads" in line


def test_more_channels_than_the_weights_had_begin_with_equal_shares(tmp_path):
    """Equal channels give what the one channel gave."""
    old, new = tiny_network(3, 2, seed=1), tiny_network(3, 2, seed=2, input_channels=4)
    torch.save({"network_weights": old.state_dict()}, tmp_path / "weights.pth")
    lines = []
    begin_with(read_weights(str(tmp_path / "weights.pth")), new, None, lines.append)
    assert "its input layer for 1 channel(s) shared among 4" in lines[0]
    image = torch.randn(1, 1, 16, 16, 16)
    for feature, expected in zip(new.encoder(image.expand(1, 4, 16, 16, 16)), old.encoder(image), strict=True):
        torch.testing.assert_close(feature, expected, atol=1e-4, rtol=1e-4)


def without_decoder(name, value):
    return value if name.startswith("encoder.") else None


@pytest.mark.parametrize("kind", ["encoder alone", "nnssl", "nnssl with another decoder"])
def test_an_encoder_is_taken_where_there_is_no_more(dataset, monkeypatch, tmp_path, kind):
    """nnssl's file has a decoder that reconstructs; its checkpoints name the trainer and a plan of adaptation."""
    weights = edited(dataset, tmp_path, without_decoder if kind == "encoder alone" else lambda name, value: value, "")
    saved = torch.load(weights, weights_only=False)
    saved = {"network_weights": saved["network_weights"]}
    if kind != "encoder alone":
        plan = {"key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem", "pretrain_num_input_channels": 1}
        saved |= {"trainer_name": "BaseMAETrainer", "nnssl_adaptation_plan": plan}
    if kind == "nnssl with another decoder":
        saved["network_weights"]["decoder.stages.0.convs.0.conv.weight"] = torch.ones(1)
    torch.save(saved, weights)
    trainer, log = begin(dataset, "CPS", weights, monkeypatch)
    first, _ = networks(dataset, "")
    assert_taken(trainer.network, first, of_encoder)
    assert_taken(trainer.method.twin, first, of_encoder)
    why = (
        "the file holds an encoder alone" if kind == "encoder alone" else "nnssl's fine-tuning takes the encoder alone"
    )
    assert log == [
        f"student: 12 of 28 tensors of the file's network; random: decoder and heads, 16 tensors ({why})",
        TWIN_FROM_FIRST.format("network"),
    ]


def refusal(dataset, monkeypatch, weights, method="CPS"):
    trainer = trainer_of(dataset, method, monkeypatch)
    with pytest.raises(InputError) as caught:
        maybe_load_checkpoint(trainer, False, False, str(weights))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 800
    assert message.startswith(f"-pretrained_weights {weights} ")
    return message.removeprefix(f"-pretrained_weights {weights} ")


def test_another_architecture_is_refused_and_nothing_loaded(dataset, monkeypatch, tmp_path):
    def wider(name, value):
        if "decoder.stages.1" in name or name == "decoder.transpconvs.0.bias":
            return None
        return torch.cat((value, value)) if name.startswith("encoder.stages.2") else value

    weights = edited(dataset, tmp_path, wider, "")
    assert refusal(dataset, monkeypatch, weights) == (
        "does not fit this network: encoder.stages.2.0.convs.0.conv.weight is 16x6x3x3x3 in the file, 8x6x3x3x3 here; "
        "encoder.stages.2.0.convs.0.conv.bias is 16 in the file, 8 here; encoder.stages.2.0.convs.0.norm.weight is 16 "
        "in the file, 8 here; and 6 more. Both trainings need plans of one architecture: take one dataset's plans for "
        "the other with nnUNetv2_move_plans_between_datasets, and preprocess and train with these (-p)."
    )
    network = tiny_network(3, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match="does not fit"):
        begin_with(read_weights(str(weights)), network, None, print)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_of_nnssl_that_do_not_fit_name_the_planner(dataset, monkeypatch, tmp_path):
    weights = {"network_weights": {"encoder.stem.convs.0.conv.weight": torch.ones(4, 1, 3, 3, 3)}}
    torch.save(weights | {"nnssl_adaptation_plan": {}}, tmp_path / "mae.pth")
    message = refusal(dataset, monkeypatch, tmp_path / "mae.pth")
    assert message.startswith("does not fit this network: encoder.stages.0.0.convs.0.conv.weight is not in the file; ")
    assert message.endswith(
        "nnssl's ResEnc-L is planned by nnUNetv2_plan_and_preprocess with -pl nnUNetPlannerResEncL, "
        "-overwrite_target_spacing 1 1 1 and -overwrite_plans_name; preprocess and train with these plans (-p)."
    )


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_what_is_no_checkpoint_is_refused_in_a_line(dataset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, what, expected in (
        ("code.pth", {"network_weights": {}, "x": Code()}, "cannot be read (it holds more than data: posix.mkdir). "),
        ("path.pth", {"network_weights": {}, "x": Path()}, "cannot be read (it holds more than data: pathlib."),
        ("state.pth", tiny_network(3, 3).state_dict(), "is no checkpoint of nnU-Net: it has no network_weights. "),
        ("list.pth", [1], "is no checkpoint of nnU-Net: it has no network_weights. "),
        ("empty.pth", {"network_weights": {}}, "is no checkpoint of nnU-Net: it has no network_weights. "),
        (
            "names.pth",
            {"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": 3}},
            "does not fit this network: ",
        ),
    ):
        torch.save(what, name)
        message = refusal(dataset, monkeypatch, name)
        assert message.startswith(expected)
        assert ("Write its weights alone where its code belongs" in message) == ("more than data" in message)
    assert not Path("ran").exists()
    shutil.copy(file_of(dataset, "CPS"), "damaged.pth")
    change_a_weight(Path("damaged.pth"))
    assert "is damaged). Give the checkpoint of a training, or a whole copy of it." in refusal(
        dataset, monkeypatch, "damaged.pth"
    )
    Path("text.pth").write_text("weights")
    assert refusal(dataset, monkeypatch, "text.pth").startswith("cannot be read (File is not a zip file)")
    assert refusal(dataset, monkeypatch, "nowhere.pth").startswith("cannot be read (No such file or directory)")
    assert refusal(dataset, monkeypatch, ".").startswith("cannot be read (Is a directory)")


def test_logs_of_numpy_1_are_data_too(dataset, monkeypatch, tmp_path):
    """Stock checkpoints of its time name its modules otherwise."""
    saved = content(dataset, "") | {"logging": {"train_losses": [np.float32(0.5), np.float64(1)], "all": np.arange(3)}}
    torch.save(saved, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core", b"numpy.core"))
    assert b"numpy.core.multiarray" in (tmp_path / "old.pth").read_bytes()
    trainer, _ = begin(dataset, "Supervised", tmp_path / "old.pth", monkeypatch)
    assert_taken(trainer.network, networks(dataset, "")[0])


def test_nnunets_own_loader_is_back_afterwards(dataset, monkeypatch):
    """After a training of ours, and after one that ended before its weights were loaded."""
    theirs = run_training.load_pretrained_weights
    begin(dataset, "CPS", file_of(dataset, "DHC"), monkeypatch)
    assert run_training.load_pretrained_weights is theirs
    broken = trainer_of(dataset, "CPS", monkeypatch)
    monkeypatch.setattr("nnunet_ssl.methods.cps.CPS.setup", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        maybe_load_checkpoint(broken, False, False, str(file_of(dataset, "DHC")))
    stock = trainer_of(dataset, "", monkeypatch)
    maybe_load_checkpoint(stock, False, False, str(file_of(dataset, "Supervised")))
    assert_taken(stock.network, networks(dataset, "Supervised")[0])
    assert run_training.load_pretrained_weights is theirs


def test_val_takes_the_checkpoint_of_the_fold_as_nnunet_has_it(dataset, monkeypatch, tmp_path):
    trainer = trainer_of(dataset, "Supervised", monkeypatch)
    final = Path(trainer.output_folder, "checkpoint_final.pth")
    shutil.copy(file_of(dataset, "Supervised"), final)
    try:
        maybe_load_checkpoint(trainer, False, True, "nowhere.pth")
    finally:
        final.unlink()
    assert_taken(trainer.network, networks(dataset, "Supervised")[0], lambda name: True)


def test_a_compiled_network_takes_them(dataset, monkeypatch):
    monkeypatch.setattr(ConfiguredTrainer, "_do_i_compile", lambda self: True)
    trainer, _ = begin(dataset, "CPS", file_of(dataset, "DHC"), monkeypatch)
    assert isinstance(trainer.network, OptimizedModule)
    first, second = networks(dataset, "DHC")
    assert_taken(unwrap(trainer.network), first)
    assert_taken(trainer.method.twin, second)


def load_rank(rank, world, dataset, folder):
    """One rank of `nnUNetv2_train -num_gpus 2 -pretrained_weights`, on the CPU."""
    with pytest.MonkeyPatch.context() as patched:
        dataset.use(patched)
        with one_rank(rank, world, folder):
            from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet

            nnunet.DDP = lambda network, device_ids: DistributedDataParallel(network)
            trainer = trainer_of(dataset, "CPS", patched)
            trainer.device, trainer.grad_scaler = CPU, None
            maybe_load_checkpoint(trainer, False, False, str(file_of(dataset, "Supervised")))
            state = {"net": unwrap(trainer.network).state_dict(), "twin": trainer.method.twin.state_dict()}
            torch.save(state, f"{folder}/rank_{rank}")


def test_two_ranks_begin_alike(dataset, tmp_path):
    mp.spawn(load_rank, (2, dataset, tmp_path), nprocs=2)
    one, other = (torch.load(tmp_path / f"rank_{rank}", weights_only=True) for rank in range(2))
    for name in ("net", "twin"):
        assert all(torch.equal(value, other[name][key]) for key, value in one[name].items())
    first, _ = networks(dataset, "Supervised")
    assert all(torch.equal(value, first[key]) for key, value in one["net"].items() if "seg_layers" not in key)
    assert all(torch.equal(value, first[key]) for key, value in one["twin"].items() if of_encoder(key))
