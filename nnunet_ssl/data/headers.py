"""What an image file itself says and holds, told from its bytes: the libraries that read it hide a good part of it.

SimpleITK reads a truncated or damaged NIfTI file without complaint, so it does a damaged compressed MetaImage, NaN in
NIfTI as 0, and complex numbers as their real part; no library minds a file that holds more voxels than its header
announces.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
import SimpleITK as sitk
from PIL import Image
from tifffile import TiffFileError

NIFTI = (".nii", ".nii.gz")
DETACHED = (".mhd", ".nhdr", ".hdr")  # headers whose voxels are another file
DEFLATE = 1032  # bytes that one compressed byte can become at most
SMALL = 2**24  # voxels that anyone may claim
SPACING_RANGE = (1e-4, 1e4)  # mm; beyond it resampling would make images of no size, or of terabytes
SHORT_HEADER, HEADER = 348, 540  # bytes of the two kinds of NIfTI header
CHUNK = 2**22  # bytes; a multiple of every voxel's size
DAMAGED = "cannot be read (damaged or truncated); replace it by a whole copy"
NOT_FINITE = "holds NaN or infinite values; replace them by numbers"
COMPLEX = "holds complex numbers, of which readers keep the real part; save the image that is meant"
# What nnU-Net's readers raise on a file that they cannot read.
READ_ERRORS = (
    RuntimeError, OSError, EOFError, ValueError, AssertionError, SyntaxError, ArithmeticError, LookupError, TypeError,
    MemoryError, zlib.error, nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
    nibabel.orientations.OrientationError, Image.DecompressionBombError, TiffFileError,
)  # fmt: skip


def file_fault(path: Path, nan_is_fine: bool = False) -> str:
    """Why an image file must not be used, as a phrase that its name can precede; empty if nothing speaks against it.

    Of a NIfTI file (1 or 2, compressed or not, whatever its ending) header and voxels are looked at: damaged or
    truncated, more voxels than announced, NaN or infinity (NaN is left alone if ``nan_is_fine``), complex numbers or
    colors, a spacing that no scan has, a slope that readers understand differently. Of other files it is what
    SimpleITK knows of the header. A file of a kind that is known to neither has no fault here: its reader will tell.
    """
    if path.name.lower().endswith(NIFTI):
        return _nifti_fault(path, nan_is_fine)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return ""
    if reader.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        return COMPLEX
    voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    too_many = "" if path.suffix in DETACHED else _too_many(voxels, path.stat().st_size)
    return too_many or spacing_fault(reader.GetSpacing()) or _metaimage_fault(path)


def nan_voxels(path: Path) -> np.ndarray | None:
    """Where a NIfTI file without faults holds NaN, ``(..., z, y, x)``; None if its voxels are integers."""
    with _opened(path) as stream:
        header = _nifti_header(stream.read(HEADER))
        voxel, shape = _voxel_type(header), _shape(header)
        if voxel.kind != "f":
            return None
        stream.seek(int(header["vox_offset"]))
        return np.isnan(np.frombuffer(stream.read(math.prod(shape) * voxel.itemsize), voxel)).reshape(shape[::-1])


def spacing_fault(spacing: tuple[float, ...]) -> str:
    """What is wrong with a spacing in mm, as a phrase; empty if it can be that of a scan."""
    low, high = SPACING_RANGE
    if all(low <= size <= high for size in spacing):
        return ""
    return f"claims voxels of {' x '.join(f'{size:g}' for size in spacing)} mm; mend its header"


def _too_many(voxels: int, size: int) -> str:
    if voxels <= max(SMALL, DEFLATE * size):
        return ""
    return f"claims {voxels:.3g} voxels in its header, which a file of {size} bytes cannot hold; replace it"


def _metaimage_fault(path: Path) -> str:
    """One pass over the voxels of a compressed ``.mha`` file, to their checksum."""
    with open(path, "rb") as stream:
        header = {}
        while path.suffix.lower() == ".mha" and "elementdatafile" not in header:
            key, sign, value = stream.readline(SMALL).partition(b"=")
            if not sign:  # no such header
                return ""
            header[key.strip().lower().decode("latin-1")] = value.strip().lower()
        if header.get("compresseddata") != b"true" or header["elementdatafile"] != b"local":
            return ""
        voxels = zlib.decompressobj()
        try:
            while not voxels.eof and (chunk := stream.read(CHUNK)):
                while chunk and not voxels.eof:
                    voxels.decompress(chunk, CHUNK)
                    chunk = voxels.unconsumed_tail
        except zlib.error:
            return DAMAGED
        return "" if voxels.eof else DAMAGED


def _nifti_fault(path: Path, nan_is_fine: bool) -> str:
    try:
        with _opened(path) as stream:
            first = stream.read(HEADER)
            if len(first) < SHORT_HEADER:
                return DAMAGED
            header = _nifti_header(first)
            voxel = None if header is None else _voxel_type(header)
            if voxel is None:
                while stream.read(CHUNK):  # to the checksum
                    pass
                return ""
            fault = _header_fault(header, voxel, path.stat().st_size)
            return fault or _content_fault(stream, header, voxel, nan_is_fine)
    except (EOFError, zlib.error, gzip.BadGzipFile):  # a wrong checksum among them
        return DAMAGED
    except OSError as error:
        return f"cannot be opened ({error.strerror or error}); mend its access or replace it"


def every_reader_opens(path: Path) -> bool:
    """Whether SimpleITK and nibabel both open a ``.nii.gz`` file: compressed, no NIfTI-2, with orthogonal axes."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return False
    return _is_compressed(path)


