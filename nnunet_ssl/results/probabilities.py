"""The probabilities that nnU-Net saves beside its predictions, ``CASE.npz``, channel by channel."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_ssl.errors import InputError
from nnunet_ssl.files import read_json
from nnunet_ssl.results.evaluation import read_labels

HOW = "predict with `nnUNetv2_predict ... --save_probabilities` (or average with `nnUNetv2_ensemble ... --save_npz`)"


@dataclass(frozen=True)
class Heads:
    """What the C channels of the probabilities are.

    Attributes:
        classes: labels of each class or region of the foreground, by name.
        channels: the channel of each.
        count: C.
        order: for regions, the label that each writes into a segmentation, in the order of channels; None for classes.
        ignore: the ignore label.
    """

    classes: dict[str, tuple[int, ...]]
    channels: dict[str, int]
    count: int
    order: tuple[int, ...] | None
    ignore: int | None

    @classmethod
    def of(cls, dataset: Mapping[str, Any], file: Path) -> Heads:
        """Those of a ``dataset.json``, as nnU-Net's label manager has them."""
        classes, ignore = read_labels(dict(dataset), file)
        if any(len(labels) > 1 for labels in classes.values()):
            order = tuple(dataset.get("regions_class_order", ()))
            if len(order) != len(classes):
                raise InputError(f"{file}: regions_class_order must have one label for each of {len(classes)} regions.")
            return cls(classes, {name: number for number, name in enumerate(classes)}, len(classes), order, ignore)
        channels = {name: labels[0] for name, labels in classes.items()}
        return cls(classes, channels, len(classes) + 1, None, ignore)


def read_channels(file: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The channels of ``probabilities`` in nnU-Net's file, float32 (z, y, x) each, read as they are asked for.

    Raises:
        InputError: it is damaged, has another shape than (C, z, y, x), or a value outside of 0 to 1.
    """
    try:
        with zipfile.ZipFile(file) as archive, archive.open("probabilities.npy") as stream:
            read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            found, fortran, dtype = read_header[np.lib.format.read_magic(stream)[0]](stream)
            if found != shape or dtype.kind != "f":
                wanted = " x ".join(map(str, shape))
                raise InputError(f"{file.name}: holds {dtype} of {found}, not probabilities of {wanted}; {HOW}")
            if fortran:  # as an average of channels that lie side by side may be
                everything = np.frombuffer(stream.read(), dtype).reshape(shape[::-1]).transpose()
            size = int(np.prod(shape[1:])) * dtype.itemsize
            for number in range(shape[0]):
                raw = everything[number] if fortran else np.frombuffer(stream.read(size), dtype).reshape(shape[1:])
                channel = raw.astype(np.float32)
                if not (channel.min() >= 0 and channel.max() <= 1):
                    raise InputError(f"{file.name}: channel {number} has values that are no probabilities; {HOW}")
                yield channel
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError) as error:
        raise InputError(f"{file.name}: cannot be read ({error}); {HOW}") from error


def writer_of(prediction: Path) -> type[BaseReaderWriter] | None:
    """The reader of the plans that nnU-Net copies beside its predictions, whose axes the probabilities have."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    if not (file := prediction / "plans.json").is_file():
        return None
    name = read_json(file, "predict again").get("image_reader_writer")
    try:
        return recursive_find_reader_writer_by_name(name)
    except RuntimeError as error:
        raise InputError(f"{file}: nnU-Net has no image_reader_writer {name!r}.") from error
