"""A step of ours against the same method's loop in others' scripts, with one network, patches, batch and device.

    python benchmarks/peers.py [--device cuda] [--patch 32 48 48] [--features 8 16 32 64] [--batch 2] [--repeats 9]

`peers.md` beside this says what each loop does, and what the figures are. A step begins with a batch on the host, and
ends when the network is changed and the losses are logged. Both are timed in turn; on a CPU that is processor time of
one thread. The loops are restated from the descriptions of the scripts: passes, losses, copies and updates as they make
them, in single precision and uncompiled where they are; ours are as `nnUNetv2_train` runs them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import io
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from step_time import Row, make_batch, measure_rows, ready_trainer, timed_in_turn
from torch import Tensor, nn
from workspace import CLASSES, make_trainer, sized_parser

from nnunet_ssl.data.loader import STREAM

Batch = dict[str, Tensor]


def plain_network(device: str, deep_supervision: bool = False) -> nn.Module:
    """The plan's U-Net, with its own weights, uncompiled."""
    with contextlib.redirect_stdout(io.StringIO()), patch.dict(os.environ, nnUNet_compile="false"):
        trainer = make_trainer("nnUNetTrainerSupervised", device)
        trainer.initialize()
    trainer.network.decoder.deep_supervision = deep_supervision
    return trainer.network.train()


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)


