"""`find_label_issues` as cleanlab documents it: what it takes, refuses and gives, with a plain rule inside."""

import numpy as np


def find_label_issues(labels, pred_probs, *, filter_by="prune_by_noise_rate", n_jobs=None):
    """The labels (N,) that are not the most probable class of pred_probs (N, K), bool (N,)."""
    assert isinstance(labels, np.ndarray) and np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1
    assert isinstance(pred_probs, np.ndarray) and pred_probs.ndim == 2 and len(pred_probs) == len(labels)
    assert (filter_by, n_jobs) == ("both", 1)
    if not (pred_probs.min() >= 0 and pred_probs.max() <= 1):
        raise ValueError("Values in pred_probs must be between 0 and 1.")
    if len(np.unique(labels)) < 2:
        raise ValueError("Labels must contain at least 2 classes.")
    assert labels.min() >= 0 and labels.max() < pred_probs.shape[1]
    return pred_probs.argmax(1) != labels
