"""The one way to read scans and segmentations of a raw dataset: checked, then with the dataset's own reader."""

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_ssl.data.headers import NOT_FINITE, READ_ERRORS, file_fault, spacing_fault
from nnunet_ssl.errors import InputError

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


def read_file(
    reader: "type[BaseReaderWriter]", file: Path, name: str, segmentation: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """The voxels of one file, float32 ``(C, *spatial)``, and the properties, both as nnU-Net's reader gives them.

    Args:
        name: how messages name the file.
        segmentation: reads it as nnU-Net reads a segmentation.

    Raises:
        InputError: the file has a fault (:func:`file_fault`), the reader cannot read it, it gives NaN, infinity, or
            voxels of several numbers.
    """
    if not file.is_file():
        raise InputError(f"{name}: is no file (a broken link?); replace it")
    if fault := file_fault(file):
        raise InputError(f"{name}: {fault}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the TIFF reader warns of each file without spacing
            array, properties = reader().read_seg(str(file)) if segmentation else reader().read_images([str(file)])
        spacing = tuple(float(size) for size in properties["spacing"])
    except READ_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(f"{name}: cannot be read ({reason}); replace it") from error
    if array.ndim != 4 or len(spacing) != 3:
        raise InputError(f"{name}: holds voxels of several numbers (colors?); save one 3D file for each channel")
    if fault := spacing_fault(spacing if array.shape[1] > 1 else spacing[1:]):
        raise InputError(f"{name}: {fault}")
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):  # both are NaN if one voxel is
        raise InputError(f"{name}: {NOT_FINITE}")
    return array, properties


def reader_of(dataset_json: dict[str, Any], examples: Iterable[Path]) -> "type[BaseReaderWriter]":
    """The reader that nnU-Net chooses: the one of ``dataset.json``, or the first of this file ending that opens a file.

    Args:
        examples: files of the dataset. nnU-Net tries the first; here it is the first without a fault that one reads.

    Raises:
        InputError: nnU-Net has no reader for this file ending.
    """
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES, recursive_find_reader_writer_by_name

    chosen = dataset_json.get("overwrite_image_reader_writer", "None")
    if chosen != "None":
        # Like nnU-Net: a name that is none counts for nothing.
        with contextlib.suppress(RuntimeError):
            return recursive_find_reader_writer_by_name(chosen)
    ending = dataset_json["file_ending"]
    readers = [reader for reader in LIST_OF_IO_CLASSES if ending.lower() in reader.supported_file_endings]
    if not readers:
        raise InputError(f"nnU-Net has no reader for files that end in {ending}: mend file_ending in dataset.json.")
    for file in examples if len(readers) > 1 else ():
        for reader in readers if not file_fault(file) else ():
            with contextlib.suppress(*READ_ERRORS), contextlib.redirect_stdout(io.StringIO()):
                reader().read_images([str(file)])
                return reader
    return readers[0]
