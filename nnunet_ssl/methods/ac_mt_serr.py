"""Ambiguity-Consensus Mean Teacher (AC-MT) by label errors: voxels whose label is wrong by confident learning (SErr).

Z. Xu, Y. Wang, D. Lu, X. Luo, J. Yan, Y. Zheng, R. K.-Y. Tong, "Ambiguity-selective consistency regularization for
mean-teacher semi-supervised medical image segmentation", Medical Image Analysis 2023. As `ACMT`, with another M:

    f, g          student, and teacher by moving average;  p = softmax f(x_u),  q = softmax g(x_u + eps)

    M = errors among the labels argmax p of a patch, by confident learning with the probabilities softmax g(x_u)
    L = L_sup(f(x_l), y) + w(r) sum M (p - q)^2 / (C sum M)

Confident learning is that of C. G. Northcutt, L. Jiang, I. L. Chuang, JAIR 70, 2021, pruned both by class and by noise
rate; cleanlab does it on the CPU. M is all of a patch where argmax p has one class alone. w(r) as in `ACMT`. A region
is a question of its own, inside or outside. The student predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.errors import InputError
from nnunet_ssl.method import Now
from nnunet_ssl.methods.ac_mt import AmbiguityConsensus
from nnunet_ssl.methods.ac_mt_perr import questions
from nnunet_ssl.networks.architecture import Architecture
from nnunet_ssl.networks.net import Net, Output


class ACMT_SErr(AmbiguityConsensus):
    """Mean Teacher restricted to voxels whose label by the student is an error to confident learning."""

    def setup(self, net: Net, new_net: Architecture) -> None:
        super().setup(net, new_net)
        self.find_label_issues = finder_of_label_issues(type(self).__name__)

    def ambiguous(self, student: Output, image: Tensor, now: Now) -> Tensor:
        asked = questions(student.kind, student.hard, self.teacher(image).probs)
        return torch.stack([self.errors(*question) for question in asked], 1)

    def errors(self, labels: Tensor, probs: Tensor) -> Tensor:
        """Those of each patch by itself, (B, *spatial), so that several GPUs find what one would."""
        patches = zip(labels.split(1), probs.split(1), strict=True)
        return torch.cat([label_errors(self.find_label_issues, *patch) for patch in patches])


def finder_of_label_issues(user: str) -> Callable[..., Any]:
    """cleanlab's `find_label_issues`.

    Args:
        user: what needs it, for the message.

    Raises:
        InputError: cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cleanlab":
            raise
        raise InputError(f'{user} needs cleanlab, which is not installed: pip install "nnunet-ssl[cleanlab]"') from None
    return find_label_issues


@torch.no_grad()
def label_errors(find_label_issues: Callable[..., Any], labels: Tensor, probs: Tensor) -> Tensor:
    """The labels that are wrong, bool (B, *spatial): pruned by class and by noise rate. It is done on the CPU.

    All of them where the labels are of one class alone, which cleanlab refuses, or where a probability is not finite,
    as in a step that overflows.

    Args:
        find_label_issues: see `finder_of_label_issues`.
        labels: class numbers (B, *spatial).
        probs: (B, C, *spatial).
    """
    given = labels.flatten().cpu().numpy()
    rows = probs.movedim(1, -1).flatten(0, -2).float().cpu().numpy()
    if (given == given[0]).all() or not np.isfinite(rows).all():
        return torch.ones_like(labels, dtype=torch.bool)
    issues = find_label_issues(given, rows, filter_by="both", n_jobs=1)
    return torch.from_numpy(issues).view(labels.shape).to(labels.device, non_blocking=True)
