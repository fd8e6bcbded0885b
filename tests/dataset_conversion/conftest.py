"""What the tests of the converters share: a raw folder, small volumes, nnU-Net's own check of a result."""

import json
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from acdc_source import acdc, acdc_h5  # noqa: F401
from amos_source import amos  # noqa: F401
from la_source import la, la_h5  # noqa: F401
from lits_source import lits  # noqa: F401
from msd_source import prostate, spleen  # noqa: F401
from nnunetv2.experiment_planning import verify_dataset_integrity as integrity
from pancreas_source import pancreas, pancreas_case  # noqa: F401
from synapse_source import synapse  # noqa: F401
from typer.testing import CliRunner, Result

from nnunet_ssl.cli import app
from nnunet_ssl.conversion.cases import Conversion
from nnunet_ssl.conversion.notes import in_words
from nnunet_ssl.conversion.writing import write_raw_dataset


@pytest.fixture(autouse=True)
def raw(tmp_path, monkeypatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def verify(monkeypatch, capsys) -> Callable[[Path], None]:
    """nnU-Net's ``verify_dataset_integrity``, in this process, without a complaint."""
    # Spawned workers would import nnU-Net again for each call.
    monkeypatch.setattr(
        integrity, "multiprocessing", SimpleNamespace(get_context=lambda method: SimpleNamespace(Pool=ThreadPool))
    )

    def verify(folder: Path) -> None:
        capsys.readouterr()
        integrity.verify_dataset_integrity(str(folder), 1)
        output = capsys.readouterr().out
        assert "Done" in output
        assert "Warning" not in output
        assert "Error" not in output.replace("error messages", "")

    return verify


@pytest.fixture
def write(verify) -> Callable[..., Path]:
    """Writes a conversion as dataset 27 and lets nnU-Net check it."""

    def write(conversion: Conversion, link: bool = False) -> Path:
        folder, _ = write_raw_dataset(conversion, 27, conversion.name, link=link)
        verify(folder)
        return folder

    return write


@pytest.fixture
def folds(raw) -> Callable[[], list[dict]]:
    """What ``splits_final.json`` of dataset 27 holds; `file` is its path."""

    def read() -> list[dict]:
        return json.loads(read.file.read_text(encoding="utf-8"))

    read.file = raw.with_name("nnUNet_preprocessed") / "Dataset027_Synapse" / "splits_final.json"
    return read


@pytest.fixture
def command() -> Callable[..., Result]:
    """``nnunet_ssl convert`` with these arguments."""
    return lambda *arguments: CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.fixture
def save() -> Callable[..., sitk.Image]:
    """Saves voxels ``(z, y, x)`` with a geometry; returns what the file then holds."""

    def save(path: Path, voxels: np.ndarray, spacing=(0.75, 0.75, 2.5), origin=(-50.5, 20.25, 3.0), direction=None):
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction or (1, 0, 0, 0, 1, 0, 0, 0, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path), useCompression=path.name.endswith(".gz"))
        return sitk.ReadImage(str(path))

    return save


@pytest.fixture
def same() -> Callable[[Path, sitk.Image], bool]:
    """Whether a written file has the voxels and exactly the geometry of an image."""

    def same(path: Path, image: sitk.Image) -> bool:
        written = sitk.ReadImage(str(path))
        geometries = [(i.GetSize(), i.GetSpacing(), i.GetOrigin(), i.GetDirection()) for i in (written, image)]
        return geometries[0] == geometries[1] and bool(
            (sitk.GetArrayFromImage(written) == sitk.GetArrayFromImage(image)).all()
        )

    return same


@pytest.fixture
def said() -> Callable[[Conversion], list[str]]:
    """The notes of a conversion as the command prints them."""
    return lambda conversion: [in_words(note.record()) for note in conversion.notes]


@pytest.fixture
def ids() -> Callable[[Path], set[str]]:
    """The case ids of a folder of images or labels."""
    return lambda folder: {path.name.removesuffix(".nii.gz").removesuffix("_0000") for path in folder.iterdir()}
