"""LA: left atrium in late-gadolinium MRI, the 2018 Atrial Segmentation Challenge (Xiong et al., MedIA 2020).

The semi-supervised protocol (Yu et al., MICCAI 2019) divides the challenge's 100 training scans into 80 for training,
of which the first n of the list are labeled, and 20 for testing. Two layouts are read:

- the preprocessed files ``<folder>/<id>/mri_norm2.h5``: ``image`` (x, y, z) z-scored, ``label`` 0/1, cropped around
  the ground truth, without geometry;
- the challenge's own ``Training Set/<id>/lgemri.nrrd`` and ``laendo.nrrd`` (0/255).

Headers: those of the challenge are trusted, and a label must stand where its image does; h5 files have none.
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, Conversion
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.protocols import Labeled, Lists, choose, read_ids
from nnunet_ssl.conversion.sources import read_h5, read_volume, rescaled_h5, with_geometry
from nnunet_ssl.data.raw import listed
from nnunet_ssl.errors import InputError
from nnunet_ssl.files import is_clutter

SPACING = (0.625, 0.625, 0.625)  # mm; stated by the challenge, not stored in the h5 files
DUPLICATE = ("0RZDK210BSMWAA6467LU", "CMPXO4J23G58J53Q98SZ")
PROTOCOL = Path(__file__).with_name("protocols") / "la.json"


def la_conversion(source: Path, labeled: Labeled = None) -> Conversion:
    """Finds the scans and the lists of the LA data set.

    Args:
        source: the folder of the case folders, or the folder above it. ``train.list`` and ``test.list`` are looked for
            there, in ``data_split/`` and beside the case folders; without them the published lists are used.
        labeled: which scans are labeled; None for ``ua-mt-8``, the first 8.

    Raises:
        InputError: no scans in ``source``, a scan of the lists missing or present twice, faults of the lists.
    """
    scans, is_h5, notes = _find_scans(source)
    choice = choose("la", labeled, default="ua-mt-8", own=_find_lists(source, scans))
    choice = choice.present(scans, source)
    used = [name for names in choice.parts.values() for name in names]
    if twice := [name for name in used if len(scans[name]) > 1]:
        places = listed([f"{name} ({', '.join(str(path.parent) for path in scans[name])})" for name in twice])
        raise InputError(f"{source} holds scans twice: {places}. Point SOURCE at one of the folders.")
    if set(DUPLICATE) <= set(used):
        notes.append(Note("both kept", "they are the same scan; the published lists have both", DUPLICATE))
    notes += choice.notes + choice.unused(scans)
    if is_h5:
        notes += [
            Note(
                "spacing of 0.625 mm and axes (x, y, z) assumed",
                "the h5 files hold no geometry; the challenge states this spacing",
            ),
            Note(
                "cropped around the ground truth, test scans too",
                "done by the makers of the h5 files: figures are not those of whole scans",
            ),
            *rescaled_h5({name: scans[name][0] for name in used}),
        ]
    else:
        notes.append(Note("label 255 written as 1", "the numbers of nnU-Net's labels follow each other"))
    return Conversion(
        converter="la",
        channels=("LGE_MRI",),
        labels={"background": 0, "left_atrium": 1},
        cases=[_case(scans[name][0], part) for part, names in choice.parts.items() for name in names],
        read_image=read_h5_image if is_h5 else read_volume,
        read_label=read_h5_label if is_h5 else read_nrrd_label,
        source={
            "path": str(source),
            "layout": "preprocessed h5 (mri_norm2.h5)" if is_h5 else "challenge (lgemri.nrrd, laendo.nrrd)",
        },
        protocol={
            **choice.record,
            "spacing (z, y, x)": list(SPACING) if is_h5 else "of the headers",
        },
        notes=notes,
        name="LA",
    )


def read_h5_image(path: Path) -> sitk.Image:
    """The image of an h5 file as float32; attributes ``scale`` and ``offset``, where present, are applied."""
    voxels, attributes = read_h5(path, "image", "xyz")
    values = voxels.astype(np.float64) * attributes.get("scale", 1.0) + attributes.get("offset", 0.0)
    return _from_xyz(values.astype(np.float32))


def read_h5_label(path: Path) -> sitk.Image:
    """The label of an h5 file."""
    return _require_foreground(_from_xyz(read_h5(path, "label", "xyz")[0]), path)


def read_nrrd_label(path: Path) -> sitk.Image:
    """The label of the challenge's layout, 255 turned into 1; the header's geometry is kept."""
    stored = read_volume(path)
    voxels = sitk.GetArrayViewFromImage(stored)
    if unexpected := [value.item() for value in np.unique(voxels) if value not in (0, 255)]:
        raise InputError(f"{path} has label values {unexpected[:10]} besides 0 and 255; mend the label")
    return _require_foreground(with_geometry((voxels == 255).astype(np.uint8), stored), path)


def _find_scans(source: Path) -> tuple[dict[str, list[Path]], bool, list[Note]]:
    """The image files by scan id, whether they are h5 files, and what is passed over."""
    if not source.is_dir():
        raise InputError(f"SOURCE {source} is no folder.")
    found = {
        name: sorted(
            path
            for pattern in (f"*/{name}", f"*/*/{name}")
            for path in source.glob(pattern)
            if not any(map(is_clutter, path.relative_to(source).parts))
        )
        for name in ("mri_norm2.h5", "lgemri.nrrd")
    }
    h5_files, nrrd_files = found.values()
    if not h5_files and not nrrd_files:
        raise InputError(
            f"No LA scans in {source}: expected FOLDER/ID/mri_norm2.h5 or Training Set/ID/lgemri.nrrd below it."
        )
    notes = []
    if h5_files and nrrd_files:
        passed_over = tuple(dict.fromkeys(path.parent.name for path in nrrd_files))
        notes.append(
            Note(
                "nrrd files not used",
                "the source holds h5 files too, and the published protocol is on these",
                passed_over,
            )
        )
    scans: dict[str, list[Path]] = {}
    for path in h5_files or nrrd_files:
        scans.setdefault(path.parent.name, []).append(path)
    return scans, bool(h5_files), notes


def _find_lists(source: Path, scans: dict[str, list[Path]]) -> Lists | None:
    """The lists of the source, if it has any."""
    scan_folders = sorted({path.parent.parent for paths in scans.values() for path in paths})
    # A source that is itself the folder of the scans has its lists above it.
    beside = [source, *scan_folders, *(folder.parent for folder in scan_folders)]
    for folder in dict.fromkeys(place for root in beside for place in (root, root / "data_split")):
        present = [name for name in ("train.list", "test.list") if (folder / name).is_file()]
        if len(present) == 2:
            train, test = read_ids(folder / "train.list"), read_ids(folder / "test.list")
            return Lists(train, test, origin="lists of the source")
        if present:
            raise InputError(f"{folder} holds {present[0]} only: put train.list and test.list there, or neither.")
    return None


def _case(image: Path, part: str) -> Case:
    label = image if image.suffix == ".h5" else image.with_name("laendo.nrrd")
    return Case(image.parent.name, part, (image,), None if part == "unlabeled" else label)


def _from_xyz(voxels: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels.transpose(2, 1, 0))
    image.SetSpacing(SPACING)
    return image


def _require_foreground(label: sitk.Image, path: Path) -> sitk.Image:
    if not sitk.GetArrayViewFromImage(label).any():
        raise InputError(f"{path} has no left atrium in its label; mend the label")
    return label
