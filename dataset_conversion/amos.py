"""AMOS 2022: 15 abdominal organs in CT and MR (Ji et al., NeurIPS 2022).

Read is ``amos22/`` as released, with ``imagesTr``, ``labelsTr``, ``imagesVa``, ``labelsVa`` and ``imagesTs``, all
``amos_0001.nii.gz``. The readme of the release says that numbers below 500 are CT and the others MR.
The validation cases of the lists are those of fold 0, the only one.

Headers: trusted, and a label must stand where its image does. Orientations vary, so nnU-Net is told to turn the scans.
"""

from pathlib import Path

from nnunet_ssl.conversion.cases import Conversion, pair_cases
from nnunet_ssl.conversion.notes import Note
from nnunet_ssl.conversion.protocols import Labeled, choose
from nnunet_ssl.conversion.sources import NIFTI, find_files, read_volume
from nnunet_ssl.errors import InputError

ORGANS = (
    "background", "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "postcava", "pancreas", "right_adrenal_gland", "left_adrenal_gland", "duodenum", "bladder", "prostate_or_uterus"
)  # fmt: skip
CHANNELS = {"ct": "CT", "mr": "MR", "both": "CT_or_MR"}
"""nnU-Net clips by HU what is called CT; scans of both kinds are z-scored each."""


def amos_conversion(
    source: Path, labeled: Labeled = None, modality: str = "both", released_unlabeled: bool = False
) -> Conversion:
    """Finds the scans of the AMOS data set.

    Args:
        source: a folder with the folders of the release in or below it.
        labeled: which scans are labeled; None for ``dhc-5``.
        modality: ``ct``, ``mr`` or ``both``; the others are left out of the lists.
        released_unlabeled: adds the scans of ``imagesTs`` that have no label, and all of ``imagesUnlabeled`` (whose
            modality no number tells), to the unlabeled cases.

    Raises:
        InputError: no scans in ``source``, or scans or labels of the lists missing or present twice.
    """
    images = find_files(source, rf"images(Tr|Va|Ts|Unlabeled)/(?P<id>amos_\d{{4,}}){NIFTI}")
    labels = find_files(source, rf"labels(Tr|Va|Ts)/(?P<id>amos_\d{{4,}}){NIFTI}")
    if not images:
        raise InputError(f"No AMOS scans in {source}: expected imagesTr/amos_0001.nii.gz in or below it.")

    def wanted(name: str) -> bool:
        return modality == "both" or modality == ("ct" if int(name.removeprefix("amos_")) < 500 else "mr")

    because = f"not {modality.upper()}"
    choice = choose("amos", labeled, default="dhc-5", keep=wanted, because=because, validate=True)
    choice = choice.present(images, source)
    parts, notes = choice.parts, list(choice.notes)
    folders = {name: path.parent.name for name, path in images.items()}
    more = [
        name
        for name, folder in folders.items()
        if folder == "imagesUnlabeled" or (folder == "imagesTs" and name not in labels and wanted(name))
    ]
    record = {**choice.record, "modality": modality}
    if released_unlabeled:
        if not more:
            raise InputError(f"{source} holds no scans without labels (imagesTs, imagesUnlabeled). Add them.")
        parts = {**parts, "unlabeled": parts["unlabeled"] + [name for name in more if name not in parts["unlabeled"]]}
        record["released unlabeled scans"] = len(more)
        notes.append(Note("added to the unlabeled cases of the lists", "scans without labels", tuple(more)))
        if modality != "both" and (unknown := [name for name in more if folders[name] == "imagesUnlabeled"]):
            notes.append(Note(f"taken as {modality.upper()}", "no number tells what they are", tuple(unknown)))
    elif more:
        notes.append(Note("not used", "scans without labels; --released-unlabeled adds them", tuple(more)))
    if modality != "both":
        notes.append(Note("numbers below 500 taken as CT, others as MR", "the readme of the release says so"))
    return Conversion(
        converter="amos",
        channels=(CHANNELS[modality],),
        labels={organ: value for value, organ in enumerate(ORGANS)},
        cases=pair_cases(parts, images, labels),
        read_image=read_volume,
        read_label=read_volume,
        source={"path": str(source), "layout": "amos22"},
        protocol=record,
        notes=notes,
        name="AMOS",
        reader_writer="NibabelIOWithReorient",  # orientations vary between cases; nnU-Net's converter chooses the same
    )
