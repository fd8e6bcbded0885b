"""`-pretrained_weights` from every kind of checkpoint to every kind of trainer: who takes what."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from donors import CPU, DONORS, assert_taken, begin, below, content, edited, file_of, networks, trainer_of
from nnunetv2.run import run_training
from nnunetv2.run.run_training import maybe_load_checkpoint
from torch import multiprocessing as mp
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from workbench import one_rank, tiny_network

from nnunet_ssl.networks.net import unwrap
from nnunet_ssl.training.configured import ConfiguredTrainer
from nnunet_ssl.training.pretrained import begin_with, read_weights

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


@pytest.fixture
def dataset(donors, monkeypatch):
    return donors.use(monkeypatch)


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


def test_a_twin_of_another_form_takes_only_weights_of_its_form(dataset, monkeypatch):
    """MCF averages the plan's network and one with other blocks; its own checkpoint has both, CPS's has one form."""
    first, second = networks(dataset, "MCF")
    trainer, log = begin(dataset, "MCF", file_of(dataset, "MCF"), monkeypatch)
    assert_taken(trainer.network, first)
    assert_taken(trainer.method.twin, second)
    assert log[0] == BUT_HEADS.format("student", "first network")
    assert re.fullmatch(r"twin: \d+ of \d+ tensors of the file's second network; random: heads, 4 tensors .*", log[1])
    trainer, log = begin(dataset, "CPS", file_of(dataset, "MCF"), monkeypatch)
    assert_taken(trainer.network, first)
    assert_taken(trainer.method.twin, first, of_encoder)
    assert log[1:] == [TWIN_FROM_FIRST.format("first network")]
    trainer, log = begin(dataset, "MCF", file_of(dataset, "CPS"), monkeypatch)
    assert_taken(trainer.network, networks(dataset, "CPS")[0])
    assert log[1:] == ["twin: random, no weights of the file fit it"]


def test_gates_are_random_where_the_file_has_none_and_left_out_where_there_are_none(dataset, monkeypatch):
    def without_gates(name):
        return "seg_layers" not in name and "gates" not in name

    trainer, log = begin(dataset, "TAC", file_of(dataset, ""), monkeypatch)
    first, _ = networks(dataset, "")
    assert_taken(trainer.network, first | other_gates(trainer), without_gates)
    assert log == [
        "student: 24 of 52 tensors of the file's network; random: gates and heads, 28 tensors (nnU-Net leaves heads "
        "out, and the file has no gates)"
    ]
    first, _ = networks(dataset, "TAC")
    trainer, log = begin(dataset, "TAC", file_of(dataset, "TAC"), monkeypatch)
    assert_taken(trainer.network, first)
    assert log == [
        "student: 48 of 52 tensors of the file's network; random: heads, 4 tensors (nnU-Net leaves heads out)"
    ]
    trainer, log = begin(dataset, "Supervised", file_of(dataset, "TAC"), monkeypatch)
    assert_taken(trainer.network, first)
    assert log == [BUT_HEADS.format("student", "network"), "gates: left out, the skips here have none"]


def test_guidance_by_text_is_left_out_as_heads_are(dataset, monkeypatch):
    body = lambda name: "seg_layers" not in name and "guidance" not in name  # noqa: E731
    for donor, further in (("", []), ("LGSSL", ["guidance: that of the file is left out"])):
        first, _ = networks(dataset, donor)
        trainer, log = begin(dataset, "LGSSL", file_of(dataset, donor), monkeypatch)
        taken = {name: value for name, value in first.items() if body(name)}
        own = {name: value + 1 for name, value in trainer.network.state_dict().items() if not body(name)}
        assert_taken(trainer.network, own | taken, body)
        assert log[0] == (
            "student: 24 of 41 tensors of the file's network; random: guidance and heads, 17 tensors (nnU-Net leaves "
            "heads out, and guidance is of the classes here, as heads are)"
        )
        assert log[2:] == further
    trainer, log = begin(dataset, "Supervised", file_of(dataset, "LGSSL"), monkeypatch)
    assert_taken(trainer.network, networks(dataset, "LGSSL")[0])
    assert log == [BUT_HEADS.format("student", "network"), "guidance: that of the file is left out"]


def other_gates(trainer):
    """Other tensors in the place of its gates' than it has."""
    return {name: value + 1 for name, value in trainer.network.state_dict().items() if "gates" in name}


def test_the_network_that_predicts_is_taken_where_it_is_a_teacher(dataset, monkeypatch, tmp_path):
    donor = trainer_of(dataset, "MeanTeacher", monkeypatch, deploy_teacher=True)
    donor.initialize()
    with torch.no_grad():
        for parameter in donor.method.teacher.parameters():
            parameter.normal_()
    donor.save_checkpoint(str(tmp_path / "teacher.pth"))
    trainer, _ = begin(dataset, "Supervised", tmp_path / "teacher.pth", monkeypatch)
    assert_taken(trainer.network, donor.method.teacher.module.state_dict())


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