def _is_compressed(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _opened(path: Path) -> BinaryIO:
    # As SimpleITK does: a file that is not compressed may end in .gz.
    return gzip.open(path) if _is_compressed(path) else open(path, "rb")


def _nifti_header(first: bytes) -> np.void | None:
    """The fields of a NIfTI-1 or NIfTI-2 header in their byte order; None if these bytes are no such header."""
    dtype = (nibabel.nifti2 if first[4:7] in (b"n+2", b"ni2") else nibabel.nifti1).header_dtype
    for order in "<>" if len(first) >= dtype.itemsize else "":
        header = np.frombuffer(first, dtype.newbyteorder(order), 1)[0]
        if 1 <= header["dim"][0] <= 7:
            return header
    return None


def _voxel_type(header: np.void) -> np.dtype | None:
    """How a voxel is stored, None if unknown."""
    voxel = np.dtype(nibabel.nifti1.data_type_codes.dtype.get(int(header["datatype"]), "V0"))
    return voxel.newbyteorder(header.dtype["dim"].base.byteorder) if voxel.itemsize else None


def _shape(header: np.void) -> list[int]:
    # Like SimpleITK: a fourth or further axis of no size is one of size 1.
    sizes = [int(size) for size in header["dim"][1 : 1 + int(header["dim"][0])]]
    return sizes[:3] + [max(size, 1) for size in sizes[3:]]


def _header_fault(header: np.void, voxel: np.dtype, size: int) -> str:
    """What a NIfTI header says that cannot be true, or that readers understand differently."""
    shape = _shape(header)
    if min(shape) < 1:
        return f"claims an axis of {min(shape)} voxels; mend its header"
    if voxel.kind == "c":
        return COMPLEX
    if voxel.kind == "V":
        return "holds colors; save one 3D file for each channel"
    offset, first = float(header["vox_offset"]), header.dtype.itemsize + 4 * header["magic"].startswith(b"n+")
    if not first <= offset <= DEFLATE * size + SMALL:
        return f"says that its voxels begin at byte {offset:g}, where they cannot; mend its header"
    spacing = tuple(abs(float(size)) for size in header["pixdim"][1 : 1 + min(3, len(shape))])
    return _too_many(math.prod(shape), size) or spacing_fault(spacing) or _scaling_fault(header)


def _scaling_fault(header: np.void) -> str:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):  # no scaling; but SimpleITK adds the intercept all the same
        clear = intercept == 0 or math.isnan(intercept)
    else:  # SimpleITK passes over a slope below epsilon, and over what is not finite
        clear = np.finfo(float).eps <= abs(slope) < math.inf and math.isfinite(intercept)
    if clear or not header["magic"].startswith(b"n"):
        return ""
    return (
        f"has slope {slope:g} and intercept {intercept:g} in its header, which readers understand differently; "
        "store the values that are meant, with slope 1 and intercept 0"
    )


def _content_fault(stream: BinaryIO, header: np.void, voxel: np.dtype, nan_is_fine: bool) -> str:
    """One pass over the voxels of a NIfTI file to the end of the file, where gzip keeps its checksum."""
    shape = _shape(header)
    wanted = math.prod(shape) * voxel.itemsize
    stored, finite = 0, True
    stream.seek(int(header["vox_offset"]))
    while chunk := stream.read(CHUNK):
        if voxel.kind == "f" and finite and stored < wanted:
            inside = min(len(chunk), wanted - stored) // voxel.itemsize
            values = np.frombuffer(chunk, voxel, inside)
            finite = not np.isinf(values).any() if nan_is_fine else bool(np.isfinite(values).all())
        stored += len(chunk)
    if stored < wanted:
        return DAMAGED
    if stored - wanted >= math.prod(shape[:2]) * voxel.itemsize:  # padding is no slice
        return (
            f"holds {stored / wanted:.3g} times the {' x '.join(map(str, shape))} voxels of its header, and readers "
            "take the first of them; mend its header or replace it"
        )
    return "" if finite else NOT_FINITE
