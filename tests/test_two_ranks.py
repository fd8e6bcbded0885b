"""Two processes against one on the joint batch, for every preset of every method, over several of the trainer's own
steps."""

import json
import multiprocessing.dummy
import os
import shutil
from copy import copy
from dataclasses import replace
from functools import partial
from types import MethodType

import pytest
import torch
from battery import METHODS, facts_of, known, quiet, tiny
from nnunetv2.run.run_training import get_trainer_from_args
from tiny_steps import batches, copied, nnunet_loss, optimizers_of, tensors
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves
from workbench import SMALL_TRANSFORMER, kind, one_rank, task, tiny_architecture

from nnunet_ssl.distributed import average_gradients, broadcast_state
from nnunet_ssl.errors import InputError
from nnunet_ssl.losses.supervised import Supervised
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.networks.net import Net
from nnunet_ssl.schedules import Phases
from nnunet_ssl.task import Target

STEPS = 4
WORLD = 2
CHANNELS = 3
VARIANTS = [
    (method, preset)
    for method in METHODS
    for preset in ("default", *method.presets)
    if preset == "default" or method.presets[preset]
]
EACH = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: f"{variant[0].__name__}-{variant[1]}")
LACKING = {"case_2": 1, "case_3": 2}  # classes that were not annotated; the first rank has neither case
PARTLY = {"threshold": 0.45}  # that an untrained network passes here and there, of the two ranks not equally often


def chosen(variant):
    """The class of a method's preset."""
    method, preset = variant
    return method.of_preset(preset)[0]


def student_of(variant):
    return chosen(variant).student(tiny_architecture(2, CHANNELS, seed=0))


def settings(variant, noise):
    """Hyperparameters of a method's preset on the tiny network, without randomness where noise is "quiet"."""
    method, preset = variant
    chosen, values = method.of_preset(preset)
    # where patches of one rank are paired, all ranks draw the same here: that is no noise
    silenced = quiet(chosen) if noise == "quiet" and not facts_of(method).tests.pairs else {}
    return values | tiny(chosen) | known(chosen, PARTLY) | silenced


def smooth(network):
    """Takes the kinks out of a network: there the last digit, which the order of sums decides, turns a gradient."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.LeakyReLU):
                setattr(module, name, torch.nn.SiLU())


def set_up(dataset, results):
    """A trainer on the CPU as nnU-Net's command makes it, by itself."""
    with pytest.MonkeyPatch.context() as patched:
        dataset.use(patched)
        patched.setenv("nnUNet_results", str(results))
        name = "nnUNetTrainerMeanTeacher"
        trainer = get_trainer_from_args(dataset.name, "3d_fullres", 0, name, dataset.plans, device=torch.device("cpu"))
        trainer.initialize()
    return trainer


def trainer_of(base, method, net, not_annotated=None, **arguments):
    """The step of a trainer that is set up, with another student and method; nothing of its data is read."""
    trainer, names = copy(base), task(2, CHANNELS).channels
    trainer.not_annotated = copy(base.not_annotated)
    trainer.not_annotated.declared = {case: (names[number],) for case, number in (not_annotated or {}).items()}
    trainer.not_annotated.channels = names
    # ramp-ups are well on their way, and dropout that acts is no longer insisted on
    trainer.current_epoch, trainer.num_epochs, trainer.num_iterations_per_epoch = 1, 2, STEPS
    trainer.phases = Phases([0], 2)
    trainer.net = net
    trainer.method = method(**arguments)
    trainer.method.supervised = Supervised(nnunet_loss(False), deep_supervision=True)
    trainer.method.task = trainer._pseudo_task = task(2, CHANNELS)
    trainer.method.setup(net, tiny_architecture(2, CHANNELS, seed=5))
    smooth(net.module)
    smooth(trainer.method)
    broadcast_state(trainer.method)
    trainer.optimizers = optimizers_of(net, trainer.method)
    return trainer


