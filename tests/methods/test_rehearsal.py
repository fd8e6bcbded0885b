"""A rehearsal of every method's steps on a GPU: no tensor on the wrong device, no wait of the host for the GPU."""

from dataclasses import replace

import pytest
import torch
from battery import METHODS, WAITS, tiny
from gpu_rehearsal import UnknownShape, WrongDevice, gpu_rehearsal, to_gpu
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from tiny_steps import PRESETS
from workbench import kind, target, task, tiny_architecture

from nnunet_ssl.augmentation.ct_augment import Policy
from nnunet_ssl.augmentation.intensity import OPERATIONS
from nnunet_ssl.losses.supervised import Supervised
from nnunet_ssl.method import Labeled, Method, Now, Unlabeled
from nnunet_ssl.networks.net import Net
from nnunet_ssl.training.progress import epoch_means

# all methods, and those that are the preset of another
STEPS = list(dict.fromkeys([*METHODS, *(preset.values[0] for preset in PRESETS)]))
FIRST = Now(step=0, epoch=0, fraction=0.0)  # what is done once may wait
EARLY = Now(step=1, epoch=0, fraction=0.001)
LATE = Now(step=900, epoch=9, fraction=0.9, phase=1)
CASES = pytest.mark.parametrize(
    ("dimensions", "channels", "regions", "ignore", "precision"),
    [
        pytest.param(2, 3, False, False, torch.float16, id="2d-classes-float16"),
        pytest.param(3, 3, False, True, torch.bfloat16, id="3d-classes-ignored-bfloat16"),
        pytest.param(2, 2, True, True, torch.bfloat16, id="2d-regions-ignored-bfloat16"),
        pytest.param(3, 1, True, False, torch.float16, id="3d-region-float16"),
    ],
)


def nnunet_loss(regions, ignore):
    """nnU-Net's own for two scales."""
    dice = {"batch_dice": False, "smooth": 1e-5, "ddp": False, "do_bg": regions}
    dice_class = {"dice_class": MemoryEfficientSoftDiceLoss}
    if regions:
        loss = DC_and_BCE_loss({}, dice, use_ignore_label=ignore is not None, **dice_class)
    else:
        loss = DC_and_CE_loss(dice, {}, ignore_label=ignore, **dice_class)
    return DeepSupervisionWrapper(loss, [2 / 3, 1 / 3])


def on_gpu(dimensions, channels, regions, ignore, partly):
    """Two labeled patches and three unlabeled ones of all views; an odd number is mixed in another way than an even."""

    def made(patches, channels, size=16):
        return torch.zeros((patches, channels, *[size] * dimensions), device="cuda")

    def nnunets(patches):
        shape = channels + (ignore is not None) if regions else 1
        scales = [made(patches, shape), made(patches, shape, 8)]
        return target(scales, channels, regions, ignore)

    unlabeled = {"weak": made(3, 1), "strong": made(3, 1), "target": nnunets(3)}
    missing = made(2, channels, 1).bool() if partly else None
    return Labeled(made(2, 1), replace(nnunets(2), missing=missing), ("case_0", "case_1")), unlabeled


