"""pseudo_labels.png: a few unlabeled patches with the labels that teach on them, drawn at the end of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from nnunetv2.utilities.helpers import dummy_context
from torch import Tensor, autocast, nn

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import write_bytes
from nnunet_ssl.method import Method, Unlabeled
from nnunet_ssl.names import drawn
from nnunet_ssl.networks.net import Net, run
from nnunet_ssl.networks.teacher import Teacher
from nnunet_ssl.pictures import COLORS, fill, outline, png_of

if TYPE_CHECKING:
    from nnunet_ssl.training.trainer import SemiSupervisedTrainer

FILE = "pseudo_labels.png"
EVERY = 5  # epochs
PATCHES = 3
MORE_COLORS = ("#999999", "#882255", "#44AA99", "#DDCC77", "#88CCEE", "#AA4499", "#117733", "#EE8866", "#BBCC33")


@dataclass(frozen=True)
class Shown:
    """One slice of an unlabeled patch.

    Attributes:
        case: id of the case that it comes from.
        image: gray values (y, x) of the first channel.
        masks: the voxels that the labels give each class of the foreground, or each region, bool (K, y, x).
        left_out: voxels that no label is given, bool (y, x); None for none.
        confidence: probability of the label (y, x); of several regions the lowest.
    """

    case: str
    image: np.ndarray
    masks: np.ndarray
    left_out: np.ndarray | None
    confidence: np.ndarray


def due(epoch: int) -> bool:
    """Whether the picture is drawn at the end of an epoch, counted from 0."""
    return (epoch + 1) % EVERY == 0


def picture(trainer: SemiSupervisedTrainer, unlabeled: Unlabeled, epoch: int) -> None:
    """Writes the picture into the fold's folder; one that cannot be written is told in the log and ends no training.

    Args:
        unlabeled: as `look`.
        epoch: that it was the last step of.
    """
    with autocast("cuda") if trainer.device.type == "cuda" else dummy_context():
        who, shown = look(trainer.method, trainer.net, unlabeled)
    if not shown:
        return
    names = trainer.method.task.channels[trainer.net.kind.background :]
    height, width = trainer.method.task.spacing[-2:]
    path, title = Path(trainer.output_folder) / FILE, f"{type(trainer).__name__}, epoch {epoch}"
    try:
        draw(path, title, who, shown, names, height / width)
    except InputError as error:
        trainer.print_to_log_file(f"WARNING: no picture of epoch {epoch}: {error}")


@torch.no_grad()
def look(method: Method, net: Net, unlabeled: Unlabeled) -> tuple[str, list[Shown]]:
    """What labels the first patches of a batch, in words, and its labels; no patches where the batch has none.

    Labels of whole cases if the method trains on them; else those of its teacher, if it has one, or of the network that
    predicts, as it is now. The networks are in evaluation mode: nothing is drawn at random, and no state changes.

    Args:
        unlabeled: as the last step of the epoch had it.
    """
    images = unlabeled.weak if unlabeled.weak is not None else unlabeled.strong
    if images is None:
        return "", []
    who, network = _labeler(method, net)
    shown = []
    for number, image in enumerate(images[:PATCHES]):
        output = run(network, image[None], net.kind)
        labels, annotated = output.hard, None
        if unlabeled.target is not None:
            labels, annotated = unlabeled.target.labels[number][None], unlabeled.target.annotated
        masks = net.kind.masks(labels, net.kind.background)[0]
        left_out = None if annotated is None else ~annotated[number]
        confidence = net.kind.as_channels(output.confidence)[0].amin(0)
        at = _fullest_slice(masks)
        slices = (image[0].float(), masks.movedim(0, -1), left_out, confidence)
        image, masks, left_out, confidence = (None if each is None else each[at].cpu().numpy() for each in slices)
        shown.append(Shown(unlabeled.cases[number], image, np.moveaxis(masks, -1, 0), left_out, confidence))
    return "labels of the cases" if unlabeled.target is not None else who, shown


def _labeler(method: Method, net: Net) -> tuple[str, nn.Module]:
    for module in method.modules():
        if isinstance(module, Teacher):
            return "teacher", module.module
    return "network that predicts", method.deployed(net)


def _fullest_slice(masks: Tensor) -> tuple[int, ...]:
    """Index of the slice along the first axis with most foreground, of (K, *spatial); () of a 2D patch."""
    if masks.ndim == 3:
        return ()
    areas = masks.any(0).flatten(1).sum(1)
    return (int(areas.argmax()) if areas.any() else len(areas) // 2,)


def draw(path: Path, title: str, who: str, shown: Sequence[Shown], names: Sequence[str], aspect: float = 1.0) -> None:
    """Writes the PNG: a row for each patch, with the image, the labels on it, and how sure they are.

    Args:
        who: what made the labels, in words.
        names: of the K classes or regions.
        aspect: height of a voxel by its width.
    """
    height, width = shown[0].image.shape
    tall = 3.0 * height * aspect / width
    legend = 0.3 * -(-len(names) // 5) + 0.15
    figure = Figure(figsize=(10.4, 0.75 + len(shown) * (min(tall, 6.0) + 0.25) + legend), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    total = figure.get_figheight()
    grid = figure.subplots(len(shown), 3, squeeze=False)
    bounds = {"left": 0.04, "right": 0.91, "top": 1 - 0.75 / total, "bottom": (legend + 0.1) / total}
    figure.subplots_adjust(**bounds, wspace=0.04, hspace=0.1)
    colors = [(*COLORS, *MORE_COLORS)[number % 16] for number in range(len(names))]
    for axes, patch in zip(grid, shown, strict=True):
        sure = _row(axes, patch, colors, aspect)
    for axis, head in zip(grid[0], ("unlabeled patch", f"labels: {who}", "confidence"), strict=True):
        axis.set_title(head, fontsize=11)
    bar = figure.add_axes((0.925, bounds["bottom"], 0.016, bounds["top"] - bounds["bottom"]))
    figure.colorbar(sure, cax=bar, extend="min", ticks=(0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
    figure.suptitle(drawn(title), fontsize=12, y=1 - 0.1 / total, va="top")
    handles = [Line2D([], [], color=c, linewidth=6, label=drawn(n)) for c, n in zip(colors, names, strict=True)]
    figure.legend(handles=handles, loc="lower center", ncols=5, fontsize=9, frameon=False)
    write_bytes(path, png_of(figure))


def _row(axes: Sequence[Axes], patch: Shown, colors: Sequence[str], aspect: float) -> AxesImage:
    """Draws a patch; gives the map of confidence."""
    low, high = np.percentile(patch.image, (0.5, 99.5))
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.set_anchor("C")
        axis.imshow(patch.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
    axes[0].set_ylabel(drawn(patch.case), fontsize=9)
    for mask, color in zip(patch.masks, colors, strict=True):
        fill(axes[1], mask, color, 0.4, aspect=aspect)
        outline(axes[1], mask, color, 1.4)
    remarks = [] if patch.masks.any() else ["no foreground"]
    if patch.left_out is not None and patch.left_out.any():
        fill(axes[1], patch.left_out, "white", 0.6, aspect=aspect)
        remarks.append("white: left out")
    axes[1].set_xlabel(", ".join(remarks), fontsize=9)
    return axes[2].imshow(patch.confidence, cmap="viridis", vmin=0.5, vmax=1, aspect=aspect, interpolation="nearest")
