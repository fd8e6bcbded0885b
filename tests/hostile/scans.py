"""Attacks on what converters and loaders read: task files, images, downloaded archives."""

import math
import random
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

from hostile.odd import odd_files
from hostile.spoil import (
    GIGANTIC,
    WHOLE_FILE,
    Hostile,
    Spoil,
    bytes_,
    changed,
    cut,
    flipped,
    folder,
    in_gzip,
    link,
    mutated,
    mutations,
    packed,
    text,
    whole_files,
)
from hostile.world import CHECK, EVALUATE, PREPROCESS, RAW, SHAPE, convert, ids, put, volume


def task_files(root: Path) -> Iterator[Hostile]:
    file = "sources/Task01_One/dataset.json"
    yield from whole_files("task", convert("msd", "Task01_One"), file)
    yield from mutations("task", convert("msd", "Task01_One"), root, file, 60, told="")
    for name, entry in {
        "traversal": "../../outside/secret.nii.gz",
        "newline": "x\ny.nii.gz",
        "root": "/etc/passwd",
    }.items():
        yield Hostile(f"task {name}", convert("msd", "Task01_One"), file, mutated(("training", 0, "image"), entry))
    info = f"sources/acdc/training/{ids('acdc')[0]}/Info.cfg"
    contents = {
        "empty": b"",
        "text": b"ED: one\nES: two\n",
        "huge": b"ED: " + b"9" * 5000 + b"\nES: 9\n",
        "zero": b"ED: 0\nES: 9",
        "negative": b"ED: -1\nES: 9",
        "latin-1": "ED: 1\nES: ä".encode("latin-1"),
        "same": b"ED: 1\nES: 1",
        "binary": bytes(range(256)),
        "traversal": b"ED: ../../x\nES: 9",
    }
    for name, content in contents.items():
        told = "" if name in ("zero", "negative", "same") else None
        yield Hostile(f"Info.cfg {name}", convert("acdc", "acdc"), info, bytes_(content), told)
    for fault in ("folder", "broken link", "link to itself"):
        yield Hostile(f"Info.cfg {fault}", convert("acdc", "acdc"), info, WHOLE_FILE[fault], "")
    for name in ("empty", "list", "null", "deep", "binary", "latin-1"):
        yield Hostile(
            f"conversion.json {name}",
            convert("la", "la_h5"),
            "raw/Dataset009_LA",
            _conversion(WHOLE_FILE[name]),
            "conversion.json",
        )
    yield Hostile(
        "conversion.json source",
        convert("la", "la_h5"),
        "raw/Dataset009_LA",
        _conversion(text('{"source": [1]}')),
        "Dataset009_LA",
    )


def _conversion(spoil: Spoil) -> Spoil:
    def make(folder_: Path) -> None:
        folder_.mkdir()
        spoil(folder_ / "conversion.json")

    return make


NIFTI_HEADER: dict[str, Callable[[bytes], bytes]] = {
    "gigantic": packed("<8h", 40, 3, 32767, 32767, 32767, 1, 1, 1, 1),
    "gigantic in seven axes": packed("<8h", 40, 7, *[32767] * 7),
    "zero axis": packed("<8h", 40, 3, 0, 6, 5, 1, 1, 1, 1),
    "negative axis": packed("<8h", 40, 3, -7, 6, 5, 1, 1, 1, 1),
    "no axes": packed("<h", 40, 0),
    "nine axes": packed("<h", 40, 9),
    "unknown voxels": packed("<2h", 70, 31000, 77),
    "complex voxels": packed("<2h", 70, 32, 64),
    "text offset": packed("<f", 108, math.nan),
    "endless offset": packed("<f", 108, math.inf),
    "huge offset": packed("<f", 108, 1e30),
    "wrong size of header": packed("<i", 0, 123),
    "no magic": packed("4s", 344, b"\0\0\0\0"),
    "NaN spacing": packed("<8f", 76, 1, math.nan, math.nan, math.nan, 1, 1, 1, 1),
    "zero spacing": packed("<8f", 76, 1, 0, 0, 0, 1, 1, 1, 1),
    "infinite spacing": packed("<8f", 76, 1, math.inf, 1, 1, 1, 1, 1, 1),
    "huge spacing": packed("<8f", 76, 1, 1e30, 1e30, 1e30, 1, 1, 1, 1),
    "NaN matrix": packed("<2h12f", 252, 0, 1, *[math.nan] * 12),
    "flat matrix": packed("<2h12f", 252, 0, 1, *[0.0] * 12),
    "NaN slope": packed("<2f", 112, math.nan, math.nan),
    "infinite slope": packed("<2f", 112, math.inf, 0),
    "intercept without slope": packed("<2f", 112, 0, 7),
    "slope without intercept": packed("<2f", 112, 2, math.nan),
    "slope of nothing": packed("<2f", 112, 1e-17, 0),
    "offset in the header": packed("<f", 108, 100),
    "one axis less": lambda content: packed("<h", 40, struct.unpack_from("<h", content, 40)[0] - 1)(content),
    "one slice less": lambda content: packed("<h", 46, struct.unpack_from("<h", content, 46)[0] - 1)(content),
}
DAMAGE: dict[str, Spoil] = {
    "empty": bytes_(b""),
    "one byte": cut(0.001),
    "half": cut(0.5),
    "last bytes": changed(lambda content: content[:-20]),
    "text": text("no image"),
    "folder": folder,
    "broken link": link("nowhere"),
    "HTML": text("<html>404</html>"),
    "link to text": link("../../../outside/secret.txt"),
}
HARMLESS_HEADER = (
    "NaN matrix",
    "no magic",
    "wrong size of header",
    "NaN slope",
)


