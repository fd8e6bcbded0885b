"""Data: raw datasets, splits, the unlabeled stream."""
