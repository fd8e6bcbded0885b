"""The suites of the accuracy benchmark: data, network and length of training, and the folds made of the protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from abdomen import ORGANS, write_abdomen
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from partly_annotated import partial_name
from two_slices import sliced_name

from nnunet_ssl.demo.phantom import write_phantom
from nnunet_ssl.report.records import ALL

SMALLEST_FEATURE_MAP = 4  # voxels along an axis, as in nnU-Net's planner

# Data that the benchmark draws itself: called with a folder, `labeled`, `test` and the suite's own arguments.
DRAWN: dict[str, Callable[..., None]] = {"phantom": partial(write_phantom, unlabeled=0), "abdomen": write_abdomen}


@dataclass(frozen=True)
class Suite:
    """One benchmark: everything that its figures depend on, but for the method.

    Attributes:
        data: the converter of `nnunet_ssl convert`, or one of `DRAWN`.
        spacing: mm (z, y, x) that the images are resampled to; None for what nnU-Net chooses.
        features: width of each stage of the U-Net; its depth is at most this.
        patch: voxels, in nnU-Net's order of axes.
        batch: labeled patches of a step; as many unlabeled ones come on top.
        iterations: of every training, at `iterations_per_epoch`.
        labeled: numbers of labeled units that the suite is for, ascending; 0 where copies are all there is.
        sliced: units of which there is a copy annotated in two orthogonal slices only: the labels of the number 0.
        partial: the same for copies in which some classes were not annotated.
        units: training units in all: the labels of the upper bound.
        cases_per_unit: images of a unit, such as the two frames of a patient.
        phantom: arguments of the function in `DRAWN` beyond the numbers of cases.
        test: test cases of drawn data; converters know theirs.
        initial_lr: of every training; None for nnU-Net's 0.01.
        batch_dice: one Dice over the patches of a batch, as nnU-Net plans it where a patch is a small part of a scan.
        rare: the classes with the fewest voxels in the test labels, which the table shows beside the mean.
    """

    name: str
    data: str
    classes: tuple[str, ...]
    configuration: str
    spacing: tuple[float, ...] | None
    features: tuple[int, ...]
    patch: tuple[int, ...]
    batch: int
    iterations: int
    iterations_per_epoch: int
    labeled: tuple[int, ...]
    units: int
    cases_per_unit: int = 1
    phantom: tuple[tuple[str, object], ...] = ()
    test: int = 0
    initial_lr: float | None = None
    batch_dice: bool = False
    rare: tuple[str, ...] = ()
    sliced: int = 0
    partial: int = 0

    @property
    def copied(self) -> int:
        """Units of which there is a copy with fewer labels."""
        return self.sliced or self.partial

    def copy_name(self, case: str) -> str:
        """The copy of a case."""
        return sliced_name(case) if self.sliced else partial_name(case)


LA = {"data": "la", "classes": ("left_atrium",), "configuration": "3d_fullres", "labeled": (4, 8, 16), "units": 80}
ACDC = {
    "data": "acdc",
    "classes": ("right_ventricle", "myocardium", "left_ventricle"),
    "configuration": "2d",
    "units": 70,
    "cases_per_unit": 2,
}
ACDC_MINI = ACDC | {"spacing": (10.0, 3.0, 3.0), "features": (8, 16, 32, 64), "patch": (64, 64), "batch": 8}
PHANTOM = {
    "data": "phantom",
    "classes": ("liver", "kidney", "vessel", "gland"),
    "configuration": "3d_fullres",
    "spacing": None,
    "features": (8, 16, 32, 64),
    "patch": (32, 48, 48),
    "batch": 2,
    "units": 28,
    "test": 8,
    "phantom": (("shape", (40, 48, 48)), ("seed", 1), ("variation", 2.0)),
}

SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            **LA, name="la-mini", spacing=(1.875, 1.875, 1.875), features=(8, 16, 32, 64), patch=(32, 48, 64), batch=2,
            iterations=2000, iterations_per_epoch=100,
        ),
        # A glance at every method on two cores. Its bounds lie too close for more: after 2000 iterations of stock
        # nnU-Net, seed 0, 0.835 with 4 labeled scans and 0.864 with all 80.
        Suite(
            **LA, name="la-tiny", spacing=(2.5, 2.5, 2.5), features=(8, 16, 32, 64), patch=(24, 40, 48), batch=2,
            iterations=500, iterations_per_epoch=50,
        ),
        # The same images with so few labels that the gap is wide: after 2000 iterations 0.732 and 0.766 (two seeds)
        # with 2 scans, and 0.867 with all 80.
        Suite(
            **LA | {"labeled": (1, 2)}, name="la-few", spacing=(2.5, 2.5, 2.5), features=(8, 16, 32, 64),
            patch=(24, 40, 48), batch=2, iterations=2000, iterations_per_epoch=50,
        ),
        # Coarser still, the atrium fits into one patch: short trainings come close to their end here.
        Suite(
            **LA | {"labeled": (1, 2, 4)}, name="la-coarse", spacing=(3.75, 3.75, 3.75), features=(8, 16, 32, 64),
            patch=(16, 32, 32), batch=2, iterations=8000, iterations_per_epoch=100,
        ),
        # The same images: two orthogonal slices of each of 5 scans, a tenth of their voxels, beside 1 and 5 scans that
        # are labeled in full.
        Suite(
            **LA | {"labeled": (0, 1, 5)}, name="la-sparse", spacing=(3.75, 3.75, 3.75), features=(8, 16, 32, 64),
            patch=(16, 32, 32), batch=2, iterations=8000, iterations_per_epoch=100, sliced=5,
        ),
        # Slices stay apart: nnU-Net's 2d resamples in the plane only, the first number just keeps the axes in order.
        Suite(
            **ACDC_MINI, name="acdc-mini", labeled=(3, 7), iterations=8000, iterations_per_epoch=100,
        ),
        # The same images: 9 patients in whose labels one of the three structures was not annotated.
        Suite(
            **ACDC_MINI, name="acdc-partial", labeled=(0, 9), iterations=4000, iterations_per_epoch=100, partial=9,
        ),
        # The same images, but a patch holds nearly the whole slice, as with nnU-Net's own plans of ACDC.
        Suite(
            **ACDC, name="acdc-whole", labeled=(3, 7), spacing=(10.0, 3.0, 3.0), features=(8, 16, 32, 64, 128),
            patch=(112, 112), batch=4, iterations=8000, iterations_per_epoch=100,
        ),
        # Smaller than the demo's, so that the same noise hides more of each organ (the smallest has some 450 voxels),
        # and with twice its variation, so that two cases do not tell of all others.
        Suite(
            **PHANTOM, name="phantom", labeled=(2, 4), iterations=1000, iterations_per_epoch=50,
        ),
        # The same images: 6 cases in whose labels one or two of the four organs were not annotated.
        Suite(
            **PHANTOM, name="phantom-partial", labeled=(0, 6), iterations=4000, iterations_per_epoch=50, partial=6,
        ),
        # Many classes, some of them tiny: voxels of 6 mm, of which an adrenal gland has some 25 and the liver 7700. The
        # patch is 96 x 192 x 192 mm: it shows a kidney beside the spine and the great vessels, and thus its side.
        # At nnU-Net's 0.01 and with a Dice of each patch so short a training finds little but the liver: most patches
        # lack most organs. nnU-Net, too, plans one Dice of a batch for scans as large as Synapse's. It takes 8000
        # iterations to find them all. With twice the variation, as the phantom has, that is too short with all labels.
        Suite(
            name="organs", data="abdomen", classes=ORGANS, configuration="3d_fullres", spacing=None,
            features=(8, 16, 32, 64), patch=(16, 32, 32), batch=2, iterations=8000, iterations_per_epoch=100,
            labeled=(2, 4), units=28, test=10, phantom=(("shape", (32, 48, 56)), ("seed", 1), ("variation", 1.0)),
            initial_lr=0.03, batch_dice=True,
            rare=("right_adrenal_gland", "left_adrenal_gland", "esophagus", "gallbladder", "portal_and_splenic_vein"),
        ),
        Suite(
            **LA, name="la", spacing=None, features=(32, 64, 128, 256, 320), patch=(80, 112, 112), batch=2,
            iterations=30000, iterations_per_epoch=250,
        ),
        Suite(
            **ACDC, name="acdc", labeled=(3, 7, 14), spacing=None, features=(32, 64, 128, 256, 512, 512, 512),
            patch=(256, 256), batch=12, iterations=30000, iterations_per_epoch=250,
        ),
    )
}  # fmt: skip


def fold_of(suite: Suite, labeled: int | str) -> int:
    """The fold that has this many labeled units; `ALL` is the last."""
    return len(suite.labeled) if labeled == ALL else suite.labeled.index(labeled)


def make_folds(suite: Suite, cases: Sequence[str]) -> list[dict[str, list[str]]]:
    """One fold for each number of `suite.labeled`, and the one with all labels.

    The labels of `"unlabeled"` are hidden from a fold. nnU-Net wants a validation case: the first training case, which
    decides nothing, as final checkpoints are compared on the test cases. Of scans with a copy that has fewer labels, no
    fold has both.

    Args:
        cases: all training cases in the order of the protocol, those of a unit side by side.
    """
    counts = [number * suite.cases_per_unit for number in suite.labeled]
    folds = [{"train": [*cases[:n]], "val": [cases[0]], "unlabeled": [*cases[n:]]} for n in counts if n]
    if suite.copied:
        whole = suite.copied * suite.cases_per_unit
        copies = [suite.copy_name(case) for case in cases[:whole]]
        folds.insert(0, {"train": copies, "val": copies[:1], "unlabeled": [*cases[whole:]]})
    return [*folds, {"train": [*cases], "val": [cases[0]]}]


def edit_plans(plans: dict, suite: Suite, name: str) -> dict:
    """nnU-Net's plans under another name, with the suite's patch, batch and width, and the strides of that patch.

    Raises:
        ValueError: nnU-Net's rules pool this patch so often that it must be larger.
    """
    configuration = plans["configurations"][suite.configuration]
    _, strides, kernels, patch, _ = get_pool_and_conv_props(
        configuration["spacing"], suite.patch, SMALLEST_FEATURE_MAP, 999999
    )
    if tuple(patch) != suite.patch:
        raise ValueError(f"patch {suite.patch} of {suite.name} must be {tuple(map(int, patch))}")
    stages = min(len(suite.features), len(strides))
    architecture = configuration["architecture"]["arch_kwargs"] | {
        "n_stages": stages,
        "features_per_stage": [*suite.features[:stages]],
        "strides": [[*map(int, stride)] for stride in strides[:stages]],
        "kernel_sizes": [[*map(int, kernel)] for kernel in kernels[:stages]],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    configuration = configuration | {
        "data_identifier": f"{name}_{suite.configuration}",
        "patch_size": [*suite.patch],
        "batch_size": suite.batch,
        "architecture": configuration["architecture"] | {"arch_kwargs": architecture},
        **({"batch_dice": True} if suite.batch_dice else {}),
    }
    return plans | {"plans_name": name, "configurations": {suite.configuration: configuration}}