def rehearsed(method, dimensions, channels, regions, ignore, precision, partly=False, **arguments):
    """Rehearses set-up and steps as the trainer arranges them; returns where the host waits for the GPU in a step."""
    ignore = channels + regions if ignore else None
    with gpu_rehearsal() as rehearsal:
        student = to_gpu(method.student(tiny_architecture(dimensions, channels, seed=0)))
        net = Net(student, kind(channels, regions))
        made = method(**arguments)
        made.supervised = Supervised(nnunet_loss(regions, ignore), deep_supervision=True)
        made.task = task(dimensions, channels, regions, ignore_label=ignore, unlabeled_batch_size=3)
        made.setup(net, tiny_architecture(dimensions, channels))
        to_gpu(made)
        labeled, views = on_gpu(dimensions, channels, regions, ignore, partly)
        for now in (FIRST, EARLY, LATE):
            if made.phases and now.phase:
                made.begin_phase(net, now.phase)
            if now in (FIRST, EARLY):
                rehearsal.waits.clear()
            drawn = now.phase or not made.labeled_first
            unlabeled = Unlabeled(**{view: views[view] for view in made.views if drawn})
            with torch.autocast("cuda", precision):
                terms = made.losses(net, labeled, unlabeled, now)
            assert {term.device.type for term in terms.values()} == {"cuda"}
            assert all(term.shape == () for term in terms.values())
            sum(terms.values()).backward()
            made.after_step(net, now)
            figures = terms | made.report
        waits = [wait for wait in rehearsal.waits if not wait.startswith("nnunetv2.")]  # its loss, for ignored voxels
        epoch_means([figures, figures], torch.device("cuda"))
        assert made.deployed(net)(labeled.image)[0].device.type == "cuda"
    return waits


@CASES
@pytest.mark.parametrize("method", STEPS, ids=lambda method: method.__name__)
def test_no_step_waits_for_the_gpu_or_leaves_it(method, dimensions, channels, regions, ignore, precision):
    waits = rehearsed(method, dimensions, channels, regions, ignore, precision, **tiny(method))
    assert bool(waits) == (method.__name__ in WAITS), waits


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("method", STEPS, ids=lambda method: method.__name__)
def test_no_step_waits_for_the_gpu_where_classes_were_not_annotated(method, regions):
    waits = rehearsed(method, 2, 3, regions, False, torch.float16, partly=True, **tiny(method))
    assert bool(waits) == (method.__name__ in WAITS), waits


@pytest.mark.parametrize(("method", "values"), [preset for preset in PRESETS if preset.values[0] in METHODS])
def test_no_step_of_a_preset_waits_for_the_gpu_or_leaves_it(method, values):
    waits = rehearsed(method, 2, 3, False, False, torch.float16, **(tiny(method) | values))
    assert bool(waits) == (method.__name__ in WAITS), waits


@pytest.mark.parametrize("dimensions", [2, 3])
def test_no_operation_of_ctaugment_waits_for_the_gpu_or_leaves_it(dimensions):
    """A step draws two for each patch."""
    with gpu_rehearsal() as rehearsal:
        levels = torch.rand((2, len(OPERATIONS)), device="cuda")
        policy = Policy(torch.arange(len(OPERATIONS)).expand(2, -1), levels)
        assert policy(torch.zeros((2, 1, *[16] * dimensions), device="cuda")).device.type == "cuda"
    assert rehearsal.waits == []


class Planted(Method):
    """Supervised training with a further operation on the probabilities (2, 3, 16, 16), which makes a loss of them."""

    def __init__(self, operation=None):
        super().__init__()
        self.operation = operation

    def losses(self, net, labeled, unlabeled, now):
        output = net(labeled.image)
        return {
            "supervised": self.supervised(output, labeled.target),
            "planted": self.operation(output.probs) * output.probs.mean(),
        }


def of_operation(operation):
    return rehearsed(Planted, 2, 3, False, False, torch.float16, operation=operation)


def changed(p, mask, value):
    p = p.detach().clone()
    p[mask(p)] = value(p)
    return p.mean()


