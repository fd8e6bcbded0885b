"""``nnunet_ssl convert DATASET``: public data sets to nnU-Net raw datasets with unlabeled cases."""

from collections.abc import Callable
from enum import Enum
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from nnunet_ssl.cli.options import Processes
from nnunet_ssl.conversion.layouts import layout_help

if TYPE_CHECKING:
    from nnunet_ssl.conversion.cases import Conversion

app = typer.Typer(
    name="convert",
    rich_markup_mode=None,
    help="Convert a public data set to an nnU-Net raw dataset with unlabeled cases.",
    no_args_is_help=True,
)


class Modality(str, Enum):
    """Scans of AMOS."""

    ct = "ct"
    mr = "mr"
    both = "both"


SPACINGS_HELP = "File with a line CASE Z Y X (mm) for each scan whose header is a placeholder."
SKIP_MISSING_HELP = "Leave out scans of the lists that SOURCE lacks."
SKIP_HELP = "Leave out scans whose header is a placeholder and that --spacings does not name."


def _option(name: str, kind: Any, declared: Any, default: Any = Parameter.empty) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared])


def converter(default: str, units: str = "cases") -> Callable:
    """Makes a command of a function ``(source, labeled, own options) -> Conversion``, with the options of all of them.

    Args:
        default: what is labeled if the user says nothing: a published protocol or a percentage.
        units: what ``--labeled`` counts.
    """
    labeled_help = f"Labeled {units}: a number (the first of the training list), a percentage (10%) or a list file."
    protocol_help = f"One of the published lists above. Default: {default}."
    options = [
        _option(
            "source",
            Path,
            typer.Argument(metavar="SOURCE", help="Folder of the data set as downloaded.", show_default=False),
        ),
        _option("dataset_id", int, typer.Option("-d", "--dataset-id", help="Number of the new dataset.")),
        _option("labeled", str | None, typer.Option(help=labeled_help), None),
        _option("labeled_list", Path | None, typer.Option(help=f"File with the labeled {units}, one id a line."), None),
        _option("protocol", str | None, typer.Option(help=protocol_help), None),
        _option("name", str | None, typer.Option(help="Name of the new dataset (default: the data set's)."), None),
        _option("link", bool, typer.Option("--link", help="Link files that fit as they are, do not copy."), False),
        _option("spacings", Path | None, typer.Option(help=SPACINGS_HELP), None),
        _option("skip_unknown_spacing", bool, typer.Option("--skip-unknown-spacing", help=SKIP_HELP), False),
        _option("skip_missing", bool, typer.Option("--skip-missing", help=SKIP_MISSING_HELP), False),
        _option("processes", *get_args(Processes), None),
    ]
    if default.endswith("%"):
        options = [option for option in options if option.name != "protocol"]

    def register(find: Callable[..., "Conversion"]) -> Callable[..., "Conversion"]:
        def command(
            source: Path,
            dataset_id: int,
            labeled: str | None,
            labeled_list: Path | None,
            name: str | None,
            link: bool,
            spacings: Path | None,
            skip_unknown_spacing: bool,
            skip_missing: bool,
            processes: int | None,
            protocol: str | None = None,
            **own: Any,
        ) -> None:
            from nnunet_ssl.conversion.protocols import wanted_labeled
            from nnunet_ssl.machine import processes as default_processes

            conversion = find(source, wanted_labeled(labeled, labeled_list, protocol, skip_missing), **own)
            writing = {"link": link, "spacings": spacings, "skip_unknown_spacing": skip_unknown_spacing}
            _write(
                conversion, dataset_id, name or conversion.name, processes=processes or default_processes(), **writing
            )

        own_options = list(signature(find).parameters.values())[2:]
        parameters = [option.replace(kind=Parameter.KEYWORD_ONLY) for option in [*options, *own_options]]
        command.__signature__ = Signature(parameters)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__doc__ = f"{find.__doc__}\n\n{layout_help(find.__name__)}"
        app.command(find.__name__)(command)
        return find

    return register


@converter(default="ua-mt-8")
def la(source, labeled) -> "Conversion":
    """Left atrium (2018 challenge): the preprocessed h5 files or the original nrrd files."""
    from nnunet_ssl.dataset_conversion.la import la_conversion

    return la_conversion(source, labeled)


