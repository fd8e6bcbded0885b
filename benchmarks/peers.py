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
import json
import math
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from step_time import clock, make_batch, ready_trainer
from torch import Tensor, nn
from workspace import CLASSES, make_trainer, make_workspace, versions

from nnunet_ssl.data.loader import STREAM

Batch = dict[str, Tensor]
Step = Callable[[Batch], None]
LOGGED = 5  # scalars that SSL4MIS's scripts write to TensorBoard at each step


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


def log(*scalars: Tensor) -> None:
    """Each is fetched by itself, once for TensorBoard's file and once for the line of the log."""
    for scalar in (*scalars, *scalars[:1] * (LOGGED - len(scalars)), *scalars):
        scalar.item()


class Loop:
    """What the scripts of SSL4MIS share.

    Both streams are one tensor, labeled patches first; single precision, one scale, SGD with a new rate each step.

    Attributes:
        student: the network that learns.
        teacher: its moving average.
        b: labeled patches.
    """

    def __init__(self, device: str, b: int, deep_supervision: bool = False):
        self.device, self.b = device, b
        self.student = plain_network(device, deep_supervision)
        self.optimizer = sgd(self.student)

    def add_teacher(self) -> None:
        self.teacher = copy.deepcopy(self.student)
        for parameter in self.teacher.parameters():
            parameter.detach_()

    def volumes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images (2b, 1, *spatial) and labels (2b, *spatial) on the device."""
        return batch["image"].to(self.device), batch["label"].to(self.device)

    def supervised(self, logits: Tensor, labels: Tensor) -> Tensor:
        probs = torch.softmax(logits, 1)[: self.b]
        return 0.5 * (F.cross_entropy(logits[: self.b], labels[: self.b]) + scripts_dice(probs, labels[: self.b]))

    def update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-4

    def noisy(self, images: Tensor) -> Tensor:
        return images + torch.clamp(torch.randn_like(images) * 0.1, -0.2, 0.2)


class MeanTeacher(Loop):
    """SSL4MIS, `train_mean_teacher_3D`."""

    def __init__(self, device: str, b: int):
        super().__init__(device, b)
        self.add_teacher()

    def __call__(self, batch: Batch) -> None:
        images, labels = self.volumes(batch)
        unlabeled = self.noisy(images[self.b :])
        logits = self.student(images)
        probs = torch.softmax(logits, 1)
        with torch.no_grad():
            target = torch.softmax(self.teacher(unlabeled), 1)
        supervised = self.supervised(logits, labels)
        consistency = ((probs[self.b :] - target) ** 2).mean()
        loss = supervised + 0.1 * consistency
        self.update(loss)
        update_teacher(self.teacher, self.student)
        log(loss, supervised, consistency)


class UAMT(MeanTeacher):
    """SSL4MIS, `train_uncertainty_aware_mean_teacher_3D`: eight further passes of the teacher, two by two."""

    def __call__(self, batch: Batch) -> None:
        images, labels = self.volumes(batch)
        unlabeled = images[self.b :]
        logits = self.student(images)
        probs = torch.softmax(logits, 1)
        with torch.no_grad():
            target = torch.softmax(self.teacher(self.noisy(unlabeled)), 1)
            twice = unlabeled.repeat(2, *[1] * (images.ndim - 1))
            passes = torch.zeros(4, *[2 * self.b, *probs.shape[1:]], device=self.device)
            for turn in range(4):
                passes[turn] = self.teacher(self.noisy(twice))
            passes = torch.softmax(passes.flatten(0, 1), 1).reshape(8, self.b, *probs.shape[1:])
            mean = passes.mean(0)
            entropy = -(mean * torch.log(mean + 1e-6)).sum(1, keepdim=True)
        supervised = self.supervised(logits, labels)
        mask = (entropy < 0.8 * math.log(2)).float()
        consistency = (mask * (probs[self.b :] - target) ** 2).sum() / (2 * mask.sum() + 1e-16)
        loss = supervised + 0.1 * consistency
        self.update(loss)
        update_teacher(self.teacher, self.student)
        log(loss, supervised, consistency)


class CPS(Loop):
    """SSL4MIS, `train_cross_pseudo_supervision_3D`: two networks, two optimizers."""

    def __init__(self, device: str, b: int):
        super().__init__(device, b)
        self.second = plain_network(device)
        self.second_optimizer = sgd(self.second)

    def __call__(self, batch: Batch) -> None:
        images, labels = self.volumes(batch)
        first, second = self.student(images), self.second(images)
        probs = torch.softmax(first, 1), torch.softmax(second, 1)
        pseudo = [each[self.b :].detach().argmax(1) for each in probs]
        losses = [
            self.supervised(logits, labels) + 0.1 * F.cross_entropy(logits[self.b :], target)
            for logits, target in zip((first, second), reversed(pseudo), strict=True)
        ]
        loss = losses[0] + losses[1]
        self.second_optimizer.zero_grad()
        self.update(loss)
        self.second_optimizer.step()
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
        supervised = sum(self.supervised(each, labels) for each in scales) / len(scales)
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
        super().__init__(device, b)
        self.scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
        self.learned, self.last = torch.ones(CLASSES), torch.full((CLASSES,), 1e-8)

    def __call__(self, batch: Batch) -> None:
        images, labels = self.volumes(batch)
        labels = labels[: self.b]
        with torch.autocast(self.device, enabled=self.device == "cuda"):
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
        optimizers = self.optimizer, self.second_optimizer
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        for optimizer in optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        for scalar in (loss, *losses):
            scalar.item()

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


class NnFilterMatch(Loop):
    """nnFilterMatch: nnU-Net's loss and precision; the weak view, turned with its pseudo-label, is the strong one."""

    def __init__(self, device: str, b: int):
        super().__init__(device, b)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = make_trainer("nnUNetTrainerSupervised", device)
            trainer.initialize()
        self.student, self.loss = trainer.network.train(), trainer.loss
        self.optimizer = sgd(self.student)
        self.scaler = torch.amp.GradScaler(device, enabled=device == "cuda")

    def __call__(self, batch: Batch) -> None:
        image, weak = (batch[key].to(self.device, non_blocking=True) for key in ("data", "weak"))
        target = [scale.to(self.device, non_blocking=True) for scale in batch["target"]]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, enabled=self.device == "cuda"):
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