def images(root: Path) -> Iterator[Hostile]:
    case = "phantom_004"
    unlabeled, prediction = (
        f"{RAW}/imagesUnlabeled/{case}_0000.nii.gz",
        sorted((root / "predictions").glob("*.nii.gz"))[0],
    )
    reference = f"references/labels/{prediction.name}"
    prediction = f"predictions/{prediction.name}"
    first = f"sources/synapse/img/{ids('synapse')[0]}.nii.gz"
    lits = f"sources/lits/{ids('lits')[0]}.nii"
    places = {
        "preprocess": (PREPROCESS, unlabeled),
        "check": (CHECK, unlabeled),
        "prediction": (EVALUATE, prediction),
        "reference": (EVALUATE, reference),
        "synapse": (convert("synapse", "synapse"), first),
        "lits": (convert("lits", "lits"), lits),
        "amos": (convert("amos", "amos"), f"sources/amos/labelsTr/{ids('amos')[0]}.nii.gz"),
        "msd 4D": (convert("msd", "Task02_Two"), "sources/Task02_Two/imagesTr/a.nii.gz"),
    }
    for place, (verb, file) in places.items():
        told = Path(file).name.split(".")[0]
        told = told.removesuffix("_0000")
        for name, spoil in DAMAGE.items():
            if not (place == "reference" and "folder" in name):
                yield Hostile(f"{place} {name}", verb, file, spoil, told)
        for name, change in NIFTI_HEADER.items():
            spoil = in_gzip(change) if file.endswith(".gz") else changed(change)
            yield Hostile(
                f"{place} header: {name}", verb, file, spoil, told, None if name in HARMLESS_HEADER else False
            )
        for seed in range(4):
            spoil = in_gzip(partial(_flip, seed=seed)) if file.endswith(".gz") else flipped(seed)
            yield Hostile(f"{place} flipped header {seed}", verb, file, spoil, told, None)
        for name, (spoil, fine) in odd_files(place, file).items():
            yield Hostile(f"{place} {name}", verb, file, spoil, told, fine)
        yield Hostile(f"{place} flipped bytes", verb, file, flipped(7, 300), told, None)
        if not place.startswith("msd"):
            yield Hostile(f"{place} 4D", verb, file, lambda f: put(sitk.JoinSeries([volume(1), volume(2)]), f), told)
        yield Hostile(f"{place} 2D", verb, file, lambda f: put(volume(1)[:, :, 0], f), told)
        yield Hostile(f"{place} colors", verb, file, lambda f: put(sitk.Compose([volume(1)] * 3), f), told)
        yield Hostile(
            f"{place} another NIfTI",
            verb,
            file,
            lambda f: put(volume(1, False, (2, 3, 4)), f),
            told,
            None if place in ("check", "preprocess", "lits", "synapse", "msd 4D") else False,
        )


