"""What a folder of raw images holds: the channel files of cases, and what is no such file but may hold a scan."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_ssl.data.raw import listed
from nnunet_ssl.files import is_clutter, is_plain_name

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".gipl", ".hdr", ".nhdr")
PICTURES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
DICOM = (".dcm", ".ima")


@dataclass(frozen=True)
class Stray:
    """Files or folders that no case can be made of: their names, what is wrong with them and what to do."""

    names: list[str]
    fault: str
    advice: str

    def __str__(self) -> str:
        return f"{listed(self.names)}: {self.fault}; {self.advice}"


def list_images(folder: Path, ending: str) -> tuple[dict[str, dict[int, Path]], list[Stray]]:
    """The files of each case by channel, and what would be left out; nothing of either without such a folder.

    Passed over are clutter of the system, and files and folders that hold no image: a note, the ``CASE.json`` beside a
    TIFF, the ``.raw`` of an ``.mhd``.

    Args:
        ending: of the dataset's images.
    """
    entries = [e for e in sorted(folder.iterdir()) if not is_clutter(e.name)] if folder.is_dir() else []
    names = {entry.name for entry in entries}
    found: dict[str, dict[int, Path]] = {}
    unprintable, unnumbered, others, dicom = [], [], [], []
    for entry in entries:
        name = entry.name
        # A file beside an image (the .raw of an .mhd) is not an image of another ending.
        numbered = re.match(r".+_\d{4}(?=\.)", name)
        if not is_plain_name(name):
            unprintable.append(repr(name[:60]))
        elif entry.is_dir() and (any(entry.iterdir()) or not channel_file(name, ending)):
            continue  # see `_folders`; an empty one in an image's place is an image that cannot be read
        elif match := channel_file(name, ending):
            found.setdefault(match[1], {})[int(match[2])] = entry
        elif name.endswith(ending):
            unnumbered.append(name)
        elif numbered and numbered[0] + ending in names:
            continue
        elif entry.is_file() and _is_dicom(entry):
            dicom.append(name)
        elif entry.is_file() and (numbered or name.lower().endswith(VOLUMES + PICTURES)):
            others.append(name)

    strays = [Stray(unprintable, "too long, or holds control characters", "rename it")]
    advice = f"rename it to {unnumbered[0].removesuffix(ending)}_0000{ending}" if unnumbered else ""
    strays.append(Stray(unnumbered, "no channel number", advice))
    strays.append(Stray(others, f"the labeled images end in {ending}", "convert it"))
    strays.append(Stray(dicom, f"a DICOM series ({_count(len(dicom), 'file')})", f"convert it to CASE_0000{ending}"))
    return found, [stray for stray in strays if stray.names] + _folders(entries, ending)


def channel_file(name: str, ending: str) -> re.Match | None:
    """The case and the channel that a file name tells, as the two groups of a match."""
    return re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", name)


def _folders(entries: list[Path], ending: str) -> list[Stray]:
    """The folders among ``entries`` that hold images, and those that hold DICOM files, at any depth."""
    endings = VOLUMES + (PICTURES if ending in PICTURES else ()) + (ending,)
    images, series = [], []
    for folder in entries:
        if not folder.is_dir() or not is_plain_name(folder.name):
            continue
        scans = slices = 0
        for place, inside, names in os.walk(folder):
            inside[:] = [name for name in inside if not is_clutter(name)]
            files = [name for name in names if not is_clutter(name)]
            own = sum(name.lower().endswith(endings) for name in files)
            scans += own
            slices += sum(_is_dicom(Path(place, name)) for name in files) if own < len(files) else 0
        if scans:
            images.append(f"{folder.name} ({_count(scans, 'image')})")
        if slices:
            series.append(f"{folder.name} ({_count(slices, 'file')})")
    strays = [
        Stray(images, "images in folders are not read", "move them up beside the others, or the folder away"),
        Stray(series, "a DICOM series", f"convert it to CASE_0000{ending} beside the other images"),
    ]
    return [stray for stray in strays if stray.names]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number > 1 else "")


def _is_dicom(file: Path) -> bool:
    """By its name, or by the mark that stands after 128 bytes."""
    if file.name.lower().endswith(DICOM):
        return True
    if file.name.lower().endswith(VOLUMES + PICTURES):
        return False
    try:
        with open(file, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:  # a broken link, a file that may not be read
        return False