PEERS: dict[str, tuple[str, type[Loop]]] = {  # our trainer: the other's name, its loop
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


def measure(method: str, asked: argparse.Namespace) -> dict[str, object]:
    """Medians over the repeats, in ms, and of the ratio pair by pair."""
    gc.collect()
    name, loop = PEERS[method]
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = ready_trainer(f"nnUNetTrainer{method}", asked.device)
        batch = make_batch(trainer, asked.patch, len(asked.features), asked.batch)
    peer, theirs = loop(asked.device, asked.batch), scripts_batch(batch)
    for _ in range(2):
        trainer.train_step(batch)
        peer(theirs)
    steps = (lambda: trainer.train_step(batch)), (lambda: peer(theirs))
    pairs = [tuple(clock(step, trainer.device) for step in steps) for _ in range(asked.repeats)]
    return {
        "of": name,
        "ours_ms": statistics.median(pair[0] for pair in pairs),
        "theirs_ms": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--patch", type=int, nargs="+", default=[32, 48, 48])
    parser.add_argument("--features", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--methods", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("-o", dest="out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()

    torch.set_num_threads(1)
    device = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu, one thread, processor time"
    warnings.filterwarnings("ignore")  # of nnU-Net's, between the rows
    record = {"command": " ".join(sys.argv), "device": device, "versions": versions(), "rows": {}}
    with tempfile.TemporaryDirectory() as folder:
        make_workspace(Path(folder) / "work", asked.patch, asked.features, asked.batch)
        print(f"{'method':14}{'loop of':16}{'ours ms':>10}{'theirs ms':>11}{'ratio':>8}")
        for method in asked.methods:
            row = record["rows"][method] = measure(method, asked)
            print(
                f"{method:14}{row['of']:16}{row['ours_ms']:10.1f}{row['theirs_ms']:11.1f}{row['ratio']:8.3f}",
                flush=True,
            )
            if asked.out:
                asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
