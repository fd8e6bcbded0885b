"""What a method takes its steps on in the tests: students and methods, batches, times, optimizers, all tiny."""

from contextlib import nullcontext
from dataclasses import fields, replace

import pytest
import torch
from battery import METHODS, facts_of, quiet, tiny
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch.utils._pytree import tree_leaves, tree_map
from workbench import kind, target, task, tiny_architecture

from nnunet_ssl.losses.supervised import Supervised
from nnunet_ssl.method import Labeled, Now, Unlabeled
from nnunet_ssl.networks.net import Net
from nnunet_ssl.networks.own_optimizer import MAX_GRADIENT_NORM, OwnOptimizer
from nnunet_ssl.task import Target

CASES = pytest.mark.parametrize(
    ("dimensions", "channels", "regions"),
    [(2, 2, False), (2, 5, False), (3, 2, False), (3, 5, False), (2, 3, True), (3, 1, True)],
)
ALL = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
PRESETS = [
    pytest.param(*method.of_preset(name), id=f"{method.__name__}-{name}")
    for method in METHODS
    for name, values in method.presets.items()
    if values
]
EARLY = Now(step=0, epoch=0, fraction=0.0)
LATE = Now(step=900, epoch=9, fraction=0.9, phase=1)  # every ramp-up is well on its way


def nnunet_loss(regions):
    """nnU-Net's own loss with deep supervision, as its trainer builds it for two scales."""
    dice = {"batch_dice": False, "smooth": 1e-5, "ddp": False}
    if regions:
        loss = DC_and_BCE_loss({}, dice | {"do_bg": True}, dice_class=MemoryEfficientSoftDiceLoss)
    else:
        loss = DC_and_CE_loss(dice | {"do_bg": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)
    return DeepSupervisionWrapper(loss, [2 / 3, 1 / 3])


def targets(labels, channels, regions):
    """Targets of both scales from class numbers (B, 1, *spatial)."""
    target = torch.cat([(labels > c).float() for c in range(channels)], 1) if regions else labels
    half = target[(slice(None), slice(None), *[slice(None, None, 2)] * (labels.ndim - 2))]
    return [target, half]


def batches(dimensions, channels, regions, size=2, seed=1):
    """A labeled and an unlabeled batch of 16 voxels along each axis."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size, 1, *[16] * dimensions)
    labels = torch.randint(0, channels + regions, shape, generator=generator)
    weak = torch.randn(shape, generator=generator)
    strong = weak + 0.3 * torch.randn(shape, generator=generator)
    image = torch.randn(shape, generator=generator)
    scales = targets(labels, channels, regions)
    pseudo = [scale.flip(0) for scale in scales]
    return (
        Labeled(image, target(scales, channels, regions), tuple(f"case_{patch}" for patch in range(size))),
        Unlabeled(weak, strong, target(pseudo, channels, regions)),
    )


def on(device, batch):
    """A labeled or unlabeled batch with all of its tensors on a device."""
    moved = {}
    for name, value in ((field.name, getattr(batch, field.name)) for field in fields(batch)):
        if isinstance(value, Target):
            moved[name] = replace(value, scales=tuple(scale.to(device) for scale in value.scales))
        elif isinstance(value, torch.Tensor):
            moved[name] = value.to(device)
    return replace(batch, **moved)


def ready(
    method,
    dimensions,
    channels,
    regions,
    architecture=tiny_architecture,
    compiled=False,
    device="cpu",
    at_once=None,
    **arguments,
):
    """A student and a method whose teachers and twins have other weights than the student; `at_once` as in `Net`."""
    student = method.student(architecture(dimensions, channels, seed=0)).to(device)
    net = Net(torch.compile(student) if compiled else student, kind(channels, regions), at_once)
    made = method(**(tiny(method) | arguments))
    made.supervised = Supervised(nnunet_loss(regions), deep_supervision=True)
    made.task = task(dimensions, channels, regions)
    made.setup(net, architecture(dimensions, channels, seed=5))
    made.to(device)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net, made


def silent(method):
    """Hyperparameters that leave the supervised loss alone, without randomness."""
    return quiet(method) | facts_of(method).tests.silent


def gradients(net):
    return {name: p.grad.clone() for name, p in net.module.named_parameters() if p.grad is not None}


def unsupervised(terms):
    return sum(term for name, term in terms.items() if not name.startswith("supervised"))


def optimizers_of(net, made):
    """nnU-Net's optimizer and those of the method that are stepped with it, as the trainer arranges them."""
    joint = [module for module in made.modules() if isinstance(module, OwnOptimizer) and module.joint]
    elsewhere = {parameter for module in joint for parameter in module.trained}
    own = [parameter for parameter in made.parameters() if parameter.requires_grad and parameter not in elsewhere]
    nnunets = torch.optim.SGD([*net.module.parameters(), *own], 0.01, momentum=0.99, nesterov=True)
    return [nnunets, *(module.optimizer for module in joint)]


def train(net, made, form, change=None, precision="float32", changed_steps=(0, 1), steps=2, device="cpu"):
    """Steps as the trainer makes them late in a training, in float16 with its scaler.

    Args:
        form: dimensions, channels and regions of the batches.
        change: makes other batches of those of `changed_steps`, from both and `form`.

    Yields:
        After each step its terms and the method's report.
    """
    optimizers = optimizers_of(net, made)
    half = precision != "float32"
    scaler = torch.amp.GradScaler(torch.device(device).type, init_scale=256, enabled=precision == "float16")
    for step in range(steps):
        torch.manual_seed(step)
        labeled, unlabeled = batches(*form, seed=step)
        if change is not None and step in changed_steps:
            labeled, unlabeled = change(labeled, unlabeled, form)
        labeled, unlabeled = on(device, labeled), on(device, unlabeled)
        for optimizer in optimizers:
            optimizer.zero_grad()
        now = Now(step, step, LATE.fraction, LATE.phase)
        with torch.autocast(torch.device(device).type, getattr(torch, precision)) if half else nullcontext():
            terms = made.losses(net, labeled, unlabeled, now)
            loss = sum(terms.values())
        scaler.scale(loss).backward()
        if precision != "float16":  # there a gradient may overflow, and the step is skipped
            assert all(torch.isfinite(gradient).all() for gradient in gradients(net).values())
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], group.get("max_norm", MAX_GRADIENT_NORM))
            scaler.step(optimizer)
        scaler.update()
        made.after_step(net, now)
        yield {name: term.detach() for name, term in terms.items()} | made.report


def copied(state):
    return tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, state)


def tensors(state):
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]