def scripts_dice(probs: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - Dice, class by class from one-hot volumes. probs (B, K, *spatial), labels (B, *spatial)."""
    onehot = torch.cat([(labels == k).unsqueeze(1) for k in range(CLASSES)], 1).float()
    loss = probs.new_zeros(())
    for k in range(CLASSES):
        shared = (probs[:, k] * onehot[:, k]).sum()
        squares = (onehot[:, k] ** 2).sum() + (probs[:, k] ** 2).sum()
        loss = loss + (1 - (2 * shared + 1e-5) / (squares + 1e-5)) * (1 if weights is None else weights[k])
    return loss / CLASSES


def update_teacher(teacher: nn.Module, student: nn.Module) -> None:
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.data.mul_(0.99).add_(new.data, alpha=0.01)


def log(*losses: Tensor) -> None:
    """Each is fetched by itself, once for TensorBoard's file and once for the line of the log."""
    for loss in losses * 2:
        loss.item()


class Loop:
    """What the scripts share.

    Both streams are one tensor, labeled patches first; one scale, SGD with a new rate each step.

    Attributes:
        student: the network that learns.
        b: labeled patches.
        optimizers: of each network that learns.
        scaler: at work in mixed precision alone.
    """

    def __init__(self, device: str, b: int, deep_supervision: bool = False, mixed_precision: bool = False):
        self.device, self.b = device, b
        self.student = plain_network(device, deep_supervision)
        self.optimizers = [sgd(self.student)]
        self.scaler = torch.amp.GradScaler(device, enabled=mixed_precision)

    def volumes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images (2b, 1, *spatial) and labels (2b, *spatial) on the device."""
        return batch["image"].to(self.device), batch["label"].to(self.device)

    def supervised(self, logits: Tensor, probs: Tensor, labels: Tensor) -> Tensor:
        b = self.b
        return 0.5 * (F.cross_entropy(logits[:b], labels[:b]) + scripts_dice(probs[:b], labels[:b]))

    def update(self, loss: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            for group in optimizer.param_groups:
                group["lr"] = 1e-4
        self.scaler.update()


class MeanTeacher(Loop):
    """SSL4MIS, `train_mean_teacher_3D`; `teacher` is the moving average."""

    def __init__(self, device: str, b: int):
        super().__init__(device, b)
        self.teacher = copy.deepcopy(self.student)
        for parameter in self.teacher.parameters():
            parameter.detach_()

    def __call__(self, batch: Batch) -> None:
        images, labels = self.volumes(batch)
        logits = self.student(images)
        probs = torch.softmax(logits, 1)
        consistency = self.consistency(images[self.b :], probs[self.b :])
        supervised = self.supervised(logits, probs, labels)
        loss = supervised + 0.1 * consistency
        self.update(loss)
        update_teacher(self.teacher, self.student)
        log(loss, supervised, consistency)

    def consistency(self, unlabeled: Tensor, probs: Tensor) -> Tensor:
        return ((probs - self.target(unlabeled)) ** 2).mean()

    @torch.no_grad()
    def target(self, images: Tensor) -> Tensor:
        """Of the teacher, which sees noise on the patches."""
        return torch.softmax(self.teacher(images + torch.clamp(torch.randn_like(images) * 0.1, -0.2, 0.2)), 1)


class UAMT(MeanTeacher):
    """SSL4MIS, `train_uncertainty_aware_mean_teacher_3D`: eight further passes of the teacher, two by two."""

    def consistency(self, unlabeled: Tensor, probs: Tensor) -> Tensor:
        target = self.target(unlabeled)
        twice = unlabeled.repeat(2, *[1] * (unlabeled.ndim - 1))
        passes = torch.zeros(4, 2 * self.b, *probs.shape[1:], device=self.device)
        for turn in range(4):
            passes[turn] = self.target(twice)
        mean = passes.reshape(8, *probs.shape).mean(0)
        entropy = -(mean * torch.log(mean + 1e-6)).sum(1, keepdim=True)
        mask = (entropy < 0.8 * math.log(2)).float()
        return (mask * (probs - target) ** 2).sum() / (2 * mask.sum() + 1e-16)


class CPS(Loop):
    """SSL4MIS, `train_cross_pseudo_supervision_3D`: two networks, two optimizers."""

    def __init__(self, device: str, b: int, mixed_precision: bool = False):
        super().__init__(device, b, mixed_precision=mixed_precision)
        self.second = plain_network(device)
        self.optimizers.append(sgd(self.second))

    def __call__(self, batch: Batch) -> None:
        images, labels = self.volumes(batch)
        both = self.student(images), self.second(images)
        probs = [torch.softmax(logits, 1) for logits in both]
        pseudo = [each[self.b :].detach().argmax(1) for each in probs]
        losses = [
            self.supervised(logits, own, labels) + 0.1 * F.cross_entropy(logits[self.b :], others)
            for logits, own, others in zip(both, probs, reversed(pseudo), strict=True)
        ]
        loss = losses[0] + losses[1]
        self.update(loss)
        log(loss, *losses)


class URPC(Loop):
    """SSL4MIS, `train_uncertainty_rectified_pyramid_consistency_3D`: all scales are brought to the patch's size."""

    def __init__(self, device: str, b: int):
        super().__init__(device, b, deep_supervision=True)

    def __call__(self, batch: Batch) -> None:
        images, labels = self.volumes(batch)
        mode = "trilinear" if images.ndim == 5 else "bilinear"
        scales = self.student(images)
        scales = [scales[0], *(F.interpolate(each, images.shape[2:], mode=mode) for each in scales[1:])]
        probs = [torch.softmax(each, 1) for each in scales]
        pairs = zip(scales, probs, strict=True)
        supervised = sum(self.supervised(logits, own, labels) for logits, own in pairs) / len(scales)
        unlabeled = [each[self.b :] for each in probs]
        mean = sum(unlabeled) / len(unlabeled)
        consistency = mean.new_zeros(())
        for each in unlabeled:
            variance = F.kl_div(torch.log(each + 1e-8), mean, reduction="none").sum(1, keepdim=True)
            trust = torch.exp(-variance)
            distance = (mean - each) ** 2
            consistency = consistency + (distance * trust).mean() / (trust.mean() + 1e-8) + variance.mean()
        loss = supervised + 0.1 * consistency / len(unlabeled)
        self.update(loss)
        log(loss, supervised, consistency)


class DHC(CPS):
    """DHC, `train_dhc`: mixed precision on a GPU; weights of the classes from counts that are made on the host."""

    def __init__(self, device: str, b: int):
        super().__init__(device, b, mixed_precision=device == "cuda")
        self.learned, self.last = torch.ones(CLASSES), torch.full((CLASSES,), 1e-8)

    def __call__(self, batch: Batch) -> None:
        images, labels = self.volumes(batch)
        labels = labels[: self.b]
        with torch.autocast(self.device, enabled=self.scaler.is_enabled()):
            logits = self.student(images), self.second(images)
        first, second = (each.float() for each in logits)
        pseudo = first.detach().argmax(1), second.detach().argmax(1)
        weights = self.of_difficulty(pseudo[0][: self.b], labels), self.of_counts(pseudo[1][self.b :])
        losses = []
        for mine, theirs, weight in ((first, pseudo[1], weights[0]), (second, pseudo[0], weights[1])):
            probs = torch.softmax(mine[: self.b], 1)
            supervised = F.cross_entropy(mine[: self.b], labels, weight) + scripts_dice(probs, labels, weight)
            losses.append(supervised + 0.1 * F.cross_entropy(mine, theirs, weight))
        loss = losses[0] + losses[1]
        self.update(loss)
        log(loss, *losses)

    def of_difficulty(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """From the Dice of each class, of one-hot volumes. Both (b, *spatial); gives (K,)."""
        onehot = [torch.zeros(CLASSES, *each.shape, device=self.device) for each in (predicted, labels)]
        for volume, each in zip(onehot, (predicted, labels), strict=True):
            volume.scatter_(0, each.unsqueeze(0), 1)
        shared, sizes = (onehot[0] * onehot[1]).flatten(1).sum(1), sum(each.flatten(1).sum(1) for each in onehot)
        dice = ((2 * shared + 1e-8) / (sizes + 2e-8)).cpu()
        change = (dice - self.last) * torch.log(dice / self.last)
        self.learned = 0.98 * self.learned + 0.02 * change.abs()
        self.last = dice
        return (CLASSES * self.learned / self.learned.max()).to(self.device)

    def of_counts(self, pseudo: Tensor) -> Tensor:
        """From the number of voxels of each class, patch by patch. (b, *spatial); gives (K,)."""
        counts = np.zeros(CLASSES)
        for labels in pseudo.cpu().numpy():
            counts += np.histogram(labels.reshape(-1), range(CLASSES + 1))[0]
        rarity = np.log((counts.max() + 1e-8) / (counts + 1e-8)) + 1e-8
        return torch.tensor(CLASSES * rarity / rarity.max(), dtype=torch.float32, device=self.device)


class NnFilterMatch:
    """nnFilterMatch: nnU-Net's loss and precision; the weak view, turned with its pseudo-label, is the strong one."""

    def __init__(self, device: str, b: int):
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = make_trainer("nnUNetTrainerSupervised", device)
            trainer.initialize()
        self.device, self.student, self.loss = device, trainer.network.train(), trainer.loss
        self.optimizer = sgd(self.student)
        self.scaler = torch.amp.GradScaler(device, enabled=device == "cuda")

    def __call__(self, batch: Batch) -> None:
        image, weak = (batch[key].to(self.device, non_blocking=True) for key in ("data", "weak"))
        target = [scale.to(self.device, non_blocking=True) for scale in batch["target"]]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, enabled=self.scaler.is_enabled()):
            supervised = self.loss(self.student(image), target)
            with torch.no_grad():
                pseudo = self.student(weak)[0].argmax(1, keepdim=True)
            strong, pseudo = weak.rot90(2, (-2, -1)).flip(2), pseudo.rot90(2, (-2, -1)).flip(2)
            pseudos = [F.interpolate(pseudo.float(), scale.shape[2:], mode="nearest") for scale in target]
            loss = supervised + self.loss(self.student(strong), pseudos)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 12)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        loss.detach().cpu().numpy()