def joint_batch(step, not_annotated=()):
    """Patches of which the last, those of the last rank, are blank in one half: the ranks' statistics differ."""
    labeled, unlabeled = batches(2, CHANNELS, False, size=2 * WORLD, seed=step)
    for patch, case in enumerate(labeled.cases):
        if case in not_annotated:
            for scale in labeled.target.scales:
                scale[patch][scale[patch] == LACKING[case]] = 0
    for image in (labeled.image, unlabeled.weak, unlabeled.strong):
        image[-2:, ..., :8] = 0
    return labeled, unlabeled


def part_of(rank, labeled, unlabeled):
    """A rank's patches of the joint batch."""

    def part(patches):
        if isinstance(patches, Target):
            return replace(patches, scales=tuple(map(part, patches.scales)), missing=part(patches.missing))
        return None if patches is None else patches.chunk(WORLD)[rank]

    return (
        Labeled(part(labeled.image), part(labeled.target), labeled.cases[2 * rank : 2 * rank + 2]),
        Unlabeled(part(unlabeled.weak), part(unlabeled.strong), part(unlabeled.target)),
    )


def train(trainer, rank=None):
    """Several steps on the joint batch, or on one rank's half of it; returns all that training has changed."""
    trainer.method.train()
    trainer.net.network.train()
    for step in range(STEPS):
        labeled, unlabeled = joint_batch(step, trainer.not_annotated.declared)
        if rank is not None:
            labeled, unlabeled = part_of(rank, labeled, unlabeled)
        views = {f"unlabeled_{view}": patches for view, patches in vars(unlabeled).items()}
        views["unlabeled_target"] = list(unlabeled.target.scales)
        target = list(labeled.target.scales)
        trainer.train_step({"data": labeled.image, "target": target, "keys": labeled.cases} | views)
    return {
        "net": dict(trainer.net.module.state_dict()),
        "method": dict(trainer.method.state_dict()),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
    }


def gradients_by_term(base, variant, network, rank=None, noise="quiet"):
    """The gradient of each term alone in one step, on the joint batch or on one rank's half of it and averaged."""
    found, names = {}, [None]
    while names:
        trainer = trainer_of(base, chosen(variant), Net(network(), kind(CHANNELS)), **settings(variant, noise))
        if rank is None and facts_of(variant[0]).tests.pairs:
            by_parts(trainer)
        batch = joint_batch(0) if rank is None else part_of(rank, *joint_batch(0))
        torch.manual_seed(1)
        with torch.no_grad():  # teachers and twins other than the student
            for parameter in trainer.method.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        terms = trainer.method.losses(trainer.net, *batch, Now(STEPS, 1, 0.5, phase=1))
        if names == [None]:
            names = list(terms)
        name = names.pop()
        sum(term * (name == other) for other, term in terms.items()).backward()
        own = [parameter for parameter in trainer.method.parameters() if parameter.requires_grad]
        average_gradients(own)
        found[name] = [parameter.grad for parameter in (*trainer.net.module.parameters(), *own)]
    return found


def by_parts(trainer):
    """The joint loss of a method that pairs patches of one rank: the mean of the losses of the ranks' parts."""
    losses = trainer.method.losses

    def joint(method, net, labeled, unlabeled, now):
        state, parts = torch.get_rng_state(), []  # which both ranks have
        for rank in range(WORLD):
            torch.set_rng_state(state)
            parts.append(losses(net, *part_of(rank, labeled, unlabeled), now))
        return {name: sum(part[name] for part in parts) / WORLD for name in parts[0]}

    trainer.method.losses = MethodType(joint, trainer.method)


def train_all(rank, world, folder, dataset):
    """One rank: every preset once without randomness, and once with each rank's own; then its terms one by one."""

    def network(variant):
        return DistributedDataParallel(student_of(variant))

    base = set_up(dataset, folder / f"results_{rank}")
    with one_rank(rank, world, folder):
        for variant in VARIANTS:
            torch.save(
                gradients_by_term(base, variant, partial(network, variant), rank),
                folder / file_of(variant, "terms", rank),
            )
            for noise in ("quiet", "noisy"):
                trainer = trainer_of(
                    base, chosen(variant), Net(network(variant), kind(CHANNELS)), **settings(variant, noise)
                )
                torch.manual_seed(7 + 1000 * rank * (noise == "noisy"))
                torch.save(train(trainer, rank), folder / file_of(variant, noise, rank))
            trainer = lacking_trainer(base, variant, Net(network(variant), kind(CHANNELS)))
            torch.manual_seed(7)
            torch.save(train(trainer, rank), folder / file_of(variant, "lacking", rank))


