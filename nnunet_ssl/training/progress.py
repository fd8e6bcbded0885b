"""nnU-Net's per-epoch log with the terms of the method: in the log, in checkpoints and in progress.png."""

from __future__ import annotations

import io
from math import isfinite
from os.path import join

import matplotlib.pyplot as plt
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image
from torch import Tensor

from nnunet_ssl.distributed import mean_over_ranks, of_all_ranks
from nnunet_ssl.names import drawn
from nnunet_ssl.pictures import png_of

PREFIX = "semi_supervised/"


def epoch_means(steps: list[dict[str, Tensor | float]], device: torch.device) -> dict[str, float]:
    """The mean of each figure over the steps of all ranks that have it, by name, in the order in which they come.

    Args:
        steps: the figures of each step of this rank, floats or scalars: on the device, or on the CPU if they were taken
            before a stop within the epoch.
        device: where the means are taken, without a copy to the host for each.
    """
    own = dict.fromkeys(name for step in steps for name in step)
    names = list(dict.fromkeys(name for names in of_all_ranks(list(own)) for name in names))
    sums = torch.zeros(2, len(names), device=device)
    for index, name in enumerate(names):
        values = [step[name] for step in steps if name in step]
        tensors = [value.to(device, torch.float32) for value in values if isinstance(value, Tensor)]
        total = sum(value for value in values if not isinstance(value, Tensor))
        sums[0, index] = torch.stack(tensors).sum() + total if tensors else total
        sums[1, index] = len(values)
    total, count = mean_over_ranks(sums)
    return dict(zip(names, (total / count).tolist(), strict=True))


class ProgressLogger(LocalLogger):
    """nnU-Net's local logger that also takes the terms of a method and draws them below nnU-Net's own curves."""

    def log_terms(self, terms: dict[str, float], epoch: int) -> None:
        """Logs one value per term for an epoch; terms that begin late or end early are filled up with NaN."""
        history = self.my_fantastic_logging
        for key in [PREFIX + name for name in terms]:
            history.setdefault(key, [float("nan")] * epoch)
        for key in [key for key in history if key.startswith(PREFIX)]:
            del history[key][epoch:]
            history[key].append(float(terms.get(key.removeprefix(PREFIX), "nan")))

    def terms(self) -> dict[str, list[float]]:
        """Values per epoch by the name of the term."""
        return {
            key.removeprefix(PREFIX): values
            for key, values in self.my_fantastic_logging.items()
            if key.startswith(PREFIX)
        }

    def plot_progress_png(self, output_folder: str) -> None:
        """nnU-Net's progress.png with the terms below; those of single classes also as per_class.png beside it."""
        super().plot_progress_png(output_folder)
        if not (panels := grouped(self.terms())):
            return
        file = join(output_folder, "progress.png")
        with Image.open(file) as stock:
            above = stock.convert("RGB")
        below = _draw(panels, above.width)
        page = Image.new("RGB", (above.width, above.height + below.height), "white")
        page.paste(above, (0, 0))
        page.paste(below, (0, above.height))
        page.save(file)
        if per_class := {title: lines for title, lines in panels.items() if len(lines) > 1}:
            _draw(per_class, 2400).save(join(output_folder, "per_class.png"))


def grouped(terms: dict[str, list[float]]) -> dict[str, dict[str, list[float]]]:
    """Panels by title, each with its lines by label: `weight[liver]` is the line "liver" of the panel "weight".

    A term without a number in any epoch has neither line nor panel.
    """
    panels: dict[str, dict[str, list[float]]] = {}
    for name, values in terms.items():
        if not any(map(isfinite, values)):
            continue
        title, _, label = name.removesuffix("]").partition("[")
        panels.setdefault(title.replace("_", " "), {})[label] = values
    return panels


def _draw(panels: dict[str, dict[str, list[float]]], width: int) -> Image.Image:
    """One panel per group, two in a row; groups differ by orders of magnitude, so each has its own axis."""
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(width / 100, 9 * rows), dpi=100, squeeze=False)
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        for number, (label, values) in enumerate(lines.items()):
            style = {"linestyle": ("-", "--", ":")[number // 10 % 3], "marker": "o" if len(values) < 2 else None}
            axis.plot(range(len(values)), values, label=drawn(label), color=f"C{number % 10}", linewidth=4, **style)
        axis.set(title=drawn(title), xlabel="epoch")
        if len(lines) > 1:
            axis.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0), ncols=1 + len(lines) // 16)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    content = png_of(figure)
    plt.close(figure)
    return Image.open(io.BytesIO(content)).convert("RGB")
