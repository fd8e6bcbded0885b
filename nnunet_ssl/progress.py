"""nnU-Net's per-epoch log with the terms of the method: in the log, in checkpoints and in progress.png."""

from __future__ import annotations

import io
from os.path import join

import matplotlib.pyplot as plt
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image

PREFIX = "semi_supervised/"


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
        """nnU-Net's progress.png with one more panel per term below."""
        super().plot_progress_png(output_folder)
        if not (terms := self.terms()):
            return
        file = join(output_folder, "progress.png")
        with Image.open(file) as stock:
            above = stock.convert("RGB")
        below = _panels(terms, above.width)
        page = Image.new("RGB", (above.width, above.height + below.height), "white")
        page.paste(above, (0, 0))
        page.paste(below, (0, above.height))
        page.save(file)


def _panels(terms: dict[str, list[float]], width: int) -> Image.Image:
    """One small panel per term, two in a row; they differ by orders of magnitude, so each has its own axis."""
    rows = -(-len(terms) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(width / 100, 9 * rows), dpi=100, squeeze=False)
    for axis, (name, values) in zip(axes.flat, terms.items(), strict=False):
        axis.plot(range(len(values)), values, color="tab:blue", linewidth=4, marker="o" if len(values) < 2 else None)
        axis.set(title=name.replace("_", " "), xlabel="epoch")
    for axis in axes.flat[len(terms) :]:
        axis.set_visible(False)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return Image.open(buffer).convert("RGB")
