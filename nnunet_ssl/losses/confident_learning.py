"""Labels that are wrong, as confident learning finds them.

C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ssl.errors import InputError


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