@converter(default="ssl4mis-7", units="patients")
def acdc(
    source,
    labeled,
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Z Y X in mm, for the h5 files, which hold none (default 10 1.5 1.5).", show_default=False),
    ] = None,
) -> "Conversion":
    """Heart in cine MR (ACDC): the original patient folders or the h5 files of SSL4MIS."""
    from nnunet_ssl.dataset_conversion.acdc import acdc_conversion

    return acdc_conversion(source, labeled, spacing)


@converter(default="genericssl-20")
def synapse(source, labeled) -> "Conversion":
    """Abdominal CT, 13 organs (Synapse/BTCV): RawData/Training or imagesTr and labelsTr."""
    from nnunet_ssl.dataset_conversion.synapse import synapse_conversion

    return synapse_conversion(source, labeled)


@converter(default="dhc-5")
def amos(
    source,
    labeled,
    modality: Annotated[Modality, typer.Option(help="Which scans; numbers below 500 are CT.")] = Modality.both,
    released_unlabeled: Annotated[
        bool, typer.Option("--released-unlabeled", help="Add imagesTs (no labels) and imagesUnlabeled as unlabeled.")
    ] = False,
) -> "Conversion":
    """Abdominal CT and MR, 15 organs (AMOS 2022): the folder with imagesTr, labelsTr, imagesVa, labelsVa."""
    from nnunet_ssl.dataset_conversion.amos import amos_conversion

    return amos_conversion(source, labeled, modality.value, released_unlabeled)


@converter(default="desco-5")
def lits(
    source,
    labeled,
    merge_tumor: Annotated[bool, typer.Option("--merge-tumor", help="One class: tumor becomes liver.")] = False,
) -> "Conversion":
    """Liver and liver tumor in CT (LiTS): volume-0.nii and segmentation-0.nii to 130."""
    from nnunet_ssl.dataset_conversion.lits import lits_conversion

    return lits_conversion(source, labeled, merge_tumor)


@converter(default="10%")
def msd(
    source,
    labeled,
    fill_nan: Annotated[
        float | None,
        typer.Option(metavar="VALUE", help="Write VALUE for NaN in images, which are refused otherwise."),
    ] = None,
) -> "Conversion":
    """A task of the Medical Segmentation Decathlon: the folder TaskNN_Name; the first 10% are labeled by default."""
    from nnunet_ssl.dataset_conversion.msd import msd_conversion

    return msd_conversion(source, labeled, fill_nan)


@converter(default="mc-net-12")
def pancreas(
    source,
    labeled,
    keep_withdrawn: Annotated[
        bool, typer.Option("--keep-withdrawn", help="Use cases 25 and 70, copies of case 2, where present.")
    ] = False,
) -> "Conversion":
    """Pancreas in CT (NIH Pancreas-CT): the DICOM folders PANCREAS_0001 and the labels label0001.nii.gz."""
    from nnunet_ssl.dataset_conversion.pancreas import pancreas_conversion

    return pancreas_conversion(source, labeled, keep_withdrawn)


def _write(conversion: "Conversion", dataset_id: int, name: str, **writing: Any) -> None:
    from nnunet_ssl.conversion.notes import in_words
    from nnunet_ssl.conversion.protocols import PARTS
    from nnunet_ssl.conversion.writing import write_raw_dataset
    from nnunet_ssl.files import read_json

    folder, written = write_raw_dataset(conversion, dataset_id, name, **writing)
    record = folder / "conversion.json"
    if not written:
        print(f"{folder} is already there: same source, same options. Nothing was written.")
        return
    content = read_json(record, "run again")
    counts = ", ".join(f"{len(content[part])} {part}" for part in PARTS if part in content)
    print(f"{folder}: {counts} cases.")
    if "validation" in content:
        print("Fold 0 trains on the labeled cases and validates on the validation cases; the protocol has no other.")
    for note in content["notes"]:
        print(f"Note: {in_words(note)}")
    print(f"Next: nnUNetv2_plan_and_preprocess -d {dataset_id} --verify_dataset_integrity")