def _flip(content: bytes, seed: int) -> bytes:
    generator, spoiled = random.Random(seed), bytearray(content)
    for _ in range(6):
        spoiled[generator.randrange(348)] = generator.randrange(256)
    return bytes(spoiled)


def nrrd(**changes: str) -> Spoil:
    """An uncompressed NRRD of a small volume with header lines replaced, added, or (for "") left out."""

    def spoil(file: Path) -> None:
        lines = {
            "type": "short",
            "dimension": "3",
            "sizes": "7 6 5",
            "encoding": "raw",
            "endian": "little",
            "space": "left-posterior-superior",
            "space directions": "(0.7,0,0) (0,0.7,0) (0,0,2)",  # 1 mm would be of unknown spacing
            "space origin": "(0,0,0)",
        }
        lines |= {key.replace("_", " "): value for key, value in changes.items()}
        header = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items() if value)
        file.write_bytes(header.encode() + b"\n" + sitk.GetArrayFromImage(volume(0)).tobytes())

    return spoil


def in_h5(change: Callable[[h5py.File], None]) -> Spoil:
    def spoil(file: Path) -> None:
        with h5py.File(file, "a") as content:
            change(content)

    return spoil


def replaced(key: str, value) -> Spoil:
    def change(content: h5py.File) -> None:
        del content[key]
        content[key] = value

    return in_h5(change)


def created(key: str, **options) -> Spoil:
    def change(content: h5py.File) -> None:
        del content[key]
        content.create_dataset(key, **options)

    return in_h5(change)


def attribute(name: str, value) -> Spoil:
    return in_h5(lambda content: content["image"].attrs.__setitem__(name, value))