def lacking_trainer(base, variant, net):
    """Without randomness, on cases in which classes were not annotated."""
    return trainer_of(base, chosen(variant), net, LACKING, **settings(variant, "quiet"))


def file_of(variant, noise, rank):
    return f"{variant[0].__name__}_{variant[1]}_{noise}_{rank}"


@pytest.fixture(scope="module")
def base(phantom_3d, tmp_path_factory):
    return set_up(phantom_3d, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def ranks(phantom_3d, tmp_path_factory):
    """What both ranks have after training: ranks(variant, noise)."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_all, (WORLD, folder, phantom_3d), nprocs=WORLD)

    def results(variant, noise):
        return [torch.load(folder / file_of(variant, noise, rank), weights_only=True) for rank in range(WORLD)]

    return results


@EACH
@pytest.mark.parametrize("noise", ["quiet", "noisy", "lacking"])
def test_ranks_stay_equal_bit_for_bit(ranks, variant, noise):
    first, second = (tensors(result) for result in ranks(variant, noise))
    assert len(first) == len(second) > 0
    assert all(map(torch.equal, first, second))


@EACH
@pytest.mark.parametrize("noise", ["quiet", "lacking"])
def test_training_on_two_ranks_is_training_on_the_joint_batch(ranks, base, variant, noise):
    method, net = variant[0], Net(student_of(variant), kind(CHANNELS))
    if noise == "lacking":
        trainer = lacking_trainer(base, variant, net)
    else:
        trainer = trainer_of(base, chosen(variant), net, **settings(variant, noise))
    before = copied(dict(trainer.net.module.state_dict()))
    if facts_of(method).tests.pairs:  # the joint loss is the mean over the ranks' own
        by_parts(trainer)
    torch.manual_seed(7)
    alone, together = train(trainer), ranks(variant, noise)[0]
    assert any(not torch.equal(value, before[name]) for name, value in alone["net"].items())
    for part, state in alone.items():
        for mine, theirs in zip(tensors(state), tensors(together[part]), strict=True):
            torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=1e-3, msg=partial("{}: {}".format, part))


def largest_of(gradients):
    return max(gradient.abs().max() for gradient in gradients if gradient is not None)


@EACH
def test_the_gradient_of_each_term_is_that_of_the_joint_batch(ranks, base, variant):
    """Each alone, or nnU-Net's own loss would hide a term that is of another size on each rank."""
    first, second = ranks(variant, "terms")
    network = partial(student_of, variant)
    joint = gradients_by_term(base, variant, network)
    assert joint.keys() == first.keys()
    for name, expected in joint.items():
        largest = largest_of(expected)
        if largest == 0:  # it is the randomness itself that this term is about
            assert largest_of(gradients_by_term(base, variant, network, noise="noisy")[name]) > 0, name
            continue
        for mine, theirs, others in zip(expected, first[name], second[name], strict=True):
            if mine is not None:
                assert torch.equal(theirs, others), name
                torch.testing.assert_close(theirs / largest, mine / largest, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("size", "share"), [(2, 1), (6, 3), (1, None), (3, None)])
def test_an_unlabeled_batch_that_ranks_cannot_share_equally_is_refused(base, monkeypatch, size, share):
    """The mean over ranks of shares 2 and 1 is not the mean over their 3 patches."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: WORLD)
    trainer = copy(base)
    trainer.unlabeled_batch_size = size
    if share is not None:
        assert trainer.unlabeled_share() == share
    else:
        with pytest.raises(InputError, match=f"unlabeled_batch_size = {size} .* 2 GPUs.*: take {size + 1}"):
            trainer.unlabeled_share()


# ---------------------------------------------------------------------- nnU-Net's command with -num_gpus 2


class Interrupted(Exception):
    pass


def interrupt_after(epoch, on_epoch_end):
    def then(trainer):
        on_epoch_end(trainer)
        if trainer.current_epoch == epoch:
            raise Interrupted

    return then


def run_thrice(rank, world, dataset, name, settings, folder):
    """What nnU-Net starts on each GPU, with gloo and the CPU: a whole run, then one that is interrupted and resumed."""
    torch.set_num_threads(1)
    for place in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{place}"] = str(dataset.root / place)
    os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_ssl_config": json.dumps(settings)}
    from nnunetv2.run import run_training
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet

    made, get_trainer = [], run_training.get_trainer_from_args

    def on_cpu(*arguments):
        trainer = get_trainer(*arguments)
        trainer.device, trainer.grad_scaler = torch.device("cpu"), None
        trainer.logger.local_logger.plot_progress_png = lambda *args: None
        made.append(trainer)
        return trainer

    run_training.get_trainer_from_args, run_training.setup_ddp = on_cpu, lambda *args: None
    run_training.cleanup_ddp, torch.cuda.set_device = lambda: None, lambda device: None
    multiprocessing.get_context = lambda method: multiprocessing.dummy
    nnunet.DDP = lambda network, device_ids: DistributedDataParallel(network)

    def run(resume):
        run_training.run_ddp(
            rank, dataset.name, "3d_fullres", 0, name, dataset.plans, False, resume, False, None, False, False, world
        )  # fmt: skip
        return made[-1]

    with one_rank(rank, world, folder):
        whole = run(resume=False)
        dist.barrier()
        if rank == 0:
            shutil.move(whole.output_folder, folder / "whole")
        dist.barrier()
        on_epoch_end = nnunet.nnUNetTrainer.on_epoch_end
        nnunet.nnUNetTrainer.on_epoch_end = interrupt_after(2, on_epoch_end)
        with pytest.raises(Interrupted):
            run(resume=False)
        nnunet.nnUNetTrainer.on_epoch_end = on_epoch_end
        resumed = run(resume=True)
        if rank == 0:
            shutil.move(resumed.output_folder, folder / "resumed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("FixMatchCTA", {"threshold": 0.3, "deploy_teacher": True}),
        ("SelfTraining", {"first_round": 0.4}),  # each rank labels its share of the cases
        pytest.param("DAN", {}, marks=pytest.mark.long),
        pytest.param("DHC", {}, marks=pytest.mark.long),
        pytest.param("UAMT", {}, marks=pytest.mark.long),
        pytest.param("CrossTeaching", SMALL_TRANSFORMER, marks=pytest.mark.long),
    ],
)
def test_resume_on_two_ranks_equals_the_uninterrupted_run_bit_for_bit(phantom_3d, tmp_path, name, other):
    dataset = phantom_3d.copy(tmp_path)
    length = {"num_epochs": 3, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "save_every": 1}
    settings = length | {"seed": 0, "unlabeled_batch_size": 4} | other
    mp.spawn(run_thrice, (WORLD, dataset, f"nnUNetTrainer{name}", settings, tmp_path), nprocs=WORLD)
    whole, resumed = (
        torch.load(tmp_path / run / "checkpoint_final.pth", weights_only=False) for run in ("whole", "resumed")
    )
    assert whole["current_epoch"] == resumed["current_epoch"] == 3
    first, second = whole["semi_supervised"]["random_states"]
    assert not torch.equal(first["torch"], second["torch"])
    for key in ("network_weights", "optimizer_state", "semi_supervised"):
        expected, actual = tree_leaves(whole[key]), tree_leaves(resumed[key])
        assert len(expected) == len(actual) > 0
        for mine, theirs in zip(actual, expected, strict=True):
            assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, key
    for run in ("whole", "resumed"):
        assert (tmp_path / run / "validation" / "summary.json").is_file()
        if name == "SelfTraining":
            assert len(list((tmp_path / run / "pseudo_labels" / "phase_1").glob("*.b2nd"))) == 5
