"""Synapse/BTCV: 13 abdominal organs in CT (Multi-Atlas Labeling Beyond the Cranial Vault, 2015).

Read are ``RawData/Training/img/img0001.nii.gz`` with ``RawData/Training/label/label0001.nii.gz``, as downloaded, and
``imagesTr/img0001.nii.gz`` with ``labelsTr/label0001.nii.gz``. The scans of the challenge's test part have no labels
and are in no list. The validation cases of the lists are those of fold 0, the only one.

Headers: trusted, and a label must stand where its image does.
"""

from pathlib import Path

from nnunet_ssl.conversion.cases import Conversion, pair_cases
from nnunet_ssl.conversion.protocols import Labeled, choose
from nnunet_ssl.conversion.sources import NIFTI, find_files, read_volume
from nnunet_ssl.errors import InputError

ORGANS = (
    "background", "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior_vena_cava", "portal_and_splenic_veins", "pancreas", "right_adrenal_gland", "left_adrenal_gland"
)  # fmt: skip


def synapse_conversion(source: Path, labeled: Labeled = None) -> Conversion:
    """Finds the scans of the Synapse data set; ids are ``img0001`` and so on.

    Args:
        source: a folder with one of the layouts in or below it.
        labeled: which scans are labeled; None for ``genericssl-20``.

    Raises:
        InputError: no scans in ``source``, or scans or labels of the lists missing or present twice.
    """
    images = find_files(source, rf"(img|imagesTr)/(?P<id>img\d{{4}}){NIFTI}")
    # The name of a label has the number of its image.
    labels = find_files(source, rf"label(sTr)?/(label|img)(?P<id>\d{{4}}){NIFTI}")
    if not images:
        raise InputError(f"No Synapse scans in {source}: expected img/img0001.nii.gz or imagesTr/img0001.nii.gz.")
    choice = choose("synapse", labeled, default="genericssl-20", validate=True)
    choice = choice.present(images, source)
    return Conversion(
        converter="synapse",
        channels=("CT",),
        labels={organ: value for value, organ in enumerate(ORGANS)},
        cases=pair_cases(choice.parts, images, {f"img{number}": path for number, path in labels.items()}),
        read_image=read_volume,
        read_label=read_volume,
        source={"path": str(source), "layout": f"{next(iter(images.values())).parent.name}/img0001"},
        protocol=choice.record,
        notes=[*choice.notes, *choice.unused(images)],
        name="Synapse",
    )
