"""Images that libraries read as something else without a word, or that only some of them read."""

import gzip
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from hostile.spoil import Spoil, changed
from hostile.world import put, volume


def _holed(value: float) -> Spoil:
    """The file's own image as floats, with one voxel of another value."""

    def spoil(file: Path) -> None:
        image = nib.load(file)
        voxels, affine = np.array(image.dataobj, np.float32), image.affine
        voxels[(1,) * voxels.ndim] = value
        nib.save(nib.Nifti1Image(voxels, affine), file)

    return spoil


def _complex(file: Path) -> None:
    put(sitk.RealAndImaginaryToComplex(*[sitk.Cast(volume(1), sitk.sitkFloat32)] * 2), file)


def _nifti_2(file: Path) -> None:
    image = nib.load(file)
    voxels, affine = np.array(image.dataobj), image.affine
    nib.save(nib.Nifti2Image(voxels, affine, dtype=voxels.dtype), file)


def _skewed(file: Path) -> None:
    image = nib.load(file)
    voxels, affine, zooms = np.array(image.dataobj), image.affine, image.header.get_zooms()
    affine[0, 1] += 1e-3
    skewed = nib.Nifti1Image(voxels, None, dtype=voxels.dtype)
    skewed.header.set_zooms(zooms)
    skewed.set_sform(affine, 1)
    nib.save(skewed, file)


def _bit(content: bytes) -> bytes:
    spoiled = bytearray(content)
    spoiled[len(spoiled) // 2] ^= 1
    return bytes(spoiled)


def odd_files(place: str, file: str) -> dict[str, tuple[Spoil, bool | None]]:
    """What libraries read as something else, or only some of them read, and whether a command must work."""
    converter = place in ("synapse", "lits", "amos")
    odd = {
        "NaN": (_holed(math.nan), False),
        "infinity": (_holed(math.inf), False),
        "complex numbers": (_complex, False),
        "NIfTI-2": (_nifti_2, True if converter else None if place == "reference" else False),
        "skewed axes": (_skewed, True if converter else None if place == "reference" else False),
    }
    if file.endswith(".gz"):
        odd |= {"changed bit": (changed(_bit), False), "not compressed": (changed(gzip.decompress), True)}
    else:
        odd |= {"compressed": (changed(gzip.compress), False)}
    if place in ("amos", "prediction", "reference"):
        odd |= {f"label {value}": (_holed(value), False) for value in (0.5, -1, 300)}
    return odd