def with_a_layer_of_the_cpu(p):
    return torch.nn.GroupNorm(3, 3)(p).mean()


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda p: p.sum().item(), id="item"),
        pytest.param(lambda p: float(p.sum()), id="float"),
        pytest.param(lambda p: 1 if p.sum() > 0 else 0, id="condition"),
        pytest.param(lambda p: p.amax((0, 2, 3)).tolist()[0], id="tolist"),
        pytest.param(lambda p: p.mean().cpu().to("cuda", non_blocking=True), id="cpu"),
        pytest.param(lambda p: float(p.detach().cpu().numpy().mean()), id="numpy"),
        pytest.param(lambda p: 1.0 if torch.equal(p, p + 1) else 0.0, id="equal"),
        pytest.param(lambda p: p[torch.tensor([1, 0])].mean(), id="index-of-the-cpu"),
        pytest.param(lambda p: p[[1, 0]].mean(), id="index-of-a-list"),
        pytest.param(lambda p: changed(p, lambda p: p > 0.5, lambda p: p[p.shape[0] :]), id="masked-assignment"),
        pytest.param(lambda p: torch.tensor([1.0, 2.0], device="cuda").sum(), id="tensor-from-a-list"),
        pytest.param(lambda p: torch.rand(2).to("cuda").sum(), id="blocking-copy-to-the-gpu"),
        pytest.param(lambda p: p.flatten().multinomial(1).sum(), id="multinomial"),
    ],
)
def test_a_wait_is_noticed(operation):
    waits = of_operation(operation)
    assert waits and all(wait.startswith("test_rehearsal:") for wait in waits)


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        pytest.param(lambda p: (p[:, :, 0, :3] + torch.zeros(3)).mean(), WrongDevice, id="made-on-the-cpu"),
        pytest.param(lambda p: torch.stack((p.mean(), torch.ones(()))).sum(), WrongDevice, id="number-in-a-stack"),
        pytest.param(with_a_layer_of_the_cpu, WrongDevice, id="layer-not-moved"),
        pytest.param(lambda p: torch.zeros(2, 3)[p.argmax(1)].mean(), WrongDevice, id="table-on-the-cpu"),
        pytest.param(lambda p: p[p > 0.5].mean(), UnknownShape, id="mask"),
        pytest.param(lambda p: p.masked_select(p > 0.5).mean(), UnknownShape, id="masked-select"),
        pytest.param(lambda p: len(p.argmax(1).unique()), UnknownShape, id="unique"),
        pytest.param(lambda p: p.nonzero().sum(), UnknownShape, id="nonzero"),
        pytest.param(lambda p: torch.zeros(2).copy_(p[0, 0, 0, :2]).sum(), UnknownShape, id="copy-into-the-cpu"),
    ],
)
def test_a_tensor_on_the_wrong_device_or_of_unknown_shape_is_an_error(operation, error):
    with pytest.raises(error, match="test_rehearsal:"):
        of_operation(operation)


def test_a_tensor_from_a_list_of_scalars_is_an_error():
    """torch reads them below every mode, so that neither line nor reason is told."""
    with pytest.raises(RuntimeError):
        of_operation(lambda p: torch.tensor([p.sum(), p.mean()], device="cuda").sum())


def test_figures_of_steps_before_a_stop_are_on_the_cpu_and_count_too():
    with gpu_rehearsal():
        before, after = {"loss": torch.tensor(1.0), "rate": 2.0}, {"loss": torch.zeros((), device="cuda"), "rate": 2.0}
        assert epoch_means([before, before, after], torch.device("cuda")).keys() == {"loss", "rate"}
    assert epoch_means([{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(4)}], torch.device("cpu")) == {"loss": 2.5}


def test_what_is_right_on_a_gpu_passes():
    def right(p):
        if torch.rand(()) < 2:  # decided on the host
            number = torch.tensor(2.0) * p.mean() + torch.zeros(2, device="cuda").sum()
        rows = torch.arange(2).roll(1).to("cuda", non_blocking=True)
        return number + p[rows].mean() + changed(p, lambda p: p > 0.5, lambda p: 0)

    assert of_operation(right) == []


def test_the_rehearsal_has_autocast_and_no_values():
    with gpu_rehearsal(), torch.autocast("cuda", torch.float16):
        product = torch.zeros((2, 2), device="cuda") @ torch.zeros((2, 2), device="cuda")
        assert product.dtype == torch.float16 and (product + 1).device.type == "cuda"
        assert product.softmax(1).dtype == torch.float32
    assert torch.rand(3).sum().item() > 0