def sources(root: Path) -> Iterator[Hostile]:
    huge = str(GIGANTIC)
    la_nrrd = "sources/la_nrrd/scans/a/lgemri.nrrd"
    nrrds = {
        "gigantic": nrrd(sizes=f"{huge} {huge} {huge}"),
        "gigantic gzip": nrrd(sizes=f"{huge} {huge} {huge}", encoding="gzip"),
        "large": nrrd(sizes="3000 3000 3000"),
        "large gzip": nrrd(sizes="2000 2000 2000", encoding="gzip"),
        "zero axis": nrrd(sizes="0 6 5"),
        "negative axis": nrrd(sizes="-7 6 5"),
        "text sizes": nrrd(sizes="a b c"),
        "overflow": nrrd(sizes="99999999999999999999 6 5"),
        "four axes": nrrd(dimension="4"),
        "no type": nrrd(type=""),
        "NaN directions": nrrd(space_directions="(nan,0,0) (0,nan,0) (0,0,nan)"),
        "unknown encoding": nrrd(encoding="x"),
        "zero directions": nrrd(space_directions="(0,0,0) (0,0,0) (0,0,0)"),
        "bzip2": nrrd(encoding="bzip2"),
        "voxels elsewhere": nrrd(data_file="/etc/passwd"),
        "voxels above": nrrd(data_file="../../../../outside/secret.txt"),
        "list of files": nrrd(data_file="LIST"),
        "NaN origin": nrrd(space_origin="(nan,0,0)"),
        "short": nrrd(sizes="7 6 500"),
    }
    for name, spoil in (nrrds | DAMAGE).items():
        yield Hostile(f"nrrd {name}", convert("la", "la_nrrd"), la_nrrd, spoil, "" if "link" in name else None)
    for seed in range(6):
        yield Hostile(f"nrrd flipped {seed}", convert("la", "la_nrrd"), la_nrrd, flipped(seed, 200), fine=None)
    la_h5 = "sources/la_h5/scans/a/mri_norm2.h5"
    voxels = np.zeros(SHAPE, np.float32)
    h5s = {
        "gigantic": created("image", shape=(GIGANTIC,) * 3, chunks=(64, 64, 64), dtype="f4"),
        "large": created("image", shape=(3000,) * 3, chunks=(64, 64, 64), dtype="f4", compression="gzip"),
        "group": lambda file: (
            in_h5(lambda f: f.__delitem__("image"))(file),
            in_h5(lambda f: f.create_group("image"))(file),
        ),
        "text": replaced("image", "no image"),
        "texts": replaced("image", ["a", "b"]),
        "scalar": replaced("image", 5.0),
        "empty": replaced("image", np.zeros((0, 4, 5))),
        "two axes": replaced("image", voxels[0]),
        "four axes": replaced("image", voxels[None]),
        "complex": replaced("image", voxels.astype(complex)),
        "records": replaced("image", np.zeros((3, 4, 5), [("a", "f4")])),
        "NaN": replaced("image", voxels * np.nan),
        "constant": replaced("image", voxels),
        "none": replaced("image", h5py.Empty("f4")),
        "other shape": replaced("label", np.zeros((3, 4, 5), np.uint8) + 1),
        "label of NaN": replaced("label", voxels * np.nan),
        "large label value": replaced("label", np.full((5, 6, 7), 300)),
        "no label": in_h5(lambda f: f.__delitem__("label")),
        "link outside": replaced("image", h5py.ExternalLink("/etc/passwd", "/x")),
        "link to nothing": replaced("image", h5py.SoftLink("/nothing")),
        "link to itself": replaced("image", h5py.SoftLink("/image")),
        "voxels elsewhere": created("image", shape=(3, 4, 5), dtype="u1", external=[("/etc/passwd", 0, 60)]),
        "scale text": attribute("scale", "big"),
        "scale NaN": attribute("scale", math.nan),
        "scale list": attribute("scale", [1, 2]),
        "offset infinite": attribute("offset", math.inf),
        "offset text": attribute("offset", b"x"),
    }
    for name, spoil in (h5s | DAMAGE).items():
        told = "" if name in DAMAGE and "link" in name else None
        yield Hostile(f"h5 {name}", convert("la", "la_h5"), la_h5, spoil, told)
    for seed in range(8):
        yield Hostile(f"h5 flipped {seed}", convert("la", "la_h5"), la_h5, flipped(seed, 2000, 30), fine=None)
    acdc = f"sources/acdc_h5/data/{ids('acdc')[0]}_frame01.h5"
    for name in ("gigantic", "text", "two axes", "scale text", "voxels elsewhere", "link outside"):
        yield Hostile(f"acdc h5 {name}", convert("acdc", "acdc_h5"), acdc, h5s[name])
    series = f"sources/pancreas/{ids('pancreas')[0]}/study/series"
    for name, spoil in DAMAGE.items():
        yield Hostile(
            f"DICOM {name}", convert("pancreas", "pancreas"), f"{series}/1-003.dcm", spoil, ids("pancreas")[0]
        )
    for seed in range(6):
        yield Hostile(
            f"DICOM flipped {seed}",
            convert("pancreas", "pancreas"),
            f"{series}/1-002.dcm",
            flipped(seed, 1000, 20),
            ids("pancreas")[0],
            None,
        )
    for tag, value in {
        "rows": (b"\x28\0\x10\0", 65535),
        "columns": (b"\x28\0\x11\0", 65535),
        "no rows": (b"\x28\0\x10\0", 0),
    }.items():
        yield Hostile(
            f"DICOM {tag}", convert("pancreas", "pancreas"), f"{series}/1-001.dcm", _dicom(*value), ids("pancreas")[0]
        )
        yield Hostile(
            f"DICOM all {tag}", convert("pancreas", "pancreas"), series, _all_dicom(*value), ids("pancreas")[0]
        )
    yield Hostile(
        "DICOM second series",
        convert("pancreas", "pancreas"),
        f"{series}/1-001.dcm",
        changed(lambda content: content.replace(b"1.2.3.0", b"1.2.3.9")),
        ids("pancreas")[0],
    )
    yield Hostile(
        "DICOM position",
        convert("pancreas", "pancreas"),
        f"{series}/1-003.dcm",
        changed(lambda content: content.replace(b"0\\0\\4", b"x\\0\\4")),
        ids("pancreas")[0],
    )
    yield Hostile(
        "a link that leads around", convert("synapse", "synapse"), "sources/synapse/around", link("."), "", True
    )
    yield Hostile(
        "a link to the folder above", convert("lits", "lits"), "sources/lits/above", link("../lits"), "", True
    )


def _dicom(tag: bytes, value: int) -> Spoil:
    def change(content: bytes) -> bytes:
        at = content.index(tag) + 8  # after the kind and the length of the value
        return content[:at] + struct.pack("<H", value) + content[at + 2 :]

    return changed(change)


def _all_dicom(tag: bytes, value: int) -> Spoil:
    return lambda folder_: [_dicom(tag, value)(file) for file in folder_.iterdir()]