COLUMNS = {  # key: title, format
    "of": ("loop of", ""),
    "ours_ms": ("ours ms", ".1f"),
    "theirs_ms": ("theirs ms", ".1f"),
    "ratio": ("ratio", ".3f"),
}
PEERS: dict[
    str, tuple[str, Callable[[str, int], Callable[[Batch], None]]]
] = {  # our trainer: the other's name, its loop
    "MeanTeacher": ("SSL4MIS", MeanTeacher),
    "UAMT": ("SSL4MIS", UAMT),
    "CPS": ("SSL4MIS", CPS),
    "URPC": ("SSL4MIS", URPC),
    "DHC": ("DHC", DHC),
    "FixMatch": ("nnFilterMatch", NnFilterMatch),
}


def scripts_batch(batch: dict) -> Batch:
    """The same patches as the scripts' loaders give them: streams in one tensor, labels of the patch's size alone."""
    label = batch["target"][0][:, 0].long()
    both = {"image": torch.cat([batch["data"], batch[STREAM + "weak"]]), "label": torch.cat([label, label])}
    return both | {"data": batch["data"], "target": batch["target"], "weak": batch[STREAM + "weak"]}


def measure(method: str, asked: argparse.Namespace) -> Row:
    """Of our step and of theirs in ms, and their ratio."""
    gc.collect()
    name, loop = PEERS[method]
    trainer = ready_trainer(f"nnUNetTrainer{method}", asked.device)
    batch = make_batch(trainer, asked.patch, len(asked.features), asked.batch)
    peer, theirs = loop(asked.device, asked.batch), scripts_batch(batch)
    steps = (lambda: trainer.train_step(batch)), (lambda: peer(theirs))
    ours_ms, theirs_ms, ratio = timed_in_turn(*steps, trainer.device, asked.repeats)
    return {"of": name, "ours_ms": ours_ms, "theirs_ms": theirs_ms, "ratio": ratio}


def main() -> None:
    parser = sized_parser(__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--methods", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")  # of nnU-Net's, between the rows
    measure_rows(asked, asked.methods, measure, COLUMNS)


if __name__ == "__main__":
    main()
