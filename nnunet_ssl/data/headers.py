"""Whether an image file can hold what its header claims, told before a voxel is read."""

import gzip
import math
import zlib
from pathlib import Path

import nibabel
import SimpleITK as sitk
from PIL import Image
from tifffile import TiffFileError

NIFTI = (".nii", ".nii.gz")
DETACHED = (".mhd", ".nhdr", ".hdr")  # headers whose voxels are another file
DEFLATE = 1032  # bytes that one compressed byte can become at most
SMALL = 2**24  # voxels that anyone may claim
SPACING_RANGE = (1e-4, 1e4)  # mm; beyond it resampling would make images of no size, or of terabytes
# What nnU-Net's readers raise on a file that they cannot read.
READ_ERRORS = (
    RuntimeError, OSError, EOFError, ValueError, AssertionError, SyntaxError, ArithmeticError, LookupError, TypeError,
    MemoryError, zlib.error, nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
    Image.DecompressionBombError, TiffFileError,
)  # fmt: skip


def nifti_is_whole(path: Path) -> bool:
    """Whether a ``.nii`` or ``.nii.gz`` file holds all the voxels that its header announces; True for other files.

    SimpleITK reads a truncated NIfTI file without complaint and leaves the missing voxels undefined, and on a full
    disk it writes one without complaint.
    """
    if not path.name.endswith(NIFTI):
        return True
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        axes = range(1, int(reader.GetMetaData("dim[0]")) + 1)
        voxels = math.prod(int(reader.GetMetaData(f"dim[{axis}]")) for axis in axes)
        needed = float(reader.GetMetaData("vox_offset")) + voxels * int(reader.GetMetaData("bitpix")) // 8
    except (RuntimeError, ValueError):
        return False
    if not path.name.endswith(".gz"):
        return path.stat().st_size >= needed
    stored = 0
    try:
        with gzip.open(path) as file:
            while chunk := file.read(2**20):
                stored += len(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
    return stored >= needed


def header_fault(path: Path) -> str:
    """What a header says that cannot be true: more voxels than the file can hold, a spacing that no scan has.

    Empty if nothing, or if SimpleITK knows no header of this file: its reader will tell.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return ""
    voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    if path.suffix not in DETACHED and voxels > max(SMALL, DEFLATE * path.stat().st_size):
        return f"its header claims {voxels:.3g} voxels, which a file of {path.stat().st_size} bytes cannot hold"
    low, high = SPACING_RANGE
    for spacing in (reader.GetSpacing(), _stored_spacing(path)):
        if not all(low <= size <= high for size in spacing):
            return f"its header claims voxels of {' x '.join(f'{size:g}' for size in spacing)} mm"
    return ""


def _stored_spacing(path: Path) -> list[float]:
    """What a NIfTI file itself says: SimpleITK makes 1 mm of 0, and others of NaN. Empty for other files."""
    if not path.name.endswith(NIFTI):
        return []
    try:
        with nibabel.openers.ImageOpener(path) as stream:
            header = type(nibabel.load(path)).header_class.from_fileobj(stream, check=False)
    except READ_ERRORS:
        return []
    return [abs(float(size)) for size in header["pixdim"][1 : 1 + min(3, int(header["dim"][0]))]]
