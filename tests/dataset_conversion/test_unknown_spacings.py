"""Every converter of files with headers on a source where one unlabeled scan has a placeholder as header."""

import shutil
from functools import partial

import pytest
import SimpleITK as sitk

from nnunet_ssl.conversion.writing import write_raw_dataset
from nnunet_ssl.dataset_conversion.acdc import acdc_conversion
from nnunet_ssl.dataset_conversion.amos import amos_conversion
from nnunet_ssl.dataset_conversion.la import la_conversion
from nnunet_ssl.dataset_conversion.lits import lits_conversion
from nnunet_ssl.dataset_conversion.msd import msd_conversion
from nnunet_ssl.dataset_conversion.synapse import synapse_conversion
from nnunet_ssl.errors import InputError

CONVERTERS = {
    "la": partial(la_conversion, labeled=1),
    "acdc": partial(acdc_conversion, labeled="ssl4mis-3"),
    "amos": amos_conversion,
    "lits": lits_conversion,
    "synapse": synapse_conversion,
    "prostate": partial(msd_conversion, labeled=2),
    "spleen": partial(msd_conversion, labeled=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTERS)
def test_one_scan_of_unknown_spacing(name, request, tmp_path):
    convert = CONVERTERS[name]
    source = shutil.copytree(request.getfixturevalue(name), tmp_path / "copy")
    conversion = convert(source)
    case = next(case for case in conversion.cases if case.part == "unlabeled")
    scan = sitk.ReadImage(str(case.images[0]))
    axes = scan.GetDimension()
    scan.SetSpacing([1.0] * axes)
    scan.SetOrigin([0.0] * axes)
    scan.SetDirection([float(i == j) for i in range(axes) for j in range(axes)])
    sitk.WriteImage(scan, str(case.images[0]))

    with pytest.raises(InputError, match=rf"The spacing of 1 scan\(s\) is unknown, .*: {case.id}\.\n"):
        write_raw_dataset(convert(source), 27, "Refused")
    folder, _ = write_raw_dataset(convert(source), 27, "Without", skip_unknown_spacing=True)
    written = {path.name[: -len("_0000.nii.gz")] for path in folder.glob("images*/*")}
    assert written == {case.id for case in conversion.cases} - {case.id}

    table = tmp_path / "spacings.txt"
    table.write_text(f"{case.id} 2.5 0.5 0.75\n", encoding="utf-8")
    folder, _ = write_raw_dataset(convert(source), 28, "Given", spacings=table)
    volumes = list((folder / "imagesUnlabeled").glob(f"{case.id}_*"))
    assert len(volumes) == len(conversion.channels)
    assert all(sitk.ReadImage(str(path)).GetSpacing() == (0.75, 0.5, 2.5) for path in volumes)
