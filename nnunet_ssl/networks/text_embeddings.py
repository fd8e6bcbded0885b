"""Embeddings of the names of classes: from a user's file, or a fixed random table, which is no language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json

WIDTH = 768  # nnU-Net builds the network that predicts without knowing the file, so that all embeddings have one width
ADVICE = "make it as docs/text.md says"


def without_language(classes: int) -> Tensor:
    """Rows of length 1 in random directions, (classes, WIDTH), always the same."""
    return F.normalize(torch.randn(classes, WIDTH, generator=torch.Generator().manual_seed(0)))


def read_embeddings(file: Path, names: Sequence[str]) -> tuple[Tensor, list[str]]:
    """The embeddings of these classes or regions, (C, WIDTH) in their order, and what else the file has one of.

    Args:
        file: JSON, `{"liver": [768 numbers], ...}`.
        names: of the output channels, as in `dataset.json`.

    Raises:
        InputError: there is no such file, it is no JSON of this form, or a class has no embedding there, or one of
            another width or with what is no finite float32.
    """
    content = read_json(file, ADVICE)
    if not isinstance(content, dict):
        raise InputError(f'{file} must be an object, {{"CLASS": [{WIDTH} numbers], ...}}: {ADVICE}.')
    return torch.stack([_embedding(file, content, name) for name in names]), sorted(content.keys() - set(names))


def _embedding(file: Path, content: dict[str, object], name: str) -> Tensor:
    where, row = f"{file}, class {name!r}", content.get(name)
    if name not in content:
        raise InputError(f"{where}: it has no embedding, and must have one for each name of dataset.json: {ADVICE}.")
    if not isinstance(row, list) or len(row) != WIDTH:
        found = f"{len(row)} values" if isinstance(row, list) else type(row).__name__
        raise InputError(f"{where}: the embedding must be a list of {WIDTH} numbers, not {found}: {ADVICE}.")
    if wrong := [value for value in row if isinstance(value, bool) or not isinstance(value, (int, float))]:
        raise InputError(f"{where}: the embedding holds {repr(wrong[0])[:60]}, which is no number: {ADVICE}.")
    if wrong := [value for value in row if abs(value) > torch.finfo(torch.float32).max]:
        raise InputError(f"{where}: the embedding holds {repr(wrong[0])[:60]}, which is no finite float32: {ADVICE}.")
    return torch.tensor(row, dtype=torch.float32)
